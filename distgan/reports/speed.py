"""Seconds an epoch of a run, from its own log, and whether two runs may be compared by them."""

import numpy as np

from distgan.evaluation.schema import Estimate
from distgan.reports.run_data import Run, number

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
        f"{name} {mine[name]} against {theirs[name]}"
        if mine[name] != theirs[name]
        else f"{name} not recorded"
        for name in mine
        if mine[name] != theirs[name] or mine[name] == "not recorded"
    ]
