"""Train many recipes in one process group, and save the final state of each.

It calls the package's functions, so that the processes start only once.
"""

import os
import sys
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate.state import AcceleratorState
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1]))  # if a launcher starts this script

from distgan.config.image_spec import MNIST_SPEC, ImageSpec
from distgan.config.registry import MODELS, ORDERS
from distgan.config.schema import Config, DataConfig, ModelConfig, OptimConfig, ProcessesConfig, RunConfig
from distgan.distributed import rendezvous
from distgan.distributed.runtime import Runtime
from distgan.distributed.wrappers import FlatAllReduceNetwork
from distgan.training.gan import check_ranks_equal
from distgan.training.session import Session
from helpers import fake_cuda_graph
from helpers.noise_images import COLOUR, UNLABELLED, noise_images
from helpers.own_networks import path_of


class Recipe(NamedTuple):
    """`batch_size` 24 of 70 images gives a short batch of 22; 25 is divisible by none of the world sizes here."""

    model: str = "cgan"
    family: str = "dcgan"
    width: float = 0.1
    order: str = "alternating"
    loss: str = "bce"
    accumulate: int = 1
    batch_size: int = 24
    dropout: float = 0.3
    ema: float = 0.0
    steps: int = 10
    dtype: torch.dtype = torch.float32
    precision: str = "fp32"
    clusters: int | None = None
    images: ImageSpec = MNIST_SPEC
    flip: bool = False
    networks: str | None = None  # of own_networks.py


RECIPES = {
    f"{model}-{order}-{accumulate}": Recipe(
        model=model, order=order, accumulate=accumulate, dropout=0.3 if accumulate == 1 else 0.0,
        # With dropout, rounding in float32 grows to about 1e-5 in 10 steps in some orders.
        dtype=torch.float64 if accumulate == 1 and order != "simultaneous" else torch.float32,
    )
    for model, order, accumulate in product(
        MODELS, ORDERS, (1, 3)
    )
} | {
    "odd-batch": Recipe(batch_size=25, ema=0.9),
    "odd-batch-accumulate": Recipe(batch_size=25, accumulate=4, loss="r1", dropout=0.0),
    "accumulate-dropout": Recipe(batch_size=25, accumulate=3, dtype=torch.float64),
    "wgan-gp": Recipe(loss="wgan-gp"),
    "clustered": Recipe("vanilla", "clustered", clusters=5, loss="r3gan", ema=0.9, dtype=torch.float64),
    "clustered-accumulate": Recipe(
        family="clustered", clusters=2, loss="r3gan", accumulate=3, dropout=0.0, dtype=torch.float64
    ),
    "colour": Recipe(images=COLOUR, flip=True, dtype=torch.float64),
    "unlabelled": Recipe("vanilla", "clustered", clusters=5, images=UNLABELLED, loss="r3gan", dtype=torch.float64),
    "own": Recipe(networks="pair", images=COLOUR, ema=0.9, dtype=torch.float64),
    "own-accumulate": Recipe("vanilla", networks="pair", accumulate=3, batch_size=25, dtype=torch.float64),
    "own-batch-norm": Recipe("vanilla", networks="dcgan", loss="r3gan", images=COLOUR, dtype=torch.float64),
    "own-sngan": Recipe(networks="sngan", images=COLOUR, loss="hinge", steps=3, dtype=torch.float64),
    "own-lstm": Recipe("vanilla", networks="lstm", steps=5, batch_size=25, dtype=torch.float64),
    "wgan-gp-accumulate": Recipe(loss="wgan-gp", order="alternating-fresh", accumulate=2, dropout=0.0),
    # In float32 rounding grows to 1e-3 in as many steps by Adam.
    "seed-vanilla": Recipe(model="vanilla", family="report2023", width=1.0, steps=3, dtype=torch.float64),
    "seed-cgan": Recipe(family="report2023", width=1.0, steps=3, dtype=torch.float64),
    "bf16-vanilla": Recipe(model="vanilla", precision="bf16"),
    "bf16-cgan": Recipe(precision="bf16", accumulate=2, dropout=0.0),
    # The differences above with rounding 10**9 times as fine.
    "float64-vanilla": Recipe(model="vanilla", family="report2023", width=0.1, dtype=torch.float64),
    "float64-cgan": Recipe(family="report2023", width=0.1, batch_size=25, dtype=torch.float64),
    "float64-accumulate": Recipe(loss="wgan-gp", accumulate=3, dropout=0.0, dtype=torch.float64),
}  # fmt: skip
DEVICE = os.environ.get("PARITY_DEVICE", "cpu")
ENGINE = os.environ.get("PARITY_ENGINE", "eager")


