"""What can be set of `distgan bench scaling` and `distgan bench plan`."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from distgan.config.fields import Real, Section, setting, split_commas
from distgan.config.schema import EngineName

_COMMAS = BeforeValidator(split_commas)

Counts = Annotated[list[Annotated[int, Field(ge=1, le=1024)]], Field(min_length=1), _COMMAS]
Sizes = Annotated[list[Annotated[int, Field(ge=2, le=1_000_000)]], Field(min_length=1), _COMMAS]
Factors = Annotated[list[Annotated[Real, Field(gt=0, le=16)]], Field(min_length=1), _COMMAS]


class ScalingConfig(Section):
    """What `distgan bench scaling` measures, each setting in fresh processes."""

    model: Literal["vanilla", "cgan"] = setting("vanilla", "which of the two GANs")
    family: Literal["seed", "small"] = setting("seed", "the networks of the 2023 report, or the small pair")
    width: Real = setting(1.0, "factor on every hidden width", gt=0, le=16)
    order: Literal["simultaneous", "reuse", "fresh"] = setting("reuse", "as of distgan train")
    precision: Literal["no", "tf32", "fp16", "bf16"] = setting("no", "no: float32. tf32, fp16: on GPUs")
    engine: EngineName = setting("auto", "who takes the steps")
    data: Literal["mnist", "fashion-mnist", "kmnist", "qmnist", "emnist-digits", "digits"] = setting(
        "mnist", "digits: scikit-learn's, which need no network"
    )
    data_dir: str | None = setting(
        None, "folder of the data; unset: $DISTGAN_DATA, then ./data", min_length=1
    )
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto: cuda where there is one")
    processes: Counts | None = setting(
        None,
        "numbers of processes; unset: 1, 2, 4 and so on up to the GPUs, or cores, here",
        allowed="whole numbers from 1 to 1024, as 1,2,4",
    )
    batch_size: int = setting(256, "strong scaling: images per step over all processes", ge=2, le=1_000_000)
    per_rank_batch_size: int = setting(64, "weak scaling: images per step and process", ge=2, le=1_000_000)
    batch_sizes: Sizes = setting(
        [64, 128, 256, 512],
        "growing work, on one process: images per step",
        allowed="whole numbers from 2, as 64,128,256",
    )
    widths: Factors | None = setting(
        None,
        "growing work, on one process: factors on every hidden width, as 0.25,0.5,1,2,4; unset: none",
        allowed="numbers above 0 and at most 16, as 0.25,0.5,1,2,4",
    )
    steps: int | None = setting(
        None, "steps of a repeat; unset: 200 on a GPU, 3 on a CPU", ge=1, le=1_000_000
    )
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
    seed: int = setting(0, "of weights, order, z and dropout", ge=0, lt=2**31)
    timeout: Real = setting(
        900.0, "seconds after which a turn that has not ended is given up", gt=0, le=86_400
    )
    out: str | None = setting(
        None, "the results' folder; unset: a new one, bench/scaling-<number>", min_length=1
    )


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
    out: str | None = setting(
        None, "the results' folder; unset: a new one, bench/plan-<number>", min_length=1
    )
