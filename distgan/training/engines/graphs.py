"""Complete training steps as CUDA graphs, from selecting the batch's images to the moving average."""

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

# Steps in one replay, where nothing is due between them: they share the host's cost of a replay.
PER_REPLAY = 5
# Eager steps before each capture: libraries choose their algorithms, and Adam creates its state.
WARM_UP = 3

# (work, before_each) -> a function that replays `work` in the same memory. `work` runs a few times before the capture,
# each time after `before_each`.
Capture = Callable[[Callable[[], None], Callable[[], object]], Callable[[], object]]


class CudaGraphCapture:
    """Capture on a separate stream, with one memory pool for all graphs: no tensor in it outlives a replay."""

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], None], before_each: Callable[[], object]) -> Callable[[], object]:
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for _ in range(WARM_UP):
                before_each()
                work()
        torch.cuda.current_stream().wait_stream(self.stream)
        graph = torch.cuda.CUDAGraph()
        # thread_local: other threads, as NCCL's watchdog, may query the device.
        capture = torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local")
        with no_garbage_collection(), capture:
            work()
        return graph.replay


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Collect garbage before the block and not in it: freeing an older graph during a capture would break that."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class Graphs:
    """Graphs of training steps: one step, PER_REPLAY steps, and the short last batch.

    All inputs of a step are in device memory: the epoch's order of images, its schedule, and `cursor`, the step in the
    epoch. Build it in `preserve_state` and after a resume, as the graphs refer to the memory of weights and Adam.
    """

    def __init__(self, gan: Gan, batches: Batches, config: Config, total_steps: int, capture: Capture):
        self.gan, self.batches = gan, batches
        self.device_step = build_device_step(gan, config.optim)
        num = batches.steps_per_epoch
        self.schedule = Schedule(config.optim, config.run.seed, total_steps, gan.device, num)
        self.cursor = torch.zeros((), dtype=torch.int64, device=gan.device)
        self.stats = torch.zeros(PER_REPLAY, len(STATS), device=gan.device)
        # This rank's rows of a full batch. Batches before the current one are full: it begins at cursor * width.
        self.width = gan.shard.local_slice(range(batches.size)).stop
        self.row_indices = torch.arange(self.width, device=gan.device)
        self._cursor_step = -1  # the step that the cursor is at
        is_short = len(batches.rows(num - 1)) < batches.size
        self.num_full = num - is_short
        self.replays: dict[tuple[bool, int], Callable[[], object]] = {}
        for index, count in ((0, 1), (0, PER_REPLAY), (num - 1, 1)):
            is_last = index >= self.num_full
            if (is_last or index + count <= self.num_full) and (is_last, count) not in self.replays:
                set_cursor = partial(self.cursor.fill_, index)
                self.replays[is_last, count] = capture(partial(self._run_steps, index, count), set_cursor)

    def release(self) -> None:
        """Release the graphs and their memory."""
        self.replays.clear()

    def advance(self, limit: int) -> tuple[Tensor, int]:
        """Run one step or PER_REPLAY, up to `limit`, without waiting for the device."""
        step = self.gan.step
        epoch, index = divmod(step, self.batches.steps_per_epoch)
        self.batches.load(epoch)
        self.schedule.load(step - index)
        if step != self._cursor_step:
            self.cursor.fill_(index)
        is_last = index >= self.num_full
        count = 1
        if (False, PER_REPLAY) in self.replays and index + PER_REPLAY <= self.num_full and step + PER_REPLAY <= limit:
            count = PER_REPLAY
        self.replays[is_last, count]()
        self.gan.step = step + count
        self.batches.seek(self.gan.step)
        # The graph advances the cursor; at the end of an epoch it has to be reset.
        self._cursor_step = -1 if index + count == self.batches.steps_per_epoch else step + count
        return self.stats[:count].clone(), sum(len(self.batches.rows(index + offset)) for offset in range(count))

    def _run_steps(self, index: int, count: int) -> None:
        """Run `count` steps from the cursor on, with as many rows as the batch at `index`."""
        rows = self.batches.rows(index)
        shard = self.gan.shard
        local = shard.local_slice(rows)
        row_indices = self.row_indices[: local.stop - local.start]
        for slot in range(count):
            images = self.batches.order.index_select(0, row_indices + self.cursor * self.width)
            cursor = self.cursor.view(1)
            scalars = StepScalars(
                self.schedule.keys.index_select(0, cursor).squeeze(0),
                self.schedule.rates.index_select(0, cursor).squeeze(0),
            )
            with shard.bind(rows):
                self.stats[slot].copy_(self.device_step(*self.batches.take(images), scalars))
            self.cursor.add_(1)
