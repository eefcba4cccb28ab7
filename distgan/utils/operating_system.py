"""POSIX-only functions, each with a fallback for other systems. Imports without torch and psutil."""

import errno
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

# Signals that stop a program; Windows has only the first two.
STOP_SIGNALS = tuple(
    signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP") if hasattr(signal, name)
)


def is_ignored(signum: int) -> bool:
    """True if the process was started with a signal ignored, as by nohup, so that it outlives its terminal."""
    return signal.getsignal(signum) is signal.SIG_IGN


def signal_name(number: int) -> str:
    """Return the name of a signal, or `signal N` for one that this system does not have."""
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def is_parent_gone(parent: int) -> bool:
    """True if the process that started this one has ended; on Windows another process may have its id by then."""
    if os.name == "posix":  # an orphan gets another parent
        return os.getppid() != parent
    import psutil

    return not psutil.pid_exists(parent)


def count_cores() -> int:
    """Return the number of cores that this process may use, or of the machine if that is unknown."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory_bytes() -> int:
    """Return the peak resident memory of this process, or the current one if the peak is unknown."""
    if resource is not None:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    import psutil

    memory = psutil.Process().memory_info()
    return int(getattr(memory, "peak_wset", memory.rss))


def open_regular(path: Path) -> int:
    """Open a file for reading. A link is an error (ELOOP); does not block on a pipe where the system has O_NONBLOCK."""
    if not hasattr(os, "O_NOFOLLOW") and path.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    optional = (getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
    return os.open(path, os.O_RDONLY | sum(optional))


def open_to_sync(path: Path) -> int | None:
    """Open a file or a folder for os.fsync. Returns None for a folder on Windows, which can't open one."""
    if os.name == "posix":
        return os.open(path, os.O_RDONLY)
    return None if path.is_dir() else os.open(path, os.O_RDWR)


class ProcessId(NamedTuple):
    """A process id with its creation time, as ids are reused. `machine` is empty where it is unknown."""

    machine: str
    pid: int
    created: float


def own_process_id() -> ProcessId:
    """Return the id of this process, with which a later one of the same pid is not confused."""
    import psutil

    return ProcessId(_machine(), os.getpid(), psutil.Process().create_time())


def has_ended(process: ProcessId) -> bool | None:
    """True if a process has ended; None if it is on another machine, or its state is unknown."""
    if not process.machine or process.machine != _machine():
        return None
    import psutil

    try:
        current = psutil.Process(process.pid)
        return current.status() == psutil.STATUS_ZOMBIE or abs(current.create_time() - process.created) > 1
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return None


def _machine() -> str:
    """Return an id of this boot and PID namespace, within which process ids are unique; "" if unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
