"""Trainings one after the other in one process: the same bits, and nothing left behind."""

import logging
import os
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from helpers.noise_images import noise_images
from helpers.runs import MonkeyPatch, checkpoint
from helpers.small_runs import make_cheap, small_config, train_small

from distgan.checkpoint.resume import newest_valid
from distgan.config.schema import ProcessesConfig
from distgan.distributed import rendezvous
from distgan.distributed.wrappers import WrappedNetwork
from distgan.errors import Stopped, TrainingFailed, UserError
from distgan.runs import artifacts
from distgan.runs.run_dir import read_status
from distgan.train import train
from distgan.training import session
from distgan.utils.process_state import preserve_settings
from distgan.utils.provenance import Startup

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)


def process_state() -> dict[str, Any]:
    """Everything of this process that a training could leave changed."""
    return {
        "environment": dict(os.environ),
        "signals": [signal.getsignal(signum) for signum in SIGNALS],
        "filters": list(warnings.filters),
        "hooks": (sys.excepthook, sys.exit, threading.excepthook),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "files": sorted(os.readlink(f"/proc/self/fd/{name}") for name in _open_files()),
        "torch threads": torch.get_num_threads(),
        "random": torch.get_rng_state().tolist(),
        "dtype": torch.get_default_dtype(),
        "tf32": (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32),
        "group": torch.distributed.is_initialized(),
        "meeting": rendezvous._rendezvous,
        "accelerate": [dict(state._shared_state) for state in (AcceleratorState, PartialState, GradientState)],
        "levels": [logging.getLogger(name).level for name in ("accelerate.accelerator", "torch.utils.cpp_extension")],
        "folder": os.getcwd(),
    }


def _open_files() -> list[str]:
    return [name for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")]


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    make_cheap(monkeypatch)


def final_state(folder: Path) -> dict[str, torch.Tensor]:
    found = newest_valid(folder / "checkpoints")
    assert found is not None
    return found[1].tensors


def test_a_deleted_folder_and_a_precision_set_by_another_interface_are_left_alone(
    tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # torch needs the folder when it first builds one
    with preserve_settings():
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        with pytest.raises(RuntimeError):
            torch.get_float32_matmul_precision()
        (tmp_path / "gone").mkdir()
        monkeypatch.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        train(small_config(tmp_path / "run", max_steps=1), "cgan", Startup())
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"


def test_two_trainings_in_one_process_leave_nothing_behind(tmp_path: Path) -> None:
    train(small_config(tmp_path / "warm-up", max_steps=1), "cgan", Startup())  # libraries may keep what they load
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    before = process_state()
    try:
        for name in ("first", "second"):
            train(small_config(tmp_path / name), "cgan", Startup())
            after = process_state()
            for what, value in before.items():
                assert after[what] == value, what
    finally:
        torch.set_num_threads(threads)
    first, second = final_state(tmp_path / "first"), final_state(tmp_path / "second")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_folder_can_be_taken_up_again_by_the_same_process(tmp_path: Path) -> None:
    """The lock is released at the end: half of a run, then the rest."""
    train(small_config(tmp_path / "full"), "cgan", Startup())
    for steps in (3, None):
        train(small_config(tmp_path / "halves", max_steps=steps), "cgan", Startup())
    full, halves = final_state(tmp_path / "full"), final_state(tmp_path / "halves")
    assert all(torch.equal(full[key], halves[key]) for key in full)


@pytest.mark.parametrize("how", ["rejected", "fails", "stopped", "raises"])
def test_a_training_that_ends_early_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    train(small_config(tmp_path / "warm-up", max_steps=1), "cgan", Startup())
    before = process_state()
    settings: dict[str, Any] = {}
    match how:
        case "rejected":
            (tmp_path / "run").mkdir()
            (tmp_path / "run" / "mine").touch()
            error: type[BaseException] = UserError
        case "fails":
            error = TrainingFailed
            monkeypatch.setattr(session, "load_dataset", lambda *_, **__: noise_images(120)._replace(images=_broken()))
        case "stopped":
            error = Stopped
            settings["time_limit"] = "1s"
        case "raises":
            error = ZeroDivisionError
            monkeypatch.setattr(artifacts.RunArtifacts, "sample", lambda _: 1 / 0)
    with pytest.raises(error):
        train(small_config(tmp_path / "run", **settings), "cgan", Startup())
    after = process_state()
    for what, value in before.items():
        assert after[what] == value, what


def _broken() -> torch.Tensor:
    return torch.full((120, 28, 28), torch.nan)


def test_one_zero_training_after_another(tmp_path: Path) -> None:
    """DeepSpeed has its own state in the process."""
    pytest.importorskip("deepspeed")
    states = []
    for name in ("one", "two"):
        settings = small_config(tmp_path / name).model_copy(update={"processes": ProcessesConfig(zero=2)})
        before = dict(os.environ)
        train(settings, "cgan", Startup())
        assert dict(os.environ) == before
        assert not torch.distributed.is_initialized()
        states.append(final_state(tmp_path / name))
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_non_finite_weights_are_never_saved(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """The losses of a step are those of the weights before it: a last step may break them unseen."""
    step = WrappedNetwork.step

    def overflow(self: WrappedNetwork) -> None:
        step(self)
        if hasattr(self.module, "latent_shape"):  # G, which takes its step after the losses
            next(self.module.parameters()).data.fill_(float("inf"))

    make_cheap(monkeypatch)
    monkeypatch.setattr(WrappedNetwork, "step", overflow)
    words = "non-finite weight after step 1; the last good state, of step 0, is kept"
    with pytest.raises(TrainingFailed, match=words):
        train_small(tmp_path / "run", max_steps=1)
    tensors, at = checkpoint(tmp_path / "run")
    assert at == 0
    assert all(value.isfinite().all() for value in tensors.values())
    status = read_status(tmp_path / "run")
    assert (status["state"], "non-finite weight" in status["reason"]) == ("failed", True)
