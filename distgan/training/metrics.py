"""Training metrics: kept on the device, copied to the host per log line, written to metrics.jsonl and trackers."""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import torch
from torch import Tensor

from distgan.distributed.runtime import Runtime
from distgan.distributed.trackers import Trackers
from distgan.errors import TrainingFailed, WriteErrorPolicy
from distgan.training.step import STATS
from distgan.utils.devices import AsyncHostCopy
from distgan.utils.files import append_lines, metric_lines, write_atomic

_LINES_PER_APPEND = 1000  # to metrics.jsonl.old, so that memory stays bounded


class MetricRecord(NamedTuple):
    """A line of metrics.jsonl: means since the line before it, over all ranks."""

    step: int  # optimizer steps so far
    epoch: float  # the same in epochs
    d_loss: float  # D's loss
    g_loss: float  # G's loss
    real_logits: float  # D's mean logit on real images
    fake_logits: float  # D's mean logit on generated images
    images_per_s: float  # real images per second over all processes
    elapsed_s: float  # seconds of training so far, over all resumes, without evaluations, samples and start-up
    peak_memory_gib: float  # peak memory of rank 0 so far: of its GPU, or of its process on a CPU


class LogPosition(Protocol):
    """The position in a run's log that a checkpoint stores: fields of `checkpoint.format.State`."""

    @property
    def step(self) -> int: ...
    @property
    def logged_step(self) -> int: ...
    @property
    def num_lines(self) -> int: ...
    @property
    def elapsed_s(self) -> float: ...
    @property
    def unlogged(self) -> Sequence[Sequence[float]]: ...


class Pending(NamedTuple):
    """A log line whose STATS are still being copied from the device."""

    step: int
    images: int
    is_kept: bool
    stats: AsyncHostCopy
    quality: dict[str, object]


