"""What the files of a training in docs/report_2023/ say of it."""

import csv
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from statistics import quantiles
from typing import Any, NamedTuple

from distgan.evaluation.schema import Estimate, Quality
from distgan.evaluation.targets import Evaluation

TITLES = {"gan": "GAN", "cgan": "C-GAN", "gan-fast": "GAN, fast recipe", "cgan-fast": "C-GAN, fast recipe"}
NUM_EPOCHS = 150


class Row(NamedTuple):
    """A line of NAME-epochs.csv: means over an epoch. `elapsed_s`: seconds of training since the start."""

    epoch: int
    d_loss: float
    g_loss: float
    real_logits: float
    fake_logits: float
    elapsed_s: float
    peak_memory_gib: float


class Training:
    """The files of a training in `folder`."""

    def __init__(self, name: str, folder: Path):
        self.name, self.folder, self.title = name, folder, TITLES[name]
        self.is_conditional = name.startswith("cgan")

    @cached_property
    def rows(self) -> list[Row]:
        with (self.folder / f"{self.name}-epochs.csv").open() as file:
            lines = list(csv.reader(file))[1:]
        return [Row(int(line[0]), *map(float, line[1:])) for line in lines]

    @cached_property
    def qualities(self) -> list[Quality]:
        return read_qualities(self.folder / f"{self.name}-quality.jsonl")

    @property
    def last(self) -> Quality:
        return self.qualities[-1]

    @property
    def title_at_last(self) -> str:
        return f"{self.title}, epoch {epoch_of(self.last):g}"

    @property
    def is_complete(self) -> bool:
        return epoch_of(self.last) >= NUM_EPOCHS

    def at(self, epoch: int) -> Quality | None:
        return next((quality for quality in self.qualities if epoch_of(quality) == epoch), None)

    @cached_property
    def epoch_seconds(self) -> list[float]:
        """Seconds of training of each epoch, as the clock had it."""
        return [end - start for start, end in pairwise([0.0, *(row.elapsed_s for row in self.rows)])]

    @property
    def epoch_quarters(self) -> list[float]:
        """The median of `epoch_seconds` between the ends of their middle half, which leaves out most of what waited."""
        seconds = self.epoch_seconds
        return quantiles(seconds, n=4) if len(seconds) > 1 else 3 * seconds

    def seconds_at(self, epoch: float) -> float:
        """Return the seconds of training up to an epoch, had each taken the median: some ran beside other work."""
        return epoch * self.epoch_quarters[1]

    @property
    def evaluations(self) -> list[Evaluation]:
        return [
            Evaluation(
                quality.source.step or 0, epoch_of(quality), self.seconds_at(epoch_of(quality)), 0.0,
                quality.fcd.value, quality.recognisable.value,
                [score_of(digit, self.is_conditional) for digit in quality.per_digit],
                [digit.sample.coverage.value if digit.sample else None for digit in quality.per_digit],
            )
            for quality in self.qualities
        ]  # fmt: skip


def epoch_of(quality: Quality) -> float:
    return round(quality.source.epoch or 0.0, 3)


def score_of(digit: Any, is_conditional: bool) -> float | None:
    """Return the share read as requested or, without labels, the digit's share of all images."""
    if not is_conditional:
        return float(digit.share.value)
    return float(digit.agreement.value) if digit.agreement else None


def made_well(quality: Quality) -> list[int]:
    return [digit.digit for digit in quality.per_digit if digit.verdict == "made well"]


def overlap(one: Estimate, other: Estimate) -> bool:
    return one.low <= other.high and other.low <= one.high


def missing(quality: Quality) -> set[int]:
    return {digit.digit for digit in quality.per_digit if digit.verdict == "missing"}


def pair_of(trainings: dict[str, Training]) -> list[Training]:
    """Return the trainings of the report's presets."""
    return [trainings[name] for name in ("gan", "cgan") if name in trainings]


def read_trainings(folder: Path) -> dict[str, Training]:
    return {name: Training(name, folder) for name in TITLES if (folder / f"{name}-quality.jsonl").exists()}


def read_qualities(path: Path) -> list[Quality]:
    """Return the evaluations of a file by step, [] if there is none."""
    lines = path.read_text().splitlines() if path.exists() else []
    return sorted(map(Quality.model_validate_json, lines), key=lambda quality: quality.source.step or 0)
