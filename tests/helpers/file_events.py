"""Observe each change of files by this process before it happens: to inspect, count, or make it fail."""

import errno
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Errors of a full, failing or read-only disk, of permissions, and of network disks.
DISK_ERRORS = [
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENXIO,
    errno.ENODEV, errno.EBUSY, errno.ENOLCK, errno.EAGAIN, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT,
    errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ECONNRESET, errno.EREMOTEIO, errno.EBADF,
]  # fmt: skip

_CHANGES = ("os.mkdir", "os.rename", "os.symlink", "os.link", "os.remove", "os.rmdir", "os.truncate", "os.chmod")
_listener: Callable[[str, str], None] | None = None
_is_inside = threading.local()


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _listener is None or getattr(_is_inside, "value", False):
        return
    is_change = event in _CHANGES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    if not is_change or isinstance(arguments[0], int):
        return
    path = arguments[1] if event in ("os.rename", "os.symlink", "os.link") else arguments[0]
    _is_inside.value = True
    try:
        _listener(event, os.fsdecode(path))
    finally:
        _is_inside.value = False


@contextmanager
def before_each_change(listener: Callable[[str, str], None]) -> Iterator[None]:
    """Call `listener` with the event and the path (the new one of two), in any thread. Its exceptions fail the change.

    The path is only a name where a folder is removed with its content.
    """
    global _listener
    if not _is_installed:
        sys.addaudithook(_hook)
        _is_installed.append(True)
    _listener = listener
    try:
        yield
    finally:
        _listener = None


_is_installed: list[bool] = []


def list_contents(folder: Path) -> tuple[tuple[str, str], ...]:
    """Return each name in a folder, without its random part, with its size or the target of a link.

    Of unfinished files, which are removed, only the name.
    """
    contents = []
    for path in sorted(folder.rglob("*")):
        name = re.sub(r"-[0-9a-f]{8}$|tfevents.*", "", str(path.relative_to(folder)))
        if path.parent.name.startswith(".step-"):
            continue
        if path.is_symlink():
            contents.append((name, os.readlink(path)))
        else:
            contents.append((name, str(path.stat().st_size) if path.is_file() and path.name[0] != "." else ""))
    return tuple(contents)
