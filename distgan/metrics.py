"""Training scalars: kept on the device, read once in a while, written to metrics.jsonl and the tracker."""

import json
import math
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from distgan.errors import TrainingFailed
from distgan.files import append_line, write_whole
from distgan.runtime import Runtime
from distgan.steps import STATS


class Record(NamedTuple):
    """A line of metrics.jsonl: means since the line before it, over all ranks."""

    step: int
    epoch: float
    d_loss: float
    g_loss: float
    real_logits: float
    fake_logits: float
    images_per_s: float
    elapsed_s: float
    peak_memory_gib: float


class MetricLog:
    """`add` costs the device nothing but memory; `write` waits for it. `elapsed_s` is training alone.

    A log that goes on from `step` loses its lines of later steps, which will be taken again.
    """

    def __init__(self, folder: Path, runtime: Runtime, steps_per_epoch: int, notice: str | None, step: int):
        self.path, self.runtime, self.steps_per_epoch = folder / "metrics.jsonl", runtime, steps_per_epoch
        self.notice = {"data": notice} if notice else {}
        kept = [line for line in read_metrics(self.path) if line["step"] <= step]
        self.elapsed_s = float(kept[-1]["elapsed_s"]) if kept else 0.0
        if runtime.is_main:
            lines = "".join(json.dumps(line) + "\n" for line in kept)
            write_whole(self.path, lambda file: file.write(lines.encode()))
        self._stats: list[Tensor] = []
        self._images = 0
        self.restart_clock()

    def restart_clock(self) -> None:
        """After anything slow that is not training."""
        self._since = time.perf_counter()

    def add(self, stats: Tensor, images: int) -> None:
        """The STATS of one step, (4,) on the device, and its images over all ranks."""
        self._stats.append(stats)
        self._images += images

    def write(self, step: int) -> Record:
        """Averages what was added since the last record, up to `step`. All ranks take part.

        Raises TrainingFailed that names the first step whose numbers are not finite.
        """
        rows = self.runtime.mean(torch.stack(self._stats)).tolist()
        seconds = time.perf_counter() - self._since
        for index, row in enumerate(rows):
            for name, value in zip(STATS, row, strict=True):
                if not math.isfinite(value):
                    raise TrainingFailed(f"{name} is {value} at step {step - len(rows) + index + 1}")
        self.elapsed_s += seconds
        means = {
            name: sum(column) / len(rows) for name, column in zip(STATS, zip(*rows, strict=True), strict=True)
        }
        record = Record(
            step=step,
            epoch=round(step / self.steps_per_epoch, 4),
            **means,
            images_per_s=round(self._images / seconds, 1),
            elapsed_s=round(self.elapsed_s, 4),
            peak_memory_gib=round(self.runtime.peak_memory_gib(), 4),
        )
        self._stats, self._images = [], 0
        if self.runtime.is_main:
            append_line(self.path, json.dumps(record._asdict() | self.notice))
        values = record._asdict()
        self.runtime.track({key: values[key] for key in values if key not in ("step", "elapsed_s")}, step)
        self.restart_clock()
        return record


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a metrics.jsonl; a last one that was cut short is left out."""
    lines = []
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                break
    return lines
