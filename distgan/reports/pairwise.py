"""Runs against those of the other kind: which has the better images, and which trains faster."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from distgan.checkpoint.resume import checkpoints_in
from distgan.errors import UserError
from distgan.evaluation.schema import Estimate, Quality
from distgan.reports.number_format import interval, plain, whole
from distgan.reports.report2023 import Verdict, no_partner, not_alike, versus
from distgan.reports.run_data import Run, number

_PIXELS, _CLASSES = 28 * 28, 10
# What a network counts and averages, and does not learn.
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


class Size(NamedTuple):
    """`z` and `condition` are the numbers that G takes for an image; `d_condition` those that D takes of a label."""

    z: int
    condition: int
    d_condition: int
    g_parameters: int
    d_parameters: int
    path: Path

    @property
    def takes_labels(self) -> bool:
        return self.condition > 0 or self.d_condition > 0


def size_of(run: Run) -> Size | None:
    """None before the first weights. Raises UserError for files that are damaged."""
    for folder in (run.folder / "weights", *checkpoints_in(run.folder / "checkpoints")):
        files = [folder / f"{name}.safetensors" for name in ("generator", "discriminator")]
        if all(path.is_file() for path in files):
            g, d = (_shapes(path) for path in files)
            z, condition = _inputs(run, g)
            return Size(z, condition, _condition_of_d(d), _learnt(g), _learnt(d), folder)
    return None


def _learnt(shapes: dict[str, list[int]]) -> int:
    return sum(math.prod(shape) for name, shape in shapes.items() if not name.endswith(_BUFFERS))


def _inputs(run: Run, shapes: dict[str, list[int]]) -> tuple[int, int]:
    """z and the condition: what the first layer takes beyond the z of the settings is the condition."""
    stem = shapes.get("stem.0.weight")
    if stem is None:  # z is the map that the first convolution takes
        return shapes.get("main.0.weight", [0])[0] * 7 * 7, 0
    return run.config.model.latent_dim, stem[-1] - run.config.model.latent_dim


def _condition_of_d(shapes: dict[str, list[int]]) -> int:
    """A label joined to the flat image, or one with a layer of its own."""
    if "projection.weight" in shapes:
        return _CLASSES
    first = shapes.get("main.0.weight", [])
    return first[1] - _PIXELS if len(first) == 2 else 0


def _shapes(path: Path) -> dict[str, list[int]]:
    try:
        with safe_open(path, framework="np") as file:
            return {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror or error})") from error
    except SafetensorError as error:
        raise UserError(f"{path}: is no whole safetensors file ({error})") from error


# -- Seconds an epoch of a run, from its own log, and whether two runs may be compared by them --

_RESAMPLES = 2000


def epoch_seconds(run: Run) -> tuple[Estimate, int] | None:
    """The median over the lines of metrics.jsonl with its bootstrap 95 % interval, and how many lines; or None.

    The first line is left out: it has the warm-up in it.
    """
    num_images = number(run.fact("data", "num_images"))
    rates = [number(line.get("images_per_s")) for line in run.lines[1:]]
    kept = [rate for rate in rates if rate is not None and rate > 0]
    if not num_images or num_images <= 0 or not kept:
        return None
    seconds = num_images / np.array(kept)
    draws = np.random.default_rng(0).integers(len(seconds), size=(_RESAMPLES, len(seconds)))
    medians = np.median(seconds[draws], axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return Estimate(value=float(np.median(seconds)), low=float(low), high=float(high)), len(kept)


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


# -- Runs against those of the other kind: which has the better images, and which trains faster --


class Subject(NamedTuple):
    """A run of the table, under a name that no other has."""

    name: str
    run: Run
    size: Size | None


def subjects_of(runs: Sequence[Run]) -> list[Subject]:
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
        found.append(Subject(label, run, size))
    return found


def better(run: Run, quality: Quality, others: list[Subject]) -> Verdict:
    """Of a GAN: better than each C-GAN. Of a C-GAN: most images recognisable, and each GAN better."""
    if run.kind == "C-GAN" and quality.recognisable.high < 0.5:
        return Verdict(False, "fewer than half of its images are recognisable")
    if not others:
        return no_partner(run)
    fcds, reasons = [], []
    for other in others:
        theirs = other.run.quality
        if theirs is None:
            reasons.append(f"the quality of {other.name} was not measured")
        elif reason := not_alike(quality, theirs):
            reasons.append(f"not to be compared with {other.name}: {reason}")
        else:
            fcds.append((other.name, theirs.fcd))
    if not fcds:
        return Verdict(None, "; ".join(reasons))
    verdict = versus(quality.fcd, fcds, expects_lower=run.kind == "GAN", thing="fcd", shown=whole)
    if run.kind == "C-GAN" and verdict.agrees and quality.recognisable.low <= 0.5:
        return Verdict(None, f"{verdict.why}; but whether most of its images are recognisable is open")
    return verdict


def faster(run: Run, own: Estimate, others: list[Subject]) -> Verdict:
    if not others:
        return no_partner(run)
    theirs, reasons = [], []
    for other in others:
        if differing := what_differs(run, other.run):
            reasons.append(f"not to be compared with {other.name}: {', '.join(differing)}")
        elif (found := epoch_seconds(other.run)) is None:
            reasons.append(f"the speed of {other.name} was not measured")
        else:
            theirs.append((other.name, found[0]))
    if not theirs:
        return Verdict(None, "; ".join(reasons))

    def seconds(estimate: Estimate) -> str:
        return f"{plain(estimate.value)} s, {interval(estimate)}"

    return versus(own, theirs, expects_lower=run.kind == "GAN", thing="seconds an epoch", shown=seconds)
