"""`distgan doctor`: on this machine as it is, and on machines where one thing is amiss."""

import re
import runpy
import subprocess
import sys
import tempfile
import time
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from conftest import Run

from distgan.distributed import env as launcher
from distgan.errors import CommandFailed
from distgan.launch import all_reduce, doctor
from distgan.launch import checks as machine
from distgan.launch.checks import Finding
from distgan.launch.doctor import Failure
from distgan.utils import hardware

LINES = [
    "python", "torch", "torchvision", "packages", "GPUs", "bf16", "NCCL", "gloo", "all-reduce, gloo", "cores", "memory",
    "shared memory", "disk", "data", "DeepSpeed", "accelerate config", "SLURM",
]  # fmt: skip
# What the command line does with a command.
EXAMINE = (
    "import sys; from distgan.launch.doctor import examine; from distgan.errors import exit_code_of\n"
    "sys.exit(exit_code_of(lambda: examine(None)))"
)


def fake(folder: Path, **modules: str) -> str:
    """A folder for the head of sys.path that holds packages with this code."""
    for name, code in modules.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(code)
    return str(folder)


def states(out: str) -> dict[str, str]:
    """The state of each line of the table; a line that goes on begins with blanks."""
    found = [re.match(r"(\S.*?) {2,}(ok|note|problem) ", line) for line in out.splitlines()]
    return {match[1]: match[2] for match in found if match}


def words(out: str) -> str:
    """As if nothing was wrapped."""
    return " ".join(out.split())


