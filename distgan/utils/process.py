"""Child processes: their environment, and the error they ended with."""

import os
import re
import signal
import sys


def own_modules() -> dict[str, str]:
    """A child's, which finds the modules that this process does: the current folder only if that is among them."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONSAFEPATH": "1"}


def last_words(code: int, stderr: bytes) -> str:
    """The error with which a program ended, in one line."""
    text = re.sub(r"^\[rank\d+\]: ?", "", stderr.decode(errors="replace"), flags=re.M)  # torch's own prefix
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    words = (errors or lines or [f"exit code {code}"])[-1]
    if code < 0:
        return f"ended by {signal.Signals(-code).name}" + (f" ({words})" if lines else "")
    return words
