"""Saving while training goes on: which checkpoints stay, and what a disk that takes no more does."""

import ctypes
import json
import os
import platform
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import pytest
from conftest import BIN, ON_CPU, TINY, Run, assert_user_error, checkpoint, quick, wait_for
from noise_images import noise_images

from distgan.checkpoint import manager as saver_module
from distgan.checkpoint.format import read_checkpoint
from distgan.checkpoint.manager import Saver
from distgan.checkpoint.resume import checkpoints_in
from distgan.config.schema import Config, DataConfig, ModelConfig, RunConfig
from distgan.distributed.runtime import Runtime
from distgan.errors import Tolerance, TrainingFailed, UserError
from distgan.runs.run_dir import read_status
from distgan.training.metrics import MetricLog
from distgan.training.session import Session
from distgan.utils.files import read_metrics


def make_saver(folder: Path, **settings: object) -> Saver:
    config = Config(
        model=ModelConfig(name="cgan", family="small", width=0.05),
        data=DataConfig(name="digits", batch_size=4),
        run=RunConfig(**settings),
    )
    session = Session(config, Runtime(ON_CPU), dataset=noise_images(40))
    tolerance = Tolerance(stops=config.run.on_save_error == "stop")
    made = Saver(folder, session, MetricLog(folder, session.runtime, 10, None, tolerance), tolerance)
    made.restore()
    return made


def at(made: Saver, step: int) -> None:
    """As if that many steps were taken, and logged."""
    made.gan.step = made.log.logged_step = step


def names(folder: Path) -> list[str]:
    return [path.name for path in checkpoints_in(folder / "checkpoints")]


# -- cadence, and what is kept -----------------------------------------------------------------------------


def test_checkpoints_come_at_the_cadence_and_the_newest_stay(distgan: Run, tmp_path: Path) -> None:
    flags = ("--preset", "cgan-quick", "--data", "digits", *TINY, "--width", 0.02, "--latent-dim", 4)
    flags += ("--batch-size", 6000, "--epochs", 4)
    assert distgan("train", *flags, "--keep", 9, "--save-every-steps", 5, "--out", "all").returncode == 0
    assert [int(name[5:]) for name in names(tmp_path / "all")] == [12, 10, 9, 6, 5, 3, 0]
    assert distgan("train", *flags, "--out", "kept").returncode == 0
    assert [int(name[5:]) for name in names(tmp_path / "kept")] == [12, 9], "two, unless --keep says otherwise"
    assert_user_error(distgan("train", *flags, "--keep", 1, "--out", "x"), "--keep: '1' is not allowed", "2 or more")


@pytest.mark.parametrize("order", ["min", "max"])
def test_the_best_stays_besides_the_newest(tmp_path: Path, order: str) -> None:
    made = make_saver(tmp_path, keep=2, keep_best=f"{order}:g_loss")
    values = [5.0, 1.0, 7.0, 3.0, 4.0, 2.0]
    for step, value in enumerate(values, start=1):
        at(made, step)
        made.log.last = type("Record", (), {"_asdict": lambda self, value=value: {"step": 1, "g_loss": value}})()
        made.save(wait=True)
    best = values.index(min(values) if order == "min" else max(values)) + 1
    assert [int(name[5:]) for name in names(tmp_path)] == [6, 5, best]
    assert (tmp_path / "checkpoints" / "best").resolve().name == f"step-{best:08}"
    assert (tmp_path / "checkpoints" / "latest").resolve().name == "step-00000006"


def test_keep_best_names_what_is_allowed(distgan: Run) -> None:
    result = distgan("train", *quick("run", "--keep-best", "min:fid"))
    assert_user_error(result, "--keep-best: 'min:fid' is not allowed; allowed: min: or max: and one of d_loss")


