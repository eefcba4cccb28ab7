"""Schema of the measurements of `distgan bench throughput` and `scaling`, as in results.json.

A Measurement is one configuration at one number of processes. Names end with the unit.
"""

from collections.abc import Iterable
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from distgan.config.fields import Section
from distgan.config.schema import Config
from distgan.training.engines.selection import fallback_notice

Count = Annotated[int, Field(ge=1)]


class TimingSettings(Section):
    """Settings of the timing: `gate_steps` checked against eager ones, `warmup`, then `repeats` times `steps`.

    With `counts` the kernels or operators of a step are counted.
    """

    gate_steps: int
    warmup: int
    steps: int
    repeats: int
    counts: bool = True
    whole_run: bool = True  # an engine is chosen as for all epochs of the run


class RunSpec(TimingSettings):
    """The input of benchmark/worker.py: what to train, how to time it, and the file of the profiler trace."""

    config: Config
    trace: str | None = None


class Record(BaseModel):
    """A record without NaN or infinity, which JSON cannot hold."""

    model_config = ConfigDict(allow_inf_nan=False)


class Open(Record):
    """A record that may have more keys, for other readers."""

    model_config = ConfigDict(extra="allow")


class Spread(Record):
    """Median, 5th and 95th percentile (numpy's linear interpolation) and their number, in the unit of the field."""

    median: float
    p5: float
    p95: float
    num: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Return the spread of `values`. Raises ValueError if there are none, or one is non-finite."""
        values = list(values)
        p5, median, p95 = np.percentile(values, (5, 50, 95)).tolist() if values else (float("nan"),) * 3
        return cls(median=median, p5=p5, p95=p95, num=len(values))


class Ratio(Spread):
    """Spread over one ratio per round, with the extremes."""

    min: float
    max: float


class Growth(Record):
    """Factors by which work and cost have grown since the previous cell, which is at `since` on the axis.

    `work`: FLOP of a step; None if they have no formula. `cost`: seconds per step. `cost_per_work` is relative to
    the first cell of the axis. `is_faster_than_work`: cost grew more than work over its entire interval; None for a
    single round, which has no interval.
    """

    since: float
    work: float | None
    cost: Spread
    cost_per_work: Spread | None
    is_faster_than_work: bool | None


class Gate(Record):
    """Relative differences between an engine and the eager one after `steps`; text if non-finite."""

    steps: int
    losses: float | str
    weights: float | str
    tolerance: list[float]
    passed: bool
    words: str
    seconds: float


class Engine(Open):
    """The engine that ran, as described by EngineSelection."""

    name: str
    why: str = ""
    is_fallback: bool = False


class Repeat(Record):
    """Consecutive steps, and `images` over all ranks. `host_s`: by the host's clock, where `seconds` are a GPU's."""

    seconds: Annotated[float, Field(gt=0)]
    host_s: float | None = None
    steps: Count
    images: Count


class TimedRun(Open):
    """Result of a configuration in round `number`, in fresh processes; a plain loop has repeats only.

    `messages_bytes`: bytes that a step all-reduces, by kind; `all_reduce_s`: their seconds in isolation, per repeat.
    `all_reduce_share`: fraction of a step's time, on a CPU. `data`: name and fingerprint; of format 1 the name.
    """

    number: int = 0
    command: str = ""
    engine: Engine | None = None
    build_s: dict[str, float] = {}
    start_s: dict[str, float] = {}
    gate: Gate | None = None
    warmup_s: float | None = None
    repeats: list[Repeat] = []
    peak_memory_gib: float | None = None
    kernels_per_step: float | None = None
    operators_per_step: float | None = None
    messages_bytes: dict[str, list[int]] = {}
    all_reduce_s: dict[str, list[float]] = {}
    all_reduce_share: float | None = None
    data: dict[str, JsonValue] | str | None = None

    @property
    def step_s(self) -> list[float]:
        return [repeat.seconds / repeat.steps for repeat in self.repeats]


class Measurement(Record):
    """A configuration and what was measured of it; `engine` is the requested one, `axes` are those of bench scaling.

    `model`: the preset's name. `batch_size`: over all processes. `training`: the Config. `epoch_images`: of an epoch.
    """

    id: str = Field(min_length=1)
    contender: Literal["distgan", "pytorch", "accelerate"] = "distgan"
    preset: str
    model: str
    engine: str | None
    precision: str
    batch_size: Count
    order: str
    family: str
    width: float
    data: str
    world_size: Count = 1
    axes: list[str] = []
    training: dict[str, JsonValue] = {}
    epoch_images: int = 0
    flops_per_image: int | None = None
    status: Literal["waits", "ok", "error", "gate failed"] = "waits"
    why: str | None = None
    runs: list[TimedRun] = []
    # Set by ratios.summarise_cells.
    step_s: Spread | None = None
    epoch_s: Spread | None = None
    host_epoch_s: Spread | None = None
    images_per_s: Spread | None = None
    peak_memory_gib: float | None = None
    mfu: float | None = None
    mfu_peak: str | None = None
    against: dict[str, Ratio] = {}
    efficiency: dict[str, Spread] = {}
    growth: dict[str, Growth] = {}

    @property
    def is_ours(self) -> bool:
        return self.contender == "distgan"

    @property
    def measured(self) -> list[TimedRun]:
        """Return the rounds that have a speed: none if the gate failed in one."""
        return [] if self.status == "gate failed" else [run for run in self.runs if run.repeats]

    @property
    def engines(self) -> list[str]:
        """Return the engines that ran: more than one if rounds differ."""
        return list(dict.fromkeys(run.engine.name for run in self.runs if run.engine))

    @property
    def fingerprints(self) -> list[str]:
        """Return the fingerprints of the images that were trained on, as recorded by the workers."""
        fingerprints = (run.data.get("fingerprint") for run in self.runs if isinstance(run.data, dict))
        return list(dict.fromkeys(str(fingerprint) for fingerprint in fingerprints if fingerprint))

    @property
    def notices(self) -> list[str]:
        """Return the warnings about engines that ran in place of the requested one, or that differ between rounds."""
        notices = [fallback_notice(run.engine.model_dump()) for run in self.runs if run.engine]
        notices += [f"its rounds ran several engines: {', '.join(self.engines)}"] if len(self.engines) > 1 else []
        return list(dict.fromkeys(filter(None, notices)))

    @property
    def flops_per_step(self) -> float | None:
        return None if self.flops_per_image is None else self.flops_per_image * self.batch_size


class Roofline(Open):
    """Measured peaks of the device: FLOP/s by precision, and bytes/s of a copy."""

    peak_flops: dict[str, float]
    copy_bytes_per_s: float


class Facts(Open):
    """The environment of a benchmark: command, versions, revision, device, cores, their load, clocks, settings."""

    device: str
    device_type: str = "cpu"
    cores: int | None = None
    threads: int | None = None
    settings: dict[str, JsonValue] = {}
    roofline: Roofline | None = None
    note: str | None = None
