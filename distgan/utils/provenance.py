"""Provenance of a run: versions, command, git revision, and start-up times."""

import os
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

import distgan
from distgan.utils.child_process import tool_output

_LIBRARIES = ("torch", "torchvision", "accelerate", "numpy", "safetensors", "pydantic")


class Startup:
    """Seconds of each phase from the start of the process, or from `born`, to the end of the first step."""

    def __init__(self, born: float | None = None) -> None:
        self.phases: dict[str, float] = {}
        self.is_running = True
        self.born = self._last = psutil.Process().create_time() if born is None else born
        self.mark("imports")

    def mark(self, phase: str) -> None:
        """End a phase: record the seconds since the previous one ended."""
        now = time.time()
        self.phases[phase] = round(self.phases.get(phase, 0.0) + now - self._last, 3)
        self._last = now

    def finish(self) -> None:
        """End the last phase, the first step; further calls do nothing."""
        if not self.is_running:
            return
        self.mark("first_step")
        self.phases["total"] = round(self._last - self.born, 3)
        self.is_running = False


def describe_environment() -> dict[str, Any]:
    """Return versions, command, time and git revision of this process."""
    return {
        "distgan": distgan.__version__,  # version of distgan
        "command": [_program(), *sys.argv[1:]],  # words of the command line
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),  # time in UTC, ISO 8601
        "python": sys.version.split()[0],  # version of Python
        "versions": {name: _version(name) for name in _LIBRARIES},  # versions of torch and other libraries
        "git": git_revision(),  # revision of the clone, and whether files were changed; null of an installed package
    }


def _program() -> str:
    """Return the name of the program; `distgan` for `python -m distgan` too."""
    name = Path(sys.argv[0]).name
    return "distgan" if name == "__main__.py" else name


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def git_revision() -> dict[str, object] | None:
    """Return the git revision of this code, and whether it has uncommitted changes; None without git."""
    root = Path(distgan.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    # In a git hook GIT_DIR and others may name another repository.
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    git = ("git", "-C", str(root))
    revision = tool_output(*git, "rev-parse", "HEAD", env=env)
    changes = tool_output(*git, "status", "--porcelain", env=env)
    return None if revision is None or changes is None else {"revision": revision, "is_dirty": bool(changes)}
