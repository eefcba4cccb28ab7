"""Whole training steps as CUDA graphs: from the images that a counter names to the moving average."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from distgan.config.schema import Config
from distgan.data.loader import Batches
from distgan.training.gan import Gan
from distgan.training.lr_schedule import Schedule, StepScalars
from distgan.training.step import STATS, build_device_step

# Steps in one replay, where nothing is due between them; what a replay costs the host is shared by them.
PER_REPLAY = 5
# Of each graph, before its capture: libraries choose their algorithms, and Adam makes its state.
WARM_UP = 3

# (work, before) -> a call that does the work again, in the same memory. It is done a few times for that, each time
# after `before`.
Capture = Callable[[Callable[[], None], Callable[[], object]], Callable[[], object]]


class CudaGraphCapture:
    """Capture on a separate stream, into memory that its graphs share: no tensor in it outlives a replay."""

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], None], before: Callable[[], object]) -> Callable[[], object]:
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for _ in range(WARM_UP):
                before()
                work()
        torch.cuda.current_stream().wait_stream(self.stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads, NCCL's watchdog for one, may query the device meanwhile.
        capture = torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local")
        with no_garbage_collection(), capture:
            work()
        return graph.replay


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Collect before the block and not within: an older graph that is freed during a capture would break it."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class Graphs:
    """The steps of an epoch, from `cursor` on the device. Three graphs: one step, PER_REPLAY of them, the short last.

    Everything that a step needs to know lies in device memory: the epoch's order, its schedule, the cursor. To be
    built in `preserve_state`, after a resume: what is captured is the memory of weights and Adam's state.
    """

    def __init__(self, gan: Gan, batches: Batches, config: Config, total_steps: int, capture: Capture):
        self.gan, self.batches = gan, batches
        self.take = build_device_step(gan, config.optim)
        num = batches.steps_per_epoch
        self.schedule = Schedule(config.optim, config.run.seed, total_steps, gan.device, num)
        self.cursor = torch.zeros((), dtype=torch.int64, device=gan.device)
        self.stats = torch.zeros(PER_REPLAY, len(STATS), device=gan.device)
        # Of a full batch: those before the one in hand are full, so its first row lies at cursor * width.
        self.width = gan.shard.local_slice(range(batches.size)).stop
        self.row_indices = torch.arange(self.width, device=gan.device)
        self._at = -1  # the step that the cursor stands at
        is_short = len(batches.rows(num - 1)) < batches.size
        self.num_full = num - is_short
        self.replays: dict[tuple[bool, int], Callable[[], object]] = {}
        for index, count in ((0, 1), (0, PER_REPLAY), (num - 1, 1)):
            is_last = index >= self.num_full
            if (is_last or index + count <= self.num_full) and (is_last, count) not in self.replays:
                enter = partial(self.cursor.fill_, index)
                self.replays[is_last, count] = capture(partial(self._work, index, count), enter)

    def release(self) -> None:
        """Let go of what was captured, and of its memory."""
        self.replays.clear()

    def advance(self, limit: int) -> tuple[Tensor, int]:
        """Take one step or PER_REPLAY, none past `limit`, without waiting for the device."""
        step = self.gan.step
        epoch, index = divmod(step, self.batches.steps_per_epoch)
        self.batches.load(epoch)
        self.schedule.load(step - index)
        if step != self._at:
            self.cursor.fill_(index)
        is_last = index >= self.num_full
        count = 1
        if (False, PER_REPLAY) in self.replays and index + PER_REPLAY <= self.num_full and step + PER_REPLAY <= limit:
            count = PER_REPLAY
        self.replays[is_last, count]()
        self.gan.step = step + count
        self.batches.seek(self.gan.step)
        # The cursor counts on; at the end of an epoch it is put back.
        self._at = -1 if index + count == self.batches.steps_per_epoch else step + count
        return self.stats[:count].clone(), sum(len(self.batches.rows(index + more)) for more in range(count))

    def _work(self, index: int, count: int) -> None:
        """Take steps from the cursor on, with the rows of the batch at `index`."""
        rows = self.batches.rows(index)
        shard = self.gan.shard
        local = shard.local_slice(rows)
        row_indices = self.row_indices[: local.stop - local.start]
        for slot in range(count):
            own = self.batches.order.index_select(0, row_indices + self.cursor * self.width)
            line = self.cursor.view(1)
            now = StepScalars(
                self.schedule.keys.index_select(0, line).squeeze(0),
                self.schedule.rates.index_select(0, line).squeeze(0),
            )
            with shard.bind(rows):
                self.stats[slot].copy_(self.take(*self.batches.take(own), now))
            self.cursor.add_(1)
