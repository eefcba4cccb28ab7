"""Stop a run early: on a signal, at its time limit, or when its launcher has ended."""

import os
import re
import signal
import subprocess
import threading
import time
from contextlib import suppress
from types import FrameType

from distgan.config.fields import DURATION
from distgan.errors import OUT_OF_TIME, PARENT, Stopped
from distgan.utils.operating_system import STOP_SIGNALS, is_ignored, is_parent_gone

# A reason is a number, of which ranks all-reduce the maximum: a signal's, or one of these.
SLURM_END, TIME_LIMIT, LAUNCHER_GONE = 1000, 1001, 1002

# Time for the last pictures, between the checkpoint and the limit.
_PICTURES_S = 5.0
# A launcher forwards the Ctrl-C that its processes have already received from the terminal.
_SAME_PRESS_S = 1.0

_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}


class StopRequest:
    """Catch requests to stop this process; call `reason` after each step.

    `seconds_left`: time until the limit, None for none. `limit`: its reason. A second Ctrl-C raises
    KeyboardInterrupt at once.
    """

    def __init__(self, seconds_left: float | None, is_launched: bool, limit: int = TIME_LIMIT):
        self._limit = limit
        self._deadline = None if seconds_left is None else time.monotonic() + seconds_left
        self._is_launched = is_launched
        self._signum = 0
        self._caught_at = 0.0
        self._checked_at = time.monotonic()
        self._longest_step_s = 0.0
        self.save_s = 0.0  # duration of the last checkpoint

    def __enter__(self) -> "StopRequest":
        # Python lets only the main thread handle signals. nohup ignores SIGHUP, so that the program outlives the
        # terminal.
        is_main = threading.current_thread() is threading.main_thread()
        caught = [signum for signum in STOP_SIGNALS if is_main and (signum.name != "SIGHUP" or not is_ignored(signum))]
        self._before = {signum: signal.signal(signum, self._catch) for signum in caught}
        self._checked_at = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _catch(self, signum: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._signum and signum == signal.SIGINT:
            if not self._is_launched or now - self._caught_at > _SAME_PRESS_S:
                raise KeyboardInterrupt
            return
        if not self._signum:
            self._signum, self._caught_at = signum, now

    def reason(self) -> int:
        """Return the reason to stop: a signal, the limit, LAUNCHER_GONE, or 0 for none."""
        if self._signum:
            return self._signum
        # Processes outlive a killed launcher.
        if self._is_launched and is_parent_gone(PARENT):
            return LAUNCHER_GONE
        if self._deadline is None:
            return 0
        now = time.monotonic()
        self._longest_step_s = max(self._longest_step_s, now - self._checked_at)
        self._checked_at = now
        reserve = _PICTURES_S + 2 * (self._longest_step_s + self.save_s)
        return self._limit if now + reserve >= self._deadline else 0


def stop_error(reason: int, step: int, resume_hint: str, result: object) -> Stopped:
    """Return the exception that ends a run, saved after `step`; `result` is for a program."""
    return Stopped(exit_code(reason), f"stopped {describe(reason)} at step {step:,}; {resume_hint}", result)


def describe(reason: int) -> str:
    """Return the reason as text to follow "stopped"."""
    texts = {
        SLURM_END: f"before the end of SLURM's job {os.environ.get('SLURM_JOB_ID')}",
        TIME_LIMIT: "before its time limit",
        LAUNCHER_GONE: "because its launcher has ended",
    }
    return texts[reason] if reason in texts else f"by {signal.Signals(reason).name}"


def exit_code(reason: int) -> int:
    """Return 128 + the signal, as a shell does; 75 for a time limit, and SIGTERM's code for an ended launcher."""
    if reason in (SLURM_END, TIME_LIMIT):
        return OUT_OF_TIME
    return 128 + (signal.SIGTERM if reason == LAUNCHER_GONE else reason)


def parse_duration(duration: str) -> float:
    """Return a duration, as `90s`, `1h30m`, `45:00` or `1-12:00:00` (the pattern DURATION), in seconds."""
    if duration[-1] in _UNITS:
        return sum(int(count) * _UNITS[unit] for count, unit in re.findall(r"(\d+)([dhms])", duration))
    days, _, clock = duration.rpartition("-")
    total = 0
    for part in clock.split(":"):
        total = 60 * total + int(part)
    return total + 86_400 * int(days or 0)


def seconds_left(time_limit: str | None, started: float) -> float | None:
    """Return the seconds until the limit, counted from `started` by time.time(); if unset, until a SLURM job's end."""
    return parse_duration(time_limit) - (time.time() - started) if time_limit else _slurm_seconds_left()


def _slurm_seconds_left() -> float | None:
    """Return the seconds until SLURM ends this job; None without a job, or if unknown."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return None
    if end := os.environ.get("SLURM_JOB_END_TIME"):  # from SLURM 23.02 on
        with suppress(ValueError):
            return float(end) - time.time()
    with suppress(OSError, subprocess.SubprocessError):
        command = ["squeue", "--noheader", "--job", job, "--format", "%L"]
        left = subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
        return parse_duration(left) if re.match(DURATION, left) else None  # UNLIMITED, INVALID
    return None
