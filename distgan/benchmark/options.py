"""Settings of `distgan bench`."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from distgan.config.fields import OneOf, Real, Section, free, setting, split_commas
from distgan.config.registry import FAMILIES, MODELS
from distgan.config.schema import DataConfig
from distgan.config.shared_settings import (
    DataNameOrOwn,
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


def _count(default: int | None, description: str, most: int = 1_000_000, *, least: int = 1, **more: Any) -> Any:
    return setting(default, description, ge=least, le=most, **more)


def _axis(default: Any, description: str, flag: str, *old_flags: str, **more: Any) -> Any:
    """Declare a list of values to measure, by a flag in the singular."""
    return setting(default, description, min_length=1, flag=flag, old_flags=old_flags, **more)


class SpeedConfig(Section):
    """Settings common to bench throughput and bench scaling."""

    CPU_STEPS: ClassVar[int] = 8

    family: PlainFamily | None = setting(None, "family of the networks; unset: the preset's")
    width: Real | None = setting(None, "factor on every hidden width; unset: the preset's", gt=0, le=16)
    rounds: int = _count(3, "measurements of each cell, in fresh processes; ratios are taken within a round", 1000)
    repeats: int = _count(5, "timed repeats per round", 10_000)
    steps: int | None = _count(None, f"steps of a repeat; unset: 200 on a GPU, {CPU_STEPS} on a CPU")
    warmup: int | None = _count(None, "steps before the first repeat; unset: 30 on a GPU, 2 on a CPU", least=0)
    gate_steps: int = _count(3, "steps after which losses and weights must match those of the eager engine", 1000)
    whole_run: bool = setting(True, "select the engine for all epochs of the preset; off: for the measured steps only")
    profile: bool = setting(False, "keep a trace of a few steps of each cell, for chrome://tracing or Perfetto")
    data: DataNameOrOwn = setting("mnist", "the data set, or the path of your own images; digits needs no download")
    image_size: int | None = DataConfig.model_fields["image_size"]  # type: ignore[assignment]
    data_dir: str | None = data_dir_setting()
    device: Device = device_setting()
    threads: int | None = _count(None, "CPU threads of each process; unset: as distgan train", 1024)
    seed: int = seed_setting()
    timeout: Real = setting(1800.0, "time limit of a measurement, in seconds", gt=0, le=86_400)
    out: str | None = setting(None, "a new folder; unset: bench/<command>-<number>", metavar="DIR")


class Matrix(Section):
    """Each preset with each engine, precision, batch, order and number of processes."""

    presets: Presets = _axis(
        list(MODELS), "presets by their names, or TOML files; may be repeated", "preset", "model", "models",
        allowed="one or more names of presets, or TOML files", may_be_repeated=True,
        metavar="PRESET|FILE,...",
    )  # fmt: skip
    engines: Engines = _axis(["auto"], "engines to measure; a fallback is reported", "engine", "engines")
    precisions: Precisions | None = _axis(
        None,
        "fp32; tf32 and fp16 need a GPU; unset: fp32, and bf16 if the device supports it",
        "precision",
        "precisions",
    )
    batch_sizes: Sizes | None = _axis(
        None, "images per step over all processes; unset: the preset's", "batch-size", "batch-sizes"
    )
    orders: Orders | None = _axis(
        None, "orders of the two updates, each a different algorithm; unset: the preset's", "order", "orders"
    )
    processes: Counts = setting([1], "numbers of processes, such as 1,2,4")
    peers: bool = setting(False, "also measure plain PyTorch and Accelerate loops of the same networks and losses")


class ThroughputConfig(SpeedConfig, Matrix):  # whose flags come first
    """Settings of `distgan bench throughput`."""

    repeats: int = _count(5, "timed repeats per round", 10_000, least=5)


class Points(Section):
    """A preset on numbers of processes, and as its work grows."""

    preset: str = setting(
        "vanilla", "a preset by its name, or a TOML file", old_flags=("model",), metavar="PRESET|FILE"
    )
    order: OrderName | None = setting(None, "as of distgan train; unset: the preset's")
    precision: PrecisionName = setting("fp32", "{names}")
    engine: EngineName = setting("auto", "engine of the training steps")
    processes: Counts | None = setting(
        None, "numbers of processes; unset: 1, 2, 4 and so on up to the GPUs, or cores, here"
    )
    batch_size: int = _count(256, "strong scaling: images per step over all processes", least=2)
    per_rank_batch_size: int = _count(64, "weak scaling: images per step and process", least=2)
    batch_sizes: Sizes = _axis(
        [64, 128, 256, 512], "growing work, on one process: images per step", "work-batch-size", "batch-sizes"
    )
    widths: Factors | None = _axis(
        None, "growing work, on one process: factors on every hidden width, such as 0.25,0.5,1,2,4; unset: none",
        "work-width", "widths", allowed="numbers above 0 and at most 16, such as 0.25,0.5,1,2,4",
    )  # fmt: skip


class ScalingConfig(SpeedConfig, Points):
    """Settings of `distgan bench scaling`; each cell runs in fresh processes."""

    CPU_STEPS: ClassVar[int] = 3

    steps: int | None = _count(None, f"steps of a repeat; unset: 200 on a GPU, {CPU_STEPS} on a CPU")
    gate_steps: int = _count(1, "steps after which losses and weights must match those of the eager engine", 1000)
    threads: int | None = _count(
        None, "CPU threads of each process, whatever their number; unset: the cores divided by the most processes", 1024
    )
    timeout: Real = setting(900.0, "time limit of a measurement, in seconds", gt=0, le=86_400)


class CompareConfig(Section):
    """Settings of `distgan bench compare`: what counts as a regression."""

    fail_above: Real | None = setting(
        None, "exit 1 if a cell's ratio of seconds per step, B / A, is above that and its 95% interval excludes 1, or "
        "if a cell of A has no speed in B; of bench convergence: if a preset needs more than that times A's epochs, "
        "with p < 0.05, or has no finished runs in B; unset: never", gt=0, le=1000,
    )  # fmt: skip
    resamples: int = _count(10_000, "of the bootstrap behind the intervals", least=100)


class PlanConfig(Section):
    """Settings of `distgan bench plan`: what to predict from the results of bench scaling."""

    nodes: int = _count(2, "machines", 100_000)
    gpus_per_node: int = _count(
        8, "GPUs of each; of results from a CPU, processes of as many threads as were measured", 1024
    )
    fabric: Literal["nvlink", "pcie", "ib", "ethernet"] = setting(
        "ib", "nvlink, pcie: within one machine; ib: InfiniBand between machines, NVLink within; ethernet: "
        "100 Gbit/s between machines, PCIe within",
    )  # fmt: skip
    per_rank_batch_size: int | None = _count(None, "weak scaling: images per step and GPU; unset: as measured")
    batch_size: int | None = _count(
        None, "strong scaling: images per step over all GPUs; unset: as measured", 1_000_000_000, least=2
    )
    overlap: Real = setting(
        0.0, "microseconds of each network's all-reduce that overlap with its backward pass", ge=0, le=1e6
    )
    out: str | None = setting(None, "a new folder; unset: bench/plan-<number>", metavar="DIR")


# Of the seeds of torch's generators.
_SEEDS = 2**31


class ConvergenceConfig(Section):
    """Settings of `distgan bench convergence`."""

    preset: str | None = setting(None, "a preset by its name, or a TOML file", metavar="PRESET|FILE")
    against: str | None = setting(None, "a second preset, trained alternately and compared", metavar="PRESET|FILE")
    seeds: int = free(10, "runs of each preset, with consecutive seeds", ge=1, le=1000)
    first_seed: int = free(0, "the first of the seeds", ge=0, lt=_SEEDS - 1000)
    processes: int = _count(
        1, "processes of each run; above 1 it also runs on 1, and a test checks if more need more epochs", 1024
    )
    jobs: int | None = _count(None, "concurrent runs; unset: as many as fit on the GPUs, 1 on a CPU", 1024)
    epochs: int | None = _count(None, "maximum epochs of a run; unset: the preset's")
    # The targets themselves are compared, not the name of their file.
    targets: str = free("mnist", "mnist: those of distgan; or a TOML file of targets", metavar="NAME|FILE")
    num: int | None = _count(None, "images per evaluation; unset: as the targets require", least=65)
    out: str | None = free(
        None, "a new folder, or that of a bench to resume; unset: bench/convergence-<number>", metavar="DIR"
    )
    join: str | None = free(
        None, "train nothing; summarise the results in the subfolders of this folder",
        metavar="DIR",
    )  # fmt: skip
    data: DataNameOrPath | None = setting(
        None,
        "the data set, or the path of your own images; digits needs no download; unset: the preset's",
        is_passed_on=True,
    )
    data_dir: str | None = setting(
        None, "folder of the data; unset: the preset's, $DISTGAN_DATA, then ./data", is_passed_on=True, metavar="DIR"
    )
    device: Device = device_setting(is_passed_on=True)
    precision: PrecisionName | None = setting(None, "{names}; unset: the preset's", is_passed_on=True)
    engine: EngineName | None = setting(None, "engine of the training steps; unset: the preset's", is_passed_on=True)
    threads: int | None = _count(
        None, "CPU threads of each process; unset: torch's default, or with concurrent runs their share of the "
        "cores", 1024,
    )  # fmt: skip
    timeout: Real = free(86_400.0, "time limit of a run, in seconds", gt=0, le=10_000_000)
