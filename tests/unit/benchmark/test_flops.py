"""The FLOP formula against what torch counts around a real step."""

from pathlib import Path

import pytest
import torch
from helpers.own_networks import path_of
from helpers.runs import ON_CPU, MonkeyPatch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from distgan.benchmark.flops import flops_per_image
from distgan.config.registry import ORDERS
from distgan.config.schema import Config, ModelConfig, OptimConfig
from distgan.data.base import Dataset
from distgan.data.loader import Batches
from distgan.distributed.runtime import Runtime
from distgan.models.layers import Conv2d, TransposedConv2d
from distgan.models.user_networks import load_networks
from distgan.training.engines.engine import build_engine
from distgan.training.gan import build_gan

BATCH = 3
NETWORKS = [
    {"name": name, "family": family, "stem": stem, "width": width}
    for name in ("vanilla", "cgan")
    for family in ("report2023", "dcgan")
    for stem in ("linear", "noise-map")
    for width in (0.1, 0.33)
    if stem == "linear" or (name, family) == ("vanilla", "report2023")
]


@pytest.fixture(autouse=True)
def _by_torchs_own_layers(monkeypatch: MonkeyPatch) -> None:
    """Ours reach the same result by other multiplications, more or fewer with zeros, which are none of the model."""
    monkeypatch.setattr(TransposedConv2d, "forward", nn.ConvTranspose2d.forward)
    monkeypatch.setattr(Conv2d, "forward", nn.Conv2d.forward)


def counted(config: Config) -> int:
    """torch's own count, of one step of BATCH images."""
    runtime = Runtime(config)
    gan = build_gan(config.model, config.optim, 0, runtime)
    dataset = Dataset("random", torch.randint(256, (12, 28, 28)).byte(), torch.arange(12) % 10, "here")
    batches = Batches(dataset, BATCH, gan.shard, drop_last=False, seed=0, device=runtime.device)
    engine = build_engine(gan, batches, config, runtime, 10)
    with FlopCounterMode(display=False) as counter:
        engine.advance(1)
    return counter.get_total_flops()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: "-".join(map(str, network.values())))
def test_formula_is_what_torch_counts(network: dict, order: str) -> None:
    model, optim = ModelConfig(**network), OptimConfig(order=order)
    found = counted(ON_CPU.model_copy(update={"model": model, "optim": optim}))
    assert found == BATCH * flops_per_image(model, optim)


def test_hinge_takes_the_same_passes() -> None:
    model, optim = ModelConfig(width=0.1), OptimConfig(loss="hinge")
    found = counted(ON_CPU.model_copy(update={"model": model, "optim": optim}))
    assert found == BATCH * flops_per_image(model, optim)


def test_networks_of_a_file_are_counted_by_torch(tmp_path: Path) -> None:
    found = {}
    for name in ("pair", "lstm"):
        model = load_networks(Config(model=ModelConfig(name="cgan", networks=path_of(name, tmp_path)))).model
        found[name] = flops_per_image(model, OptimConfig())
    # 2 a multiply-add. G three times a pass, as weights of the labels precede its first layer; D on a real and on a
    # fake image three times, but for the gradient of its images, and once more to G's: a pass and that gradient.
    g, d = 2 * (100 * 24 + 24 * 784), 2 * (784 * 24 + 24)
    assert found == {"pair": 3 * g + 2 * (3 * d - 2 * 784 * 24) + 2 * d, "lstm": None}


@pytest.mark.parametrize("loss", ["wgan-gp", "r1"])
def test_a_penalty_has_no_formula(loss: str) -> None:
    assert flops_per_image(ModelConfig(), OptimConfig(loss=loss)) is None