def test_a_full_epochs_save_holds_weights_of_one_step(distgan: Run, tmp_path: Path) -> None:
    """A snapshot is taken, then written: what training does meanwhile is not in it."""
    made = make_saver(tmp_path)
    weight = made.gan.generator.stem[0].weight
    before = weight.detach().clone()
    lock = threading.Event()
    write = saver_module.write_checkpoint

    def slow_write(*arguments: object) -> object:
        assert lock.wait(10)
        return write(*arguments)  # type: ignore[arg-type]

    saver_module.write_checkpoint = slow_write  # type: ignore[assignment]
    try:
        at(made, 1)
        began = time.perf_counter()
        made.save()
        assert made.saved is None, "it is not written yet, and training goes on"
        assert time.perf_counter() - began < 5
        weight.data.add_(1)
        lock.set()
        saved = made.last()
    finally:
        saver_module.write_checkpoint = write
    assert saved is not None
    assert (read_checkpoint(saved[1]).tensors["generator.stem.0.weight"] == before).all()


def test_stall_and_write_are_told_apart(distgan: Run, tmp_path: Path) -> None:
    result = distgan("train", *quick("run", "--save-every-steps", 2))
    assert " of 1.2 MiB; each stopped training for " in result.stderr
    facts = json.loads((tmp_path / "run" / "environment.json").read_text())["checkpoints"]
    assert facts["num"] == 4
    assert 0 < facts["stall_s"]["median"] <= facts["stall_s"]["max"] < 1
    assert 0 < facts["write_s"]["median"] <= facts["write_s"]["max"]
    assert facts["num_bytes"] == sum(
        path.stat().st_size for path in (tmp_path / "run" / "checkpoints" / "step-00000006").iterdir()
    )


# -- disks -------------------------------------------------------------------------------------------------


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
    assert_user_error(result, "No space left on device", "the checkpoint was not written, there is no other")
    assert not list(out.rglob("*.safetensors")), "each file is whole or not there"
    assert not list(out.rglob(".*"))


def test_disk_that_fills_later_keeps_the_last_checkpoint(distgan: Run, small_disk: Path) -> None:
    out = small_disk / "run"
    flags = ("--preset", "cgan-quick", "--data", "digits", *TINY, "--out", out)
    assert distgan("train", *flags, "--max-steps", 2).returncode == 0
    filler = fill(small_disk)
    result = distgan("train", *flags, "--max-steps", 4)
    assert_user_error(result, "No space left on device")
    assert checkpoint(out)[1] == 2
    filler.unlink()
    assert distgan("train", *flags, "--max-steps", 4).returncode == 0
    assert checkpoint(out)[1] == 4


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_a_run_goes_on_while_the_disk_takes_nothing(
    start: Callable[..., "subprocess.Popen[str]"], small_disk: Path, how: str
) -> None:
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
    assert ("No space left on device" if how == "full" else "Read-only file system") in err
    assert "warning: a checkpoint was not written, and training goes on (the last checkpoint is of step" in err
    assert err.count("warning: metrics are not written") <= 1
    assert "Traceback" not in err
    assert [line["step"] for line in read_metrics(out / "metrics.jsonl")] == [*range(5, 561, 5), 562]
    assert during < checkpoint(out)[1] == 562
    assert read_status(out)["state"] == "done"
    assert not list(out.rglob(".*"))


def test_a_run_stops_at_once_if_it_shall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in ("stop", "continue"):
        made = make_saver(
            tmp_path / setting if (tmp_path / setting).mkdir() is None else tmp_path, on_save_error=setting
        )
        at(made, 1)
        made.save(wait=True)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left", "the file")))
            at(made, 2)
            made.save()
            at(made, 3)
            if setting == "stop":
                with pytest.raises(UserError, match=r"No space left on device.*the last checkpoint is of step 1"):
                    made.save()
                continue
            made.save()
            made.last()
        assert "a checkpoint was not written, and training goes on" in made.tolerance.warnings()[0]
        at(made, 4)
        made.save(wait=True)
        assert names(tmp_path / setting) == ["step-00000004", "step-00000001"]


def test_an_error_of_ours_in_the_thread_is_not_swallowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_saver(tmp_path)
    monkeypatch.setattr(saver_module, "write_checkpoint", lambda *_: 1 / 0)
    at(made, 1)
    made.save()
    with pytest.raises(ZeroDivisionError):
        made.last()


def test_an_update_that_was_left_out_ends_the_run(tmp_path: Path) -> None:
    made = make_saver(tmp_path)
    made.refuse_broken()
    made.gan.d.num_skipped = 1
    with pytest.raises(TrainingFailed, match="a gradient is no number up to step 0"):
        made.refuse_broken()
