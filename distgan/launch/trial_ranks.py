"""Start processes of this machine for a check, and wait for them under a time limit. None outlives the check."""

import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from distgan.utils.child_process import summarise_error


class TrialRank(NamedTuple):
    """A process to start: its name in messages, its command, and its environment."""

    name: str
    command: Sequence[str]
    env: dict[str, str]


class TrialEnd(NamedTuple):
    """End of a check: `failures`, each a process's name and error, and the names of those that had not ended."""

    failures: list[str]
    unfinished: list[str]


def run_ranks(ranks: Sequence[TrialRank], limit_s: float) -> TrialEnd:
    """Start the processes, and wait until all have ended, one has failed, or `limit_s`. All have ended at return."""
    deadline = time.monotonic() + limit_s
    started: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="distgan-doctor-") as folder:
        logs = [Path(folder, str(index)) for index in range(len(ranks))]
        devnull = subprocess.DEVNULL
        try:
            for rank, log in zip(ranks, logs, strict=True):
                with log.open("wb") as file:
                    started.append(
                        subprocess.Popen(rank.command, stdin=devnull, stdout=devnull, stderr=file, env=rank.env)
                    )
            codes = _wait_for_exit_codes(started, deadline)
        finally:
            for process in started:
                process.kill()
                process.wait()
        ended = list(zip(ranks, codes, logs, strict=True))
        failures = [f"{rank.name}: {summarise_error(code, log.read_bytes())}" for rank, code, log in ended if code]
    return TrialEnd(failures, [rank.name for rank, code, _ in ended if code is None])


def _wait_for_exit_codes(ranks: list[subprocess.Popen[bytes]], deadline: float) -> list[int | None]:
    """Wait until all have ended, one has failed, or `deadline`. Return the exit codes, None of one that still runs."""
    while True:
        codes = [process.poll() for process in ranks]
        if None not in codes or any(codes) or time.monotonic() > deadline:
            return codes
        time.sleep(0.05)
