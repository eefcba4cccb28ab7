"""What can be set of `distgan bench`."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from distgan.config.fields import OneOf, Real, Section, free, setting, split_commas
from distgan.config.registry import FAMILIES, MODELS
from distgan.config.schema import (
    DataName,
    DataNameOrPath,
    Device,
    EngineName,
    OrderName,
    PrecisionName,
    data_dir_setting,
    device_setting,
    seed_setting,
)

_COMMAS = BeforeValidator(split_commas)

# The benchmarks take each model, and have no setting for clusters.
PlainFamily = Annotated[str, OneOf(FAMILIES, only=lambda f: not f.takes_clusters and set(f.models) >= set(MODELS))]
Presets = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1), _COMMAS]
Engines = Annotated[list[EngineName], _COMMAS]
Precisions = Annotated[list[PrecisionName], _COMMAS]
Sizes = Annotated[list[Annotated[int, Field(ge=2, le=1_000_000)]], _COMMAS]
Counts = Annotated[list[Annotated[int, Field(ge=1, le=1024)]], Field(min_length=1), _COMMAS]
Factors = Annotated[list[Annotated[Real, Field(gt=0, le=16)]], Field(min_length=1), _COMMAS]
Orders = Annotated[list[OrderName], _COMMAS]


class ThroughputConfig(Section):
    """What `distgan bench throughput` measures: each preset with each engine, precision, batch and order."""

    presets: Presets = setting(
        list(MODELS),
        "presets by their names, or TOML files; may be repeated",
        allowed="one or more names of presets, or TOML files",
        flag="preset",
        old_flags=("model", "models"),
        may_be_repeated=True,
    )
    engines: Engines = setting(
        ["auto"],
        "who takes the steps; what ran in its place is named",
        min_length=1,
        flag="engine",
        old_flags=("engines",),
    )
    precisions: Precisions | None = setting(
        None,
        "{names}; unset: fp32, and bf16 where the device has it",
        min_length=1,
        flag="precision",
        old_flags=("precisions",),
    )
    batch_sizes: Sizes | None = setting(
        None, "images per step; unset: the preset's", min_length=1, flag="batch-size", old_flags=("batch-sizes",)
    )
    orders: Orders | None = setting(
        None,
        "orders of the two updates, each an algorithm of its own; unset: the preset's",
        min_length=1,
        flag="order",
        old_flags=("orders",),
    )
    family: PlainFamily | None = setting(None, "family of the networks; unset: the preset's")
    width: Real | None = setting(None, "factor on every hidden width; unset: the preset's", gt=0, le=16)
    rounds: int = setting(
        3, "turns of each cell, in a fresh process each; ratios are taken within a round", ge=1, le=1000
    )
    repeats: int = setting(5, "timed stretches of a turn", ge=5, le=10_000)
    steps: int | None = setting(None, "steps of a repeat; unset: 200 on a GPU, 8 on a CPU", ge=1, le=1_000_000)
    warmup: int | None = setting(
        None, "steps before the first repeat; unset: 30 on a GPU, 2 on a CPU", ge=0, le=1_000_000
    )
    gate_steps: int = setting(
        3, "steps after which the engine must have the losses and weights of the eager one", ge=1, le=1000
    )
    peers: bool = setting(False, "plain PyTorch and Accelerate loops of the same networks and losses take turns too")
    whole_run: bool = setting(
        True, "an engine chooses as for all epochs of the preset; off: as for the measured steps alone"
    )
    profile: bool = setting(False, "keep a trace of a few steps of each cell, for chrome://tracing or Perfetto")
    out: str | None = setting(None, "a new folder; unset: bench/throughput-<number>", min_length=1)
    data: DataName = setting("mnist", "the images; digits needs no network")
    data_dir: str | None = data_dir_setting()
    device: Device = device_setting()
    threads: int | None = setting(None, "CPU threads of each process; unset: torch's own choice", ge=1, le=1024)
    seed: int = seed_setting()
    timeout: Real = setting(1800.0, "seconds after which a turn that has not ended is given up", gt=0, le=86_400)


class CompareConfig(Section):
    """What `distgan bench compare` takes for a regression."""

    fail_above: Real | None = setting(
        None,
        "exit 1 if a cell's ratio of seconds per step, B / A, is above that and its 95% interval excludes 1, or if a "
        "cell of A has no speed in B; unset: never",
        gt=0,
        le=1000,
    )
    resamples: int = setting(10_000, "of the bootstrap behind the intervals", ge=100, le=1_000_000)


# -- What can be set of `distgan bench convergence` --

# Of the seeds of torch's generators.
_SEEDS = 2**31


class ConvergenceConfig(Section):
    """Which trainings `distgan bench convergence` takes, and how."""

    preset: str | None = setting(None, "a preset by its name, or a TOML file", min_length=1)
    against: str | None = setting(None, "another, which takes turns with it and is compared", min_length=1)
    seeds: int = free(10, "runs of each, with seeds that count up", ge=1, le=1000)
    first_seed: int = free(0, "the first of the seeds", ge=0, lt=_SEEDS - 1000)
    processes: int = setting(
        1,
        "of each run; with more than 1 it is run on 1 too, and a test says whether more need more epochs",
        ge=1,
        le=1024,
    )
    jobs: int | None = setting(
        None, "runs at a time; unset: as many as the GPUs here suffice for, on a CPU 1", ge=1, le=1024
    )
    epochs: int | None = setting(None, "after which a run is given up; unset: the preset's", ge=1, le=1_000_000)
    # The targets themselves are compared, not the name of their file.
    targets: str = free("mnist", "mnist: the frozen ones; or a TOML file of targets", min_length=1)
    num: int | None = setting(None, "images an evaluation; unset: as many as the targets are for", ge=65, le=1_000_000)
    out: str | None = free(
        None, "a new folder, or that of a bench to resume; unset: bench/convergence-<number>", min_length=1
    )
    join: str | None = free(
        None,
        "train nothing: the summary, there, of benches of the same settings in the folders below this one",
        min_length=1,
    )
    data: DataNameOrPath | None = setting(
        None, "the images; digits needs no network; unset: the preset's", is_passed_on=True
    )
    data_dir: str | None = setting(
        None, "folder of the data; unset: the preset's, $DISTGAN_DATA, then ./data", min_length=1, is_passed_on=True
    )
    device: Device = device_setting(is_passed_on=True)
    precision: PrecisionName | None = setting(None, "{names}; unset: the preset's", is_passed_on=True)
    engine: EngineName | None = setting(None, "who takes the steps; unset: the preset's", is_passed_on=True)
    threads: int | None = setting(
        None,
        "CPU threads of each process; unset: torch's own choice, or of several runs at a time their share of the cores",
        ge=1,
        le=1024,
    )
    timeout: Real = free(86_400.0, "seconds after which a run that has not ended is given up", gt=0, le=10_000_000)


# -- What can be set of `distgan bench scaling` and `distgan bench plan` --


class ScalingConfig(Section):
    """What `distgan bench scaling` measures, each setting in fresh processes."""

    preset: str = setting("vanilla", "a preset by its name, or a TOML file", min_length=1, old_flags=("model",))
    family: PlainFamily | None = setting(None, "family of the networks; unset: the preset's")
    width: Real | None = setting(None, "factor on every hidden width; unset: the preset's", gt=0, le=16)
    order: OrderName | None = setting(None, "as of distgan train; unset: the preset's")
    precision: PrecisionName = setting("fp32", "{names}")
    engine: EngineName = setting("auto", "who takes the steps")
    data: DataName = setting("mnist", "digits: scikit-learn's, which need no network")
    data_dir: str | None = data_dir_setting()
    device: Device = device_setting()
    processes: Counts | None = setting(
        None,
        "numbers of processes; unset: 1, 2, 4 and so on up to the GPUs, or cores, here",
        allowed="integers from 1 to 1024, as 1,2,4",
    )
    batch_size: int = setting(256, "strong scaling: images per step over all processes", ge=2, le=1_000_000)
    per_rank_batch_size: int = setting(64, "weak scaling: images per step and process", ge=2, le=1_000_000)
    batch_sizes: Sizes = setting(
        [64, 128, 256, 512],
        "growing work, on one process: images per step",
        allowed="integers from 2, as 64,128,256",
        min_length=1,
        flag="work-batch-size",
        old_flags=("batch-sizes",),
    )
    widths: Factors | None = setting(
        None,
        "growing work, on one process: factors on every hidden width, as 0.25,0.5,1,2,4; unset: none",
        allowed="numbers above 0 and at most 16, as 0.25,0.5,1,2,4",
        flag="work-width",
        old_flags=("widths",),
    )
    steps: int | None = setting(None, "steps of a repeat; unset: 200 on a GPU, 3 on a CPU", ge=1, le=1_000_000)
    warmup: int | None = setting(
        None, "steps before the first repeat; unset: 30 on a GPU, 2 on a CPU", ge=1, le=1_000_000
    )
    repeats: int = setting(5, "timed repeats in a round", ge=1, le=10_000)
    rounds: int = setting(3, "turns that each setting takes, in processes of its own", ge=1, le=1000)
    threads: int | None = setting(
        None,
        "CPU threads of each process, whatever their number; unset: the cores divided by the most processes",
        ge=1,
        le=1024,
    )
    seed: int = seed_setting()
    timeout: Real = setting(900.0, "seconds after which a turn that has not ended is given up", gt=0, le=86_400)
    out: str | None = setting(None, "the results' folder; unset: a new one, bench/scaling-<number>", min_length=1)


class PlanConfig(Section):
    """What `distgan bench plan` predicts from the results of bench scaling."""

    nodes: int = setting(2, "machines", ge=1, le=100_000)
    gpus_per_node: int = setting(
        8, "GPUs of each; of results from a CPU, processes of as many threads as were measured", ge=1, le=1024
    )
    fabric: Literal["nvlink", "pcie", "ib", "ethernet"] = setting(
        "ib",
        "nvlink, pcie: what joins the GPUs of one machine. ib: machines by InfiniBand, NVLink within. ethernet: "
        "machines by 100 Gbit/s, PCIe within",
    )
    per_rank_batch_size: int | None = setting(
        None, "weak scaling: images per step and GPU; unset: as measured", ge=1, le=1_000_000
    )
    batch_size: int | None = setting(
        None, "strong scaling: images per step over all GPUs; unset: as measured", ge=2, le=1_000_000_000
    )
    overlap: Real = setting(
        0.0, "microseconds of each network's all-reduce that hide behind its backward pass", ge=0, le=1e6
    )
    out: str | None = setting(None, "the results' folder; unset: a new one, bench/plan-<number>", min_length=1)
