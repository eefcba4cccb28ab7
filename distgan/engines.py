"""Who takes the steps: eagerly, compiled, or replayed from CUDA graphs; the same step behind each."""

import importlib.util
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from distgan import compiling
from distgan.batches import Batches
from distgan.config import Config
from distgan.gan import Gan
from distgan.graphs import CudaRecorder, Graphs, Record
from distgan.parity import Advance, Parity, measure_parity, untouched
from distgan.runtime import Runtime
from distgan.steps import build_step

# Of an engine against the eager one, before it is trusted with a run.
CHECK_STEPS = 3
# Compiling takes tens of seconds, in which a graph takes some tens of thousands of steps.
COMPILING_PAYS_FROM = 20_000
# Steps by which a graph with compiled networks is compared with one without.
RACE_STEPS = 50


@dataclass
class Choice:
    """`asked` by the config, `name` that runs, and `why` that one.

    `start_s`: seconds that "compile", "capture" and "check" took.
    """

    asked: str
    name: str
    why: str
    start_s: dict[str, float] = field(default_factory=dict)
    parity: Parity | None = None

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.start_s[phase] = round(self.start_s.get(phase, 0.0) + time.perf_counter() - start, 3)

    def describe(self) -> dict[str, Any]:
        """For environment.json and the results of a benchmark."""
        facts = {"asked": self.asked, "name": self.name, "why": self.why, "start_s": self.start_s}
        return facts | ({"check": str(self.parity)} if self.parity else {})

    @property
    def is_fallback(self) -> bool:
        return self.asked not in ("auto", self.name)


class Unfit(Exception):
    """Why an engine can't be taken."""


class Engine:
    """`advance(limit)` takes one step or several from `gan.step` on, but none past `limit`.

    It returns their STATS, (K, 4) on the device, without waiting for it, and the images of all ranks in them.
    """

    def __init__(self, choice: Choice, reference: Advance, advance: Advance):
        self.choice, self.reference, self.advance = choice, reference, advance


def build_engine(
    gan: Gan,
    batches: Batches,
    config: Config,
    runtime: Runtime,
    total_steps: int,
    record: Record | None = None,
) -> Engine:
    """The engine that the config asks for, or the eager one and the reason. All ranks call it, after a resume.

    A graph is recorded by `record`, which is CUDA's own unless given.
    """
    step = build_step(gan, config.optim, config.run.seed, total_steps)

    def take(limit: int) -> tuple[Tensor, int]:
        if batches.step != gan.step:
            batches.seek(gan.step)
        batch = next(batches)
        return step(*batch).unsqueeze(0), len(batch.rows)

    def eager(limit: int) -> tuple[Tensor, int]:
        with compiling.suspended(gan):
            return take(limit)

    asked, is_cuda = config.run.engine, runtime.device.type == "cuda"
    choice = Choice(asked, "eager", "as asked")
    wanted = ("graph" if is_cuda else "eager") if asked == "auto" else asked
    if asked == "auto":
        choice.why = (
            "the quickest on a GPU" if is_cuda else "compiled is slower on a CPU, and takes long to start"
        )
    if wanted == "eager":
        return Engine(choice, take, take)

    build: Callable[[], Advance] = {
        "compile": lambda: _compiled(gan, batches, runtime, take, choice),
        "graph": lambda: _graphs(gan, batches, config, runtime, take, total_steps, choice, record),
    }[wanted]
    advance, reason = None, None
    try:
        advance = build()
        with choice.timed("check"):
            choice.parity = measure_parity(gan, batches, runtime.precision, eager, advance, CHECK_STEPS)
        if not choice.parity.passed:
            raise Unfit(f"its steps are not the eager ones: {choice.parity}")
    except Exception as error:  # compilers, drivers and libraries raise what they like
        reason = str(error) if isinstance(error, Unfit) else f"{type(error).__name__}: {_first_line(error)}"
    if not runtime.all_agree(reason is None):
        reason = reason or "it failed on another rank"
    if reason is not None or advance is None:
        compiling.stop(gan)
        choice.why = f"{wanted} was not taken: {reason}"
        return Engine(choice, take, take)
    choice.name = wanted
    return Engine(choice, eager, advance)


def _compiled(gan: Gan, batches: Batches, runtime: Runtime, take: Advance, choice: Choice) -> Advance:
    """The same steps through compiled networks. Raises Unfit, and what a compiler raises."""
    _refuse_unfit(gan, runtime)
    with choice.timed("compile"), untouched(gan, batches):
        compiling.start(gan)
        for last in _last_steps(batches):
            gan.step = last
            take(gan.step + 1)
        runtime.wait()
    return take


def _last_steps(batches: Batches) -> list[int]:
    """A step of each shape: the first of an epoch, and the last if that is short."""
    num = batches.steps_per_epoch
    return [0] if len(batches.rows(num - 1)) == batches.size else [0, num - 1]


def _graphs(
    gan: Gan, batches: Batches, config: Config, runtime: Runtime, take: Advance, total_steps: int, choice: Choice,
    record: Record | None,
) -> Advance:  # fmt: skip
    """Graphs of the step, of the compiled networks if that is quicker. Raises Unfit, and what CUDA raises."""
    _refuse_unfit(gan, runtime)
    if batches.size % runtime.world_size:
        raise Unfit(f"the ranks' parts of {batches.size} images are not of one size")
    record = record or CudaRecorder()

    def captured() -> Graphs:
        with choice.timed("capture"), untouched(gan, batches):
            return Graphs(gan, batches, config, total_steps, record)

    plain = captured()
    if (steps := total_steps - gan.step) < COMPILING_PAYS_FROM:
        choice.why += f"; the networks not compiled, for fewer than {COMPILING_PAYS_FROM:,} steps"
        return plain.advance
    if importlib.util.find_spec("triton") is None:
        choice.why += "; the networks not compiled, without triton"
        return plain.advance
    try:
        _compiled(gan, batches, runtime, take, choice)
        compiled = captured()
    except Exception as error:
        compiling.stop(gan)
        choice.why += f"; the networks not compiled ({type(error).__name__}: {_first_line(error)})"
        return plain.advance
    with choice.timed("check"):
        times = [_seconds_a_step(gan, batches, runtime, graphs.advance) for graphs in (plain, compiled)]
    without, within = runtime.gathered(torch.tensor(times, device=runtime.device)).amax(0).tolist()
    choice.why += (
        f"; {within * 1e6:.0f} microseconds a step with the networks compiled and {without * 1e6:.0f} without, for "
        f"{steps:,} steps"
    )
    if within < without:
        return compiled.advance
    compiling.stop(gan)
    return plain.advance


def _seconds_a_step(gan: Gan, batches: Batches, runtime: Runtime, advance: Advance) -> float:
    with untouched(gan, batches):
        for count in (5, RACE_STEPS):
            runtime.wait()
            start, end = time.perf_counter(), gan.step + count
            while gan.step < end:
                advance(end)
            runtime.wait()
        return (time.perf_counter() - start) / RACE_STEPS


def _refuse_unfit(gan: Gan, runtime: Runtime) -> None:
    if runtime.strategy != "DDP":
        raise Unfit(f"{runtime.strategy} takes its own way through the networks")
    if runtime.precision == "fp16":
        raise Unfit("the scaler of fp16 decides on the host")


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")[:200]


def next_due(step: int, last_step: int, *every: int) -> int:
    """The first step after this one that is a multiple of one of these (0: of none), or the last."""
    return min([last_step, *((step // each + 1) * each for each in every if each)])