class MetricLog:
    """Collect STATS by `add`, which does not wait for the device; `read_stats` waits.

    On a GPU `write` waits for the previous line only, as the next steps are queued by then. So a non-finite loss is
    seen at most a line late. `elapsed_s` is the time of training only. Lines that the disk rejects are kept for later.
    """

    def __init__(
        self,
        folder: Path,
        runtime: Runtime,
        steps_per_epoch: int,
        notice: str | None,
        write_errors: WriteErrorPolicy,
        trackers: Trackers | None = None,
    ):
        self.path, self.runtime, self.steps_per_epoch = folder / "metrics.jsonl", runtime, steps_per_epoch
        self.notice = {"data": notice} if notice else {}  # notice that the images are not MNIST's
        self.write_errors = write_errors
        self.trackers = trackers or Trackers(write_errors)
        self.logged_step, self.num_lines = 0, 0  # of the last line that a resume keeps
        self.last_step = 0  # of the last line that the file had when the run was resumed
        self.last: MetricRecord | None = None
        self.quality: dict[str, object] = {}  # the evaluation in the last line
        self.last_line: dict[str, object] = {}  # all of it
        self._elapsed_s = 0.0
        self._since = time.perf_counter()
        self._record_since, self._images = self._since, 0
        self.on_line: Callable[[int, dict[str, object]], None] = lambda step, values: None  # on rank 0
        self.engine = "eager"  # name of the engine, for checkpoints
        self._stats: list[Tensor] = []
        self._pending: list[Pending] = []
        self._rows: list[list[float]] = []
        self._unwritten: list[str] = []

    def restore(self, source: Path, state: LogPosition | None, *, is_over: bool = False) -> None:
        """Keep the lines of `source` up to the checkpoint's last one; later steps will be repeated.

        With `is_over` no step is repeated, and the run's last line is kept too.
        """
        if state is not None:
            self.logged_step, self.num_lines = state.logged_step, state.num_lines
            self._elapsed_s, self._rows = state.elapsed_s, [list(row) for row in state.unlogged]
        if not self.runtime.is_main:
            return
        num = 0

        def kept() -> Iterator[tuple[str, int]]:
            """Yield each line to keep, and its step."""
            if state is None:
                return
            for line in metric_lines(source):
                if line and (line["step"] <= state.logged_step or (is_over and line["step"] == state.step)):
                    yield json.dumps(line), line["step"]

        def write(file: BinaryIO) -> None:
            nonlocal num
            for text, step in kept():
                num += step <= self.logged_step
                file.write(f"{text}\n".encode())

        self._keep_dropped((text for text, _ in kept()), math.inf if state is None else state.logged_step)
        write_atomic(self.path, write)
        if num != self.num_lines:
            self.write_errors.warn(f"{source}: has {num} of the {self.num_lines} lines up to step {self.logged_step}")

    def _keep_dropped(self, kept: Iterator[str], until: float) -> None:
        """Append the lines that the new metrics.jsonl will not have to metrics.jsonl.old.

        After a kill they are of steps that will be repeated; lines up to step `until` will not be. `kept`: the lines
        of the new file, which begins with lines of the old one.
        """
        old, is_lost = self.path.with_name(f"{self.path.name}.old"), False
        dropped: list[str] = []
        expected = next(kept, None)
        for line in metric_lines(self.path):
            if line is None:
                continue
            self.last_step = max(self.last_step, line["step"])
            if (text := json.dumps(line)) == expected:
                expected = next(kept, None)
                continue
            dropped.append(text)
            is_lost |= line["step"] <= until
            if len(dropped) == _LINES_PER_APPEND:
                append_lines(old, dropped)
                dropped = []
        if dropped:
            append_lines(old, dropped)
        if is_lost:
            self.write_errors.warn(f"{self.path}: had lines that the resumed run does not have; they are kept in {old}")

    def start_clock(self) -> None:
        self._since = self._record_since = time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock within the block, for what is not training."""
        self._write_pending(0)
        self.runtime.synchronize()
        start = time.perf_counter()
        yield
        paused_s = time.perf_counter() - start
        self._since += paused_s
        self._record_since += paused_s

    @property
    def elapsed_s(self) -> float:
        return self._elapsed_s + time.perf_counter() - self._since

    def add(self, stats: Tensor, images: int) -> None:
        """Add the STATS of some steps, (K, 4) on the device, and their images over all ranks."""
        self._stats.append(stats)
        self._images += images

    def read_stats(self, step: int) -> list[list[float]]:
        """Return the STATS of each step since the last line, up to `step`, averaged over ranks. All ranks call it.

        Raises TrainingFailed that names the first step whose numbers are not finite.
        """
        self._write_pending(0)
        if self._stats:
            self._rows += self._wait_finite(self._start_copy(), step)
        return self._rows

    def write(
        self, step: int, *, is_kept: bool = True, quality: dict[str, object] | None = None
    ) -> MetricRecord | None:
        """Write a line with the means since the last one. Return the last written line. All ranks call it.

        A resume drops a line without `is_kept`, as at a stop. `quality`: the results of an evaluation. Raises
        TrainingFailed.
        """
        self._pending.append(Pending(step, self._images, is_kept, self._start_copy(), quality or {}))
        self._images = 0
        self._write_pending(1 if is_kept and self.runtime.device.type == "cuda" else 0)
        return self.last

    def _start_copy(self) -> AsyncHostCopy:
        """Start copying the STATS since the last line, averaged over ranks, to the host."""
        stats, self._stats = self._stats, []
        return AsyncHostCopy(self.runtime.mean(torch.cat(stats)) if stats else torch.empty(0, len(STATS)))

    def _wait_finite(self, stats: AsyncHostCopy, step: int) -> list[list[float]]:
        """Wait for STATS up to `step` and return them. Raises TrainingFailed for a non-finite number."""
        rows: list[list[float]] = stats.wait().tolist()
        for index, row in enumerate(rows):
            for name, value in zip(STATS, row, strict=True):
                if not math.isfinite(value):
                    raise TrainingFailed(f"{name} is {value} at step {step - len(rows) + index + 1}")
        return rows

    def _write_pending(self, num_left: int) -> None:
        """Write the pending lines except the newest `num_left`."""
        while len(self._pending) > num_left:
            self._write(self._pending.pop(0))

    def _write(self, line: Pending) -> None:
        self._rows += self._wait_finite(line.stats, line.step)
        rows = self._rows
        now = time.perf_counter()
        seconds = max(now - self._record_since, 1e-9)
        means = {name: sum(column) / len(rows) for name, column in zip(STATS, zip(*rows, strict=True), strict=True)}
        record = MetricRecord(
            step=line.step,
            epoch=round(line.step / self.steps_per_epoch, 4),
            **means,
            images_per_s=round(line.images / seconds, 1),
            elapsed_s=round(self.elapsed_s, 4),
            peak_memory_gib=round(self.runtime.peak_memory_gib(), 4),
        )
        if line.is_kept:
            self._rows = []
            self.logged_step, self.num_lines = line.step, self.num_lines + 1
        self._record_since, self.last, self.quality = now, record, line.quality
        values = record._asdict() | line.quality
        self.last_line = values | self.notice
        try:
            if self.runtime.is_main:
                self._unwritten.append(json.dumps(self.last_line))
                self.flush()
        except OSError as error:
            self.write_errors(error, "metrics are")
        if self.runtime.is_main:
            self.on_line(line.step, self.last_line)
        self.trackers.log(_scalars(values), line.step)

    def flush(self) -> None:
        """Append the lines that are not written yet. Raises OSError of the disk, and keeps them then."""
        if self._unwritten:
            append_lines(self.path, self._unwritten)
            self._unwritten = []


def _scalars(values: dict[str, object]) -> dict[str, float]:
    """Return the scalars for a tracker, with each per-class value as one."""
    lists = {key: value for key, value in values.items() if key.endswith("_digits") and isinstance(value, list)}
    per_class = {f"{key}/{label}": number for key, row in lists.items() for label, number in enumerate(row)}
    scalars = {key: value for key, value in values.items() if isinstance(value, float) and key != "elapsed_s"}
    return scalars | per_class


def last_evaluation(path: Path) -> dict[str, float]:
    """Return the scalars of the last evaluation in a metrics.jsonl; {} where there was none."""
    lines = (line for line in metric_lines(path) if line and "eval_n" in line)
    last = max(lines, key=lambda line: line["step"], default={})
    return _scalars(
        {key: value for key, value in last.items() if not (key in MetricRecord._fields or key.endswith("_s"))}
    )
