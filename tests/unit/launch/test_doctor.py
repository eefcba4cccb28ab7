"""`distgan doctor`: on this machine as it is, and on machines where one thing is amiss."""

import re
import runpy
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from helpers.doctor import states
from helpers.runs import Capture, MonkeyPatch

from distgan.distributed import env as launcher
from distgan.errors import CommandFailed
from distgan.launch import all_reduce_check, doctor
from distgan.launch import checks as machine
from distgan.launch.checks import Finding
from distgan.launch.doctor import Failure
from distgan.utils import hardware


@pytest.fixture
def well(monkeypatch: MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine whose packages import and whose processes reach each other, without the seconds that it takes."""
    monkeypatch.setattr(doctor, "failed_import", lambda: None)
    monkeypatch.setattr(doctor, "all_reduce", lambda name, _: Finding(f"all-reduce, {name}", "ok", "right"))
    return monkeypatch


def gpus(monkeypatch: MonkeyPatch, num: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num)
    card = SimpleNamespace(name="A card", total_memory=80 * 2**30, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setattr(torch, "ones", lambda *_, **__: torch.zeros(2))


def test_exit_code_by_what_is_essential(well: MonkeyPatch, capsys: Capture) -> None:
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


def test_a_check_that_fails_is_a_line(well: MonkeyPatch, capsys: Capture) -> None:
    """Brackets and all."""

    def fail() -> None:
        raise ValueError("[red]")

    well.setattr(doctor, "slurm", fail)
    doctor.examine(None)
    out = capsys.readouterr().out
    assert states(out)["SLURM"] == "problem"
    assert "(ValueError: [red])" in out


def test_without_rich(well: MonkeyPatch, capsys: Capture) -> None:
    well.setitem(sys.modules, "rich.table", None)
    doctor.examine(None)
    assert states(capsys.readouterr().out)["disk"] == "ok"


@pytest.mark.parametrize(
    ("version", "state"), [((3, 10), "problem"), ((3, 11), "ok"), ((3, 13), "ok"), ((3, 14), "problem")]
)
def test_python(monkeypatch: MonkeyPatch, version: tuple[int, int], state: str) -> None:
    monkeypatch.setattr(sys, "version_info", (*version, 0))
    assert doctor.python().state == state


def test_packages(monkeypatch: MonkeyPatch) -> None:
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


def test_deepspeed(monkeypatch: MonkeyPatch) -> None:
    found = {"deepspeed": "0.19.8"}
    monkeypatch.setattr(doctor, "_version", lambda name: found.get(name, "9"))
    assert doctor.deepspeed() == ("DeepSpeed", "ok", "0.19.8")
    for old in ("0.1", None):
        found["deepspeed"] = old
        assert doctor.deepspeed().state == "note"
        assert f"optional, here {old or 'none'}: pip install 'distgan[deepspeed]'" in doctor.deepspeed().text


@pytest.mark.filterwarnings("ignore:.*config_args:RuntimeWarning")
@pytest.mark.parametrize("name", ["HF_HOME", "XDG_CACHE_HOME", "HOME"])
def test_accelerate_config_is_found(monkeypatch: MonkeyPatch, tmp_path: Path, name: str) -> None:
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


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(("free", "state"), [(2**30, "ok"), (2**30 - 1, "note"), (99 * 2**20, "problem")])
def test_disk(monkeypatch: MonkeyPatch, free: int, state: str) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: Usage(2**40, 0, free))
    found = machine.disk()
    assert found.state == state
    assert ("make room" in found.text) == (state != "ok")


def test_no_disk_to_write_to(well: MonkeyPatch, tmp_path: Path, capsys: Capture) -> None:
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


def test_little_memory(monkeypatch: MonkeyPatch) -> None:
    assert machine.shared_memory().state == "ok"
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: Usage(63 * 2**20, 0, 0))
    assert machine.shared_memory().text.startswith("63 MiB")
    assert machine.shared_memory().state == "note"
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=2**32, available=2**30))
    assert machine.memory().text.startswith("1.0 GiB free of 4.0 GiB; ")
    assert machine.memory().state == "note"


def test_data(monkeypatch: MonkeyPatch, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    assert machine.data(str(tmp_path)).state == "note"
    for name in ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte"):
        (raw / name).touch()
    assert machine.data(str(tmp_path)) == ("data", "ok", f"MNIST in {raw}")
    monkeypatch.setenv("DISTGAN_DATA", str(tmp_path))
    assert machine.data(None).state == "ok"


def test_gpus(monkeypatch: MonkeyPatch) -> None:
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
        ((False, "can't reach the driver"), "13.0", None, ("GPU driver", "problem"), "fix the driver"),
        ((True, "GPU 0: A card"), None, None, ("GPU driver", "problem"), "--force-reinstall"),
        ((True, "GPU 0: A card"), "13.0", "7", ("GPU driver", "problem"), "VISIBLE_DEVICES=7; too old): update"),
    ],
)  # fmt: skip
def test_no_gpu(
    monkeypatch: MonkeyPatch,
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


def test_backends(monkeypatch: MonkeyPatch) -> None:
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
def test_bf16_of_a_cpu(monkeypatch: MonkeyPatch, flags: set[str], state: str) -> None:
    gpus(monkeypatch, 0)
    monkeypatch.setattr(hardware, "cpu_flags", lambda: flags)
    found = machine.bf16()
    assert found.state == state
    assert ("leave it unset" in found.text) == (state == "note")


@pytest.mark.parametrize(
    ("flags", "is_told"),
    [({"fpu", "avx2"}, True), ({"avx512_bf16"}, False), ({"bf16", "asimd"}, False), (set(), False)],
)
def test_bf16_that_a_cpu_has_not_is_told(monkeypatch: MonkeyPatch, flags: set[str], is_told: bool) -> None:
    monkeypatch.setattr(hardware, "cpu_flags", lambda: flags)
    told = launcher.slow("bf16", is_cpu=True)
    assert [each.partition(":")[0] for each in told] == ["--precision bf16"] * is_told
    assert launcher.slow("bf16", is_cpu=False) == launcher.slow("no", is_cpu=True) == []


def test_last_words() -> None:
    """torch's prefix aside; the error, not the warning that comes after it."""
    err = b"[rank1]: Traceback (most recent call last):\n[rank1]: torch.DistError: gone\n[W1] bye\n\n"
    assert all_reduce_check.last_words(1, err) == "torch.DistError: gone"
    assert all_reduce_check.last_words(3, b"") == "exit code 3"
    assert all_reduce_check.last_words(-6, b"what(): c10\n") == "ended by SIGABRT (what(): c10)"
