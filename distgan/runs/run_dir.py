"""A run's folder: how it is claimed, who holds it, and what became of the run."""

import errno
import os
import platform
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from distgan.errors import FAILED, PARENT, USER_ERROR, ProcessLost, Stopped, TrainingFailed, UserError
from distgan.utils.files import is_ignorable, is_leftover, read_json, write_json
from distgan.utils.paths import user_path

STATUS = "status.json"
SAMPLE = re.compile(r"epoch-(\d{1,9})(?:-step-(\d{1,12}))?")  # the name of a grid in samples/, without .png
LOCKS = _LOCK, _MARKER = "lock", "lock.marker"  # the second on a file system without locks
LOCK_WAIT_S = 15.0  # what a killed run's last process may still need to leave
# What a run's folder may hold, for the docs; a test compares it with a run's.
CONTENTS = {
    "timeline.png": "images from the same z at each of --sample-epochs, side by side",
    "timeline.gif": "the same, animated",
    "samples/": "each of these grids; the C-GAN's has one column per digit",
    "losses.png": "both losses, and D's mean logits on real and generated images",
    "metrics.jsonl": "losses, speed and evaluations, one line every --log-every steps (below)",
    "metrics.jsonl.old": "lines of steps that a resume repeated",
    "networks/": "with --networks: a copy of that file, and of what it imports beside it",
    "weights/": "generator, discriminator and (with a moving average) generator_ema as safetensors, and config.json. "
    "Equal runs give the same bytes",
    "checkpoints/": "checkpoints (below), and the links latest and best",
    "eval/": "eval.json and pictures of distgan eval",
    "report.html": "the page of distgan report",
    "status.json": "whether the run is running, and how it ended (below)",
    "config.json": "all settings after preset and flags were applied",
    "environment.json": "versions, machine, data and engine (below)",
    "tensorboard/": "curves and grids by step, under the 2023 report's own tags; --tracker none turns it off",
    "lock": "held by the process that trains; lock.marker on a file system without locks",
}
# How file systems say that they have no locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EIO}


def claim_folder(out: str | None, preset: str, *, may_hold_run: bool) -> Path:
    """Make the folder of a new run, or take that of a run to resume. Raises UserError; never overwrites."""
    try:
        if out is None and (folder := _before_restart(preset)):
            return folder
        if out is None:
            Path("runs").mkdir(exist_ok=True)
            return next(
                folder for folder in (Path("runs", f"{preset}-{number}") for number in count(1)) if _made(folder)
            )
        check_unused_folder(out, may_hold_run=may_hold_run)
        folder = user_path(out, "--out")
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
        return folder
    except OSError as error:
        raise UserError(f"--out: not writable: {error.strerror} ({error.filename})", code="unwritable") from error


def _before_restart(preset: str) -> Path | None:
    """Return the folder of this launcher's processes before a restart (torchrun --max-restarts)."""
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        return None
    for folder in sorted(Path("runs").glob(f"{preset}-*"), key=lambda path: path.stat().st_mtime, reverse=True):
        status = read_status(folder)
        if (status.get("launcher"), status.get("host")) == (PARENT, platform.node()):
            return folder
    return None


def _made(folder: Path) -> bool:
    try:
        folder.mkdir()
    except FileExistsError:  # an older run, or one that starts just now
        return False
    return True


def check_unused_folder(out: str, *, may_hold_run: bool) -> None:
    """Raise UserError for a folder with files, unless that is a run to resume."""
    folder = user_path(out, "--out")
    if not folder.is_dir() or all(is_ignorable(path.name) for path in folder.iterdir()):
        return
    if not may_hold_run:
        raise UserError(
            f"--out: exists already and is not overwritten ({out}). Expected: a new folder, or --resume auto",
            code="output-exists",
        )
    if not holds_run(folder):
        raise UserError(f"--out: no run to resume there, no config.json ({out}). Expected: a new folder", code="no-run")


