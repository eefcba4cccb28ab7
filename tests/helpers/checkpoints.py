"""Build checkpoints of small networks quickly, and edit manifests."""

from pathlib import Path

import torch

from distgan.checkpoint.format import MANIFEST, Checkpoint, Manifest, State
from distgan.config.schema import Config, ModelConfig, OptimConfig
from distgan.distributed.runtime import Runtime
from distgan.training.gan import build_gan
from distgan.training.step import build_step
from helpers.runs import ON_CPU

MODEL = ModelConfig(name="cgan", family="dcgan", width=0.05)
CONFIG = Config(model=MODEL, optim=OptimConfig(ema_decay=0.9))


def make(step: int = 3) -> Checkpoint:
    runtime = Runtime(ON_CPU)
    gan = build_gan(CONFIG.model, CONFIG.optim, 7, runtime)
    train = build_step(gan, CONFIG.optim, 7, total_steps=10)
    for _ in range(step):
        train(torch.rand(4, 1, 28, 28) * 2 - 1, torch.arange(4), range(4))
    state = State(
        step=step, epoch=step // 2, step_in_epoch=step % 2, steps_per_epoch=2, batch_size=4, data="f00d", notice=None,
        world_size=1, engine="eager", g_lr=2e-4, d_lr=2e-4, grad_scaler={"scale": 65536.0, "growth_interval": 2000},
        elapsed_s=1.5, logged_step=step - 1, num_lines=1, unlogged=[[0.1, 0.2, 0.3, 0.4]],
        metrics={"d_loss": 0.1 + 0.2},
    )  # fmt: skip
    random = {f"random.{key}": value for key, value in runtime.random_states().items()}
    return Checkpoint(gan.state() | random, state, CONFIG)


def assert_equal(one: Checkpoint, other: Checkpoint) -> None:
    assert one.tensors.keys() == other.tensors.keys()
    for key, value in one.tensors.items():
        assert torch.equal(value, other.tensors[key]), key
        assert value.dtype == other.tensors[key].dtype
    assert (one.state, one.config) == (other.state, other.config)


def declare(path: Path, name: str, size: int, sha256: str) -> None:
    """Set the entry of a file in a checkpoint's manifest."""
    manifest = Manifest.model_validate_json((path / MANIFEST).read_bytes())
    files = {key: entry.model_dump() for key, entry in manifest.files.items()} | {
        name: {"size": size, "sha256": sha256}
    }
    values = manifest.model_dump() | {"files": files}
    (path / MANIFEST).write_bytes(Manifest.model_validate(values).to_bytes())
