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
from typing import TypeVar

from distgan.errors.codes import CODES

T = TypeVar("T")

# 75 is the EX_TEMPFAIL of sysexits.h: nothing is wrong, come again.
OK, FAILED, USER_ERROR, OUT_OF_TIME = 0, 1, 2, 75

# In the environment of the processes that `--processes N` starts: its own number, which is in the run's id as well.
OUR_LAUNCHER = "DISTGAN_LAUNCHER"


def launch_id(launcher: int | str) -> str:
    """Return the id that `--processes N` gives to torch's agent."""
    return f"distgan-{launcher}"


def _parent() -> int:
    """Return the process that started this one; a launcher of ours by its own word, as it may be gone by now."""
    launcher = os.environ.get(OUR_LAUNCHER, "")
    is_rank = launcher.isdecimal() and os.environ.get("TORCHELASTIC_RUN_ID") == launch_id(launcher)
    return int(launcher) if is_rank else os.getppid()


# Taken before the slow imports, during which a launcher may be killed.
PARENT = _parent()

# A disk or a folder that can't be written to is for the user to remedy, and so is an error of a file that was named;
# any other OSError is ours.
_USER_ERRNO = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ENOTDIR,
    errno.EISDIR, errno.ENAMETOOLONG, errno.ENOENT, errno.EEXIST, errno.EIO, errno.ELOOP,
}  # fmt: skip


_FULL = {errno.ENOSPC, errno.EDQUOT}
# Between an error for lack of memory and what to do about it.
LESS_MEMORY = "; to need less: "
# How torch, CUDA's libraries and the system say that they get no memory.
_NO_MEMORY = (
    "outofmemory",
    "out of memory",
    "not enough memory",
    "t allocate memory",
    "cannot allocate",
    "alloc_failed",
)

# What a network disk answers while it is away, and a system that is short of something: later it may work.
TRANSIENT = {
    errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN,
    errno.ENETUNREACH, errno.ECONNRESET, errno.EAGAIN, errno.EBUSY, errno.ENOLCK, errno.ENOMEM, errno.EMFILE,
    errno.ENFILE,
}  # fmt: skip


class UserError(Exception):
    """A user error: one or a few lines `THING: problem (value). Expected: ...`.

    `code`: a key of CODES. It is printed in brackets after the message, and after it its kind.
    """

    def __init__(self, message: str, *, code: str = "bad-value"):
        assert code in CODES, code
        super().__init__(message)
        self.code, self.kind = code, CODES[code].kind


class CommonError(UserError):
    """One that all processes of a run have met together, so that the first alone has to say it."""


class TrainingFailed(Exception):
    """The training itself went wrong (a loss that is not finite, say), and what to do about it."""

    def __init__(self, message: str, advice: str = "lower --g-lr and --d-lr, or try another --loss or --precision"):
        super().__init__(message)
        self.advice = advice


class CommandFailed(Exception):
    """A negative result of a command: a damaged checkpoint, two that differ. Exit code 1."""


class ProcessLost(Exception):
    """Another process of the run is gone or silent. `speaks`: whether this one is to say so."""

    def __init__(self, message: str, speaks: bool):
        super().__init__(message)
        self.speaks = speaks


class Stopped(Exception):
    """The run stopped on request before its end, and is saved."""

    def __init__(self, exit_code: int, message: str):
        super().__init__(message)
        self.exit_code = exit_code


def brackets(error: UserError) -> str:
    """Return `[code] [kind]` for the end of a message; a general code once."""
    return " ".join(f"[{code}]" for code in dict.fromkeys((error.code, error.kind)))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message that is not empty, or its type's name, for a message of one line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]


def not_readable(what: object, error: OSError, then: str = "") -> UserError:
    """Return what to raise where `what`, a file that the user named, can't be read; `then`: what to do about it."""
    code = "not-found" if isinstance(error, FileNotFoundError) else "unreadable"
    return UserError(f"{what}: not readable ({error.strerror or error}){then}", code=code)


