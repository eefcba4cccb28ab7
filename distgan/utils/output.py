"""Standard streams whose encoding errors and closed pipes do not change a command's exit code."""

import codecs
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from distgan.errors import UserError

_ERRORS = "distgan.stand-ins"
# Of our own signs where an encoding lacks them.
_STAND_INS = {"–": "-", "✓": "+", "✗": "x", "△": "~"}


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    """Return what to write for characters that an encoding lacks, and where to continue: a handler for `codecs`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(
        _STAND_INS.get(char) or char.encode("ascii", "backslashreplace").decode() for char in text
    ), error.end


codecs.register_error(_ERRORS, _stand_in)


class GuardedStream:
    """stdout or stderr. What nobody reads any more is dropped; a stdout that can't be written to is named.

    Errors on stderr are ignored: nobody reads it any more.
    """

    def __init__(self, name: str, stream: Any):
        self.name, self._stream, self.is_broken = name, stream, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._guarded():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._guarded():
            self._stream.flush()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.is_broken = True
            if self.name == "stdout" and not isinstance(error, BrokenPipeError):
                raise UserError(
                    f"stdout: not writable ({error.strerror or error}). Expected: a terminal, a pipe, or a file on a "
                    "disk with space",
                    code="unwritable",
                ) from error

    def close_if_broken(self) -> None:
        """Send what is left in its buffer nowhere, or the interpreter fails at it when it ends."""
        if self.is_broken:
            with suppress(OSError), open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())


@contextmanager
def guarded_output() -> Iterator[None]:
    """Let stdout and stderr show what their encoding lacks in another way, and be closed by whoever reads them."""
    before = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    # One that the shell has closed (`>&-`) is None.
    guards = [GuardedStream(name, stream) for name, stream in before.items() if stream is not None]
    for guard in guards:
        if getattr(guard, "errors", None) in ("strict", "surrogateescape") and hasattr(guard, "reconfigure"):
            guard.reconfigure(errors=_ERRORS)
        setattr(sys, guard.name, guard)
    try:
        yield
    finally:
        for guard in guards:
            guard.close_if_broken()
        for name, stream in before.items():
            setattr(sys, name, stream)
