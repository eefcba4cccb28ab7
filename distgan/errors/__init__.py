"""Errors that end a command early, warnings, and the exit code and message of each."""

import errno
import json
import os
import signal
import sys
import time
import traceback
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, TypeVar

from distgan.errors.codes import CODES

T = TypeVar("T")

# 75 is EX_TEMPFAIL of sysexits.h: no error, try again later.
OK, FAILED, USER_ERROR, OUT_OF_TIME = 0, 1, 2, 75

# Environment variable of the processes that `--processes N` starts: the launcher's process id, also in its run id.
OUR_LAUNCHER = "DISTGAN_LAUNCHER"


def launch_id(launcher: int | str) -> str:
    """Return the run id that `--processes N` gives to torch's elastic agent."""
    return f"distgan-{launcher}"


def _parent() -> int:
    """Return the id of the process that started this one. `--processes N` passes its own, as it may end early."""
    launcher = os.environ.get(OUR_LAUNCHER, "")
    is_rank = launcher.isdecimal() and os.environ.get("TORCHELASTIC_RUN_ID") == launch_id(launcher)
    return int(launcher) if is_rank else os.getppid()


# Read before the slow imports, during which a launcher may be killed.
PARENT = _parent()

# Errors of disks and folders, which the user can fix, as an OSError with a file name is; any other OSError is a bug.
_USER_ERRNO = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ENOTDIR,
    errno.EISDIR, errno.ENAMETOOLONG, errno.ENOENT, errno.EEXIST, errno.EIO, errno.ELOOP,
}  # fmt: skip
_FULL = {errno.ENOSPC, errno.EDQUOT}
# Separates an out-of-memory error from the advice after it.
LESS_MEMORY = "; to need less: "
# In messages of torch, CUDA libraries and the system on a lack of memory.
_NO_MEMORY = (
    "outofmemory",
    "out of memory",
    "not enough memory",
    "t allocate memory",
    "cannot allocate",
    "alloc_failed",
)

# Errors of a network disk that is away, or of exhausted resources: a retry may work.
TRANSIENT = {
    errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN,
    errno.ENETUNREACH, errno.ECONNRESET, errno.EAGAIN, errno.EBUSY, errno.ENOLCK, errno.ENOMEM, errno.EMFILE,
    errno.ENFILE,
}  # fmt: skip


class DistganError(Exception):
    """Base of all errors of this package. `code`: what happened, for programs; messages may change."""

    code = "failed"


class UserError(DistganError):
    """A user error: one or a few lines `THING: problem (value). Expected: ...`.

    `code`: a key of CODES. Printed in brackets after the message, with its kind.
    """

    def __init__(self, message: str, *, code: str = "bad-value"):
        assert code in CODES, code
        super().__init__(message)
        self.code, self.kind = code, CODES[code].kind


class AllRanksUserError(UserError):
    """A user error that all ranks raise, so that only rank 0 prints it."""


class TrainingFailed(DistganError):
    """A training failed, for example by a non-finite loss; `advice` is what to change."""

    code = "training-failed"

    def __init__(self, message: str, advice: str = "lower --g-lr and --d-lr, or try another --loss or --precision"):
        super().__init__(message)
        self.advice = advice


class CommandFailed(DistganError):
    """A negative result of a command: a damaged checkpoint, two that differ. Exit code 1."""


class ProcessLost(DistganError):
    """Another process of the run has ended or is silent. `is_reporter`: True if this process is to print it."""

    code = "process-lost"

    def __init__(self, message: str, is_reporter: bool):
        super().__init__(message)
        self.is_reporter = is_reporter


class Stopped(DistganError):
    """The run was stopped by a signal or a time limit, and saved. `result`: what a program is given of it."""

    code = "stopped"

    def __init__(self, exit_code: int, message: str, result: Any = None):
        super().__init__(message)
        self.exit_code, self.result = exit_code, result


def format_codes(error: UserError) -> str:
    """Return `[code] [kind]` for the end of a message; one of them if they are the same."""
    return " ".join(f"[{code}]" for code in dict.fromkeys((error.code, error.kind)))


def first_line(error: BaseException) -> str:
    """Return the first non-empty line of an error's message, or the name of its type."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]


def not_readable(path: object, error: OSError, remedy: str = "an existing file with read permission") -> UserError:
    """Return the UserError for a file of the user's that can't be read."""
    code = "not-found" if isinstance(error, FileNotFoundError) else "unreadable"
    return UserError(f"{path}: not readable ({error.strerror or error}). Expected: {remedy}", code=code)


def as_user_error(error: Exception) -> UserError | None:
    """Return `error` as a UserError, also if it is an OSError that the user can fix; None for any other error."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError) and error.errno and (error.filename or error.errno in _USER_ERRNO):
        return _disk_error(error)
    return None


def _disk_error(error: OSError) -> UserError:
    remedy = "another path"
    if error.errno in _FULL:
        remedy = "free space, or another path"
    elif error.errno in TRANSIENT:
        remedy = "try again when the disk responds, or another path"
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.filename and os.path.islink(error.filename) and not os.path.exists(error.filename):
        reason = f"is a link to {os.path.realpath(error.filename)}, which does not exist"
        remedy = "restore that path, or delete the link"
    message = f"{error.filename or 'a file of the run'}: {reason}. Expected: {remedy}"
    code = "disk-full" if error.errno in _FULL else "not-found" if error.errno == errno.ENOENT else "unwritable"
    return UserError(message, code=code)


def catch_user_error(attempt: Callable[[], T]) -> tuple[T | None, UserError | None]:
    """Return what `attempt` returns, or the UserError that ended it."""
    try:
        return attempt(), None
    except (UserError, OSError) as error:
        user_error = as_user_error(error)
        if user_error is None:
            raise
        return None, user_error


