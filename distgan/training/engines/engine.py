"""An engine runs training steps: eagerly, compiled, or as CUDA graphs. It is checked against eager steps before use."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from torch import Tensor

from distgan.config.registry import AUTO, ENGINES
from distgan.config.schema import Config
from distgan.data.loader import Batches
from distgan.distributed.runtime import Runtime
from distgan.errors import first_line
from distgan.training.engines.compiling import (
    blocks_of,
    compile_blocks,
    num_leaf_modules,
    smallest_block,
    start_compiler,
    uncompile,
    uncompiled,
)
from distgan.training.engines.eager_check import Advance, Parity, measure_parity, preserve_state
from distgan.training.engines.graphs import PER_REPLAY, Capture, CudaGraphCapture, Graphs
from distgan.training.engines.selection import EngineSelection, EngineUnavailable, remaining_steps
from distgan.training.gan import Gan
from distgan.training.step import build_step

T = TypeVar("T")
Clock = Callable[[], float]

# Steps of an engine to compare with eager ones. The second number is tried if the first fails: another order of sums
# may flip the sign of Adam's first updates.
CHECK_STEPS = (3, 20)


class Engine:
    """`advance(limit)` runs one or several steps from `gan.step` on, up to `limit`.

    It returns their STATS, (K, 4) on the device, without waiting for it, and their number of images over all ranks.
    `reference` does the same eagerly. On exit it releases its graphs, as NCCL does not shut down before.
    """

    def __init__(self, selection: EngineSelection, reference: Advance, advance: Advance, graphs: Graphs | None = None):
        self.selection, self.reference, self.advance = selection, reference, advance
        self._graphs = graphs

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        if self._graphs is not None:
            self._graphs.release()


def build_engine(
    gan: Gan,
    batches: Batches,
    config: Config,
    runtime: Runtime,
    total_steps: int,
    capture: Capture | None = None,
    last_step: int | None = None,
    clock: Clock = time.perf_counter,
) -> Engine:
    """Return the requested engine, or the eager one with the reason. All ranks call it, after a resume.

    `total_steps`: of the schedule; the run ends at `last_step`, if given. `capture` replaces CudaGraphCapture, and
    `clock` times engines.
    """
    builder = EngineBuilder(gan, batches, config, runtime, total_steps, capture, last_step, clock)
    requested = config.run.engine
    if builder.steps_left <= 0:
        return builder.eager_engine("no step is left")
    try:
        return ENGINES[requested].build(builder)
    except EngineUnavailable as error:
        uncompile(gan)
        wanted = "graph" if requested == AUTO else requested
        return builder.eager_engine(f"{wanted} was not taken: {error}", is_fallback=True)


class EngineBuilder:
    """Build, check and time engines. All ranks call each method; the state of `gan` is preserved.

    `advance` runs one step with the networks as they are, compiled or not; `advance_eagerly` with uncompiled ones.
    """

    def __init__(
        self,
        gan: Gan,
        batches: Batches,
        config: Config,
        runtime: Runtime,
        total_steps: int,
        capture: Capture | None,
        last_step: int | None,
        clock: Clock,
    ):
        self.gan, self.batches, self.config, self.runtime, self.clock = gan, batches, config, runtime, clock
        self.total_steps = total_steps
        self.steps_left = (total_steps if last_step is None else last_step) - gan.step
        self.can_capture = capture is not None or runtime.device.type == "cuda"
        self._capture = capture
        self._step = build_step(gan, config.optim, config.run.seed, total_steps)
        self._start_s: dict[str, float] = {}
        self._step_s: dict[str, float] = {}
        self._parities: dict[str, Parity] = {}

    def advance(self, limit: int) -> tuple[Tensor, int]:
        if self.batches.step != self.gan.step:
            self.batches.seek(self.gan.step)
        batch = next(self.batches)
        return self._step(*batch).unsqueeze(0), len(batch.rows)

    def advance_eagerly(self, limit: int) -> tuple[Tensor, int]:
        with uncompiled(self.gan):
            return self.advance(limit)

    def eager_engine(self, why: str, *, is_fallback: bool = False) -> Engine:
        return Engine(self._selection("eager", why, is_fallback), self.advance, self.advance)

    def engine(self, name: str, why: str, graphs: Graphs | None = None, *, is_fallback: bool = False) -> Engine:
        """Return the engine that replays `graphs`, or without them runs compiled networks."""
        advance = self.advance if graphs is None else graphs.advance
        return Engine(self._selection(name, why, is_fallback), self.advance_eagerly, advance, graphs)

    def _selection(self, name: str, why: str, is_fallback: bool) -> EngineSelection:
        requested, parity = self.config.run.engine, self._parities.get(name)
        return EngineSelection(requested, name, why, is_fallback, self._start_s, self._step_s, parity)

    def unsupported_reason(self) -> str | None:
        """Return why only the eager engine can run this training; None if others can."""
        if self.gan.eager_only:
            return self.gan.eager_only
        if self.runtime.strategy != "DDP":
            return f"{self.runtime.strategy} wraps the forward and backward passes itself"
        if self.runtime.precision == "fp16":
            return "the gradient scaler of fp16 needs the host in each step"
        if self.batches.size % self.runtime.world_size:
            return f"a batch of {self.batches.size} images does not divide evenly among the ranks"
        return None

    def check_supported(self) -> None:
        """Raise EngineUnavailable for a training that only the eager engine can run."""
        if reason := self.unsupported_reason():
            raise EngineUnavailable(reason)

    def compile_smallest(self) -> float:
        """Compile one block for one shape. Return the estimated seconds for all others, on the slowest rank.

        Estimated by the number of layers; too low if torch's disk cache has this block only. Raises EngineUnavailable.
        """

        def attempt() -> float:
            if (block := smallest_block(self.gan)) is None:
                raise EngineUnavailable("no block of the networks can be compiled")
            start_compiler(self.runtime.device)
            compile_blocks([block])
            start = self.clock()
            self._run_steps_at([0])
            num = num_leaf_modules(block)
            total = len(self._one_step_per_shape()) * sum(map(num_leaf_modules, blocks_of(self.gan)))
            return (self.clock() - start) * (total - num) / num

        return self._slowest(self._on_all_ranks("compile", attempt))

    def compile(self) -> None:
        """Compile all blocks, for each shape of a batch. Raises EngineUnavailable."""

        def attempt() -> None:
            compile_blocks(blocks_of(self.gan))
            self._run_steps_at(self._one_step_per_shape())

        self._on_all_ranks("compile", attempt)

    def _run_steps_at(self, indices: list[int]) -> None:
        with preserve_state(self.gan, self.batches):
            for index in indices:
                self.gan.step = index
                self.advance(index + 1)
            self.runtime.synchronize()

    def _one_step_per_shape(self) -> list[int]:
        """Return step 0, and the last step of an epoch if its batch is short."""
        num = self.batches.steps_per_epoch
        return [0] if len(self.batches.rows(num - 1)) == self.batches.size else [0, num - 1]

    def capture(self) -> Graphs:
        """Return graphs of the step with the networks as they are. Raises EngineUnavailable."""

        def attempt() -> Graphs:
            if self._capture is None:
                self._capture = CudaGraphCapture()
            with preserve_state(self.gan, self.batches):
                return Graphs(self.gan, self.batches, self.config, self.total_steps, self._capture)

        return self._on_all_ranks("capture", attempt)

    def check(self, name: str, advance: Advance) -> None:
        """Compare steps with eager ones. Raises EngineUnavailable if they differ by more than rounding."""

        def attempt(steps: int) -> Parity:
            precision = self.runtime.precision
            return measure_parity(self.gan, self.batches, precision, self.advance_eagerly, advance, steps)

        for steps in CHECK_STEPS:
            parity = self._on_all_ranks("check", lambda steps=steps: attempt(steps))  # type: ignore[misc]
            failed = [rank for rank in self.runtime.all_gather_object(parity) if not rank.passed]
            if not failed:
                self._parities[name] = parity
                return
        raise EngineUnavailable(f"its steps differ from eager ones: {failed[0]}")

    def time_steps(self, name: str, advance: Advance) -> float:
        """Return the seconds per step on the slowest rank, so that all ranks decide alike. Takes about RACE_S / 2.

        Raises EngineUnavailable.
        """

        def seconds_per_step(*counts: int) -> float:
            """Return the seconds per step of the last count; the counts before it warm up."""
            start = 0.0
            with preserve_state(self.gan, self.batches):
                for count in counts:
                    self.runtime.synchronize()
                    start, end = self.clock(), self.gan.step + count
                    while self.gan.step < end:
                        advance(end)
                    self.runtime.synchronize()
                return (self.clock() - start) / counts[-1]

        step_s = self._slowest(self._on_all_ranks("race", lambda: seconds_per_step(PER_REPLAY, PER_REPLAY)))
        if steps := remaining_steps(step_s, 2 * PER_REPLAY, PER_REPLAY):
            step_s = self._slowest(self._on_all_ranks("race", lambda: seconds_per_step(steps)))
        self._step_s[name] = step_s
        return step_s

    def _slowest(self, seconds: float) -> float:
        return max(self.runtime.all_gather_object(seconds))

    def _on_all_ranks(self, phase: str, attempt: Callable[[], T]) -> T:
        """Return the result of `attempt`. Raises EngineUnavailable on all ranks if it fails on one.

        No rank may continue alone: collectives of the others would wait for it.
        """
        reason = None
        with self._timed(phase):
            try:
                result = attempt()
            except Exception as error:  # compilers, drivers and libraries raise any type
                reason, type_name = first_line(error), type(error).__name__
                if not isinstance(error, EngineUnavailable) and reason != type_name:
                    reason = f"{type_name}: {reason}"
        reasons = self.runtime.all_gather_object(reason)
        for rank, why in enumerate(reasons):
            if why is not None:
                raise EngineUnavailable(f"rank {rank}: {why}" if len(reasons) > 1 else why)
        return result

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        start = self.clock()
        yield
        self._start_s[phase] = round(self._start_s.get(phase, 0.0) + self.clock() - start, 3)
