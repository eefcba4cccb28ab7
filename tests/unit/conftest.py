"""A unit test starts no process, waits for no disk, and calls the command line in its own."""

import functools
import multiprocessing.process
import multiprocessing.util
import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.runs import Capture, Run

from distgan.cli import main
from distgan.data import base
from distgan.utils import provenance

STARTERS = {
    subprocess.Popen: ("__init__",),
    os: ("fork", "forkpty", "posix_spawn", "posix_spawnp", "system"),
    multiprocessing.process.BaseProcess: ("start",),
    multiprocessing.util: ("spawnv_passfds",),
}


@pytest.fixture(autouse=True)
def _no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def error(name: str) -> Callable[..., None]:
        def reject(*arguments: object, **options: object) -> None:
            pytest.fail(f"a unit test starts a process, by {name}: it belongs in tests/integration/")

        return reject

    monkeypatch.setenv("PATH", "")  # and finds none, whatever this machine has
    monkeypatch.setattr(os, "fsync", os.fstat)  # a disk's own time; checkpoint/test_format.py has what is flushed when
    monkeypatch.setattr(provenance, "git_revision", lambda: None)
    monkeypatch.setattr(platform, "platform", lambda: "a platform")  # calls uname
    for owner, names in STARTERS.items():
        for name in names:
            monkeypatch.setattr(owner, name, error(f"{owner.__name__}.{name}"))


# The embedded digits, made once for all tests of this process.
digits = functools.cache(base.load_digits)


@pytest.fixture(autouse=True)
def _same_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "load_digits", digits)


@pytest.fixture
def distgan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> Run:
    """`distgan ...` in this process: for what ends before anything is trained."""

    def call(words: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(tmp_path)
        capfd.readouterr()
        try:
            code = main(words)
        except SystemExit as left:
            code = int(left.code or 0)
        return subprocess.CompletedProcess(words, code, *capfd.readouterr())

    return Run(call)