def train(recipe: Recipe, runtime: Runtime, folder: Path | None = None) -> dict[str, torch.Tensor]:
    """Return the state after the steps, with the STATS of each step under `stats`. `folder`: for a file of networks."""
    networks = path_of(recipe.networks, folder) if recipe.networks and folder else None
    model = ModelConfig(
        name=recipe.model, family=None if networks else recipe.family, networks=networks, width=recipe.width,
        dropout=recipe.dropout, clusters=recipe.clusters,
    )  # fmt: skip
    optim = OptimConfig(order=recipe.order, loss=recipe.loss, d_microbatches=recipe.accumulate, ema_decay=recipe.ema)
    if ENGINE == "fake-graph":  # on GPUs Runtime does this for graph engines
        runtime._network_type = partial(FlatAllReduceNetwork, accelerator=runtime._accelerator)
    config = Config(
        model=model,
        data=DataConfig(batch_size=recipe.batch_size, flip=recipe.flip),
        optim=optim,
        run=RunConfig(engine="eager" if ENGINE == "eager" else "graph", seed=5),
    )
    session = Session(config, runtime, dataset=noise_images(70, recipe.images))
    gan = session.gan
    capture = None
    if ENGINE == "fake-graph":
        capture = fake_cuda_graph.capture
        for group in gan.g.optim.param_groups + gan.d.optim.param_groups:
            group["lr"], group["fused"], group["foreach"] = torch.tensor(group["lr"]), True, False
    engine = session.build_engine(total_steps=recipe.steps, capture=capture)
    assert engine.selection.name == config.run.engine, engine.selection.why
    stats = []
    while gan.step < recipe.steps:
        stats += runtime.mean(engine.advance(recipe.steps)[0])
    check_ranks_equal(gan, runtime)
    return gan.state() | {"stats": torch.stack(stats)}


def runtimes(stages: list[int | None], names: list[str]) -> Iterator[tuple[int | None, Runtime, list[str]]]:
    """Yield a runtime per ZeRO stage (None: DDP) with the recipes that fit it, all in the same process group."""
    join = rendezvous.join_process_group
    # With the default threshold, parameters this small would not be sharded in stage 3.
    os.environ["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = str(Path(__file__).with_name("zero_shards_all.json"))
    kinds = sorted({_kind(name) for name in names})
    for stage, (accumulate, precision) in product(stages, kinds):
        AcceleratorState._reset_state(reset_partial_state=True)
        config = Config(
            run=RunConfig(device=DEVICE, threads=1, precision=precision, engine=ENGINE.replace("fake-graph", "eager")),
            optim=OptimConfig(d_microbatches=accumulate),
            processes=ProcessesConfig(timeout=60, zero=stage),
        )
        fitting = [name for name in names if _kind(name) == (accumulate, precision)]
        yield stage, Runtime(config), fitting
        rendezvous.join_process_group = lambda *_: None
    rendezvous.join_process_group = join


def _kind(name: str) -> tuple[int, str]:
    return RECIPES[name].accumulate, RECIPES[name].precision


def main() -> None:
    """Arguments: folder, number of ranks, comma-separated ZeRO stages (or none), comma-separated recipes."""
    folder, world_size, names = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[4].split(",")
    stages = [None if stage == "none" else int(stage) for stage in sys.argv[3].split(",")]
    for stage, runtime, fitting in runtimes(stages, names):
        assert runtime.world_size == world_size
        for name in fitting:
            torch.set_default_dtype(RECIPES[name].dtype)
            state = train(RECIPES[name], runtime, folder)
            if runtime.is_main:
                prefix = "" if stage is None else f"zero{stage}-"
                save_file(state, folder / f"{prefix}{name}.safetensors")
    # As the command line does: DDP keeps threads of gloo alive, which may abort the interpreter at exit.
    os._exit(0)


if __name__ == "__main__":
    main()
