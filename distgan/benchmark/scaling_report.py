"""A scaling measurement as tables on the screen and as a picture."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from rich import box
from rich.table import Table

from distgan.benchmark.results import Results, fallback_in, print_fallbacks, summary
from distgan.utils.figures import figure_text, new_figure, save_png
from distgan.utils.terminal import TerminalConsole

Cell = dict[str, Any]

STRONG, WEAK, BATCH_SIZE, WIDTH = "strong", "weak", "batch_size", "width"

# Of the tables: narrow enough for 80 columns.
STYLE: dict[str, Any] = {"box": box.SIMPLE_HEAD, "title_justify": "left", "pad_edge": False, "padding": (0, 1, 0, 0)}


def name_of(cell: Cell) -> str:
    processes = "1 process" if cell["world_size"] == 1 else f"{cell['world_size']} processes"
    return f"{processes}, {cell['batch_size']:,} images, width {cell['width']:g}"


def of_axis(cells: list[Cell], axis: str) -> list[Cell]:
    """Those on an axis that were measured, the smallest first."""
    key = "world_size" if axis in (STRONG, WEAK) else axis
    return sorted((cell for cell in cells if axis in cell["axes"] and cell["runs"]), key=lambda cell: cell[key])


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

    Strong, W0 T(W0) / (W T(W)) at one batch; weak, T(W0) / T(W) at one batch per process; T: seconds per step.
    """
    factor = first["world_size"] / cell["world_size"] if is_strong else 1.0
    return _paired(lambda one, other: factor * one / other, first, cell)


def growth(first: Cell, before: Cell, cell: Cell) -> dict[str, Any] | None:
    """By what factor work and cost have grown since the cell `before`.

    `work`: FLOP of a step; None where they have no formula. `cost`: seconds per step. `cost_per_work` is relative
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
    """The summary of a ratio of both cells' seconds per step over the rounds that both have; None without one."""
    ours, theirs = ({run["round"]: median(run["step_s"]) for run in cell["runs"]} for cell in (one, other))
    values = [ratio(ours[turn], theirs[turn]) for turn in ours if turn in theirs]
    return summary(values) if values else None


# -- Tables --

_TITLES = {
    STRONG: "strong scaling: one batch, shared by the processes",
    WEAK: "weak scaling: one batch for each process",
    BATCH_SIZE: "growing work, 1 process: batch size",
    WIDTH: "growing work, 1 process: width",
}
_KINDS = {
    "tiny": "one number",
    "generator": "G's gradients",
    "discriminator": "D's gradients",
    "batch_norm": "BatchNorm's sums, all of a step",
}


def all_reduces(cells: list[Cell], world_size: int) -> dict[str, tuple[dict[str, float], int]]:
    """Of each kind of message: seconds over all cells of that many processes, and its bytes, the same in each."""
    runs = [run for cell in cells if cell["world_size"] == world_size for run in cell["runs"]]
    seconds: dict[str, list[float]] = {}
    for run in runs:
        for kind, values in run["all_reduce_s"].items():
            seconds.setdefault(kind, []).extend(values)
    return {kind: (summary(values), sum(runs[0]["messages"][kind])) for kind, values in seconds.items() if values}


def spread(found: dict[str, float] | None, form: str = "{:,.0f}", factor: float = 1.0) -> str:
    """Median (p5 to p95), times a factor that makes the unit; `-` for nothing."""
    if not found:
        return "-"
    middle, low, high = (form.format(factor * found[key]) for key in ("median", "p5", "p95"))
    return f"{middle} ({low} to {high})"


def print_tables(found: Results) -> None:
    """All of them with median (p5 to p95), and what they were measured on."""
    facts, config = found.facts, found.facts["config"]
    console = TerminalConsole()
    print_fallbacks(console, ((name_of(cell), fallback_in(cell)) for cell in found.cells))
    for axis in (STRONG, WEAK):
        if len(of_axis(found.cells, axis)) > 1:
            console.print_table(_scaling_table(found, axis))
    if any(run["all_reduce_s"] for cell in found.cells for run in cell["runs"]):
        console.print_table(_all_reduce_table(found.cells))
    for axis in (BATCH_SIZE, WIDTH):
        if len(of_axis(found.cells, axis)) > 1:
            console.print_table(_growth_table(found, axis))
    for cell in found.cells:
        if cell["error"]:
            console.print(f"failed: {name_of(cell)}: {cell['error']}")
    engines = {f"{run['engine']['name']} ({run['engine']['why']})" for cell in found.cells for run in cell["runs"]}
    console.print(
        f"{config['model']}, family {config['family']}, order {config['order']}, precision {config['precision']}, on "
        f"{facts['device']}; {facts['note']}.\nengine: {', '.join(sorted(engines)) or '-'}. Median (p5 to p95); of a "
        f"ratio over {config['rounds']} rounds, of times over all their repeats; the slowest process counts."
    )


def _scaling_table(found: Results, axis: str) -> Table:
    table = Table("processes", "images per step", "images/s", "s/epoch", "efficiency", "all-reduce's share", "GiB",
                  title=_TITLES[axis], **STYLE)  # fmt: skip
    for cell in of_axis(found.cells, axis):
        shares = [run["all_reduce_share"] for run in cell["runs"] if run["all_reduce_share"] is not None]
        table.add_row(
            str(cell["world_size"]),
            f"{cell['batch_size']:,}",
            spread(cell["images_per_s"]),
            f"{seconds_per_epoch(cell):.3g}",
            spread(cell["efficiency"].get(axis), "{:.2f}"),
            f"{median(shares):.2f}" if shares else "-",
            f"{max(run['peak_memory_gib'] for run in cell['runs']):.2f}",
        )
    return table


