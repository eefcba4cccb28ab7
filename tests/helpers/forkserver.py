"""Programs of ours in processes that need not import torch again nor make the digits: most of the suite's time.

Each is forked from a server that has imported what a run needs and done nothing with it, so nothing is left
from one to the next. The command line itself, and what it imports, is tested in processes made from nothing.
"""

import importlib
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import psutil

from helpers.runs import free_port

CONTEXT = multiprocessing.get_context("forkserver")
PRELOAD = (
    "helpers.forkserver distgan.train distgan.sample distgan.runs.inspection distgan.evaluation.evaluate "
    "distgan.evaluation.during_training distgan.reports.eval_terminal matplotlib.backends.backend_agg "
    "matplotlib.figure torch._dynamo helpers.preloaded_digits"
)
CONTEXT.set_forkserver_preload(PRELOAD.split())


class Started(NamedTuple):
    process: BaseProcess
    out: Path
    err: Path


def call(
    words: list[str], folder: Path, timeout: float, program: str = "distgan.cli"
) -> subprocess.CompletedProcess[str]:
    """Run `program`'s main with these words in `folder`, with this process's environment, to its end."""
    return _ended([start(program, words, folder, {}, "")], words, timeout)


class Ranks:
    """Run `program`'s main in `num` ranks, started as srun does it; `ok` also requires that all succeed.

    The output is that of one after the other, the exit code the highest.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(
        self, num: int, *words: object, program: str = "distgan.cli", timeout: float = 240
    ) -> subprocess.CompletedProcess[str]:
        said = [str(word) for word in words]
        world = {"WORLD_SIZE": num, "LOCAL_WORLD_SIZE": num, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
        started = [
            start(program, said, self.folder, world | {"RANK": rank, "LOCAL_RANK": rank}, f".{rank}")
            for rank in range(num)
        ]
        return _ended(started, said, timeout)

    def ok(self, num: int, *words: object, program: str = "distgan.cli") -> subprocess.CompletedProcess[str]:
        result = self(num, *words, program=program)
        assert result.returncode == 0, result.stdout + result.stderr
        return result


def start(program: str, words: list[str], folder: Path, more: Mapping[str, object], suffix: str) -> Started:
    """Run `program`'s main; it is not waited for."""
    out, err = (folder.with_name(f"{folder.name}{suffix}.{stream}") for stream in ("stdout", "stderr"))
    environment = dict(os.environ) | {name: str(value) for name, value in more.items()}
    process = CONTEXT.Process(target=_run, args=(program, words, folder, environment, out, err))
    process.start()
    return Started(process, out, err)


def _ended(started: Sequence[Started], words: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
    def said(stream: str) -> str:
        return "".join(getattr(each, stream).read_text() for each in started)

    end = time.monotonic() + timeout
    try:
        for each in started:
            each.process.join(max(0.0, end - time.monotonic()))
        if any(each.process.exitcode is None for each in started):
            raise subprocess.TimeoutExpired(words, timeout, said("out"), said("err"))
    finally:
        for each in started:
            for child in psutil.Process(each.process.pid).children(recursive=True) if each.process.is_alive() else ():
                child.kill()
            each.process.kill()
            each.process.join()
    code = max((each.process.exitcode or 0 for each in started), key=abs)
    return subprocess.CompletedProcess(words, code, said("out"), said("err"))


def _run(program: str, words: list[str], folder: Path, environment: dict[str, str], out: Path, err: Path) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for path, stream in ((out, sys.stdout), (err, sys.stderr)):
        with path.open("wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    sys.argv = ["distgan", *words]
    for module in ("distgan.errors", "distgan.training.stop"):
        sys.modules[module].PARENT = os.getppid()  # type: ignore[attr-defined]  # who started this one
    sys.exit(importlib.import_module(program).main())
