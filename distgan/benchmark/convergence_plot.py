"""The picture of `distgan bench convergence`: each number that has a target, against epochs and against seconds."""

from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distgan.benchmark.convergence_cells import evaluations_of
from distgan.benchmark.convergence_report import Cell, asked, short, wanted_by
from distgan.benchmark.detector import Evaluation, Target
from distgan.utils.files import write_whole

_COLOURS = ("#1f5f8b", "#c4573a", "#5b8c3e", "#8a5fa8")
_CLOCKS: dict[str, Callable[[Evaluation], float]] = {
    "epochs": lambda each: each.epoch,
    "seconds of training": lambda each: each.elapsed_s,
}


class _Run(NamedTuple):
    cell: Cell
    evaluations: list[Evaluation]


def save_plot(path: Path, facts: dict[str, Any], cells: list[Cell]) -> None:
    """A row for each number, a column for each clock. Nothing where no run has an evaluation."""
    runs = [_Run(cell, evaluations_of(cell)) for cell in cells if cell.get("evaluations")]
    if not runs:
        return
    # matplotlib takes most of a second to import, so only here.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows: dict[str, list[Target]] = {}
    for target in wanted_by(facts):
        rows.setdefault(target.about, []).append(target)
    colours = dict(zip(facts["summary"], _COLOURS, strict=False))
    figure = Figure(figsize=(11, 2.5 * len(rows) + 2), layout="constrained", dpi=120, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(len(rows), len(_CLOCKS), squeeze=False, sharex="col", sharey="row")
    for row, (about, targets) in zip(panels, rows.items(), strict=True):
        for axes, clock in zip(row, _CLOCKS.values(), strict=True):
            for target in targets:
                for arm, colour in colours.items():
                    _draw(axes, [run for run in runs if run.cell["arm"] == arm], target, clock, colour)
                axes.axhline(target.limit, linestyle="--", linewidth=1, color="#222222", zorder=1)
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel(about)
        _scale(row[0], targets, runs)
    for axes, label in zip(panels[-1], _CLOCKS, strict=True):
        axes.set_xlabel(label)
        axes.set_xlim(left=0)
    figure.legend(
        handles=_legend(facts, colours), loc="outside lower center", ncols=2, frameon=False, fontsize=9
    )
    figure.align_ylabels(panels[:, 0])
    about_data = f"{facts['identity']['arms'][0]['data']['name']} on {facts['device']}"
    lines = [*asked(facts).split("; "), about_data, *filter(None, [facts["notice"]])]
    figure.suptitle("\n".join(lines), fontsize=9)
    buffer = BytesIO()
    canvas.print_png(buffer)
    write_whole(path, lambda file: file.write(buffer.getvalue()))


def over_runs(curves: Sequence[tuple[list[float], list[float]]]) -> tuple[np.ndarray, np.ndarray]:
    """Times (P,), and the 10th, 50th and 90th percentile of the curves there, (3, P), from where all have begun.

    A run that has ended counts with its last number, or those that are left would speak for all.
    """
    start = max(times[0] for times, _ in curves)
    grid = np.unique([time for times, _ in curves for time in times if time >= start])
    return grid, np.percentile([np.interp(grid, *curve) for curve in curves], (10, 50, 90), axis=0)


def _numbers(run: _Run, target: Target) -> list[float]:
    return [value for each in run.evaluations if (value := target.of(each)) is not None]


def _draw(
    axes: Any, runs: list[_Run], target: Target, clock: Callable[[Evaluation], float], colour: str
) -> None:
    """A thin line for each run, with a mark where it converged or ended without; and what they are together."""
    curves = []
    for run in runs:
        known = [each for each in run.evaluations if target.of(each) is not None]
        times, numbers = [clock(each) for each in known], _numbers(run, target)
        if not known:
            continue
        curves.append((times, numbers))
        axes.plot(times, numbers, color=colour, linewidth=0.8, alpha=0.35)
        if run.cell["outcome"] == "converged":
            at = [each.epoch for each in known].index(run.cell["epochs"])
            axes.plot(
                times[at], numbers[at], "o", color=colour, markersize=5, markeredgecolor="white", zorder=5
            )
        else:
            axes.plot(times[-1], numbers[-1], "x", color=colour, markersize=6, zorder=5)
    if len(curves) > 1:
        grid, (low, middle, high) = over_runs(curves)
        axes.plot(grid, middle, color=colour, linewidth=2)
        axes.fill_between(grid, low, high, color=colour, alpha=0.15, linewidth=0)


def _scale(axes: Any, targets: list[Target], runs: list[_Run]) -> None:
    """A distance on a log scale. Shares with room about their targets, rather than for all that came long before."""
    from matplotlib.ticker import LogLocator, NullFormatter

    if targets[0].name == "fcd":
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        return
    series = [numbers for run in runs for target in targets if (numbers := _numbers(run, target))]
    limits = [target.limit for target in targets]
    room = 6 * min(1 - max(limits), min(limits)) if len(targets) == 1 else 2 * (max(limits) - min(limits))
    ends = [numbers[-1] for numbers in series]
    low, high = min([min(limits) - room, *ends]), max([max(limits) + room, *ends])
    lowest, highest = (choose(map(choose, [*series, limits])) for choose in (min, max))
    low, high = max(low, lowest), min(high, highest)
    margin = 0.04 * (high - low) or 0.01
    axes.set_ylim(low - margin, high + margin)


def _legend(facts: dict[str, Any], colours: dict[str, str]) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    for arm, colour in colours.items():
        of = facts["summary"][arm]
        middle = of.get("epochs", {}).get("median")
        median = f", median {short(middle)} epochs" if middle is not None else ""
        words = f"{arm}: {of['converged']} of {of['num']} runs converged{median}"
        handles.append(Line2D([], [], color=colour, linewidth=2, label=words))
    grey = "#666666"
    return [
        *handles,
        Line2D([], [], color="#222222", linestyle="--", linewidth=1, label="target"),
        Line2D([], [], color=grey, linestyle="", marker="o", markersize=5, label="a run has converged"),
        Line2D([], [], color=grey, linestyle="", marker="x", markersize=6, label="a run has ended without"),
        Line2D([], [], color=grey, linewidth=0.8, alpha=0.6, label="one run (a seed)"),
        Patch(
            color=grey,
            alpha=0.2,
            label="10th to 90th percentile and median of the runs (an ended one: its last)",
        ),
    ]
