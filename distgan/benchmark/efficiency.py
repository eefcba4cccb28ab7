"""What the cells of a scaling measurement say together: efficiency over processes, and cost as work grows.

A cell is what one setting was measured to be, as scaling.py writes it. Of two cells only turns of the same round
are compared, which had the same neighbours on the machine; a ratio's interval is p5 to p95 over the rounds.
"""

from collections.abc import Callable
from itertools import pairwise
from statistics import median
from typing import Any

from distgan.benchmark.results import summary

Cell = dict[str, Any]

STRONG, WEAK, BATCH_SIZE, WIDTH = "strong", "weak", "batch_size", "width"


def name_of(cell: Cell) -> str:
    processes = "1 process" if cell["world_size"] == 1 else f"{cell['world_size']} processes"
    return f"{processes}, {cell['batch_size']:,} images, width {cell['width']:g}"


def of_axis(cells: list[Cell], axis: str) -> list[Cell]:
    """Those on an axis that were measured, the smallest first."""
    key = "world_size" if axis in (STRONG, WEAK) else axis
    return sorted(
        (cell for cell in cells if axis in cell["axes"] and cell["runs"]), key=lambda cell: cell[key]
    )


def derive(cells: list[Cell]) -> None:
    """Adds `efficiency` and `growth`, by axis, to the cells that have one to be compared with."""
    for cell in cells:
        cell["efficiency"], cell["growth"] = {}, {}
    for axis in (STRONG, WEAK):
        chain = of_axis(cells, axis)
        for cell in chain:
            if found := efficiency(chain[0], cell, is_strong=axis == STRONG):
                cell["efficiency"][axis] = {"than_processes": chain[0]["world_size"], **found}
    for axis in (BATCH_SIZE, WIDTH):
        chain = of_axis(cells, axis)
        for before, cell in pairwise(chain):
            if found := growth(chain[0], before, cell):
                cell["growth"][axis] = {"from": before[axis], **found}


def efficiency(first: Cell, cell: Cell, *, is_strong: bool) -> dict[str, float] | None:
    """How much of what W times the processes could do they do, relative to the `first` cell's; 1: all of it.

    Strong, W0 T(W0) / (W T(W)) at one batch; weak, T(W0) / T(W) at one batch per process; T: seconds a step.
    """
    factor = first["world_size"] / cell["world_size"] if is_strong else 1.0
    return _paired(lambda one, other: factor * one / other, first, cell)


def growth(first: Cell, before: Cell, cell: Cell) -> dict[str, Any] | None:
    """By what factor work and cost have grown since the cell `before`.

    `work`: FLOP of a step; None where they have no formula. `cost`: seconds a step. `cost_per_work` is relative
    to the `first` cell. `is_faster_than_work`: whether cost grew more than work in all of cost's interval;
    None where one round leaves it none.
    """
    cost = _paired(lambda one, other: other / one, before, cell)
    if cost is None:
        return None
    if cell["flops_per_step"] is None:
        return {"work": None, "cost": cost, "cost_per_work": None, "is_faster_than_work": None}
    work = cell["flops_per_step"] / before["flops_per_step"]
    since_first = cell["flops_per_step"] / first["flops_per_step"]
    return {
        "work": work,
        "cost": cost,
        "cost_per_work": _paired(lambda one, other: other / one / since_first, first, cell),
        # One round has no interval.
        "is_faster_than_work": cost["p5"] > work if cost["num"] > 1 else None,
    }


def _paired(ratio: Callable[[float, float], float], one: Cell, other: Cell) -> dict[str, float] | None:
    """The summary of a ratio of both cells' seconds a step over the rounds that both have; None without one."""
    ours, theirs = ({run["round"]: median(run["step_s"]) for run in cell["runs"]} for cell in (one, other))
    values = [ratio(ours[turn], theirs[turn]) for turn in ours if turn in theirs]
    return summary(values) if values else None
