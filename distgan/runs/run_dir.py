"""A run's folder: claim it, lock it, and record the run's status."""

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

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from distgan.errors import FAILED, PARENT, USER_ERROR, ProcessLost, Stopped, TrainingFailed, UserError
from distgan.utils.files import is_ignorable, is_leftover, not_writable, read_json, write_json
from distgan.utils.paths import user_path

STATUS = "status.json"
SAMPLE = re.compile(r"epoch-(\d{1,9})(?:-step-(\d{1,12}))?")  # the name of a grid in samples/, without .png
LOCKS = _LOCK, _MARKER = "lock", "lock.marker"  # the second on a file system without locks
LOCK_WAIT_S = 15.0  # time for the last process of a killed run to exit
# Files of a run's folder, for the docs; a test compares them with a run's.
CONTENTS = {
    "timeline.png": "images from the same z at each of --sample-epochs, side by side",
    "timeline.gif": "the same, animated",
    "samples/": "each of these grids; the C-GAN's has one column per class",
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
    "images.safetensors": "names and hashes of your own images: a resume with others names the first that differs",
    "tensorboard/": "curves and grids by step, under the 2023 report's own tags; --tracker none turns it off",
    "wandb/": "with --tracker wandb: its files, which wandb sync uploads",
    "mlruns/": "with --tracker mlflow and no server: its files",
    "trackers.json": "the id of the run in each of wandb, mlflow and trackio, which a resume continues",
    "lock": "held by the process that trains; lock.marker on a file system without locks",
}
# Errors of file systems without locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EIO}


def has_checkpoints(out: str | None) -> bool:
    """True if the folder that --out names has a run with checkpoints."""
    return out is not None and any((user_path(out, "--out") / "checkpoints").glob("step-*"))


def claim_folder(out: str | None, preset: str, *, may_hold_run: bool) -> Path:
    """Create the folder of a new run, or return that of a run to resume. Raises UserError; never overwrites."""
    try:
        if out is None and (folder := _folder_before_restart(preset)):
            return folder
        if out is None:
            Path("runs").mkdir(exist_ok=True)
            return next(folder for number in count(1) if _create(folder := Path("runs", f"{preset}-{number}")))
        check_unused_folder(out, may_hold_run=may_hold_run)
        folder = user_path(out, "--out")
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
        return folder
    except OSError as error:
        raise not_writable(error.filename, error) from error


def _folder_before_restart(preset: str) -> Path | None:
    """Return the run's folder if torchrun --max-restarts has restarted its processes, else None."""
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        return None
    for folder in sorted(Path("runs").glob(f"{preset}-*"), key=lambda path: path.stat().st_mtime, reverse=True):
        status = read_status(folder)
        if (status.get("launcher"), status.get("host")) == (PARENT, platform.node()):
            return folder
    return None


def _create(folder: Path) -> bool:
    """Create a folder. False if it exists: an older run, or one that starts at the same time."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def check_unused_folder(out: str, *, may_hold_run: bool) -> None:
    """Raise UserError for a folder with files, unless it holds a run to resume."""
    folder = user_path(out, "--out")
    if not folder.is_dir() or all(is_ignorable(path.name) for path in folder.iterdir()):
        return
    if not may_hold_run:
        raise UserError(
            f"--out: exists already and is not overwritten ({out}). Expected: a new folder, or --resume auto",
            code="output-exists",
        )
    if not holds_run(folder):
        raise UserError(f"--out: no run to resume, no config.json in it ({out}). Expected: a new folder", code="no-run")


def holds_run(folder: Path) -> bool:
    """True if a run can be resumed or started in the folder: one killed before its config.json has lost nothing."""
    if (folder / "config.json").exists() or (folder / "checkpoints").is_dir():
        return True
    return all(
        path.name in (*LOCKS, STATUS)
        or is_ignorable(path.name)
        or (path.name == "metrics.jsonl" and path.stat().st_size == 0)
        for path in folder.iterdir()
    )


def clear_leftovers(folder: Path) -> None:
    """Remove what a killed process was writing or removing. Only the holder of the lock may call it."""
    for parent in (folder, *(folder / name for name in ("checkpoints", "samples", "weights"))):
        for path in parent.iterdir() if parent.is_dir() else ():
            if is_leftover(path.name):
                with suppress(OSError):  # as for a .nfs file, which another process has open
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def lock(folder: Path, wait_s: float = LOCK_WAIT_S, holder: str = "") -> BaseFileLock:
    """Lock the folder until `release()` or the end of this process.

    On a file system without locks a marker file names the holder. A marker is replaced if its process, of this
    machine, has ended; on another machine that can't be checked. Raises UserError after `wait_s`, which names the
    holder (`holder`, "": by status.json) and the marker to delete.
    """
    if not issubclass(FileLock, SoftFileLock):
        file_lock = FileLock(folder / _LOCK, thread_local=False, fallback_to_soft=False)
        try:
            file_lock.acquire(timeout=wait_s)
            return file_lock
        except Timeout:
            message = f"{holder or _describe_holder(folder)}. Expected: wait for its end, or use another folder"
            raise UserError(message, code="folder-in-use") from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
    marker = SoftFileLock(folder / _MARKER, thread_local=False)
    try:
        marker.acquire(timeout=wait_s)
    except Timeout:
        raise UserError(
            f"{holder or _describe_holder(folder)}, by {folder / _MARKER}. Expected: wait for its end or, if it has "
            "ended, delete that file (on a file system without locks it is not known whether the holder has ended)",
            code="folder-in-use",
        ) from None
    return marker


def _describe_holder(folder: Path) -> str:
    """Return a message on the process that trains in the folder."""
    status = read_status(folder)
    return f"--out: in use by process {status.get('pid', '?')} on {status.get('host', '?')} ({folder})"


@contextmanager
def record_status(folder: Path, step: Callable[[], int], end_reason: Callable[[], str]) -> Iterator[None]:
    """Write status.json: `running`, and at the end `done`, `stopped` (it can be resumed) or `failed`.

    `end_reason`: why a run was done before its last step, "" for others. The status of a killed run stays `running`.
    Errors of the disk are ignored, as no resume depends on the status.
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


def read_status(folder: Path) -> dict[str, object]:
    """Return status.json, {} if it is missing or damaged: no resume depends on it."""
    try:
        return read_json(folder / STATUS, 2**16)
    except UserError:
        return {}
