"""Runs beside each other: their sizes and speeds, and what one measures against the others."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from distgan.checkpoint.resume import checkpoints_in
from distgan.errors import UserError
from distgan.evaluation.schema import Estimate, Quality
from distgan.reports.run_data import Run
from distgan.utils.files import finite, read_shapes

_PIXELS, _CLASSES = 28 * 28, 10
# What a network counts and averages, and does not learn.
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "cluster_counts")


class Size(NamedTuple):
    """`z` and `condition` are the numbers that G takes for an image; `d_condition` those that D takes of a label.

    `clusters`: of how many clusters of the training images both are told one: of all images, or of each digit's.
    """

    z: int
    condition: int
    d_condition: int
    g_parameters: int
    d_parameters: int
    path: Path
    clusters: int = 0
    digits: int = 0  # whose clusters they are; 1: of all images alike

    @property
    def takes_labels(self) -> bool:
        return self.digits > 1 if self.clusters else self.condition > 0 or self.d_condition > 0

    @property
    def condition_name(self) -> str:
        """Return what the condition is, as shown in the report."""
        if not self.clusters:
            return "the label"
        return f"the label and one of its {self.clusters} clusters" if self.takes_labels else "a cluster of images"


def size_of(run: Run) -> Size | None:
    """None before the first weights. Raises UserError for files that are damaged."""
    for folder in (run.folder / "weights", *checkpoints_in(run.folder / "checkpoints")):
        files = [folder / f"{name}.safetensors" for name in ("generator", "discriminator")]
        if all(path.is_file() for path in files):
            g, d = (read_shapes(path) for path in files)
            z, condition = _inputs(run, g)
            digits, clusters = (*g.get("cluster_counts", []), 0, 0)[:2]
            return Size(z, condition, _condition_of_d(d), _learnt(g), _learnt(d), folder, clusters, digits)
    return None


def _learnt(shapes: dict[str, list[int]]) -> int:
    return sum(math.prod(shape) for name, shape in shapes.items() if not name.endswith(_BUFFERS))


def _inputs(run: Run, shapes: dict[str, list[int]]) -> tuple[int, int]:
    """Z and the condition: what the first layer takes beyond the z of the settings is the condition."""
    stem = shapes.get("stem.0.weight")
    if stem is None:  # z is the map that the first convolution takes
        return shapes.get("main.0.weight", [0])[0] * 7 * 7, 0
    return run.config.model.latent_dim, stem[-1] - run.config.model.latent_dim


def _condition_of_d(shapes: dict[str, list[int]]) -> int:
    """A label joined to the flat image, or one with a layer of its own."""
    if "projection.weight" in shapes:
        return _CLASSES
    if "embedding.weight" in shapes:
        return shapes["embedding.weight"][-1]
    first = shapes.get("main.0.weight", [])
    return first[1] - _PIXELS if len(first) == 2 else 0


# -- Seconds per epoch of a run, from its own log, and whether two runs may be compared by them --

_RESAMPLES = 2000


def epoch_seconds(run: Run) -> tuple[Estimate, int] | None:
    """Return the median over the lines of metrics.jsonl with its bootstrap 95 % interval, and of how many; or None."""
    num_images, speeds = finite(run.fact("data", "num_images")), run.history.speeds
    if not num_images or num_images <= 0 or not speeds:
        return None
    seconds = num_images / np.array(speeds)
    rng = np.random.default_rng(0)
    # One draw after the other gives the numbers of all at once, without their memory.
    medians = [np.median(seconds[rng.integers(len(seconds), size=len(seconds))]) for _ in range(_RESAMPLES)]
    low, high = np.quantile(medians, [0.025, 0.975])
    return Estimate(value=float(np.median(seconds)), low=float(low), high=float(high)), len(speeds)


def conditions(run: Run) -> dict[str, str]:
    """What has to be alike where two speeds are compared."""
    facts = {
        "device": run.fact("device"),
        "threads": run.fact("threads"),
        "precision": run.fact("precision"),
        "number of processes": run.fact("world_size"),
    }
    data, world = run.config.data, run.fact("world_size")
    size = data.batch_size
    if size is None and data.per_rank_batch_size is not None and type(world) is int:
        size = data.per_rank_batch_size * world
    facts["batch"] = size
    # A run on a GPU has no threads that matter.
    if run.fact("device_type") == "cuda":
        facts["threads"] = "any"
    return {name: "not recorded" if value is None else str(value) for name, value in facts.items()}


def what_differs(one: Run, other: Run) -> list[str]:
    """`device: A here, B there`, a line each; nothing where the speeds can be compared."""
    mine, theirs = conditions(one), conditions(other)
    return [
        f"{name} {mine[name]} against {theirs[name]}" if mine[name] != theirs[name] else f"{name} not recorded"
        for name in mine
        if mine[name] != theirs[name] or mine[name] == "not recorded"
    ]


class ComparedRun(NamedTuple):
    """A run of the table, under a name that no other has."""

    name: str
    run: Run
    size: Size | None


def compared_runs(runs: Sequence[Run]) -> list[ComparedRun]:
    """A damaged weights file is told as a problem of its run."""
    names = [run.name for run in runs]
    labels = names if len(set(names)) == len(names) else [run.where for run in runs]
    found = []
    for label, run in zip(labels, runs, strict=True):
        size = None
        try:
            size = size_of(run)
        except UserError as error:
            run.problems.append(str(error))
        found.append(ComparedRun(label, run, size))
    return found


# -- What a run measures beside what was expected of it --

WORDS = {True: "agrees", False: "disagrees", None: "can't be told"}


class Verdict(NamedTuple):
    agrees: bool | None
    why: str

    @property
    def word(self) -> str:
        return WORDS[self.agrees]


def versus(
    own: Estimate,
    others: Sequence[tuple[str, Estimate]],
    *,
    expects_lower: bool,
    thing: str,
    shown: Callable[[Estimate], str],
) -> Verdict:
    """By the intervals of one run against each of the other kind: all as expected, all the other way, or neither."""
    words = {-1: "lies below", 0: "overlaps", 1: "lies above"}
    sides = [(-1 if own.high < other.low else 1 if own.low > other.high else 0) for _, other in others]
    why = "; ".join(
        f"its interval of {thing} {words[side]} that of {name} ({shown(other)})"
        for side, (name, other) in zip(sides, others, strict=True)
    )
    expected = -1 if expects_lower else 1
    if all(side == expected for side in sides):
        return Verdict(True, why)
    return Verdict(False if all(side == -expected for side in sides) else None, why)


def no_partner(run: Run) -> Verdict:
    other = "C-GAN" if run.kind == "GAN" else "GAN"
    return Verdict(None, f"there is no {other} beside it to compare with")


def not_alike(one: Quality, other: Quality) -> str | None:
    """Why two evaluations can't be compared, if so."""
    if one.n != other.n:
        return f"they were measured on {one.n:,} and {other.n:,} images"
    if (one.source.reference, one.source.judged_by) != (other.source.reference, other.source.judged_by):
        return "they were measured against other real images, or by judges of other data"
    if [judge.sha256 for judge in one.judges] != [judge.sha256 for judge in other.judges]:
        return "they were measured by other judges"
    return None


class Cell(NamedTuple):
    """A measurement of a run. `value` and `interval` are text, `more` lines below; `command` measures it again."""

    value: str
    verdict: Verdict
    command: str
    interval: str = ""
    more: Sequence[str] = ()
    claim: str = ""  # what was expected of this kind of network


class Row(NamedTuple):
    name: str
    meaning: str
    claims: dict[str, str]  # by kind
    cells: list[Cell]
    note: str = ""