class WriteErrorPolicy:
    """Policy for write errors during a run: a warning, or the end of the run if `stops`."""

    def __init__(self, *, stops: bool):
        self.stops = stops
        self._known: set[str] = set()
        self._queued: list[str] = []

    def warn(self, message: str) -> None:
        """Queue a warning, unless the same message was queued before."""
        if message not in self._known:
            self._known.add(message)
            self._queued.append(message)

    def warn_on_error(self, draw: Callable[[], object], what: str) -> None:
        """Call `draw` and turn any exception into a warning that `what` is not written: plots never fail a run."""
        try:
            draw()
        except Exception as error:
            self.warn(
                f"{what} not written, and nothing else is lost: {as_user_error(error) or _format_exception(error)}"
            )

    def __call__(self, error: OSError, what: str) -> None:
        """Queue a warning that `what` is not written, or raise a UserError if `stops`."""
        user_error = _disk_error(error)
        if self.stops:
            raise user_error from error
        self.warn(f"{what} not written, and training continues: {user_error}")

    def warnings(self) -> list[str]:
        """Return the warnings queued since the last call."""
        queued, self._queued = self._queued, []
        return queued


def run_and_report(command: Callable[[], None], *, debug: bool = False, less_memory: str = "") -> int:
    """Run a command, print its error if it raises one, and return its exit code.

    User errors have a traceback only with `debug`. `less_memory`: advice for an out-of-memory error.
    """
    try:
        command()
        return OK
    except KeyboardInterrupt:
        _print("interrupted")
        return 128 + signal.SIGINT
    except Stopped as error:
        _print(str(error))
        _write_error_file(str(error))
        return error.exit_code
    except ProcessLost as error:
        # A launcher's report begins with the lost process, if that could write its own message.
        if error.is_reporter:
            _report(str(error), on_any_rank=True)
        return FAILED
    except Exception as error:
        is_failure = isinstance(error, TrainingFailed | CommandFailed)
        user_error = as_user_error(error)
        if not is_failure and user_error is None:
            return _report_unexpected(error, less_memory, debug=debug)
        message = str(error) if user_error is None else f"{user_error} {format_codes(user_error)}"
        if debug:
            print_line(traceback.format_exc(), error=True)
        # Rank 0 prints an error that all ranks have; torchrun's report has the message of each rank.
        is_common = isinstance(error, TrainingFailed | AllRanksUserError) or "TORCHELASTIC_ERROR_FILE" in os.environ
        _report(message, on_any_rank=not is_common)
        return FAILED if is_failure else USER_ERROR


def _report_unexpected(error: Exception, less_memory: str, *, debug: bool) -> int:
    """Print a traceback, or if out of memory a line with advice; with several processes also a line with the rank."""
    is_alone, is_full = os.environ.get("WORLD_SIZE", "1") == "1", _is_out_of_memory(error)
    if debug or not is_full:
        print_line("".join(traceback.format_exception(error)), error=True)
    if is_alone and not is_full:
        return FAILED
    text = str(error).partition("\n")[0] or "not enough memory" if is_full else str(error)
    message = f"{type(error).__name__}: {text}"
    if not is_alone:
        message = f"rank {os.environ.get('RANK')}: {message}"
    if is_full and less_memory:
        message += f"{LESS_MEMORY}{less_memory}"
    _report(message, on_any_rank=True)
    return FAILED


def _is_out_of_memory(error: BaseException) -> bool:
    """True if memory ran out: the machine's, a limit's or a GPU's."""
    text = _format_exception(error).lower()
    return isinstance(error, MemoryError) or any(phrase in text for phrase in _NO_MEMORY)


def _format_exception(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _report(message: str, *, on_any_rank: bool = False) -> None:
    """Print why this process fails, unless its launcher, --processes N, prints it."""
    _write_error_file(message)
    # If that launcher was killed, this process has another parent.
    if os.environ.get(OUR_LAUNCHER) != str(os.getppid()):
        _print(message, on_any_rank=on_any_rank)


def _write_error_file(message: str) -> None:
    """Write the message for the report of torchrun, accelerate launch and --processes N."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        with suppress(OSError), open(path, "w") as file:
            json.dump({"message": message, "timestamp": int(time.time())}, file)


def _print(message: str, *, on_any_rank: bool = False) -> None:
    """Print to stderr on rank 0, or `on_any_rank`."""
    if on_any_rank or os.environ.get("RANK", "0") == "0":
        with suppress(OSError):  # a closed pipe, or a full disk of a log
            print_message(message)


# -- Text on a terminal --

# True while a program wants nothing printed: of this thread and what it calls.
IS_QUIET: ContextVar[bool] = ContextVar("distgan_is_quiet", default=False)


def printable(text: object) -> str:
    r"""Return text with control characters escaped, as `\x1b`, but for \n and \t, so that no terminal interprets them.

    For all output, as names, files and variables may have any: `print_line` and `utils/terminal.py` call it.
    """
    return "".join(
        char if char.isprintable() or char in "\n\t" or unicodedata.category(char) == "Zs" else _escape(char)
        for char in str(text)
    )


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode()


def print_line(text: object, *, error: bool = False) -> None:
    """Print text, on stderr if `error`; nothing where a program wants quiet."""
    if IS_QUIET.get():
        return
    print(printable(text), file=sys.stderr if error else sys.stdout, flush=True)


def print_message(message: str) -> None:
    """Print each line of a message on stderr after `distgan: `."""
    for line in printable(message).split("\n"):
        print_line(f"distgan: {line}", error=True)