def holds_run(folder: Path) -> bool:
    """True if a run may be resumed or started there: one killed before its config.json has nothing to lose."""
    if (folder / "config.json").exists() or (folder / "checkpoints").is_dir():
        return True
    return all(
        path.name in (*LOCKS, STATUS)
        or is_ignorable(path.name)
        or (path.name == "metrics.jsonl" and path.stat().st_size == 0)
        for path in folder.iterdir()
    )


def clear_leftovers(folder: Path) -> None:
    """Remove what a killed process was writing or removing; only the holder of the lock may."""
    for place in (folder, *(folder / name for name in ("checkpoints", "samples", "weights"))):
        for path in place.iterdir() if place.is_dir() else ():
            if is_leftover(path.name):
                with suppress(OSError):  # as of a .nfs file, which another process has open
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def lock(folder: Path, wait_s: float = LOCK_WAIT_S, holder: str = "") -> BaseFileLock:
    """Keep every other process from working in the folder until `release()` or the end of this process.

    On a file system without locks a marker file names the holder. The marker of a process of this machine that has
    ended is taken over; one of another machine can't be checked. Raises UserError after `wait_s`, which names the
    holder (`holder`, unset: by status.json) and the marker to delete.
    """
    if not issubclass(FileLock, SoftFileLock):
        held = FileLock(folder / _LOCK, thread_local=False, fallback_to_soft=False)
        try:
            held.acquire(timeout=wait_s)
            return held
        except Timeout:
            remedy = "Expected: its end, or another folder"
            raise UserError(f"{holder or _holder(folder)}. {remedy}", code="folder-in-use") from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
    marker = SoftFileLock(folder / _MARKER, thread_local=False)
    try:
        marker.acquire(timeout=wait_s)
    except Timeout:
        raise UserError(
            f"{holder or _holder(folder)}, by {folder / _MARKER}. Expected: its end or, if it has ended, that file "
            "deleted (this file system has no locks: a holder that has ended can't be recognised)",
            code="folder-in-use",
        ) from None
    return marker


def _holder(folder: Path) -> str:
    """Return who trains in the folder, in words."""
    status = read_status(folder)
    return f"--out: in use by process {status.get('pid', '?')} on {status.get('host', '?')} ({folder})"


@contextmanager
def record_status(folder: Path, step: Callable[[], int], end_reason: Callable[[], str]) -> Iterator[None]:
    """Write status.json, from `running` to how the run ends: `done`, `stopped` (it can be resumed) or `failed`.

    `end_reason` is the reason of a run that is done before its last step, "" for another.
    Of a run that was killed it stays `running`. No resume depends on it, and so no full disk stops a run here.
    """

    def write(state: str, reason: str | None, exit_code: int | None) -> None:
        status = {
            "state": state,  # running (also of a run that was killed), stopped, failed or done
            "step": step(),  # optimizer steps so far
            "reason": reason,  # why it stopped or failed, or was done before its last step; else null
            "exit_code": exit_code,  # null while it runs
            "pid": os.getpid(),  # process id of rank 0
            "launcher": PARENT,  # process id of what started it
            "host": platform.node(),  # name of the machine
            "at": datetime.now(UTC).isoformat(timespec="seconds"),  # time of this entry in UTC, ISO 8601
        }
        with suppress(OSError):
            write_json(folder / STATUS, status)

    write("running", None, None)
    try:
        yield
    except Stopped as error:
        write("stopped", str(error), error.exit_code)
        raise
    except KeyboardInterrupt:
        write("stopped", "interrupted; it resumes from the last checkpoint", 128 + signal.SIGINT)
        raise
    except BaseException as error:
        is_ours = isinstance(error, TrainingFailed | UserError | ProcessLost)
        exit_code = USER_ERROR if isinstance(error, UserError) else FAILED
        write("failed", str(error) if is_ours else f"{type(error).__name__}: {error}"[:500], exit_code)
        raise
    write("done", end_reason() or None, 0)


def read_status(folder: Path) -> dict[str, Any]:
    """Return status.json, {} if it is missing or damaged: no resume depends on it."""
    try:
        return read_json(folder / STATUS, 2**16)
    except UserError:
        return {}
