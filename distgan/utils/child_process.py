"""Run child processes: environment, output, error message, and cleanup. Imports without torch."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress

from distgan.errors import LESS_MEMORY
from distgan.utils.operating_system import signal_name


class ChildFailed(Exception):
    """A child process has no result; the message says why, in one line."""


def build_child_env() -> dict[str, str]:
    """Return an environment in which a child has this process's sys.path, without the current folder added."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONSAFEPATH": "1"}


def run_child(command: Sequence[str], *, timeout_s: float, env: Mapping[str, str]) -> bytes:
    """Run a program and return its stdout. Its process tree has ended when this returns or raises.

    Raises ChildFailed with the program's error, or after `timeout_s`.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        # Files, since a pipe stays open until the last grandchild that holds it ends.
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=errors, env=env)
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ChildFailed(f"not done after --timeout {timeout_s:g} s") from None
        finally:
            kill_tree(process)
        if code:
            errors.seek(0)
            raise ChildFailed(summarise_error(code, errors.read()))
        out.seek(0)
        return out.read()


def run_json(command: Sequence[str], *, timeout_s: float, env: Mapping[str, str]) -> dict[str, object]:
    """Run a program as run_child does and return the JSON object in the last line of its stdout."""
    lines = run_child(command, timeout_s=timeout_s, env=env).decode(errors="replace").strip().splitlines()
    with suppress(ValueError, IndexError):
        if isinstance(value := json.loads(lines[-1]), dict):
            return value
    raise ChildFailed("exit code 0, but its last line is not a JSON object")


def tool_output(*command: str, env: Mapping[str, str] | None = None) -> str | None:
    """Return the stdout of a system program, stripped; None if it is missing, fails, or takes over 10 s."""
    with suppress(OSError, subprocess.SubprocessError):
        process = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10, env=env)
        return process.stdout.strip()
    return None


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """Kill a child that still runs, and its descendants: torchrun's have their own sessions, and would outlive it."""
    if process.poll() is not None:
        return
    import psutil  # may be missing where doctor looks

    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
    process.kill()
    process.wait()


def summarise_error(code: int, stderr: bytes) -> str:
    """Return the error that a program ended with, in one line: of distgan's message, if it printed one."""
    text = re.sub(r"^\[rank\d+\]: ?", "", stderr.decode(errors="replace"), flags=re.M)  # torch's own prefix
    lines = [line for line in text.splitlines() if line.strip()]
    if ours := [line for line in lines if line.startswith("distgan: ")]:
        # Without the code, and without advice on flags that the calling command may not have.
        return re.sub(r" \[[a-z-]+\]$", "", ours[0].removeprefix("distgan: ")).partition(LESS_MEMORY)[0]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    message = (errors or lines or [f"exit code {code}"])[-1]
    if code < 0:
        return f"ended by {signal_name(-code)}" + (f" ({message})" if lines else "")
    return message