def _all_reduce_table(cells: list[Cell]) -> Table:
    table = Table("processes", "message", "bytes", "microseconds", "GB/s", "part of a weak step",
                  title="all-reduce alone, float32", **STYLE)  # fmt: skip
    steps = {cell["world_size"]: cell["step_s"]["median"] for cell in of_axis(cells, WEAK)}
    for size in sorted({cell["world_size"] for cell in cells}):
        for kind, (seconds, total) in all_reduces(cells, size).items():
            is_in_step = kind != "tiny"
            table.add_row(
                str(size),
                _KINDS[kind],
                f"{total:,}",
                spread(seconds, "{:,.0f}", 1e6),
                f"{total / seconds['median'] / 1e9:.2f}" if is_in_step else "-",
                f"{seconds['median'] / steps[size]:.3f}" if is_in_step and size in steps else "-",
            )
    return table


def _growth_table(found: Results, axis: str) -> Table:
    table = Table(axis.replace("_", " "), "ms/step", "s/epoch", "work x", "cost x", "cost for the work, to the first",
                  "faster than the work?", title=_TITLES[axis], **STYLE)  # fmt: skip
    for cell in of_axis(found.cells, axis):
        grown: dict[str, Any] = cell["growth"].get(axis, {})
        verdict = {True: "YES", False: "no", None: "-"}[grown.get("is_faster_than_work")]
        table.add_row(
            f"{cell[axis]:g}",
            spread(cell["step_s"], "{:,.3g}", 1e3),
            f"{seconds_per_epoch(cell):.3g}",
            f"{grown['work']:.2f}" if grown.get("work") else "-",
            spread(grown.get("cost"), "{:.2f}"),
            spread(grown.get("cost_per_work"), "{:.2f}"),
            verdict,
        )
    return table


def seconds_per_epoch(cell: Cell) -> float:
    """Of as many images as the data has, at the median rate; the short last batch counts by its images."""
    return cell["runs"][0]["num_images"] / cell["images_per_s"]["median"]


# -- Picture --


PLOT = "scaling.png"


def plot(found: Results, path: Path) -> None:
    """A panel for each axis of more than one cell, with p5 to p95 as bars and the ideal as a line.

    Nothing where no axis has more than one.
    """
    chains = {axis: of_axis(found.cells, axis) for axis in _TITLES}
    panels = [
        partial(_draw_scaling if axis in (STRONG, WEAK) else _draw_growth, chain=chain, axis=axis)
        for axis, chain in chains.items()
        if len(chain) > 1
    ]
    if not panels:
        return
    config = found.facts["config"]
    title = f"{config['model']} ({config['family']}, {config['order']}), measured on {found.facts['device']}"
    save_panels(path, panels, f"{title}\n{found.facts['note']}; bars: p5 to p95")


def save_panels(path: Path, panels: Sequence[Callable[[Any], None]], title: str) -> None:
    """A PNG of panels, two in a row, each drawn by a function of matplotlib's Axes."""
    columns, rows = min(2, len(panels)), (len(panels) + 1) // 2
    figure = new_figure(5.6 * columns + 0.8, 4 * rows + 0.8)
    for number, draw in enumerate(panels, 1):
        axes = figure.add_subplot(rows, columns, number)
        draw(axes)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.suptitle(figure_text(title), fontsize=10)
    save_png(figure, path)


def bars(axes: Any, places: list[float], found: list[dict[str, float]], label: str) -> None:
    """Medians with their p5 to p95."""
    middle = [each["median"] for each in found]
    below, above = ([abs(each[key] - each["median"]) for each in found] for key in ("p5", "p95"))
    axes.errorbar(places, middle, yerr=[below, above], marker="o", markersize=4, capsize=3, label=label)


def _draw_scaling(axes: Any, chain: list[Cell], axis: str) -> None:
    places = [cell["world_size"] for cell in chain]
    bars(axes, places, [cell["images_per_s"] for cell in chain], "measured")
    first = chain[0]["images_per_s"]["median"] / places[0]
    axes.plot(places, [first * place for place in places], "--", color="gray", linewidth=1, label="ideal")
    axes.set(title=_TITLES[axis], xlabel="processes", ylabel="images/s", xticks=places)
    axes.set_ylim(bottom=0)


def _draw_growth(axes: Any, chain: list[Cell], axis: str) -> None:
    from matplotlib.ticker import LogLocator

    places = [cell[axis] for cell in chain]
    bars(axes, places, [cell["step_s"] for cell in chain], "measured")
    first = chain[0]
    if first["flops_per_step"] is not None:
        scale = first["step_s"]["median"] / first["flops_per_step"]
        line = [scale * cell["flops_per_step"] for cell in chain]
        axes.plot(places, line, "--", color="gray", linewidth=1, label="as the work (FLOP)")
    axes.set(title=_TITLES[axis], xlabel=axis.replace("_", " "), ylabel="s per step", xscale="log", yscale="log")
    axes.set_xticks(places, [f"{place:g}" for place in places], minor=False)
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
