"""Train a recipe by each engine: by fake graphs on a CPU (fake_cuda_graph.py), by CUDA graphs on a GPU."""

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate.state import AcceleratorState
from torch import Tensor

from distgan.config.image_spec import MNIST_SPEC
from distgan.config.schema import Config, DataConfig, ModelConfig, OptimConfig, RunConfig
from distgan.distributed.runtime import Runtime
from distgan.models.user_networks import load_networks
from distgan.training.engines.engine import Engine
from distgan.training.session import Session
from helpers.fake_cuda_graph import capture
from helpers.noise_images import COLOUR, UNLABELLED, noise_images
from helpers.own_networks import path_of

STEPS = 50
# 70 images in batches of 8: epochs of 8 full batches and a short one of 6, five of them in 50 steps.
NUM_IMAGES, BATCH = 70, 8
RECIPES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "vanilla": ({"name": "vanilla"}, {}, "fp32"),
    "cgan": ({"name": "cgan"}, {"ema_decay": 0.9, "lr_schedule": "linear"}, "fp32"),
    "simultaneous": ({"name": "cgan"}, {"order": "simultaneous", "lr_schedule": "linear"}, "fp32"),
    "fresh": ({"name": "vanilla"}, {"order": "alternating-fresh", "ema_decay": 0.9}, "fp32"),
    "r1": ({"name": "vanilla", "family": "dcgan"}, {"loss": "r1"}, "fp32"),
    "wgan-gp": ({"name": "cgan", "family": "dcgan"}, {"loss": "wgan-gp", "order": "alternating-fresh"}, "fp32"),
    "clustered": (
        {"name": "vanilla", "family": "clustered", "clusters": 5}, {"loss": "r3gan", "ema_decay": 0.9}, "fp32"
    ),
    "parts": ({"name": "cgan", "family": "dcgan"}, {"d_microbatches": 2, "ema_decay": 0.9}, "fp32"),
    "bf16": ({"name": "vanilla"}, {"ema_decay": 0.9}, "bf16"),
    "colour": ({"name": "cgan", "family": "small"}, {"ema_decay": 0.9}, "no"),
    "own": ({"name": "cgan", "networks": "pair"}, {"ema_decay": 0.9}, "fp32"),
    "own-noise": ({"name": "vanilla", "networks": "stylegan2"}, {"loss": "r3gan"}, "fp32"),
    "unlabelled": ({"name": "vanilla", "family": "clustered", "clusters": 5}, {"loss": "r3gan"}, "no"),
}  # fmt: skip

# Recipes with other images than MNIST's, which they flip.
IMAGES = {"colour": COLOUR, "unlabelled": UNLABELLED}


class Training:
    """A training in this process. The engine is built at the first step, and timed by `clock`."""

    def __init__(
        self, recipe: str, engine: str = "eager", *, device: str = "cpu", capture: Any = None,
        clock: Callable[[], float] = time.perf_counter,
    ):  # fmt: skip
        model, optim, precision = RECIPES[recipe]
        width = 0.1 if "family" in model else 0.05
        with TemporaryDirectory() as folder:
            if "networks" in model:
                model = model | {"networks": path_of(model["networks"], Path(folder))}
            self.config = load_networks(Config(
                model=ModelConfig(**({"width": width} | model)),
                data=DataConfig(batch_size=BATCH, flip=recipe in IMAGES),
                optim=OptimConfig(**({"g_lr": 1e-3, "d_lr": 1e-3} | optim)),
                # Runtime rejects graph engines on a CPU: the name is set below.
                run=RunConfig(device=device, engine="auto" if capture else engine, precision=precision, seed=5),
            ))  # fmt: skip
        AcceleratorState._reset_state(reset_partial_state=True)
        self.runtime = Runtime(self.config)
        self.config = self.config.model_copy(update={"run": self.config.run.model_copy(update={"engine": engine})})
        dataset = noise_images(NUM_IMAGES, IMAGES.get(recipe, MNIST_SPEC))
        self.session = Session(self.config, self.runtime, dataset=dataset)
        self.gan, self.batches = self.session.gan, self.session.batches
        for network in (self.gan.g, self.gan.d):
            for group in network.optim.param_groups:  # as for a graph on a GPU
                group["lr"], group["fused"], group["foreach"] = torch.as_tensor(group["lr"]), True, False
        self.capture, self.clock, self.total_steps = capture, clock, 100
        self.engine: Engine | None = None

    def build(self) -> Engine:
        if self.engine is None:
            self.engine = self.session.build_engine(
                total_steps=self.total_steps, capture=self.capture, clock=self.clock
            )
        return self.engine

    def to(self, step: int, *, on_device: bool = False) -> Tensor:
        """Train to `step`. Return the STATS of each step, (K, 4)."""
        engine, stats = self.build(), []
        while self.gan.step < step:
            start = self.gan.step
            new_stats, num_images = engine.advance(step)
            assert len(new_stats) == self.gan.step - start
            assert num_images <= len(new_stats) * BATCH
            stats.append(new_stats)
        assert self.gan.step == step
        return torch.cat(stats) if on_device else torch.cat(stats).cpu()


def largest_difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Return the largest relative difference of a tensor."""
    assert ours.keys() == theirs.keys()
    return max(
        float((ours[key].double() - theirs[key].double()).norm() / (ours[key].double().norm() + 1e-6)) for key in ours
    )


def assert_graph_takes_eager_steps(recipe: str) -> None:
    """Assert bit-identity over 50 steps with five short batches, dropout, moving average and schedule."""
    eager, graph = Training(recipe), Training(recipe, "graph", capture=capture)
    ours, theirs = eager.to(STEPS), graph.to(STEPS)
    assert graph.build().selection.name == "graph", graph.build().selection.why
    assert torch.equal(ours, theirs)
    assert largest_difference(eager.gan.state(), graph.gan.state()) == 0
    assert len({tuple(row) for row in theirs.tolist()}) == STEPS, "no two replays are alike"


def assert_compiled_takes_eager_steps(recipe: str) -> None:
    eager, compiled = Training(recipe), Training(recipe, "compile")
    ours, theirs = eager.to(STEPS), compiled.to(STEPS)
    assert compiled.build().selection.name == "compile", compiled.build().selection.why
    assert torch.allclose(ours, theirs, atol=1e-3)
    assert largest_difference(eager.gan.state(), compiled.gan.state()) < 1e-2
    assert not [key for key in compiled.gan.state() if "_orig_mod" in key]
