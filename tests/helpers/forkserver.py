"""`distgan ...` in a process of its own that does not have to import torch again: two thirds of the suite's time.

Each is forked from a server that has imported what a run needs and done nothing with it, so nothing is left
from one to the next. The command line itself, and what it imports, is tested in processes made from nothing.
"""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import psutil

CONTEXT = multiprocessing.get_context("forkserver")
PRELOAD = (
    "helpers.forkserver distgan.train distgan.sample distgan.runs.inspection distgan.evaluation.evaluate "
    "distgan.evaluation.during_training distgan.reports.eval_terminal sklearn.datasets matplotlib.backends.backend_agg "
    "matplotlib.figure torch._dynamo"
)
CONTEXT.set_forkserver_preload(PRELOAD.split())


def call(arguments: list[str], folder: Path, timeout: float) -> subprocess.CompletedProcess[str]:
    """Run the command in `folder`, with this process's environment, to its end."""
    out, err = folder.with_name(f"{folder.name}.stdout"), folder.with_name(f"{folder.name}.stderr")
    process = CONTEXT.Process(target=_run, args=(arguments, folder, dict(os.environ), out, err))
    process.start()
    try:
        process.join(timeout)
        if process.exitcode is None:
            raise subprocess.TimeoutExpired(["distgan", *arguments], timeout, out.read_text(), err.read_text())
    finally:
        for child in psutil.Process(process.pid).children(recursive=True) if process.is_alive() else ():
            child.kill()
        process.kill()
        process.join()
    return subprocess.CompletedProcess(["distgan", *arguments], process.exitcode, out.read_text(), err.read_text())


def _run(arguments: list[str], folder: Path, environment: dict[str, str], out: Path, err: Path) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for path, stream in ((out, sys.stdout), (err, sys.stderr)):
        with path.open("wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    sys.argv = ["distgan", *arguments]
    from distgan.cli import main

    sys.exit(main())
