"""Saving while training continues: which checkpoints stay, and what a disk that takes no more does."""

import ctypes
import errno
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import pytest
from helpers.runs import BIN, TINY, Run, Start, assert_user_error, checkpoint, checkpoint_names, quick, wait_for

from distgan.runs.run_dir import read_status
from distgan.utils.files import read_metrics


def test_checkpoints_come_at_the_cadence_and_the_newest_stay(distgan: Run, tmp_path: Path) -> None:
    flags = ("--preset", "cgan-quick", "--data", "digits", *TINY, "--width", 0.02, "--latent-dim", 4)
    flags += ("--batch-size", 6000, "--epochs", 2)
    distgan.ok("train", *flags, "--keep", 9, "--save-every-steps", 5, "--out", "all")
    assert [int(name[5:]) for name in checkpoint_names(tmp_path / "all")] == [6, 5, 3, 0]
    distgan.ok("train", *flags, "--out", "kept")
    assert [int(name[5:]) for name in checkpoint_names(tmp_path / "kept")] == [6, 3], (
        "two, unless --keep says otherwise"
    )


def test_stall_and_write_are_distinguished(distgan: Run, tmp_path: Path) -> None:
    result = distgan("train", *quick("run", "--save-every-steps", 2))
    assert " of 1.2 MiB; " in result.stderr
    facts = json.loads((tmp_path / "run" / "environment.json").read_text())["checkpoints"]
    assert facts["num"] == 4
    assert 0 < facts["stall_s"]["median"] <= facts["stall_s"]["max"] < 1
    assert 0 < facts["write_s"]["median"] <= facts["write_s"]["max"]
    assert facts["num_bytes"] == sum(
        path.stat().st_size for path in (tmp_path / "run" / "checkpoints" / "step-00000006").iterdir()
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 5 MiB: room for two small checkpoints and the one that replaces one."""
    if platform.system() != "Linux" or os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root on Linux")
    libc, folder = ctypes.CDLL(None, use_errno=True), tmp_path / "disk"
    folder.mkdir()
    if libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, b"size=5m") != 0:
        pytest.skip(f"mount is not allowed here: {os.strerror(ctypes.get_errno())}")
    yield folder
    libc.umount2(str(folder).encode(), 2)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        for _ in range(5 * 256):
            file.write(bytes(4096))
    return filler


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """As a folder looks whose disk has been remounted after an error."""
    libc, name = ctypes.CDLL(None, use_errno=True), str(folder).encode()
    bind, remount, ro = 4096, 32, 1
    assert libc.mount(name, name, None, bind, None) == 0, os.strerror(ctypes.get_errno())
    try:
        assert libc.mount(None, name, None, bind | remount | ro, None) == 0, os.strerror(ctypes.get_errno())
        yield
    finally:
        libc.umount2(name, 2)


def test_full_disk_is_said_and_leaves_no_halves(distgan: Run, small_disk: Path) -> None:
    out = small_disk / "run"
    flags = ("--preset", "cgan-quick", "--data", "digits", "--tracker", "none", "--max-steps", 2, "--out", out)
    result = distgan("train", *flags)
    assert_user_error(result, os.strerror(errno.ENOSPC), code="disk-full")
    assert not list(out.rglob("*.safetensors")), "each file is complete or not there"
    assert not list(out.rglob(".*"))


def test_disk_that_fills_later_keeps_the_last_checkpoint(distgan: Run, small_disk: Path) -> None:
    out = small_disk / "run"
    flags = ("--preset", "cgan-quick", "--data", "digits", *TINY, "--out", out)
    distgan.ok("train", *flags, "--max-steps", 2)
    filler = fill(small_disk)
    assert_user_error(distgan("train", *flags, "--max-steps", 4), os.strerror(errno.ENOSPC))
    assert checkpoint(out)[1] == 2
    filler.unlink()
    distgan.ok("train", *flags, "--max-steps", 4)
    assert checkpoint(out)[1] == 4


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_a_run_goes_on_while_the_disk_takes_nothing(start: Start, small_disk: Path, how: str) -> None:
    """Metrics of that time are kept for later, the last checkpoint is intact, and it is said."""
    out = small_disk / "run"
    flags = ("--preset", "cgan-quick", "--data", "digits", *TINY, "--epochs", 1, "--save-every-steps", 20,
             "--sample-epochs", "9", "--log-every", 5, "--out", out)  # fmt: skip
    process = start(BIN / "distgan", "train", *flags)
    wait_for(lambda: len(read_metrics(out / "metrics.jsonl")) > 10, process)
    filler = fill(small_disk) if how == "full" else None
    with read_only(out / "checkpoints") if how == "read-only" else nullcontext():
        time.sleep(1.0)
        assert process.poll() is None, "it trains on"
        during = checkpoint(out)[1]
    if filler:
        filler.unlink()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert os.strerror(errno.ENOSPC if how == "full" else errno.EROFS) in err
    assert "warning: a checkpoint " in err
    assert err.count("warning: metrics ") <= 1
    assert "Traceback" not in err
    assert [line["step"] for line in read_metrics(out / "metrics.jsonl")] == [*range(5, 561, 5), 562]
    assert during < checkpoint(out)[1] == 562
    assert read_status(out)["state"] == "done"
    assert not list(out.rglob(".*"))