def user_error(error: Exception) -> UserError | None:
    """Return `error` as a UserError if it is one, a full or forbidden disk included; None for any other."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError) and error.errno and (error.filename or error.errno in _USER_ERRNO):
        return _of_the_disk(error)
    return None


def _of_the_disk(error: OSError) -> UserError:
    remedy = "name another place"
    if error.errno in _FULL:
        remedy = "make room or name another place"
    elif error.errno in TRANSIENT:
        remedy = "try again when the disk answers, or name another place"
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.filename and os.path.islink(error.filename) and not os.path.exists(error.filename):
        reason, remedy = (
            f"is a link to {os.path.realpath(error.filename)}, which is not there",
            "put that in its place, or delete the link",
        )
    message = f"{error.filename or 'a file of the run'}: {reason}; {remedy}"
    code = "disk-full" if error.errno in _FULL else "not-found" if error.errno == errno.ENOENT else "unwritable"
    return UserError(message, code=code)


def outcome_of(attempt: Callable[[], T]) -> tuple[T | None, UserError | None]:
    """Return what `attempt` returns, or the UserError that ended it."""
    try:
        return attempt(), None
    except (UserError, OSError) as error:
        mistake = user_error(error)
        if mistake is None:
            raise
        return None, mistake


class WriteErrorPolicy:
    """Policy for write errors during a run: a warning, or the end of the run if `stops`."""

    def __init__(self, *, stops: bool):
        self.stops = stops
        self._said: set[str] = set()
        self._new: list[str] = []

    def warn(self, message: str) -> None:
        """Queue a warning, unless the same message was queued before."""
        if message not in self._said:
            self._said.add(message)
            self._new.append(message)

    def illustrate(self, draw: Callable[[], object], what: str) -> None:
        """Call `draw` and turn any exception into a warning: plots and samples never fail a run."""
        try:
            draw()
        except Exception as error:
            self.warn(f"{what} not written, and nothing else is lost: {user_error(error) or _named(error)}")

    def __call__(self, error: OSError, what: str) -> None:
        """Take an error of a write as a warning that `what` is not written. Raises UserError if it may not."""
        mistake = _of_the_disk(error)
        if self.stops:
            raise mistake from error
        self.warn(f"{what} not written, and training continues: {mistake}")

    def warnings(self) -> list[str]:
        """Return the warnings queued since the last call."""
        new, self._new = self._new, []
        return new


def exit_code_of(command: Callable[[], None], *, debug: bool = False, less_memory: str = "") -> int:
    """Run a command and return the exit code for its end, with a traceback only under `debug`.

    `less_memory`: how to call the command where it finds too little.
    """
    try:
        command()
        return OK
    except KeyboardInterrupt:
        _say("interrupted")
        return 128 + signal.SIGINT
    except Stopped as error:
        _say(str(error))
        _tell_launcher(str(error))
        return error.exit_code
    except ProcessLost as error:
        # The process that is missed comes first in a launcher's report, if it could leave its own words.
        if error.speaks:
            _end(str(error), speaks=True)
        return FAILED
    except Exception as error:
        is_failure = isinstance(error, TrainingFailed | CommandFailed)
        mistake = user_error(error)
        if not is_failure and mistake is None:
            return _unforeseen(error, less_memory, debug=debug)
        message = str(error) if mistake is None else f"{mistake} {brackets(mistake)}"
        if debug:
            print_line(traceback.format_exc(), error=True)
        # In torchrun's report each has its own words.
        is_said = isinstance(error, TrainingFailed | CommonError) or "TORCHELASTIC_ERROR_FILE" in os.environ
        _end(message, speaks=not is_said)
        return FAILED if is_failure else USER_ERROR


def _unforeseen(error: Exception, less_memory: str, *, debug: bool) -> int:
    """Print a traceback, or for lack of memory one line with advice; in a multi-process run, a line with the rank."""
    is_alone, is_full = os.environ.get("WORLD_SIZE", "1") == "1", _is_out_of_memory(error)
    if debug or not is_full:
        print_line("".join(traceback.format_exception(error)), error=True)
    if is_alone and not is_full:
        return FAILED
    text = str(error).partition("\n")[0] or "there is too little" if is_full else str(error)
    words = f"{type(error).__name__}: {text}"
    message = words if is_alone else f"rank {os.environ.get('RANK')}: {words}"
    if is_full and less_memory:
        message += f"{LESS_MEMORY}{less_memory}"
    _end(message, speaks=True)
    return FAILED


def _is_out_of_memory(error: BaseException) -> bool:
    """True if the error is a lack of memory: the machine's, a limit's or a GPU's."""
    text = _named(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY)


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _end(message: str, *, speaks: bool = False) -> None:
    """Print last of all why this process fails, unless the launcher of --processes will."""
    _tell_launcher(message)
    # A launcher that is killed hands its processes on to another parent, and says nothing any more.
    if os.environ.get(OUR_LAUNCHER) != str(os.getppid()):
        _say(message, speaks=speaks)


def _tell_launcher(message: str) -> None:
    """Write the message for the report of torchrun, accelerate launch and the launcher here."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        with suppress(OSError), open(path, "w") as file:
            json.dump({"message": message, "timestamp": int(time.time())}, file)


def _say(message: str, *, speaks: bool = False) -> None:
    """Print to stderr, on rank 0 only where all ranks end alike, on any rank if it `speaks` for itself."""
    if speaks or os.environ.get("RANK", "0") == "0":
        with suppress(OSError):  # nobody reads any more, or the disk of a log is full
            print_message(message)


# -- Text on a terminal --


def printable(text: object) -> str:
    r"""Return text with control characters escaped, as `\x1b`, so that no terminal interprets them; keep \n and \t.

    Names, files and the environment may hold any. All that is shown comes by here: `print_line`, `utils/terminal.py`.
    """
    return "".join(
        char if char.isprintable() or char in "\n\t" or unicodedata.category(char) == "Zs" else _visible(char)
        for char in str(text)
    )


def _visible(char: str) -> str:
    return char.encode("unicode_escape").decode()


def print_line(text: object, *, error: bool = False) -> None:
    """Print text for people to read, on stderr if `error`."""
    print(printable(text), file=sys.stderr if error else sys.stdout, flush=True)


def print_message(message: str) -> None:
    """Print each line of a message on stderr under the program's name."""
    for line in printable(message).split("\n"):
        print_line(f"distgan: {line}", error=True)