@pytest.fixture
def well(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine whose packages import and whose processes reach each other, without the seconds that it takes."""
    monkeypatch.setattr(doctor, "failed_import", lambda: None)
    monkeypatch.setattr(doctor, "all_reduce", lambda name, _: Finding(f"all-reduce, {name}", "ok", "right"))
    return monkeypatch


def gpus(monkeypatch: pytest.MonkeyPatch, num: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num)
    card = SimpleNamespace(name="A card", total_memory=80 * 2**30, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setattr(torch, "ones", lambda *_, **__: torch.zeros(2))


# -- the command ------------------------------------------------------------------------------------------


def test_this_machine(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real sum over two processes, and nothing left behind."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("COLUMNS", "80")
    result = run("env", "-C", tmp_path / "work", sys.executable, "-c", EXAMINE)
    assert result.returncode == 0, result.stdout + result.stderr
    assert not result.stderr
    found = states(result.stdout)
    others = {"GPU driver": "GPUs"}  # a machine with a card and no driver
    assert {others.get(what, what) for what in found} - {"all-reduce, nccl"} == set(LINES)
    for what in ("python", "torch", "torchvision", "packages", "gloo", "all-reduce, gloo", "disk"):
        assert found[what] == "ok", what
    assert "a sum over 2 processes here is right" in words(result.stdout)
    assert "safetensors 0." in words(result.stdout)
    assert "\x1b" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert result.stdout.endswith("distgan train can run here\n")
    assert not list((tmp_path / "tmp").glob("distgan-*"))
    assert not list((tmp_path / "work").iterdir())


def test_no_torch(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", fake(tmp_path / "fake", torch="raise ImportError('libtorch is gone')"))
    result = run(sys.executable, "-c", EXAMINE)
    assert result.returncode == 1, result.stdout + result.stderr
    assert result.stderr == "distgan: distgan train can't run here: torch\n"
    found = states(result.stdout)
    assert list(found) == LINES
    assert found["torch"] == "problem"
    assert found["all-reduce, gloo"] == found["torchvision"] == "note"
    assert "libtorch is gone" in words(result.stdout)
    assert "pip install --force-reinstall torch torchvision" in words(result.stdout)


def test_torchvision_of_another_torch(
    well: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "raise RuntimeError('operator torchvision::nms does not exist')"
    well.syspath_prepend(fake(tmp_path / "fake", torch="", torchvision=code))
    well.setattr(doctor, "failed_import", FAILED_IMPORT)
    versions = {"torch": "2.14.1+cpu", "torchvision": "0.29.1"}
    well.setattr(doctor, "_version", lambda name: versions.get(name, VERSION(name)))
    with pytest.raises(CommandFailed, match=r"can't run here: torchvision$"):
        doctor.examine(None)
    out = capsys.readouterr().out
    assert states(out)["torchvision"] == "problem"
    assert states(out)["torch"] == "ok"
    text = words(out)
    assert "torchvision 0.29.1 with torch 2.14.1+cpu" in text
    assert "operator torchvision::nms does not exist; they are no pair" in text
    assert "pip install --force-reinstall torch torchvision" in text
    assert "both from PyTorch's own index of CPU builds" in text


FAILED_IMPORT, VERSION = doctor.failed_import, doctor._version


def test_exit_code_by_what_is_essential(well: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without gloo one process trains; several GPUs have to reach each other."""
    doctor.examine(None)
    well.setattr(doctor, "all_reduce", lambda name, _: Finding(f"all-reduce, {name}", "problem", "lost"))
    doctor.examine(None)
    assert states(capsys.readouterr().out)["all-reduce, gloo"] == "problem"
    gpus(well, 2)
    well.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    with pytest.raises(CommandFailed, match="can't run here: all-reduce, nccl"):
        doctor.examine(None)
    assert states(capsys.readouterr().out)["GPUs"] == "ok"


def test_a_check_that_fails_is_a_line(well: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Brackets and all."""

    def fail() -> None:
        raise ValueError("[red]")

    well.setattr(doctor, "slurm", fail)
    doctor.examine(None)
    out = capsys.readouterr().out
    assert states(out)["SLURM"] == "problem"
    assert "(ValueError: [red])" in out


def test_without_rich(well: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    well.setitem(sys.modules, "rich.table", None)
    doctor.examine(None)
    assert states(capsys.readouterr().out)["disk"] == "ok"


@pytest.mark.parametrize(
    ("version", "state"), [((3, 10), "problem"), ((3, 11), "ok"), ((3, 13), "ok"), ((3, 14), "problem")]
)
def test_python(monkeypatch: pytest.MonkeyPatch, version: tuple[int, int], state: str) -> None:
    monkeypatch.setattr(sys, "version_info", (*version, 0))
    assert doctor.python().state == state


@pytest.mark.parametrize(
    ("code", "module", "said"),
    [
        ({"torch": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"}, "torch", "ended by SIGSEGV"),
        ({"torch": "", "torchvision": "import time; time.sleep(60)"}, "torchvision", "more than 3 s"),
    ],
)
def test_an_import_that_crashes_or_hangs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: dict[str, str], module: str, said: str
) -> None:
    monkeypatch.setattr(doctor, "_IMPORTS_S", 3)
    monkeypatch.syspath_prepend(fake(tmp_path / "fake", **code))
    failure = doctor.failed_import()
    assert failure is not None
    assert failure.module == module
    assert said in failure.words


def test_the_current_folder_hides_no_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As little as it does from the installed command."""
    monkeypatch.chdir(fake(tmp_path, colorsys="raise ImportError"))
    monkeypatch.setattr(doctor, "_MODULES", ("colorsys", "distgan"))
    assert doctor.failed_import() is None


def test_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["rich>=13.7", "accelerate>=999", "absent-one>=1", "absent-two; extra == 'dev'", "absent-three; python_version < '3'"]  # fmt: skip  # noqa: E501
    monkeypatch.setattr(doctor, "requires", lambda _: asked)
    found = doctor.packages(None)
    assert found.state == "problem"
    assert found.text.endswith("absent-one is missing: pip install 'accelerate>=999' 'absent-one>=1'")
    assert re.match(r"accelerate [\d.]+ is not >=999, ", found.text)

    # One of the pair is not installed without the other.
    monkeypatch.setattr(doctor, "requires", lambda _: ["torch>=999", "torchvision>=0.1", "rich>=13.7"])
    assert doctor.packages(None).text.endswith("pip install 'torch>=999' 'torchvision>=0.1'")

    monkeypatch.setattr(doctor, "requires", lambda _: ["rich>=13.7"])
    assert doctor.packages(None).state == "ok"
    found = doctor.packages(Failure("distgan.train", "ImportError: no numpy"))
    assert found == ("packages", "problem", "import distgan.train fails: ImportError: no numpy")
    monkeypatch.setattr(doctor, "_version", lambda _: None)
    assert doctor.packages(None).state == "note"
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    assert doctor.packages(None).text == "packaging is missing: pip install packaging"


def test_deepspeed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"deepspeed": "0.19.8"}
    monkeypatch.setattr(doctor, "_version", lambda name: found.get(name, "9"))
    assert doctor.deepspeed() == ("DeepSpeed", "ok", "0.19.8")
    for old in ("0.1", None):
        found["deepspeed"] = old
        assert doctor.deepspeed().state == "note"
        assert f"optional, here {old or 'none'}: pip install 'distgan[deepspeed]'" in doctor.deepspeed().text


@pytest.mark.filterwarnings("ignore:.*config_args:RuntimeWarning")
@pytest.mark.parametrize("name", ["HF_HOME", "XDG_CACHE_HOME", "HOME"])
def test_accelerate_config_is_where_accelerate_looks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    for other in ("HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(name, str(tmp_path / "here"))
    assert doctor.accelerate_config().state == "ok"
    theirs = runpy.run_module("accelerate.commands.config.config_args")["default_config_file"]
    Path(theirs).parent.mkdir(parents=True)
    Path(theirs).touch()
    found = doctor.accelerate_config()
    assert found.state == "note"
    assert found.text.startswith(theirs)


# -- the machine ------------------------------------------------------------------------------------------


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(("free", "state"), [(2**30, "ok"), (2**30 - 1, "note"), (99 * 2**20, "problem")])
def test_disk(monkeypatch: pytest.MonkeyPatch, free: int, state: str) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: Usage(2**40, 0, free))
    found = machine.disk()
    assert found.state == state
    assert ("make room" in found.text) == (state != "ok")


def test_no_disk_to_write_to(well: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder is that of the runs, if there is one."""
    asked = []

    def refuse(dir: Path) -> None:  # noqa: A002
        asked.append(str(dir))
        raise PermissionError(13, "Permission denied")

    well.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    well.setattr(machine.tempfile, "TemporaryFile", refuse)
    with pytest.raises(CommandFailed, match="can't run here: disk"):
        doctor.examine(None)
    assert asked == ["runs"]
    assert "runs/: Permission denied; make room" in capsys.readouterr().out


def test_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.shared_memory().state == "ok"
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: Usage(63 * 2**20, 0, 0))
    assert machine.shared_memory().text.startswith("63 MiB")
    assert machine.shared_memory().state == "note"
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=2**32, available=2**30))
    assert machine.memory().text.startswith("1.0 GiB free of 4.0 GiB; ")
    assert machine.memory().state == "note"


def test_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert machine.slurm().state == "note"
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho slurm 23.02.7\n")
    (tmp_path / "sbatch").chmod(0o755)
    assert machine.slurm() == ("SLURM", "ok", "slurm 23.02.7, not in a job")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert machine.slurm().text.endswith("in job 17")


def test_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    assert machine.data(str(tmp_path)).state == "note"
    for name in ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte"):
        (raw / name).touch()
    assert machine.data(str(tmp_path)) == ("data", "ok", f"MNIST in {raw}")
    monkeypatch.setenv("DISTGAN_DATA", str(tmp_path))
    assert machine.data(None).state == "ok"


# -- GPUs and processes -----------------------------------------------------------------------------------


def test_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 2)
    assert machine.gpus() == ("GPUs", "ok", "2 x A card, 80.0 GiB, compute capability 9.0")

    def refuse(*_: object, device: str) -> torch.Tensor:
        if device == "cuda:1":
            raise RuntimeError("no kernel image is available\nand more")
        return torch.zeros(2)

    monkeypatch.setattr(torch, "ones", refuse)
    found = machine.gpus()
    assert (found.what, found.state) == ("GPUs", "problem")
    assert "GPU 1 does not compute: no kernel image is available; " in found.text


@pytest.mark.parametrize(
    ("smi", "cuda", "visible", "expected", "text"),
    [
        (None, "13.0", None, ("GPUs", "note"), "none: trains on the CPU"),
        ((True, "GPU 0: A card"), "13.0", "", ("GPUs", "note"), "hidden by CUDA_VISIBLE_DEVICES"),
        ((False, "No devices were found"), "13.0", None, ("GPUs", "note"), "none"),
        ((False, "can't reach the driver"), "13.0", None, ("GPU driver", "problem"), "mend the driver"),
        ((True, "GPU 0: A card"), None, None, ("GPU driver", "problem"), "--force-reinstall"),
        ((True, "GPU 0: A card"), "13.0", "7", ("GPU driver", "problem"), "VISIBLE_DEVICES=7; too old): update"),
    ],
)  # fmt: skip
def test_no_gpu(
    monkeypatch: pytest.MonkeyPatch,
    smi: tuple[bool, str] | None,
    cuda: str | None,
    visible: str | None,
    expected: tuple[str, str],
    text: str,
) -> None:
    gpus(monkeypatch, 0)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(machine.shutil, "which", lambda _: smi and "here")
    monkeypatch.setattr(machine, "_said", lambda *_: smi)
    monkeypatch.setattr(torch.version, "cuda", cuda)

    def init() -> None:
        raise RuntimeError("too old")

    monkeypatch.setattr(torch.cuda, "init", init)
    found = machine.gpus()
    assert (found.what, found.state) == expected
    assert text in found.text
    assert "trains on the CPU" in found.text


def test_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    monkeypatch.setattr(torch.distributed, "is_gloo_available", lambda: False)
    assert machine.gloo().state == "problem"
    gpus(monkeypatch, 1)
    assert machine.nccl().state == "note"
    gpus(monkeypatch, 2)
    assert machine.nccl().state == "problem"


@pytest.mark.parametrize(
    ("flags", "state"), [({"amx_bf16", "avx512_bf16"}, "ok"), ({"avx512_bf16"}, "note"), (set(), "note")]
)
def test_bf16_of_a_cpu(monkeypatch: pytest.MonkeyPatch, flags: set[str], state: str) -> None:
    gpus(monkeypatch, 0)
    monkeypatch.setattr(hardware, "cpu_flags", lambda: flags)
    found = machine.bf16()
    assert found.state == state
    assert ("leave it unset" in found.text) == (state == "note")


@pytest.mark.parametrize(
    ("flags", "is_told"),
    [({"fpu", "avx2"}, True), ({"avx512_bf16"}, False), ({"bf16", "asimd"}, False), (set(), False)],
)
def test_training_in_bf16_that_a_cpu_has_not_is_told(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], is_told: bool
) -> None:
    monkeypatch.setattr(hardware, "cpu_flags", lambda: flags)
    told = launcher.slow("bf16", is_cpu=True)
    assert [each.partition(":")[0] for each in told] == ["--precision bf16"] * is_told
    assert launcher.slow("bf16", is_cpu=False) == launcher.slow("no", is_cpu=True) == []


RANK = """
import os, signal, sys, time
from distgan.launch import all_reduce
rank, what = int(sys.argv[1]), "{what}"
if what == "dies" and rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
if what != "sums wrongly":
    time.sleep(60)
import torch.distributed as dist
dist.all_reduce = lambda values: values.add_(1)
all_reduce._take_part(rank, int(sys.argv[2]), sys.argv[3], sys.argv[4])
"""


@pytest.mark.parametrize(
    ("what", "processes", "limit_s", "text"),
    [
        ("dies", 2, 60, "rank 1: ended by SIGKILL"),
        ("sums wrongly", 1, 60, "rank 0: the sum over 1 processes is wrong: [2.0, 2.0, 2.0]"),
        ("hangs", 2, 1, "not done after 1 s by rank 0, 1"),
    ],
)
def test_all_reduce_that_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str, processes: int, limit_s: int, text: str
) -> None:
    """Says so in time, and leaves no process and no folder."""
    script = tmp_path / "rank.py"
    script.write_text(RANK.format(what=what))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(all_reduce, "_RANK", (sys.executable, str(script)))
    monkeypatch.setattr(all_reduce, "_ALL_REDUCE_S", limit_s)
    started = time.monotonic()
    found = all_reduce.all_reduce("gloo", processes)
    assert time.monotonic() - started < (10 if what == "hangs" else 40)
    assert found == ("all-reduce, gloo", "problem", text)
    left = subprocess.run(["pgrep", "-f", str(script)], capture_output=True, text=True)
    assert not left.stdout
    assert not list((tmp_path / "tmp").iterdir())


def test_last_words() -> None:
    """torch's prefix aside; the error, not the warning that comes after it."""
    err = b"[rank1]: Traceback (most recent call last):\n[rank1]: torch.DistError: gone\n[W1] bye\n\n"
    assert all_reduce.last_words(1, err) == "torch.DistError: gone"
    assert all_reduce.last_words(3, b"") == "exit code 3"
    assert all_reduce.last_words(-6, b"what(): c10\n") == "ended by SIGABRT (what(): c10)"
