"""Which checkpoints stay, and what becomes of a save that fails."""

import os
import threading
import time
from pathlib import Path

import pytest
from helpers.noise_images import noise_images
from helpers.runs import ON_CPU, MonkeyPatch, checkpoint_names

from distgan.checkpoint import manager as saver_module
from distgan.checkpoint.format import read_checkpoint
from distgan.checkpoint.manager import CheckpointManager
from distgan.config.schema import Config, DataConfig, ModelConfig, RunConfig
from distgan.distributed.runtime import Runtime
from distgan.errors import TrainingFailed, UserError, WriteErrorPolicy
from distgan.training.metrics import MetricLog
from distgan.training.session import Session


def make_saver(folder: Path, **settings: object) -> CheckpointManager:
    config = Config(
        model=ModelConfig(name="cgan", family="small", width=0.05),
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


def test_a_run_stops_at_once_if_it_shall(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
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
        assert checkpoint_names(tmp_path / setting) == ["step-00000004", "step-00000001"]


def test_an_error_of_ours_in_the_thread_is_not_swallowed(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    made = make_saver(tmp_path)
    monkeypatch.setattr(saver_module, "write_checkpoint", lambda *_: 1 / 0)
    at(made, 1)
    made.save()
    with pytest.raises(ZeroDivisionError):
        made.last()


def test_an_update_that_was_left_out_ends_the_run(tmp_path: Path) -> None:
    made = make_saver(tmp_path)
    made.check_finite()
    made.gan.d.num_skipped = 1
    with pytest.raises(TrainingFailed, match="a gradient is no number up to step 0"):
        made.check_finite()
