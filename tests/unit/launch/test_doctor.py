"""`distgan doctor`: on this machine as it is, and on machines where one thing is amiss."""

import json
import re
import sys
from collections import namedtuple
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace

import psutil
import pytest
import torch
from helpers.doctor import states
from helpers.runs import Capture, MonkeyPatch

from distgan.distributed import env as launcher
from distgan.distributed import precision
from distgan.errors import CommandFailed
from distgan.launch import doctor
from distgan.launch.doctor import Finding, ImportFailure
from distgan.utils import hardware
from distgan.utils.child_process import summarise_error

CHECKS = ["python", "torch", "packages", "device", "processes", "memory", "disk", "data"]


@pytest.fixture
def well(monkeypatch: MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine whose packages import and whose processes reach each other, without the seconds that it takes."""
    monkeypatch.setattr(doctor, "find_import_failure", lambda: None)
    monkeypatch.setattr(doctor, "check_all_reduce", lambda name, _: Finding("processes", "ok", name))
    return monkeypatch


def gpus(monkeypatch: MonkeyPatch, num: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num)
    card = SimpleNamespace(name="A card", total_memory=80 * 2**30, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setattr(torch, "ones", lambda *_, **__: torch.zeros(2))
    if num:
        monkeypatch.setattr(precision, "time_precisions", lambda _: (2.0, 1.0))


def test_exit_code_by_what_is_essential(well: MonkeyPatch, capsys: Capture) -> None:
    """Without gloo one process trains; several GPUs have to reach each other."""
    doctor.check_machine(None)
    well.setattr(doctor, "check_all_reduce", lambda name, _: Finding("processes", "problem", f"{name}: lost", "look"))
    doctor.check_machine(None)
    out = capsys.readouterr().out
    assert states(out)["processes"] == "problem"
    assert "gloo: lost; look" in out
    well.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    gpus(well, 1)
    doctor.check_machine(None)
    assert "gloo: lost" in capsys.readouterr().out
    gpus(well, 2)
    with pytest.raises(CommandFailed, match=": processes"):
        doctor.check_machine(None)
    out = capsys.readouterr().out
    assert states(out)["device"] == "ok"
    assert "nccl: lost" in out


def test_a_script_reads_json(well: MonkeyPatch, capsys: Capture) -> None:
    doctor.check_machine(None, 0, as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert report["can_train"]
    assert [each["what"] for each in report["checks"]] == CHECKS
    assert {each["what"]: each["text"] for each in report["checks"]}["processes"] == "not checked"
    well.setattr(doctor, "check_disk", lambda: Finding("disk", "problem", "full", "make room"))
    with pytest.raises(CommandFailed, match=": disk"):
        doctor.check_machine(None, 0, as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert not report["can_train"]
    assert {"what": "disk", "state": "problem", "text": "full", "remedy": "make room"} in report["checks"]


def test_a_check_that_fails_is_a_line(well: MonkeyPatch, capsys: Capture) -> None:
    """Brackets and all."""

    def fail() -> None:
        raise ValueError("[red]")

    well.setattr(doctor, "report_memory", fail)
    doctor.check_machine(None)
    out = capsys.readouterr().out
    assert states(out)["memory"] == "problem"
    assert "(ValueError: [red])" in out


def test_without_rich(well: MonkeyPatch, capsys: Capture) -> None:
    well.setitem(sys.modules, "rich.table", None)
    doctor.check_machine(None)
    assert states(capsys.readouterr().out)["disk"] == "ok"


@pytest.mark.parametrize(
    ("version", "state"), [((3, 10), "problem"), ((3, 11), "ok"), ((3, 13), "ok"), ((3, 14), "problem")]
)
def test_python(monkeypatch: MonkeyPatch, version: tuple[int, int], state: str) -> None:
    monkeypatch.setattr(sys, "version_info", (*version, 0))
    assert doctor.check_python().state == state


def test_packages(monkeypatch: MonkeyPatch) -> None:
    requested = ["rich>=13.7", "accelerate>=999", "absent-one>=1", "absent-two; extra == 'dev'", "absent-three; python_version < '3'"]  # fmt: skip  # noqa: E501
    monkeypatch.setattr(doctor, "requires", lambda _: requested)
    found = doctor.check_packages(None)
    assert found.state == "problem"
    assert re.fullmatch(r"accelerate [\d.]+ is not >=999, absent-one is missing", found.text)
    assert found.remedy == "pip install 'accelerate>=999' 'absent-one>=1'"

    # One of the pair is not installed without the other.
    monkeypatch.setattr(doctor, "requires", lambda _: ["torch>=999", "torchvision>=0.1", "rich>=13.7"])
    assert doctor.check_packages(None).remedy == "pip install 'torch>=999' 'torchvision>=0.1'"

    monkeypatch.setattr(doctor, "requires", lambda _: ["rich>=13.7"])
    assert doctor.check_packages(None).state == "ok"
    found = doctor.check_packages(ImportFailure("distgan.train", "ImportError: no numpy"))
    assert found[:3] == ("packages", "problem", "import distgan.train fails: ImportError: no numpy")
    monkeypatch.setattr(doctor, "_installed_version", lambda _: None)
    assert doctor.check_packages(None).state == "note"
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    assert doctor.check_packages(None).remedy == "pip install packaging"


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(("free", "state"), [(2**30, "ok"), (2**30 - 1, "note"), (99 * 2**20, "problem")])
def test_disk(monkeypatch: MonkeyPatch, free: int, state: str) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: Usage(2**40, 0, free))
    found = doctor.check_disk()
    assert found.state == state
    assert ("free space" in found.remedy) == (state != "ok")


def test_no_disk_to_write_to(well: MonkeyPatch, tmp_path: Path, capsys: Capture) -> None:
    """The folder is that of the runs, if there is one."""
    requested = []

    def reject(dir: Path) -> None:  # noqa: A002
        requested.append(str(dir))
        raise PermissionError(13, "Permission denied")

    well.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    well.setattr(doctor.tempfile, "TemporaryFile", reject)
    with pytest.raises(CommandFailed, match=": disk"):
        doctor.check_machine(None)
    assert requested == ["runs"]
    assert "runs/: Permission denied; free space" in capsys.readouterr().out


def test_little_memory(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=2**34, available=2**33))
    assert doctor.report_memory().state == "ok"
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: Usage(63 * 2**20, 0, 0))
    assert doctor.report_memory()[1:3] == ("note", "8.0 GiB free of 16.0 GiB; /dev/shm 63 MiB")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=2**32, available=2**30))
    assert doctor.report_memory()[1:3] == ("note", "1.0 GiB free of 4.0 GiB")


def test_data(monkeypatch: MonkeyPatch, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    assert doctor.check_data(str(tmp_path)).state == "note"
    for name in ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte"):
        (raw / name).touch()
    assert doctor.check_data(str(tmp_path))[1:3] == ("ok", f"MNIST in {raw}")
    monkeypatch.setenv("DISTGAN_DATA", str(tmp_path))
    assert doctor.check_data(None).state == "ok"


def test_gpus(monkeypatch: MonkeyPatch) -> None:
    gpus(monkeypatch, 2)
    for is_native, words in ((True, "bf16 is native, 2.0 times"), (False, "leave --precision unset")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda is_native=is_native, **_: is_native)
        found = doctor.check_gpus()
        assert found.state == "ok"
        assert found.text.startswith("2 x A card, 80.0 GiB, compute capability 9.0; bf16 is ")
        assert words in found.text

    def reject(*_: object, device: str) -> torch.Tensor:
        if device == "cuda:1":
            raise RuntimeError("no kernel image is available\nand more")
        return torch.zeros(2)

    monkeypatch.setattr(torch, "ones", reject)
    found = doctor.check_gpus()
    assert (found.what, found.state) == ("device", "problem")
    assert found.text.endswith("GPU 1 does not compute: no kernel image is available")
    assert "CUDA_VISIBLE_DEVICES" in found.remedy


@pytest.mark.parametrize(
    ("nvidia_smi", "cuda", "visible", "state", "text", "remedy"),
    [
        (None, "13.0", None, "ok", "no GPU", ""),
        ((0, "GPU 0: A card\n", ""), "13.0", "", "ok", "hidden by CUDA_VISIBLE_DEVICES=", ""),
        ((6, "No devices were found\n", ""), "13.0", None, "ok", "no GPU", ""),
        ((9, "", "no driver\n"), "13.0", None, "problem", "nvidia-smi fails (no driver)", "fix the driver"),
        ((9, "", ""), "13.0", None, "problem", "nvidia-smi fails (exit code 9)", "fix the driver"),
        ((0, "GPU 0: A card\nGPU 1\n", ""), None, None, "problem", "and there is GPU 0: A card", "--force-reinstall"),
        ((0, "GPU 0: A card\n", ""), "13.0", "7", "problem", "(CUDA_VISIBLE_DEVICES=7; too old)", "update the driver"),
    ],
)  # fmt: skip
def test_no_gpu(
    monkeypatch: MonkeyPatch, nvidia_smi: tuple[int, str, str] | None, cuda: str | None, visible: str | None,
    state: str, text: str, remedy: str,
) -> None:  # fmt: skip
    gpus(monkeypatch, 0)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(doctor.shutil, "which", lambda _: nvidia_smi and "here")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: CompletedProcess([], *(nvidia_smi or ())))
    monkeypatch.setattr(torch.version, "cuda", cuda)

    def init() -> None:
        raise RuntimeError("too old")

    monkeypatch.setattr(torch.cuda, "init", init)
    found = doctor.explain_no_gpu()
    assert found.state == state
    assert text in found.text
    assert "trains on the CPU" in found.text
    assert remedy in found.remedy


@pytest.mark.parametrize(
    ("flags", "bf16_s", "words"),
    [
        ({"amx_bf16", "avx512_bf16"}, 1.0, "bf16 is native, 2.0 times as fast as float32 in a probe"),
        ({"avx512_bf16"}, 4.0, "bf16 is native, 0.5 times as fast as float32 in a probe: leave --precision unset"),
        ({"fpu"}, 1.0, "emulated, many times slower: leave --precision unset"),
        (set(), 1.0, "not known of this CPU: leave --precision unset"),
    ],
)
def test_bf16_of_a_cpu(monkeypatch: MonkeyPatch, flags: set[str], bf16_s: float, words: str) -> None:
    gpus(monkeypatch, 0)
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    monkeypatch.setattr(hardware, "cpu_flags", lambda: flags)
    monkeypatch.setattr(precision, "time_precisions", lambda _: (2.0, bf16_s))
    assert doctor.explain_no_gpu().text.endswith(words)


@pytest.mark.parametrize(
    ("flags", "is_reported"),
    [({"fpu", "avx2"}, True), ({"avx512_bf16"}, False), ({"bf16", "asimd"}, False), (set(), False)],
)
def test_bf16_that_a_cpu_has_not_is_reported(monkeypatch: MonkeyPatch, flags: set[str], is_reported: bool) -> None:
    monkeypatch.setattr(hardware, "cpu_flags", lambda: flags)
    reported = launcher.precision_warnings("bf16", is_cpu=True)
    assert [each.partition(":")[0] for each in reported] == ["--precision bf16"] * is_reported
    assert launcher.precision_warnings("bf16", is_cpu=False) == launcher.precision_warnings("fp32", is_cpu=True) == []


def test_last_words() -> None:
    """torch's prefix aside; the error, not the warning that comes after it."""
    err = b"[rank1]: Traceback (most recent call last):\n[rank1]: torch.DistError: gone\n[W1] bye\n\n"
    assert summarise_error(1, err) == "torch.DistError: gone"
    assert summarise_error(3, b"") == "exit code 3"
    assert summarise_error(-6, b"what(): c10\n") == "ended by SIGABRT (what(): c10)"
