"""What can be set of `distgan bench`."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from distgan.config.fields import Real, Section, setting, split_commas
from distgan.config.schema import EngineName

_COMMAS = BeforeValidator(split_commas)

Models = Annotated[list[Literal["vanilla", "cgan"]], _COMMAS]
Engines = Annotated[list[EngineName], _COMMAS]
Precisions = Annotated[list[Literal["no", "tf32", "bf16", "fp16"]], _COMMAS]
Sizes = Annotated[list[Annotated[int, Field(ge=2, le=1_000_000)]], _COMMAS]
Orders = Annotated[list[Literal["simultaneous", "reuse", "fresh"]], _COMMAS]


class ThroughputConfig(Section):
    """What `distgan bench throughput` measures: each model with each engine, precision, batch and order."""

    models: Models = setting(["vanilla", "cgan"], "the presets to take", min_length=1)
    engines: Engines = setting(["auto"], "who takes the steps; what ran in its place is named", min_length=1)
    precisions: Precisions = setting(["no", "bf16"], "no: float32; tf32 and fp16 on a GPU", min_length=1)
    batch_sizes: Sizes = setting([256], "images per step", min_length=1)
    orders: Orders = setting(
        ["reuse"], "orders of the two updates, each an algorithm of its own", min_length=1
    )
    family: Literal["seed", "small"] = setting("seed", "family of the networks")
    width: Real = setting(1.0, "factor on every hidden width", gt=0, le=16)
    rounds: int = setting(
        3, "turns of each cell, in a fresh process each; ratios are taken within a round", ge=1, le=1000
    )
    repeats: int = setting(5, "timed stretches of a turn", ge=5, le=10_000)
    steps: int | None = setting(
        None, "steps of a repeat; unset: 200 on a GPU, 8 on a CPU", ge=1, le=1_000_000
    )
    warmup: int | None = setting(
        None, "steps before the first repeat; unset: 30 on a GPU, 2 on a CPU", ge=0, le=1_000_000
    )
    gate_steps: int = setting(
        3, "steps after which the engine must have the losses and weights of the eager one", ge=1, le=1000
    )
    peers: bool = setting(
        False, "the plain PyTorch and Accelerate loops of benchmarks/peers/ take turns too (in a checkout)"
    )
    profile: bool = setting(
        False, "keep a trace of a few steps of each cell, for chrome://tracing or Perfetto"
    )
    out: str | None = setting(None, "a new folder; unset: bench/throughput-<number>", min_length=1)
    data: Literal["mnist", "fashion-mnist", "kmnist", "qmnist", "emnist-digits", "digits"] = setting(
        "mnist", "the images; digits needs no network"
    )
    data_dir: str | None = setting(
        None, "folder of the data; unset: $DISTGAN_DATA, then ./data", min_length=1
    )
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto: cuda where there is one")
    threads: int | None = setting(
        None, "CPU threads of each process; unset: torch's own choice", ge=1, le=1024
    )
    seed: int = setting(0, "of weights, order, z and dropout", ge=0, lt=2**31)
    timeout: Real = setting(
        1800.0, "seconds after which a turn that has not ended is given up", gt=0, le=86_400
    )


class CompareConfig(Section):
    """What `distgan bench compare` takes for a regression."""

    fail_above: Real | None = setting(
        None,
        "exit 1 if a cell's ratio of seconds a step, B / A, is above that and its 95% interval excludes 1, or if a "
        "cell of A has no speed in B; unset: never",
        gt=0,
        le=1000,
    )
    resamples: int = setting(10_000, "of the bootstrap behind the intervals", ge=100, le=1_000_000)
