"""A file lock for one process to create what others then read, also on several machines that share a disk."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from distgan.errors import print_line

_SOON_S = 1.0  # after which a process that waits says so


@contextmanager
def hold_lock(path: Path, waiting: str) -> Iterator[None]:
    """Hold the lock of that file, and print `waiting` where another process has it.

    On a file system without locks, or without a place for the file, nothing is held.
    """
    lock = FileLock(path, thread_local=False, fallback_to_soft=False)
    try:
        try:
            lock.acquire(timeout=_SOON_S)
        except Timeout:
            print_line(waiting, error=True)
            lock.acquire()
    except OSError:
        yield
        return
    try:
        yield
    finally:
        lock.release()
