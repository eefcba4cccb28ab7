"""Which checkpoints stay, and what becomes of a save that fails."""

import errno
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.file_events import DISK_ERRORS
from helpers.noise_images import noise_images
from helpers.runs import ON_CPU, MonkeyPatch, checkpoint_names, expect_user_error

from distgan.checkpoint import manager
from distgan.checkpoint.format import read_checkpoint
from distgan.checkpoint.manager import CheckpointManager
from distgan.config.schema import Config, DataConfig, ModelConfig, RunConfig
from distgan.distributed.runtime import Runtime
from distgan.errors import TrainingFailed, WriteErrorPolicy
from distgan.training.metrics import MetricLog
from distgan.training.session import Session


def fail_with(number: int) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def fail_to_open(ending: str) -> Callable[..., int]:
    opened = os.open

    def fail(path: object, *arguments: object) -> int:
        if str(path).endswith(ending):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return opened(path, *arguments)  # type: ignore[arg-type]

    return fail


def make_saver(folder: Path, **settings: object) -> CheckpointManager:
    config = Config(
        model=ModelConfig(name="cgan", family="dcgan", width=0.05),
        data=DataConfig(name="digits", batch_size=4),
        run=RunConfig(**settings),
    )
    session = Session(config, Runtime(ON_CPU), dataset=noise_images(40))
    tolerance = WriteErrorPolicy(stops=config.run.on_save_error == "stop")
    made = CheckpointManager(folder, session, MetricLog(folder, session.runtime, 10, None, tolerance), tolerance)
    made.restore()
    return made


def at(made: CheckpointManager, step: int) -> None:
    """As if that many steps were taken, and logged."""
    made.gan.step = made.log.logged_step = step


@pytest.mark.parametrize("order", ["min", "max"])
def test_the_best_stays_besides_the_newest(tmp_path: Path, order: str) -> None:
    made = make_saver(tmp_path, keep=2, keep_best=f"{order}:g_loss")
    values = [5.0, 1.0, 7.0, 3.0, 4.0, 2.0]
    for step, value in enumerate(values, start=1):
        at(made, step)
        made.log.last = type("Record", (), {"_asdict": lambda self, value=value: {"step": 1, "g_loss": value}})()
        made.save(wait=True)
    best = values.index(min(values) if order == "min" else max(values)) + 1
    assert [int(name[5:]) for name in checkpoint_names(tmp_path)] == [6, 5, best]
    assert (tmp_path / "checkpoints" / "best").resolve().name == f"step-{best:08}"
    assert (tmp_path / "checkpoints" / "latest").resolve().name == "step-00000006"


def test_a_full_epochs_save_holds_weights_of_one_step(tmp_path: Path) -> None:
    """A snapshot is taken, then written: what training does meanwhile is not in it."""
    made = make_saver(tmp_path)
    weight = made.gan.generator.stem[0].weight
    before = weight.detach().clone()
    lock = threading.Event()
    write = manager.write_checkpoint

    def slow_write(*arguments: object) -> object:
        assert lock.wait(10)
        return write(*arguments)  # type: ignore[arg-type]

    manager.write_checkpoint = slow_write  # type: ignore[assignment]
    try:
        at(made, 1)
        began = time.perf_counter()
        made.save()
        assert made.saved is None, "it is not written yet, and training continues"
        assert time.perf_counter() - began < 5
        weight.data.add_(1)
        lock.set()
        saved = made.last()
    finally:
        manager.write_checkpoint = write
    assert saved is not None
    assert (read_checkpoint(saved[1]).tensors["generator.stem.0.weight"] == before).all()


@pytest.mark.parametrize("setting", ["stop", "continue"])
def test_a_disk_that_takes_no_checkpoint_is_a_warning_or_the_end(
    tmp_path: Path, monkeypatch: MonkeyPatch, setting: str
) -> None:
    """Whatever its error is: a full disk, one that fails, one across a network that is away."""
    made = make_saver(tmp_path, on_save_error=setting)
    at(made, 1)
    made.save(wait=True)
    for step, number in enumerate(DISK_ERRORS, start=2):
        reason = os.strerror(number)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail_with(number))
            at(made, step)
            made.save()
            if setting == "stop":
                with expect_user_error("metrics.jsonl", reason, "step 1", code="unwritable"):
                    made.last()
            else:
                assert made.last() == (1, tmp_path / "checkpoints" / "step-00000001")
                (warning,) = made.write_errors.warnings()
                assert "checkpoint" in warning
                assert f"metrics.jsonl: {reason}" in warning
            with expect_user_error("metrics.jsonl", reason, code="unwritable"):  # nothing comes after the last one
                made.save(wait=True)
    at(made, 99)
    made.save(wait=True)
    assert checkpoint_names(tmp_path) == ["step-00000099", "step-00000001"]
    assert not list(tmp_path.rglob(".*"))


def test_an_older_checkpoint_that_can_not_be_removed_is_a_warning(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """The new one is there: it must not be said that it was not written."""
    made = make_saver(tmp_path, keep=2)
    monkeypatch.setattr(manager, "remove", lambda path: fail_with(errno.EBUSY)(path))
    for step in (1, 2, 3):
        at(made, step)
        made.save(wait=True)
    assert made.last() == (3, tmp_path / "checkpoints" / "step-00000003")
    (warning,) = made.write_errors.warnings()
    assert "--keep" in warning


def test_nothing_is_removed_while_the_best_can_not_be_read(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """It would be taken for one without a value, and be lost."""
    made = make_saver(tmp_path, keep=2, keep_best="min:g_loss")
    for step in (1, 2, 3, 4):
        at(made, step)
        made.log.last = type("Record", (), {"_asdict": lambda self, step=step: {"g_loss": float(step)}})()
        if step == 4:
            monkeypatch.setattr(os, "open", fail_to_open("step-00000001/state.json"))
        made.save(wait=True)
    assert checkpoint_names(tmp_path) == [f"step-{step:08}" for step in (4, 3, 2, 1)]
    (warning,) = made.write_errors.warnings()
    assert "state.json" in warning
    assert os.strerror(errno.ESTALE) in warning


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_disk_that_can_not_sync_folders_takes_checkpoints(
    tmp_path: Path, monkeypatch: MonkeyPatch, number: int
) -> None:
    """As FUSE, 9p and the shared folders of virtual machines; some reject chmod too."""
    sync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda handle: fail_with(number)() if stat.S_ISDIR(os.fstat(handle).st_mode) else sync(handle)
    )
    for name in ("chmod", "fchmod", "lchmod"):
        monkeypatch.setattr(os, name, fail_with(errno.EPERM), raising=False)
    made = make_saver(tmp_path)
    at(made, 1)
    made.save(wait=True)
    assert read_checkpoint(tmp_path / "checkpoints" / "latest").state.step == 1
    assert made.write_errors.warnings() == []


def test_an_error_of_ours_in_the_thread_is_not_swallowed(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    made = make_saver(tmp_path)
    monkeypatch.setattr(manager, "write_checkpoint", lambda *_: 1 / 0)
    at(made, 1)
    made.save()
    with pytest.raises(ZeroDivisionError):
        made.last()


def test_an_update_that_was_left_out_ends_the_run(tmp_path: Path) -> None:
    made = make_saver(tmp_path)
    made.check_finite()
    made.gan.d.num_skipped = 1
    with pytest.raises(TrainingFailed, match=r"gradient .* step 0"):
        made.check_finite()
