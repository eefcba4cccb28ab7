"""One training of `distgan bench convergence`: started, watched from outside, and stopped once it has converged."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any

from distgan.benchmark.configurations import Arm
from distgan.benchmark.convergence_targets import Evaluation, Target, Verdict, detect, evaluations
from distgan.errors import FAILED, UserError
from distgan.runs.run_dir import lock, read_status
from distgan.utils.child_process import kill_tree, last_words
from distgan.utils.operating_system import STOP_SIGNALS

OVER = ("converged", "not converged", "diverged")
# What runs as `python -m`; another in tests.
TRAINING = ("distgan", "train")

POLL_S = 0.02
# For a run that was asked to stop: the end of its step or evaluation, a checkpoint, pictures.
_GRACE_S = 120.0
# The words of TrainingFailed for losses, gradients and weights.
_NO_NUMBER = re.compile(r" is (nan|-?inf|no number)\b")


class Trial:
    """`cell` is what results.json has of it; `outcome` there is `unfinished`, one of OVER, or `error`."""

    def __init__(self, arm: Arm, seed: int, out: Path, targets: list[Target], hold: int):
        self.arm, self.targets, self.hold = arm, targets, hold
        self.folder = out / "runs" / f"{arm.id}-seed{seed}"
        self.label = f"{arm.name}, seed {seed}"
        self.words = [*arm.words, "--seed", str(seed), "--out", str(self.folder)]
        self.cell: dict[str, Any] = {
            "id": self.folder.name,
            "arm": arm.name,
            "seed": seed,
            "command": shlex.join(["distgan", "train", *self.words]),
            "outcome": "unfinished",
        }
        self.verdict: Verdict = detect([], targets, hold)
        self.stopped = 0  # the exit code of a training that another has stopped: a signal's sender, a time limit
        self._lines = _Lines(self.folder / "metrics.jsonl")
        self._seen_s: dict[int, float] = {}  # by step, since the start of the process
        self._process: subprocess.Popen[bytes] | None = None
        # The run's first state is saved before its first step.
        self._is_resumed = (self.folder / "checkpoints").is_dir()

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.log")

    def await_folder(self, say: Callable[[str], None]) -> None:
        """Until no training that a killed bench has left goes on in it. Raises UserError that names one that does."""
        if not self.folder.is_dir():
            return
        try:
            held = lock(self.folder, 0.0)
        except UserError:
            say(f"{self.label}: waits for the end of a training that a killed bench has left in its folder")
            held = lock(self.folder, _GRACE_S)
        held.release()

    def run(
        self, environment: dict[str, str], halted: Event, timeout_s: float, tell: Callable[["Trial"], None]
    ) -> None:
        """Trains until it has converged, has ended, or `halted` is set; no process of it is left then.

        Calls `tell` after each evaluation. The cell has what was found. Sets `halted` if it was stopped by another.
        """
        self._look(0.0)
        if self.has_converged or read_status(self.folder).get("state") == "done":
            self._conclude(0, "")  # it had ended before the bench could say so
            return
        if halted.is_set():
            return
        began = time.monotonic()
        # In a session of its own a Ctrl-C of the terminal does not reach it: it is asked to stop once, by us.
        with self.log.open("wb") as log:
            self._process = process = subprocess.Popen(
                [sys.executable, "-m", "distgan.benchmark.exit_with_parent", *TRAINING, *self.words],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        is_asked, end, why = False, began + timeout_s, f"not done after --timeout {timeout_s:g} s"
        try:
            while (code := process.poll()) is None and time.monotonic() < end:
                if self._look(began):
                    tell(self)
                if not is_asked and (halted.is_set() or self.has_converged):
                    process.terminate()
                    is_asked, end, why = True, time.monotonic() + _GRACE_S, "did not stop when asked to"
                time.sleep(POLL_S)
        finally:
            self.kill()
            assert process.stdin is not None
            process.stdin.close()
        self._look(began)
        if code is not None:
            why = last_words(code, self.log.read_bytes())
        if code and not is_asked and (own := _stopped(code, self.folder)):
            self.stopped = own
            halted.set()
        if self.has_converged or not halted.is_set():
            self._conclude(code, why)

    def kill(self) -> None:
        if self._process is not None:
            kill_tree(self._process)

    @property
    def has_converged(self) -> bool:
        return self.verdict.reached is not None

    def progress(self) -> str:
        """Of a run that goes on."""
        last = self.evaluations[-1]
        missed = ", ".join(target.name for target in self.targets if not target.is_met(last))
        where = f"epoch {last.epoch:.4g} of at most {self.arm.max_epochs:g}"
        return f"{where}, {f'misses {missed}' if missed else 'meets all targets'}"

    @property
    def evaluations(self) -> list[Evaluation]:
        return self._lines.evaluations

    def _look(self, began: float) -> bool:
        """Whether there is a new evaluation."""
        if not self._lines.read():
            return False
        self.verdict = detect(self.evaluations, self.targets, self.hold)
        seen_s = time.monotonic() - began
        for each in self.evaluations:
            self._seen_s.setdefault(each.step, seen_s)
        return True

    def _conclude(self, code: int | None, why: str) -> None:
        found, verdict = self.evaluations, self.verdict
        if verdict.reached is not None:
            outcome, why = "converged", ""
        elif code == 0 and not found:
            outcome, why = ("error", f"{self.folder / 'metrics.jsonl'} holds no evaluation of a run that is done")
        elif code == 0:
            outcome, why = "not converged", verdict.why
        elif code == FAILED and _NO_NUMBER.search(why):
            outcome, why = "diverged", why.partition(";")[0]
        else:
            outcome = "error"
        last = found[-1] if found else None
        # Another one, as results.json may be written from the old one just now.
        self.cell = self.cell | {
            "outcome": outcome,
            "why": why,
            "targets": verdict.targets,
            "resumed": self._is_resumed,
            "evaluations": [each._asdict() | {"seen_s": self._seen(each)} for each in found],
            "last": {target.name: target.of(last) if last else None for target in self.targets},
            **self._clocks(found, verdict.reached),
        }

    def _clocks(self, found: list[Evaluation], reached: int | None) -> dict[str, float | None]:
        """None of all but `images` where it has not converged; images are those up to the last evaluation then."""
        if reached is None:
            images = self.arm.images(found[-1].step) if found else 0
            return dict.fromkeys(("epochs", "train_s", "mlperf_s", "cold_s")) | {"images": images}
        at = found[reached]
        return {
            "epochs": at.epoch,
            "train_s": at.elapsed_s,
            "mlperf_s": at.elapsed_s + sum(each.eval_s for each in found[: reached + 1]),
            "cold_s": self._seen(at),
            "images": self.arm.images(at.step),
        }

    def _seen(self, evaluation: Evaluation) -> float | None:
        """Nobody knows what a run that went on has taken from its start."""
        return None if self._is_resumed else self._seen_s.get(evaluation.step)


class _Lines:
    """The evaluations in a metrics.jsonl, of which each look reads only what is new."""

    def __init__(self, path: Path):
        self.path = path
        self.evaluations: list[Evaluation] = []
        self._inode, self._offset, self._judged = -1, 0, list[dict[str, Any]]()

    def read(self) -> bool:
        """Whether there are other ones than before."""
        before = len(self._judged)
        try:
            with self.path.open("rb") as file:
                # A run that goes on writes the file anew, without what it takes again.
                if (inode := os.fstat(file.fileno()).st_ino) != self._inode:
                    self._inode, self._offset, self._judged = inode, 0, []
                file.seek(self._offset)
                for line in file:
                    if not line.endswith(b"\n"):  # it is being written
                        break
                    self._offset += len(line)
                    with suppress(ValueError, RecursionError):
                        values = json.loads(line)
                        if isinstance(values, dict) and "eval_s" in values and isinstance(values.get("step"), int):
                            self._judged.append(values)
        except FileNotFoundError:
            return False
        if is_other := len(self._judged) != before:
            self.evaluations = evaluations(self._judged)
        return is_other


def _stopped(code: int, folder: Path) -> int:
    """The exit code of a training that somebody else has stopped, in its first seconds or in good order; else 0."""
    if -code in STOP_SIGNALS:  # which ends a process that does not listen yet
        return 128 - code
    return code if read_status(folder).get("state") == "stopped" else 0
