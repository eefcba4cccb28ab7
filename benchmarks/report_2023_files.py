"""Read the files of a training in docs/report_2023/, and derive its figures from them."""

import csv
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from statistics import quantiles
from typing import Any, NamedTuple

import numpy as np

from distgan.evaluation.schema import Confusion, Estimate, Quality
from distgan.evaluation.targets import SETS, Evaluation, detect, list_targets, read_targets

TITLES = {"gan": "GAN", "cgan": "C-GAN", "gan-fast": "GAN, fast recipe", "cgan-fast": "C-GAN, fast recipe"}
NUM_EPOCHS = 150
UNREADABLE = 255
MEANS = ("d_loss", "g_loss", "real_logits", "fake_logits")
MINUTES = (1, 2, 5, 10, 20, 40, 80, 160, 320)


class Row(NamedTuple):
    """A line of NAME-epochs.csv: means over an epoch. `elapsed_s`: seconds of training since the start."""

    epoch: int
    d_loss: float
    g_loss: float
    real_logits: float
    fake_logits: float
    elapsed_s: float
    peak_memory_gib: float


class SameZ(NamedTuple):
    """The images of the same N z at an epoch: the digit read in each, (N,), UNREADABLE where none is recognisable.

    `border`: mean brightness of the outer 4 pixels, where MNIST has nearly none; white: 1. `off_centre`: mean distance
    of an image's centre of mass from its middle, in pixels; MNIST's digits have theirs in the middle.
    """

    digits: np.ndarray
    border: Estimate
    off_centre: Estimate


class Training:
    """The files of a training in `folder`."""

    def __init__(self, name: str, folder: Path):
        self.name, self.folder, self.title = name, folder, TITLES[name]
        self.is_conditional = name.startswith("cgan")

    @cached_property
    def rows(self) -> list[Row]:
        with (self.folder / f"{self.name}-epochs.csv").open() as file:
            lines = list(csv.reader(file))[1:]
        if not lines or any(len(line) != len(Row._fields) for line in lines):
            raise ValueError(f"{self.name}-epochs.csv: no line, or one that was cut")
        return [Row(int(line[0]), *map(float, line[1:])) for line in lines]

    @cached_property
    def qualities(self) -> list[Quality]:
        path = self.folder / f"{self.name}-quality.jsonl"
        if not (qualities := read_qualities(path)):
            raise ValueError(f"{path.name}: no evaluation")
        return qualities

    @cached_property
    def same_z(self) -> dict[int, SameZ]:
        """By epoch; empty where none was drawn."""
        path = self.folder / f"{self.name}-same-z.npz"
        if not path.exists():
            return {}
        with np.load(path) as arrays:
            if absent := {"epochs", *SameZ._fields} - set(arrays.files):
                raise ValueError(f"{path.name}: no {', '.join(sorted(absent))}")
            rows = zip(*(arrays[key] for key in ("epochs", *SameZ._fields)), strict=True)
            return {
                int(epoch): SameZ(digits, *(Estimate(value=v, low=low, high=high) for v, low, high in means))
                for epoch, digits, *means in rows
            }

    @property
    def last(self) -> Quality:
        return self.qualities[-1]

    @property
    def title_at_last(self) -> str:
        return f"{self.title}, epoch {epoch_of(self.last):g}"

    @property
    def is_complete(self) -> bool:
        return epoch_of(self.last) >= NUM_EPOCHS

    def at(self, epoch: float) -> Quality | None:
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

    def after(self, minutes: float) -> Quality | None:
        """Return the last evaluation within this time, None for before the first one or after the end."""
        done = [quality for quality in self.qualities if self.seconds_at(epoch_of(quality)) <= 60 * minutes]
        return done[-1] if done and self.seconds_at(self.rows[-1].epoch) >= 60 * minutes else None

    def first_at(self, fcd: float) -> float:
        """Return the first evaluated epoch with this FCD or less."""
        return next(epoch_of(quality) for quality in self.qualities if quality.fcd.value <= fcd)

    def minutes_to(self, epoch: float) -> Estimate:
        """Return the minutes up to an epoch, by `epoch_quarters`."""
        low, middle, high = (epoch * seconds / 60 for seconds in self.epoch_quarters)
        return Estimate(value=middle, low=low, high=high)

    @property
    def first_near_best(self) -> float:
        """The first evaluated epoch whose FCD is within 10 % of the best."""
        return self.first_at(1.1 * self.best_fcd)

    @property
    def convergence(self) -> tuple[float | None, str]:
        """The epoch at which the package's targets are met, held once more, and else why not."""
        targets = read_targets(SETS["mnist"])
        wanted = list_targets(targets.cgan if self.is_conditional else targets.vanilla)
        found = detect(self.evaluations, wanted, 1)
        if found.reached is not None:
            return self.evaluations[found.reached].epoch, ""
        return None, f"{found.why}; missed: {', '.join(found.targets)}"

    @property
    def best_fcd(self) -> float:
        return min(quality.fcd.value for quality in self.qualities)

    @property
    def first_like_last(self) -> float:
        """The first evaluated epoch whose `score` has an interval that overlaps the one at the end."""
        return next(epoch_of(quality) for quality in self.qualities if overlap(score(quality), score(self.last)))

    def read_later(self, digit: int, first: int, last: int) -> np.ndarray | None:
        """Count what the z give at epoch `last` that gave a recognisable `digit` at `first`, by digits, (11,).

        The last count is of images that are not recognisable. None where an epoch was not drawn.
        """
        if not {first, last} <= self.same_z.keys():
            return None
        before, after = (self.same_z[epoch].digits for epoch in (first, last))
        return np.bincount(np.minimum(after[before == digit], 10), minlength=11)

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


def score(quality: Quality) -> Estimate:
    """Return the share read as requested or, without labels, that of recognisable images."""
    return quality.agreement or quality.recognisable


def recognisable_of(quality: Quality) -> list[int]:
    """Return how many of all images are recognisable, by the digit that they are read as."""
    return [round(row.n * row.sample.recognisable.value) if row.sample else 0 for row in quality.per_digit]


def name_confusion(confusion: Confusion) -> str:
    return f"{confusion.asked} as {confusion.read}"


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
