"""`distgan doctor` where it starts processes: this machine as it is, imports that fail, ranks that are lost."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from helpers.doctor import states, words
from helpers.runs import Capture, MonkeyPatch, Run

from distgan.errors import CommandFailed
from distgan.launch import all_reduce_check, doctor
from distgan.launch.doctor import Finding

CHECKS = ["python", "torch", "packages", "device", "processes", "memory", "disk", "data"]


# What the command line does with a command.
EXAMINE = (
    "import sys; from distgan.launch.doctor import check_machine; from distgan.errors import run_and_report\n"
    "sys.exit(run_and_report(lambda: check_machine(None)))"
)


def fake(folder: Path, **modules: str) -> str:
    """A folder for the head of sys.path that holds packages with this code."""
    for name, code in modules.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(code)
    return str(folder)


@pytest.fixture
def well(monkeypatch: MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine whose packages import and whose processes reach each other, without the seconds that it takes."""
    monkeypatch.setattr(doctor, "find_import_failure", lambda: None)
    monkeypatch.setattr(doctor, "check_all_reduce", lambda name, _: Finding("processes", "ok", name))
    return monkeypatch


def test_this_machine(run: Run, tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """A real sum over two processes, and nothing left behind."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("COLUMNS", "80")
    result = run.ok("env", "-C", tmp_path / "work", sys.executable, "-c", EXAMINE)
    assert not result.stderr
    found = states(result.stdout)
    assert list(found) == CHECKS
    for what in ("python", "torch", "packages", "processes", "disk"):
        assert found[what] == "ok", what
    assert "all-reduce over 2 processes works" in words(result.stdout)
    assert "safetensors 0." in words(result.stdout)
    assert "\x1b" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert result.stdout.endswith("distgan train can run here\n")
    assert not list((tmp_path / "tmp").glob("distgan-*"))
    assert not list((tmp_path / "work").iterdir())


def test_no_torch(run: Run, tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", fake(tmp_path / "fake", torch="raise ImportError('libtorch is gone')"))
    result = run(sys.executable, "-c", EXAMINE)
    assert result.returncode == 1, result.stdout + result.stderr
    assert result.stderr == "distgan: distgan train can't run here: torch\n"
    found = states(result.stdout)
    assert list(found) == CHECKS
    assert found["torch"] == "problem"
    assert found["device"] == found["processes"] == found["data"] == "note"
    assert "libtorch is gone" in words(result.stdout)
    assert "--force-reinstall torch torchvision" in words(result.stdout)


def test_torchvision_of_another_torch(well: MonkeyPatch, tmp_path: Path, capsys: Capture) -> None:
    code = "raise RuntimeError('operator torchvision::nms does not exist')"
    well.syspath_prepend(fake(tmp_path / "fake", torch="", torchvision=code))
    well.setattr(doctor, "find_import_failure", FAILED_IMPORT)
    versions = {"torch": "2.14.1+cpu", "torchvision": "0.29.1"}
    well.setattr(doctor, "_installed_version", lambda name: versions.get(name, VERSION(name)))
    with pytest.raises(CommandFailed, match=r": torch$"):
        doctor.check_machine(None)
    out = capsys.readouterr().out
    assert states(out)["torch"] == "problem"
    text = words(out)
    assert "with torchvision 0.29.1: RuntimeError: operator" in text
    assert "operator torchvision::nms does not exist; their builds do not match" in text
    assert "--force-reinstall torch torchvision" in text
    assert "both from PyTorch's index of CPU builds" in text


FAILED_IMPORT, VERSION = doctor.find_import_failure, doctor._installed_version


@pytest.mark.parametrize(
    ("code", "module", "said"),
    [
        ({"torch": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"}, "torch", "ended by SIGSEGV"),
        ({"torch": "", "torchvision": "import time; time.sleep(60)"}, "torchvision", "more than 3 s"),
    ],
)
def test_failing_import(monkeypatch: MonkeyPatch, tmp_path: Path, code: dict[str, str], module: str, said: str) -> None:
    monkeypatch.setattr(doctor, "_IMPORTS_S", 3)
    monkeypatch.syspath_prepend(fake(tmp_path / "fake", **code))
    failure = doctor.find_import_failure()
    assert failure is not None
    assert failure.module == module
    assert said in failure.error


def test_the_current_folder_hides_no_module(monkeypatch: MonkeyPatch, tmp_path: Path) -> None:
    """As little as it does from the installed command."""
    monkeypatch.chdir(fake(tmp_path, colorsys="raise ImportError"))
    monkeypatch.setattr(doctor, "_MODULES", ("colorsys", "distgan"))
    assert doctor.find_import_failure() is None


RANK = """
import os, signal, sys, time
from distgan.launch import all_reduce_check
rank, what = int(sys.argv[1]), "{what}"
if what == "dies" and rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
if what != "sums wrongly":
    time.sleep(60)
import torch.distributed as dist
dist.all_reduce = lambda values: values.add_(1)
all_reduce_check._run_rank(rank, int(sys.argv[2]), sys.argv[3], sys.argv[4])
"""


@pytest.mark.parametrize(
    ("what", "processes", "limit_s", "text"),
    [
        ("dies", 2, 60, "gloo: rank 1: ended by SIGKILL"),
        ("sums wrongly", 1, 60, "gloo: rank 0: wrong sum over 1 processes: [2.0, 2.0, 2.0]"),
        ("hangs", 2, 1, "gloo: not finished after 1 s: rank 0, rank 1"),
    ],
)
def test_all_reduce_that_fails(
    monkeypatch: MonkeyPatch, tmp_path: Path, what: str, processes: int, limit_s: int, text: str
) -> None:
    """It says so in time, and leaves no process and no folder."""
    script = tmp_path / "rank.py"
    script.write_text(RANK.format(what=what))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(all_reduce_check, "_RANK_COMMAND", (sys.executable, str(script)))
    monkeypatch.setattr(all_reduce_check, "_ALL_REDUCE_S", limit_s)
    started = time.monotonic()
    found = all_reduce_check.check_all_reduce("gloo", processes)
    assert time.monotonic() - started < (10 if what == "hangs" else 40)
    assert found[:3] == ("processes", "problem", text)
    assert "GLOO_SOCKET_IFNAME" in found.remedy
    left = subprocess.run(["pgrep", "-f", str(script)], capture_output=True, text=True)
    assert not left.stdout
    assert not list((tmp_path / "tmp").iterdir())
