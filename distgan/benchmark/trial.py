"""One training of `distgan bench convergence`: `distgan train --stop-at`, and what it came to."""

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
from distgan.errors import FAILED, UserError
from distgan.evaluation.targets import EarlyStop, Evaluation, Targets, judged_lines
from distgan.runs.run_dir import lock, read_status
from distgan.utils.child_process import kill_tree, last_words
from distgan.utils.files import read_environment
from distgan.utils.operating_system import STOP_SIGNALS

OVER = ("converged", "not converged", "diverged")
# What runs as `python -m`; another in tests.
TRAINING = ("distgan", "train")

_POLL_S = 0.1
# For a run that was asked to stop: the end of its step or evaluation, a checkpoint, pictures.
_GRACE_S = 120.0
# The words of TrainingFailed for losses, gradients and weights.
_NON_FINITE = re.compile(r" is (nan|-?inf)\b|\bnon-finite\b")


class Trial:
    """`cell` is what results.json has of it; `outcome` there is `unfinished`, one of OVER, or `error`."""

    def __init__(self, arm: Arm, seed: int, out: Path, targets: Targets):
        self.arm, self.targets = arm, targets
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
        self.stopped = 0  # the exit code of a training that another has stopped: a signal's sender, a time limit
        self._process: subprocess.Popen[bytes] | None = None
        # The run's first state is saved before its first step.
        self._is_resumed = (self.folder / "checkpoints").is_dir()

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.log")

    def await_folder(self, say: Callable[[str], None]) -> None:
        """Wait for a training that a killed bench has left running there. Raises UserError if it stays."""
        if not self.folder.is_dir():
            return
        try:
            held = lock(self.folder, 0.0)
        except UserError:
            say(f"{self.label}: waits for the end of a training that a killed bench has left in its folder")
            held = lock(self.folder, _GRACE_S)
        held.release()

    def run(
        self, environment: dict[str, str], halted: Event, timeout_s: float, log_progress: Callable[["Trial"], None]
    ) -> None:
        """Train until the run ends or `halted` is set, and store the outcome in `cell`. No process of it is left then.

        Calls `log_progress` about every 0.1 s. Sets `halted` if something else stopped the run: a signal, a time limit.
        """
        if halted.is_set():
            return
        if read_status(self.folder).get("state") == "done":
            self._conclude(0, "")  # it had ended before the bench could say so
            return
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
        code, end, why = None, time.monotonic() + timeout_s, f"not done after --timeout {timeout_s:g} s"
        is_asked = False
        try:
            while code is None and time.monotonic() < end:
                if halted.is_set() and not is_asked:
                    process.terminate()
                    is_asked, end, why = True, time.monotonic() + _GRACE_S, "did not stop when asked to"
                with suppress(subprocess.TimeoutExpired):
                    code = process.wait(_POLL_S)
                log_progress(self)
        finally:
            self.kill()
            assert process.stdin is not None
            process.stdin.close()
        if code is not None:
            why = last_words(code, self.log.read_bytes())
        if code and not is_asked and (own := _stopped(code, self.folder)):
            self.stopped = own
            halted.set()
        if code == 0 or not halted.is_set():
            self._conclude(code, why)

    def kill(self) -> None:
        if self._process is not None:
            kill_tree(self._process)

    def progress(self) -> str:
        """Return where a run that trains is, and which targets it misses; "" before its first evaluation."""
        progress = self._early_stop()
        if not progress.evaluations:
            return ""
        where = f"epoch {progress.evaluations[-1].epoch:.4g} of at most {self.arm.max_epochs:g}"
        return f"{where}, {progress.describe()}"

    def _early_stop(self) -> EarlyStop:
        found = EarlyStop(self.targets, is_conditional=self.arm.config.model.is_conditional)
        found.add(*judged_lines(self.folder / "metrics.jsonl"))
        return found

    def _conclude(self, code: int | None, why: str) -> None:
        progress = self._early_stop()
        found, verdict = progress.evaluations, progress.verdict
        if verdict.reached is not None:
            outcome, why = "converged", ""
        elif code == 0 and not found:
            outcome, why = ("error", f"{self.folder / 'metrics.jsonl'} holds no evaluation of a run that is done")
        elif code == 0:
            outcome, why = "not converged", verdict.why
        elif code == FAILED and _NON_FINITE.search(why):
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
            **self._ran(),
            "evaluations": [each._asdict() for each in found],
            "last": {target.name: target.of(last) if last else None for target in progress.wanted},
            **self._clocks(found, verdict.reached),
        }

    def _ran(self) -> dict[str, Any]:
        """Return what the run recorded of its engine and its precision, which `auto` finds out anew in each."""
        facts = read_environment(self.folder)
        return {key: facts.get(key) for key in ("engine", "precision")}

    def _clocks(self, found: list[Evaluation], reached: int | None) -> dict[str, float | None]:
        """None of all but `images` where it has not converged; images are those up to the last evaluation then."""
        if reached is None:
            images = self.arm.images(found[-1].step) if found else 0
            return dict.fromkeys(("epochs", "train_s", "mlperf_s", "cold_s")) | {"images": images}
        clocks = clocks_at(found, reached, is_resumed=self._is_resumed)
        return clocks | {"images": self.arm.images(found[reached].step)}


def clocks_at(found: list[Evaluation], index: int, *, is_resumed: bool) -> dict[str, float | None]:
    """Return each clock at an evaluation. `cold_s` is None for a resumed run: its first start is not known."""
    at = found[index]
    return {
        "epochs": at.epoch,
        "train_s": at.elapsed_s,
        "mlperf_s": at.elapsed_s + sum(each.eval_s for each in found[: index + 1]),
        "cold_s": None if is_resumed else at.since_start_s,
    }


def _stopped(code: int, folder: Path) -> int:
    """The exit code of a training that somebody else has stopped, in its first seconds or in good order; else 0."""
    if -code in STOP_SIGNALS:  # which ends a process that does not listen yet
        return 128 - code
    return code if read_status(folder).get("state") == "stopped" else 0
