"""Comparison of two runs: checks that their measurements are comparable, and the order of their intervals."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from distgan.evaluation.schema import Estimate, Quality
from distgan.reports.convergence import Convergence, convergence_of
from distgan.reports.run_data import Run
from distgan.utils.files import finite_or_none

_RESAMPLES = 2000


class ComparedRun(NamedTuple):
    """A run of the table, under a unique name; `seconds`: per epoch, and over how many lines, if known."""

    name: str
    run: Run
    seconds: tuple[Estimate, int] | None
    convergence: Convergence


def compared_runs(runs: Sequence[Run]) -> list[ComparedRun]:
    """Return the runs with unique names: that of the folder, or its path if names repeat."""
    names = [run.name for run in runs]
    labels = names if len(set(names)) == len(names) else [run.where for run in runs]
    return [
        ComparedRun(label, run, epoch_seconds(run), convergence_of(run))
        for label, run in zip(labels, runs, strict=True)
    ]


class Position(NamedTuple):
    """Position of a run's interval relative to that of `other`.

    `side` is -1 below it, 1 above it, 0 if they overlap; None if they can't be compared, for the reason `why`.
    """

    other: ComparedRun
    side: int | None
    why: str = ""


Comparison = Callable[[ComparedRun, ComparedRun], Position]

SIDES = {-1: "lies below", 0: "overlaps", 1: "lies above"}


def compare_with_each(subject: ComparedRun, others: Sequence[ComparedRun], compare: Comparison) -> list[Position]:
    """Compare a run with each of the others, itself excluded."""
    return [compare(subject, other) for other in others if other.name != subject.name]


def describe(positions: Sequence[Position]) -> list[str]:
    """Return `its interval lies below that of a, b`, a line per side, and the reasons why runs can't be compared."""
    by_side = {
        phrase: [position.other.name for position in positions if position.side == side]
        for side, phrase in SIDES.items()
    }
    lines = [f"its interval {phrase} that of {', '.join(names)}" for phrase, names in by_side.items() if names]
    reasons: dict[str, list[str]] = {}
    for position in positions:
        if position.side is None:
            reasons.setdefault(position.why, []).append(position.other.name)
    return lines + [f"not to be compared with {', '.join(names)}: {why}" for why, names in reasons.items()]


def _side(estimate: Estimate, other: Estimate) -> int:
    return -1 if estimate.high < other.low else 1 if estimate.low > other.high else 0


def compare_fcd(subject: ComparedRun, other: ComparedRun) -> Position:
    """Compare two runs by fcd."""
    this, that = subject.run.quality, other.run.quality
    if this is None or that is None:
        return Position(other, None, "its quality was not measured" if that is None else "this one was not measured")
    if why := incomparable_reason(this, that):
        return Position(other, None, why)
    return Position(other, _side(this.fcd, that.fcd))


def incomparable_reason(one: Quality, other: Quality) -> str | None:
    """Return why two evaluations can't be compared, None if they can."""
    if one.n != other.n:
        return f"they were measured on {one.n:,} and {other.n:,} images"
    if (one.source.reference, one.source.judged_by) != (other.source.reference, other.source.judged_by):
        return "they were measured against other real images, or by judges of other data"
    if [judge.sha256 for judge in one.judges] != [judge.sha256 for judge in other.judges]:
        return "they were measured by other judges"
    return None


# -- Seconds per epoch of a run, from its log --


def epoch_seconds(run: Run) -> tuple[Estimate, int] | None:
    """Return the median over the lines of metrics.jsonl with its bootstrap 95 % interval, and of how many; or None."""
    num_images, batch, speeds = run.environment.get(int, "data", "num_images"), batch_size(run), run.history.speeds
    if num_images and batch and run.config.data.drop_last:
        num_images -= num_images % batch
    if not finite_or_none(num_images) or num_images is None or num_images <= 0 or not speeds:
        return None
    seconds = num_images / np.array(speeds)
    rng = np.random.default_rng(0)
    # One resample after the other gives the same numbers as all at once, in less memory.
    medians = [np.median(seconds[rng.integers(len(seconds), size=len(seconds))]) for _ in range(_RESAMPLES)]
    low, high = np.quantile(medians, [0.025, 0.975])
    return Estimate(value=float(np.median(seconds)), low=float(low), high=float(high)), len(speeds)


def batch_size(run: Run) -> int | None:
    """Return the images per step over all processes, None if the number of processes is not recorded."""
    data, world = run.config.data, run.environment.get(int, "world_size")
    if data.per_rank_batch_size is None:
        return data.batch_size
    return None if world is None else data.per_rank_batch_size * world


def speed_conditions(run: Run) -> dict[str, str]:
    """Return the conditions that must be equal for two speeds to be compared."""
    # A run on a GPU has no threads that matter.
    is_cuda = run.environment.get(str, "device_type") == "cuda"
    facts = {
        "device": run.environment.get(str, "device"),
        "threads": "any" if is_cuda else run.environment.get(int, "threads"),
        "precision": run.environment.get(str, "precision"),
        "number of processes": run.environment.get(int, "world_size"),
        "batch": batch_size(run),
        "number of images": run.environment.get(int, "data", "num_images"),
        "images": run.config.model.images.describe(),
    }
    return {name: "not recorded" if value is None else str(value) for name, value in facts.items()}


def differing_conditions(one: Run, other: Run) -> list[str]:
    """Return `device A against B` for each condition that differs; [] if the speeds can be compared."""
    first, second = speed_conditions(one), speed_conditions(other)
    return [
        f"{name} {first[name]} against {second[name]}" if first[name] != second[name] else f"{name} not recorded"
        for name in first
        if first[name] != second[name] or first[name] == "not recorded"
    ]


def compare_speed(subject: ComparedRun, other: ComparedRun) -> Position:
    """Compare two runs by seconds per epoch."""
    if differing := differing_conditions(subject.run, other.run):
        return Position(other, None, ", ".join(differing))
    this, that = subject.seconds, other.seconds
    if this is None or that is None:
        return Position(other, None, "its speed was not measured" if that is None else "this one was not measured")
    return Position(other, _side(this[0], that[0]))
