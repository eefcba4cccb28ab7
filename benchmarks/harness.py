"""Shared by the benchmarks: fresh processes, the facts of the machine, medians with their spread."""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch


def parser(description: str | None) -> argparse.ArgumentParser:
    defaults_shown = argparse.ArgumentDefaultsHelpFormatter
    made = argparse.ArgumentParser(description=description, formatter_class=defaults_shown)
    made.add_argument("--data-dir", default=os.environ.get("DISTGAN_DATA", "data"), help="holds MNIST/raw")
    made.add_argument("--json", type=Path, help="write there all that is needed to repeat this")
    return made


def run(command: list[str]) -> str:
    """The output of a fresh process; a failed one raises RuntimeError with the end of its complaint."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-2000:] or f"exit status {done.returncode}")
    return done.stdout


def shown(command: list[str]) -> str:
    """The command as one would type it, whichever interpreter ran it."""
    return shlex.join(["python" if part == sys.executable else part for part in command])


def spread(values: list[float], digits: int = 2) -> str:
    """Median (min-max)."""
    if not values:
        return "-"
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def _git(*words: str) -> str:
    command = ["git", "--no-optional-locks", *words]
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # another repository's
    return subprocess.run(command, capture_output=True, text=True, env=env).stdout.strip()


def machine() -> dict:
    """Return what a figure depends on, the code included: to be called before the runs, as code may change."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {
        "cpu": next((line.partition(":")[2].strip() for line in cpuinfo if "model name" in line), "unknown"),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": versions | {name: version(name) for name in ("torchvision", "accelerate")},
        "git": {
            "revision": _git("rev-parse", "--verify", "--quiet", "HEAD"),
            "is_dirty": bool(_git("status", "--porcelain")),
        },
    }


def write_json(path: Path | None, facts: dict, runs: list[dict]) -> None:
    if path:
        record = {"command": shown([sys.executable, *sys.argv]), "machine": facts, "runs": runs}
        path.write_text(json.dumps(record, indent=1) + "\n")
