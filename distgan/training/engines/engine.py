"""Who takes the steps: eagerly, compiled, or replayed from CUDA graphs; the same step behind each."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from distgan.config.registry import ENGINES
from distgan.config.schema import Config
from distgan.data.loader import Batches
from distgan.distributed.runtime import Runtime
from distgan.training.engines.eager_check import Advance, Parity, measure_parity, untouched
from distgan.training.engines.graphs import CudaRecorder, Graphs, Record
from distgan.training.gan import Gan
from distgan.training.step import build_step

_MOST_KINDS = 256


def start(gan: Gan) -> None:
    """The blocks of both networks, in place: inside autocast and DDP, whose own code is not compiled."""
    # All blocks of a process count as one function there; beyond the limit they would be eager without a word.
    torch._dynamo.config.recompile_limit = _MOST_KINDS
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # "No CUDA runtime is found"
    for block in _blocks(gan):
        block._compiled_call_impl = torch.compile(_as_function(block), dynamic=False, fullgraph=True)


def _as_function(block: nn.Module) -> Callable[..., Tensor]:
    """Return what `block` computes: given the module, torch 2.11 compiles its layers one by one and fuses nothing."""

    def forward(*inputs: Tensor) -> Tensor:
        return block.forward(*inputs)

    return forward


def stop(gan: Gan) -> None:
    for block in _blocks(gan):
        block._compiled_call_impl = None


@contextmanager
def suspended(gan: Gan) -> Iterator[None]:
    """Lets compiled blocks run eagerly: without it the reference would be what it is compared with."""
    blocks = _blocks(gan)
    compiled = [block._compiled_call_impl for block in blocks]
    stop(gan)
    try:
        yield
    finally:
        for block, call in zip(blocks, compiled, strict=True):
            block._compiled_call_impl = call


def _blocks(gan: Gan) -> list[nn.Module]:
    """But for those in which the ranks talk to each other: their numbers of rows change from batch to batch."""
    return [
        block
        for network in (gan.generator, gan.discriminator)
        for block in network.children()
        if not any("SyncBatchNorm" in type(module).__name__ for module in block.modules())
    ]


# -- Who takes the steps: eagerly, compiled, or replayed from CUDA graphs; the same step behind --

# Of an engine against the eager one, before it is trusted with a run; the second number if the first says no, as
# sums in another order may turn Adam's very first steps round.
CHECK_STEPS = (3, 20)
# Seconds that a run must have before it for compiling to pay: it takes tens of them, and halves the rest at best.
COMPILING_PAYS_FROM_S = 60.0
# Steps by which a graph with compiled networks is compared with one without.
RACE_STEPS = 50


@dataclass
class Choice:
    """`asked` by the config, `name` that runs, and `why` that one; `is_fallback` where that is for want of another.

    `start_s`: seconds that "compile", "capture" and "check" took.
    """

    asked: str
    name: str
    why: str
    is_fallback: bool = False
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


class Unfit(Exception):
    """Why an engine can't be taken."""


class Engine:
    """`advance(limit)` takes one step or several from `gan.step` on, but none past `limit`.

    It returns their STATS, (K, 4) on the device, without waiting for it, and the images of all ranks in them.
    `reference` does the same eagerly. Left as a context it lets go of its graphs, before which NCCL does not end.
    """

    def __init__(self, choice: Choice, reference: Advance, advance: Advance, graphs: Graphs | None = None):
        self.choice, self.reference, self.advance = choice, reference, advance
        self._graphs = graphs

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        if self._graphs is not None:
            self._graphs.replays.clear()


def build_engine(
    gan: Gan,
    batches: Batches,
    config: Config,
    runtime: Runtime,
    total_steps: int,
    record: Record | None = None,
    last_step: int | None = None,
) -> Engine:
    """The engine that the config asks for, or the eager one and the reason. All ranks call it, after a resume.

    `total_steps` are those of the schedule, of which this run ends at `last_step` if given. A graph is recorded by
    `record`, which is CUDA's own unless given.
    """
    last_step = total_steps if last_step is None else last_step
    step = build_step(gan, config.optim, config.run.seed, total_steps)

    def take(limit: int) -> tuple[Tensor, int]:
        if batches.step != gan.step:
            batches.seek(gan.step)
        batch = next(batches)
        return step(*batch).unsqueeze(0), len(batch.rows)

    def eager(limit: int) -> tuple[Tensor, int]:
        with suspended(gan):
            return take(limit)

    asked, is_cuda = config.run.engine, runtime.device.type == "cuda"
    choice, wanted = Choice(asked, "eager", "as asked"), asked
    if asked == "auto":
        wanted = "graph" if is_cuda else "eager"
        choice.why = "the quickest on a GPU" if is_cuda else "on a CPU compiling takes long and gains nothing"
    if gan.step >= last_step:
        wanted, choice.why = "eager", "no step is left"
    if wanted == "eager":
        return Engine(choice, take, take)

    graphs, advance, reason = None, take, None
    try:
        _check_supported(gan, batches, runtime)
        if not ENGINES[wanted].records_graphs:
            _compile(gan, batches, runtime, take, choice)
        else:
            capture = partial(Graphs, gan, batches, config, total_steps, record or CudaRecorder())
            always = ENGINES[wanted].compiles
            graphs = _graphs(gan, batches, runtime, take, last_step, choice, capture, always=always)
            advance = graphs.advance
        choice.name = wanted if graphs is None else choice.name
        with choice.timed("check"):
            for steps in CHECK_STEPS:
                choice.parity = parity = measure_parity(gan, batches, runtime.precision, eager, advance, steps)
                if has_passed := all(runtime.all_gather_object(parity.passed)):
                    break
        if not has_passed:
            raise Unfit(f"its steps are not the eager ones: {choice.parity}")
    except Exception as error:  # compilers, drivers and libraries raise what they like
        reason = _words(error)
    if not all(runtime.all_gather_object(reason is None)):
        stop(gan)
        why = f"{wanted} was not taken: {reason or 'it failed on another rank'}"
        fallback = Choice(asked, "eager", why, is_fallback=True, start_s=choice.start_s, parity=choice.parity)
        return Engine(fallback, take, take)
    return Engine(choice, eager, advance, graphs)


