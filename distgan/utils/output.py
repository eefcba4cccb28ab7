"""Standard streams whose encoding errors and closed pipes do not change a command's exit code."""

import codecs
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from distgan.errors import UserError

_ERRORS = "distgan.replace"
# For symbols in our output that an encoding lacks.
_REPLACEMENTS = {"–": "-", "✓": "+", "✗": "x", "△": "~"}


def _replace_unencodable(error: UnicodeError) -> tuple[str, int]:
    """Return ASCII for characters that an encoding lacks, and where to continue: an error handler of `codecs`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(
        _REPLACEMENTS.get(char) or char.encode("ascii", "backslashreplace").decode() for char in text
    ), error.end


codecs.register_error(_ERRORS, _replace_unencodable)


class GuardedStream:
    """stdout or stderr. Output to a closed pipe is dropped.

    Raises UserError for any other error on stdout; errors on stderr are ignored.
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
        """Redirect a broken stream to the null device: flushing its buffer at exit would raise."""
        if self.is_broken:
            with suppress(OSError), open(os.devnull, "wb") as null:
                os.dup2(null.fileno(), self._stream.fileno())


@contextmanager
def guarded_output() -> Iterator[None]:
    """Guard stdout and stderr: replace characters that their encoding lacks, and tolerate closed pipes."""
    streams = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    # A stream that the shell has closed (`>&-`) is None.
    guards = [GuardedStream(name, stream) for name, stream in streams.items() if stream is not None]
    for guard in guards:
        if getattr(guard, "errors", None) in ("strict", "surrogateescape") and hasattr(guard, "reconfigure"):
            guard.reconfigure(errors=_ERRORS)
        setattr(sys, guard.name, guard)
    try:
        yield
    finally:
        for guard in guards:
            guard.close_if_broken()
        for name, stream in streams.items():
            setattr(sys, name, stream)
