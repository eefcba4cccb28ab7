"""CUDA without a GPU: torch's own CUDA code on a device that only pretends, and the calls that it made.

A preloaded library stands in for CUDA's runtime, cuBLAS and NCCL, another for the driver, and Python for the five
operators of cuDNN. Memory is the host's, and a kernel is no more than a line of the log. All else is torch's: caching
allocator, streams, CUDA graphs, autograd, autocast, Adam, Inductor and Triton. So it shows which engine runs, how many
kernels per step has, and whether one waits, allocates, or breaks a rule of stream capture. It shows no values and no
time.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from helpers.runs import Run

HERE = Path(__file__).resolve().parent
# Steps of a run: as a graph four replays of five and two of one. What follows its first replays continues like this.
STEPS, STEADY = 22, 5


class Interval(NamedTuple):
    """Calls of the device up to its `end`, a "step" or a "replay" of a graph, since the one before."""

    end: str
    launches: list[str]
    allocations: list[str]
    waits: list[str]


class Log:
    """Calls of the device by one process: the nodes of each graph in their order, and what broke a rule."""

    def __init__(self, lines: list[str]):
        self.graphs: list[list[str]] = []
        self.violations: list[str] = []
        self.intervals: list[Interval] = []
        now: dict[str, list[str]] = {"launch": [], "allocation": [], "sync": []}
        is_capturing = False
        for line in lines:
            kind, _, text = line.partition(" ")
            if kind in now:
                now[kind].append(text)
            elif kind in ("capture", "captured"):
                is_capturing = kind == "capture"
                self.graphs += [[]] if is_capturing else []
            elif kind == "node":
                self.graphs[-1].append(text)
            elif kind == "violation":
                self.violations.append(text)
            elif not is_capturing:
                self.intervals.append(Interval(kind, *now.values()))
                now = {kind: [] for kind in now}

    @property
    def steady(self) -> list[Interval]:
        """The last steps of the run."""
        return self.intervals[-STEADY:]

    def assert_clean(self) -> None:
        """No rule was broken, and no step waits for the device, allocates, or copies what is not pinned."""
        assert not self.violations, self.violations
        assert len(self.steady) == STEADY
        for interval in self.steady:
            assert not interval.waits, interval.waits
            assert not interval.allocations, interval.allocations
            pageable = [name for name in interval.launches if "pageable" in name]
            assert not pageable, pageable


class Ran(NamedTuple):
    """A program's output, and the logs of its processes that took steps."""

    result: subprocess.CompletedProcess[str]
    logs: list[Log]


def missing() -> str | None:
    """Return why the stand-in can't be built here, None if it can."""
    if sys.platform != "linux":
        return f"it is preloaded, which is Linux's way, and this is {sys.platform}"
    if torch.version.cuda is None or torch.version.cuda.split(".")[0] != "13":
        return f"torch {torch.__version__} is no build for CUDA 13"
    if torch.cuda.is_available():
        return "there is a GPU, which tests/gpu is for"
    if shutil.which("g++") is None:
        return "there is no g++"
    wanted = ("cuda_runtime_api.h", "crt/host_defines.h")
    lacks = [name for name in wanted if not any((folder / name).is_file() for folder in _include_folders())]
    return f"torch's packages have no {lacks[0]}" if lacks else None


def _include_folders() -> list[Path]:
    """Return where the packages that torch needs have CUDA's headers: some in one, some in the other."""
    triton = importlib.util.find_spec("triton")
    backends = [Path(folder) / "backends" for folder in (triton.submodule_search_locations or [])] if triton else []
    folders = [Path(root) / "nvidia" / "cu13" / "include" for root in sys.path]
    folders += [folder / "nvidia" / "include" for folder in backends]
    return [folder for folder in folders if folder.is_dir()]


def build() -> Path:
    """Return the folder with the two libraries, which is built if it is not there for these sources and headers yet."""
    sources = sorted([*HERE.glob("*.cpp"), *HERE.glob("*.h")])
    includes = [f"-I{folder}" for folder in _include_folders()]
    key = hashlib.sha256("\n".join([*includes, *(path.read_text() for path in sources)]).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"cuda-stand-in-{os.getuid()}-{key}"
    if folder.is_dir():
        assert folder.stat().st_uid == os.getuid(), f"{folder} is another user's"
        return folder
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        compiler = ["g++", "-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror", *includes]
        runtime = [str(path) for path in sources if path.suffix == ".cpp" and path.stem != "driver"]
        subprocess.run([*compiler, *runtime, "-o", str(made / "libstand_in.so")], check=True)
        driver = [str(HERE / "driver.cpp"), "-Wl,-soname,libcuda.so.1", "-o", str(made / "libcuda.so.1")]
        subprocess.run([*compiler, *driver], check=True)
        try:
            made.rename(folder)
        except OSError:  # another process was first
            assert folder.is_dir()
    return folder


def run_on_stand_in(run: Run, folder: Path, *words: object, timeout: float = 240, **environment: object) -> Ran:
    """Run `python WORDS`, and what it starts, on the stand-in. Logs and caches of compilers go to `folder`.

    The environment has, with CUDA_STAND_IN_ before it: DEVICES, how many there are; FAULTS, of child/faults.py; HIDDEN,
    packages that are not there.
    """
    built, logs = build(), Path(tempfile.mkdtemp(prefix="log-", dir=folder))
    ours: dict[str, object] = {
        "LD_PRELOAD": built / "libstand_in.so",
        "LD_LIBRARY_PATH": _with("LD_LIBRARY_PATH", built),
        "PYTHONPATH": _with("PYTHONPATH", HERE / "child"),
        "CUDA_STAND_IN_LOG": logs,
        # Compiled for a device whose timings are made up: for nobody else.
        "TORCHINDUCTOR_CACHE_DIR": folder / "inductor",
        "TRITON_CACHE_DIR": folder / "triton",
    }
    settings = [f"{name}={value}" for name, value in (ours | environment).items()]
    result = run("env", *settings, sys.executable, *words, timeout=timeout)
    found = [Log(path.read_text().splitlines()) for path in sorted(logs.glob("*.log"))]
    return Ran(result, [log for log in found if log.intervals])


def _with(name: str, folder: Path) -> str:
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get(name)])])


class Trained(NamedTuple):
    """A run's logs, one for each rank, the engine that environment.json has, and what was said."""

    logs: list[Log]
    engine: dict[str, Any]
    said: str


def train(
    run: Run, folder: Path, *flags: object, steps: int = STEPS, devices: int = 1, faults: str = "", timeout: float = 240
) -> Trained:
    """Train in `folder/run` up to that step."""
    fixed = ("--device", "cuda", "--no-download", "--log-every", 1000, "--tracker", "none", "--out", "run")
    ran = run_on_stand_in(
        run, folder, "-m", "distgan", "train", *flags, *fixed, "--max-steps", steps, timeout=timeout,
        CUDA_STAND_IN_DEVICES=devices, CUDA_STAND_IN_FAULTS=faults,
    )  # fmt: skip
    assert ran.result.returncode == 0, ran.result.stdout + ran.result.stderr
    engine = json.loads((folder / "run" / "environment.json").read_text())["engine"]
    return Trained(ran.logs, engine, ran.result.stderr)