def _compile(gan: Gan, batches: Batches, runtime: Runtime, take: Advance, choice: Choice) -> None:
    """Makes the same steps go through compiled networks. Raises what a compiler raises."""
    for name in ("TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE"):
        if os.environ.get(name) == "1":
            raise Unfit(f"{name}=1 switches torch.compile off")
    with choice.timed("compile"), untouched(gan, batches):
        start(gan)
        for index in _one_of_each_shape(batches):
            gan.step = index
            take(index + 1)
        runtime.wait()


def _one_of_each_shape(batches: Batches) -> list[int]:
    """The first step of an epoch, and the last if that is short."""
    num = batches.steps_per_epoch
    return [0] if len(batches.rows(num - 1)) == batches.size else [0, num - 1]


def _graphs(
    gan: Gan, batches: Batches, runtime: Runtime, take: Advance, last_step: int, choice: Choice,
    capture: Callable[[], Graphs], *, always: bool,
) -> Graphs:  # fmt: skip
    """Graphs of the step; of compiled networks `always`, or if that pays. Raises what CUDA and a compiler raise."""

    def captured() -> Graphs:
        with choice.timed("capture"), untouched(gan, batches):
            return capture()

    choice.name = "graph"
    plain = None if always else captured()
    if plain is not None:
        left_s = (last_step - gan.step) * (without := _seconds_a_step(gan, batches, runtime, plain.advance))
        if left_s < COMPILING_PAYS_FROM_S:
            choice.why += f"; not compiled inside, for {left_s:.0f} s of steps ({without * 1e6:.0f} microseconds each)"
            return plain
    compiled, words = None, "another rank could not"
    try:
        _compile(gan, batches, runtime, take, choice)
        compiled = captured()
    except Exception as error:
        words = _words(error)
    # No rank may race alone: the others' sums would wait for it.
    if not all(runtime.all_gather_object(compiled is not None)) or compiled is None:
        choice.why += f"; not compiled inside ({words})"
        choice.is_fallback = always
        stop(gan)
        return plain or captured()
    if plain is None:
        choice.name = "graph-compiled"
        return compiled
    within = _seconds_a_step(gan, batches, runtime, compiled.advance)
    choice.why += f"; {within * 1e6:.0f} microseconds a step compiled inside, {without * 1e6:.0f} without"
    if within < without:  # of the slowest rank, so all of them decide alike
        choice.name = "graph-compiled"
        return compiled
    stop(gan)
    return plain


def _seconds_a_step(gan: Gan, batches: Batches, runtime: Runtime, advance: Advance) -> float:
    """Of the slowest rank."""
    with untouched(gan, batches):
        for count in (5, RACE_STEPS):
            runtime.wait()
            start, end = time.perf_counter(), gan.step + count
            while gan.step < end:
                advance(end)
            runtime.wait()
        own = torch.tensor([(time.perf_counter() - start) / RACE_STEPS], device=runtime.device)
    return float(runtime.all_gather(own).max()) if runtime.world_size > 1 else float(own)


def _check_supported(gan: Gan, batches: Batches, runtime: Runtime) -> None:
    if runtime.strategy != "DDP":
        raise Unfit(f"{runtime.strategy} takes its own way through the networks")
    if runtime.precision == "fp16":
        raise Unfit("the scaler of fp16 decides on the host")
    if batches.size % runtime.world_size:
        raise Unfit(f"the ranks' parts of {batches.size} images are not of one size")


def _words(error: Exception) -> str:
    """The reason in a line."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")[:200]
    return line if isinstance(error, Unfit) else f"{type(error).__name__}: {line}"
