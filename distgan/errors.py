"""What ends a command early or is worth a warning, and the exit code and words that each has."""

import errno
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")

# 75 is the EX_TEMPFAIL of sysexits.h: nothing is wrong, come again.
OK, FAILED, USER_ERROR, OUT_OF_TIME = 0, 1, 2, 75

# Who started this process: taken before the slow imports, during which a launcher may be killed.
PARENT = os.getppid()

# In the environment of the processes that `--processes N` starts: its own number.
OUR_LAUNCHER = "DISTGAN_LAUNCHER"

# A disk or a folder that can't be written to is for the user to mend; any other OSError is ours.
_USER_ERRNO = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ENOTDIR,
    errno.EISDIR, errno.ENAMETOOLONG, errno.ENOENT, errno.EEXIST, errno.EIO, errno.ELOOP,
}  # fmt: skip


_FULL = {errno.ENOSPC, errno.EDQUOT}


class UserError(Exception):
    """A mistake of the user's: one or a few lines that name the thing, its value and what is allowed."""


class CommonError(UserError):
    """One that all processes of a run have met together, so that the first alone has to say it."""


class TrainingFailed(Exception):
    """The training itself went wrong (a loss that is not finite, say), and what to do about it."""

    def __init__(self, message: str, advice: str = "lower --g-lr and --d-lr, or try another --loss or --precision"):
        super().__init__(message)
        self.advice = advice


class CommandFailed(Exception):
    """What a command looked for is not so: a damaged checkpoint, two that differ. Exit code 1."""


class ProcessLost(Exception):
    """Another process of the run is gone or silent. `speaks`: whether this one is to say so."""

    def __init__(self, message: str, speaks: bool):
        super().__init__(message)
        self.speaks = speaks


class Stopped(Exception):
    """The run was asked to stop before its end, and did so in good order."""

    def __init__(self, exit_code: int, message: str):
        super().__init__(message)
        self.exit_code = exit_code


def user_message(error: Exception) -> str | None:
    """The words for a mistake of the user's, which a full or forbidden disk is too; None for any other."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in _USER_ERRNO:
        mend = "make room or name another place" if error.errno in _FULL else "name another place"
        return f"{error.filename or 'a file of the run'}: {os.strerror(error.errno)}; {mend}"
    return None


def outcome_of(attempt: Callable[[], T]) -> tuple[T | None, str | None]:
    """The result, or the words of a user's mistake."""
    try:
        return attempt(), None
    except (UserError, OSError) as error:
        message = user_message(error)
        if message is None:
            raise
        return None, message


class WriteErrorPolicy:
    """What it costs that a disk takes no more while a run goes on: a warning, or the run if `stops`."""

    def __init__(self, *, stops: bool):
        self.stops = stops
        self._said: set[str] = set()
        self._new: list[str] = []

    def warn(self, message: str) -> None:
        """Said once, however often it is true."""
        if message not in self._said:
            self._said.add(message)
            self._new.append(message)

    def __call__(self, error: OSError, what: str) -> None:
        """Takes an error as a warning that `what` is not written. Raises it again if it may not."""
        message = user_message(error)
        if message is None or self.stops:
            raise error
        self.warn(f"{what} not written, and training goes on: {message}")

    def warnings(self) -> list[str]:
        """What there is to say since the last call."""
        new, self._new = self._new, []
        return new


def exit_code_of(command: Callable[[], None], *, debug: bool = False) -> int:
    """Runs a command and turns its end into an exit code, with a traceback only under `debug`."""
    try:
        command()
        return OK
    except BrokenPipeError:  # the reader of `distgan ... | head` has left
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # the interpreter flushes it at exit
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
        message = str(error) if is_failure else user_message(error)
        if message is None:
            return _unforeseen(error)
        if debug:
            traceback.print_exc()
        # In torchrun's report each has its own words.
        is_said = isinstance(error, TrainingFailed | CommonError) or "TORCHELASTIC_ERROR_FILE" in os.environ
        _end(message, speaks=not is_said)
        return FAILED if is_failure else USER_ERROR


def _unforeseen(error: Exception) -> int:
    """A traceback; and of one process among several, a line that says which."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        raise error
    traceback.print_exception(error)
    message = f"rank {os.environ.get('RANK')}: {type(error).__name__}: {error}"
    if "memory" in f"{type(error).__name__} {error}".lower():
        message += " (allowed: a smaller --batch-size, a higher --accumulate, or more processes)"
    _end(message, speaks=True)
    return FAILED


def _end(message: str, *, speaks: bool = False) -> None:
    """Says why this process fails, unless the launcher of --processes will: as the last thing of all."""
    _tell_launcher(message)
    # A launcher that is killed hands its processes on to another parent, and says nothing any more.
    if os.environ.get(OUR_LAUNCHER) != str(os.getppid()):
        _say(message, speaks=speaks)


def _tell_launcher(message: str) -> None:
    """For the report with which torchrun, accelerate launch and our own launcher end."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        with suppress(OSError), open(path, "w") as file:
            json.dump({"message": message, "timestamp": int(time.time())}, file)


def _say(message: str, *, speaks: bool = False) -> None:
    """To stderr; by one process where all have met the same end, unless this one `speaks` for itself."""
    if speaks or os.environ.get("RANK", "0") == "0":
        with suppress(BrokenPipeError):  # nobody reads any more
            for line in message.splitlines():
                print(f"distgan: {line}", file=sys.stderr, flush=True)
