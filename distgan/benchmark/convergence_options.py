"""What can be set of `distgan bench convergence`."""

from typing import Literal

from distgan.config.fields import Real, Section, setting
from distgan.config.schema import EngineName

# Of the seeds of torch's generators.
_SEEDS = 2**31


class ConvergenceConfig(Section):
    """Which trainings `distgan bench convergence` takes, and how."""

    preset: str | None = setting(None, "a preset by its name, or a TOML file", min_length=1)
    against: str | None = setting(None, "another, which takes turns with it and is compared", min_length=1)
    seeds: int = setting(10, "runs of each, with seeds that count up", ge=1, le=1000)
    first_seed: int = setting(0, "the first of the seeds", ge=0, lt=_SEEDS - 1000)
    processes: int = setting(
        1,
        "of each run; with more than 1 it is run on 1 too, and a test says whether more need more epochs",
        ge=1,
        le=1024,
    )
    jobs: int | None = setting(
        None, "runs at a time; unset: as many as the GPUs here suffice for, on a CPU 1", ge=1, le=1024
    )
    epochs: int | None = setting(
        None, "after which a run is given up; unset: the preset's", ge=1, le=1_000_000
    )
    targets: str | None = setting(None, "a file of targets; unset: the frozen ones", min_length=1)
    num: int | None = setting(
        None, "images an evaluation; unset: as many as the targets are for", ge=65, le=1_000_000
    )
    out: str | None = setting(
        None,
        "a new folder, or that of a bench to go on with; unset: bench/convergence-<number>",
        min_length=1,
    )
    join: str | None = setting(
        None,
        "train nothing: the summary, there, of benches of the same settings in the folders below this one",
        min_length=1,
    )
    data: Literal["auto", "mnist", "fashion-mnist", "kmnist", "qmnist", "emnist-digits", "digits"] | None = (
        setting(None, "the images; digits needs no network; unset: the preset's")
    )
    data_dir: str | None = setting(
        None, "folder of the data; unset: the preset's, $DISTGAN_DATA, then ./data", min_length=1
    )
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto: cuda where there is one")
    precision: Literal["no", "tf32", "bf16", "fp16"] | None = setting(
        None, "no: float32; tf32 and fp16 on a GPU; unset: the preset's"
    )
    engine: EngineName | None = setting(None, "who takes the steps; unset: the preset's")
    threads: int | None = setting(
        None,
        "CPU threads of each process; unset: torch's own choice, or of several runs at a time their share of the cores",
        ge=1,
        le=1024,
    )
    timeout: Real = setting(
        86_400.0, "seconds after which a run that has not ended is given up", gt=0, le=10_000_000
    )
