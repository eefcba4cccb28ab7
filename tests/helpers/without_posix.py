"""`python without_posix.py FOLDER`: train, resume, sample and verify without POSIX-only modules, as on Windows.

They are hidden from the modules of distgan; other libraries, which support Windows themselves, keep them.
"""

import builtins
import errno
import os
import signal
import stat
import sys
import types
from pathlib import Path
from typing import Any

MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
WINDOWS_SIGNALS = {"SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM", "SIG_DFL", "SIG_IGN"}
SIGNAL_CALLS = {
    "alarm",
    "getitimer",
    "pause",
    "pthread_kill",
    "pthread_sigmask",
    "setitimer",
    "siginterrupt",
    "sigwait",
}
OS_NAMES = {
    "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "WNOHANG", "chown", "fchmod", "fork", "forkpty", "geteuid",
    "getgid", "getloadavg", "getpgid", "getpgrp", "getuid", "killpg", "mkfifo", "nice", "posix_spawn", "pwrite",
    "sched_getaffinity", "setpgid", "setsid", "statvfs", "sysconf", "uname", "wait", "waitpid",
}  # fmt: skip


def _open(path: Any, flags: int, *mode: int) -> int:
    if os.path.isdir(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    return os.open(path, flags, *mode)


def _fsync(handle: int) -> None:
    import fcntl

    if stat.S_ISREG(os.fstat(handle).st_mode) and fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    os.fsync(handle)


def _symlink(*_: object, **__: object) -> None:
    raise OSError(errno.EPERM, "A required privilege is not held by the client")


def _without(module: types.ModuleType, hidden: set[str], **other: Any) -> types.ModuleType:
    copy = types.ModuleType(module.__name__)
    copy.__dict__.update({name: value for name, value in vars(module).items() if name not in hidden} | other)
    return copy


def hide() -> None:
    signals = {name for name in vars(signal) if name.startswith("SIG")} - WINDOWS_SIGNALS
    known = types.SimpleNamespace(**{name: signal.Signals[name] for name in WINDOWS_SIGNALS if name[3] != "_"})

    class Signals:
        def __call__(self, number: int) -> signal.Signals:
            return next(known_signal for known_signal in vars(known).values() if known_signal == number)

        def __getitem__(self, name: str) -> signal.Signals:
            return vars(known)[name]

    copies = {
        "os": _without(os, OS_NAMES, name="nt", open=_open, fsync=_fsync, symlink=_symlink),
        "signal": _without(signal, signals | SIGNAL_CALLS, Signals=Signals()),
    }
    original_import = builtins.__import__

    def import_(name: str, globals_: Any = None, *more: Any, **others: Any) -> Any:
        if (globals_ or {}).get("__name__", "").split(".")[0] == "distgan":
            if name in MODULES:
                raise ImportError(f"No module named {name!r}", name=name)
            if name in copies:
                return copies[name]
        return original_import(name, globals_, *more, **others)

    builtins.__import__ = import_


def main() -> None:
    hide()
    os.chdir(sys.argv[1])
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from distgan.cli import main
    from helpers.runs import quick

    for words in (
        ("train", *quick("run", "--max-steps", 3, "--save-every-steps", 2, "--keep-best", "min:d_loss")),
        ("train", "--out", "run", "--max-steps", 5),
        ("sample", "run", "--out", "images.npz", "--num", 10),
        ("checkpoint", "verify", "run"),
    ):
        if code := main([str(word) for word in words]):
            sys.exit(code)
    from distgan.utils import operating_system

    assert operating_system.resource is None
    assert operating_system.STOP_SIGNALS == (signal.SIGINT, signal.SIGTERM)


if __name__ == "__main__":
    main()
