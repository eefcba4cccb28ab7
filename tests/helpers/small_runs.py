"""Complete trainings of a few steps in the process of a test, a tenth of a second each."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from distgan.config.schema import Config, DataConfig, ModelConfig, OptimConfig, RunConfig
from distgan.runs import artifacts
from distgan.train import train
from distgan.training import session
from distgan.utils.provenance import Startup
from helpers.noise_images import noise_images


def make_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use 120 images of noise, and draw no curves and samples of one colour: pictures take most of the time."""
    monkeypatch.setattr(session, "load_dataset", lambda *_, **__: noise_images(120))
    monkeypatch.setattr(artifacts, "save_curves", lambda *_: None)
    monkeypatch.setattr(artifacts, "grid", lambda *_, **__: Image.new("RGB", (8, 8)))


def small_config(out: Path, **run: Any) -> Config:
    settings: dict[str, Any] = {
        "device": "cpu", "out": str(out), "epochs": 1, "log_every": 2, "sample_epochs": [1], "tracker": "tensorboard",
        "threads": 1,
    }  # fmt: skip
    return Config(
        model=ModelConfig(name="cgan", family="dcgan", width=0.05),
        data=DataConfig(name="digits", batch_size=20),
        optim=OptimConfig(ema_decay=0.9),
        run=RunConfig(**(settings | run)),
    )


def train_small(out: Path, **run: Any) -> None:
    train(small_config(out, **run), "cgan", Startup())
