"""Plots of `distgan bench`: seconds per epoch, scaling, predictions, convergence."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from distgan.benchmark.convergence_results import ConvergenceFacts, ConvergenceResults, TrialResult
from distgan.benchmark.convergence_statistics import NEVER, Times, estimate_survival, run_times
from distgan.benchmark.measurement import Measurement, Spread
from distgan.benchmark.ratios import AXES, STRONG, WEAK, cells_on_axis
from distgan.benchmark.results import HeldOut, PlanFacts, PlanResults, Predicted, SpeedResults
from distgan.benchmark.tables import TITLES, cell_name, common_settings, describe_targets, fmt, title_of
from distgan.evaluation.targets import Evaluation, Target
from distgan.utils.figures import figure_text, new_figure, save_png

Draw = Callable[[Any], None]  # of matplotlib's Axes

_COLOURS = {"distgan": "#1f5f8b", "pytorch": "#c4773a", "accelerate": "#d9a441"}
_PARTIAL = "PARTIAL: it was interrupted\n"


def plot_speeds(speeds: SpeedResults, path: Path) -> None:
    """Plot seconds per epoch, or for bench scaling a panel per axis. Writes no file if nothing was measured."""
    partial_words = _PARTIAL * speeds.is_partial
    if speeds.kind == "throughput":
        models = [[cell for cell in speeds.cells if cell.model == model and cell.status != "waits"]
                  for model in dict.fromkeys(cell.model for cell in speeds.cells)]  # fmt: skip
        if models := [cells for cells in models if any(cell.measured for cell in cells)]:
            title = f"{partial_words}{speeds.facts.device}\n{common_settings(speeds.cells)}"
            panels: list[Draw] = [partial(_draw_epochs, cells=cells, among=speeds.cells) for cells in models]
            save_panels(path, panels, title, heights=[0.38 * len(cells) + 0.6 for cells in models], width=9)
        return
    chains = {axis: cells_on_axis(speeds.cells, axis) for axis in AXES}
    if panels := [
        partial(_draw_scaling if axis in (STRONG, WEAK) else _draw_growth, chain=chain, axis=axis)
        for axis, chain in chains.items()
        if len(chain) > 1
    ]:
        note = (speeds.facts.note or "").replace("; ", "\n")
        title = f"{speeds.cells[0].model} ({common_settings(speeds.cells)}), measured on {speeds.facts.device}"
        save_panels(path, panels, f"{partial_words}{title}\n{note}; bars: p5 to p95")


def save_panels(
    path: Path, panels: Sequence[Draw], title: str, *, heights: Sequence[float] | None = None, width: float = 5.6
) -> None:
    """Save a PNG of panels: two in a row, or with `heights` (inches) one below another."""
    columns = 1 if heights else min(2, len(panels))
    heights = heights or [4.0] * (-(-len(panels) // columns))
    figure = new_figure(width * columns + 0.8 * (columns > 1), sum(heights) + 0.8, facecolor="white")
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    for number, draw in enumerate(panels):
        axes = figure.add_subplot(grid[number])
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
    figure.suptitle(figure_text(title), fontsize=10)
    save_png(figure, path)


def _draw_epochs(axes: Any, cells: Sequence[Measurement], among: Sequence[Measurement]) -> None:
    """Draw a bar for each cell of a model, with its p5 to p95."""
    longest = max(cell.epoch_s.p95 for cell in cells if cell.epoch_s)
    for place, cell in enumerate(cells):
        if not (of := cell.epoch_s):
            axes.text(0.01 * longest, place, f"no speed: {cell.status}", va="center", fontsize=9, color="#a01010")
            continue
        axes.barh(place, of.median, height=0.62, color=_COLOURS[cell.contender], xerr=_whiskers([of]), capsize=3)
        images_per_s = cell.images_per_s.median if cell.images_per_s else None
        text = ", ".join([f"{fmt(of.median)} s, {fmt(images_per_s)} images/s", *cell.engines])
        axes.text(of.p95 + 0.015 * longest, place, text, va="center", fontsize=9, color="#222222")
    axes.set_yticks(range(len(cells)), [figure_text(cell_name(cell, among)) for cell in cells], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.42 * longest)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("seconds per epoch: median, p5 to p95", fontsize=9)


def _whiskers(spreads: Sequence[Spread]) -> list[list[float]]:
    """Return the distances from the medians down to p5, and up to p95."""
    return [[spread.median - spread.p5 for spread in spreads], [spread.p95 - spread.median for spread in spreads]]


def _draw_spreads(axes: Any, places: list[float], spreads: list[Spread]) -> None:
    middle = [spread.median for spread in spreads]
    axes.errorbar(places, middle, yerr=_whiskers(spreads), marker="o", markersize=4, capsize=3, label="measured")


def _draw_scaling(axes: Any, chain: list[Measurement], axis: str) -> None:
    places = [float(cell.world_size) for cell in chain]
    rates = [cell.images_per_s for cell in chain if cell.images_per_s]
    _draw_spreads(axes, places, rates)
    first = rates[0].median / places[0]
    axes.plot(places, [first * place for place in places], "--", color="gray", linewidth=1, label="ideal")
    axes.set(title=TITLES[axis], xlabel="processes", ylabel="images/s", xticks=places)
    axes.set_ylim(bottom=0)


def _draw_growth(axes: Any, chain: list[Measurement], axis: str) -> None:
    from matplotlib.ticker import LogLocator

    places = [getattr(cell, axis) for cell in chain]
    seconds = [cell.step_s for cell in chain if cell.step_s]
    _draw_spreads(axes, places, seconds)
    if chain[0].flops_per_step is not None:
        scale = seconds[0].median / chain[0].flops_per_step
        line = [scale * (cell.flops_per_step or 0) for cell in chain]
        axes.plot(places, line, "--", color="gray", linewidth=1, label="as the work (FLOP)")
    axes.set(title=TITLES[axis], xlabel=axis.replace("_", " "), ylabel="s per step", xscale="log", yscale="log")
    axes.set_xticks(places, [f"{place:g}" for place in places], minor=False)
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")


def plot_plan(plan: PlanResults, path: Path) -> None:
    """Plot predicted rates and efficiencies, the fit, and the held-out errors."""
    panels: list[Draw] = [
        partial(draw_predicted, plan=plan, key="predicted_images_per_s", label="images/s, predicted"),
        partial(draw_predicted, plan=plan, key="predicted_efficiency", label="efficiency, predicted"),
        partial(_draw_fit, facts=plan.facts),
        partial(_draw_errors, rows=[row for row in plan.cells if isinstance(row, HeldOut)]),
    ]
    save_panels(path, panels, title_of(plan))


def draw_predicted(axes: Any, plan: PlanResults, key: str, label: str) -> None:
    """Draw field `key` of the predictions against the number of ranks."""
    predicted = [row for row in plan.cells if isinstance(row, Predicted)]
    for mode, color in (("weak", "tab:blue"), ("strong", "tab:orange")):
        rows = [row for row in predicted if row.mode == mode]
        places, values = [row.world_size for row in rows], [getattr(row, key) for row in rows]
        style = {"linestyle": "--", "marker": "o", "markerfacecolor": "white", "color": color}
        axes.plot(places, values, label=f"{mode}, predicted", **style)
        if key == "predicted_images_per_s" and rows:
            ideal = [values[0] * place / places[0] for place in places]
            axes.plot(places, ideal, ":", linewidth=1, color=color, label=f"{mode}, ideal")
    axes.set(title=label, xlabel="ranks", ylabel=label, xscale="log")
    ticks = sorted({row.world_size for row in predicted})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    if key == "predicted_images_per_s":
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, 1.05)


def _draw_fit(axes: Any, facts: PlanFacts) -> None:
    points = facts.points
    axes.plot(list(points), [1e3 * seconds for seconds in points.values()], "o", label="measured, 1 process")
    line = [1e3 * (facts.a_s + facts.b_s_per_image * size) for size in points]
    axes.plot(list(points), line, "--", color="gray", label="fit: a + b B")
    axes.set(title="the fit, on 1 process", xlabel="batch size", ylabel="ms per step")
    axes.set_ylim(bottom=0)


def _draw_errors(axes: Any, rows: Sequence[HeldOut]) -> None:
    names = [f"{row.world_size} x {row.batch_size // row.world_size}" for row in rows]
    axes.bar(range(len(rows)), [row.error_percent for row in rows], label="predicted against measured")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(rows)), names, rotation=30)
    axes.set(title="held out: signed error", xlabel="processes x images each", ylabel="error, %")


_ARM_COLOURS = ("#1f5f8b", "#c4573a", "#5b8c3e", "#8a5fa8")
Clock = Callable[[Evaluation], float]
_CLOCKS: dict[str, tuple[str, Clock]] = {
    "epochs": ("epochs", lambda result: result.epoch),
    "train_s": ("seconds of training", lambda result: result.elapsed_s),
}


def plot_convergence(convergence: ConvergenceResults, path: Path) -> None:
    """Plot the share of converged runs, and each metric that has a target, against each clock.

    Writes no file if no run has an evaluation.
    """
    facts, runs = convergence.facts, [cell for cell in convergence.cells if cell.evaluations]
    if not runs:
        return
    rows: dict[str, list[Target]] = {}
    for target in facts.wanted:
        rows.setdefault(target.about, []).append(target)
    colours = dict(zip(facts.summary, _ARM_COLOURS, strict=False))
    figure = new_figure(11, 2.5 * (len(rows) + 1) + 2, facecolor="white")
    panels = figure.subplots(len(rows) + 1, len(_CLOCKS), squeeze=False, sharex="col", sharey="row")
    for axes in panels.flat:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    for axes, measure in zip(panels[0], _CLOCKS, strict=True):
        for arm, colour in colours.items():
            _draw_share(axes, run_times([cell for cell in convergence.cells if cell.arm == arm], measure), colour)
        axes.set_ylim(-0.04, 1.04)
    panels[0, 0].set_ylabel("share of runs\nthat have converged")
    for row, (about, targets) in zip(panels[1:], rows.items(), strict=True):
        for axes, (_, clock) in zip(row, _CLOCKS.values(), strict=True):
            for target in targets:
                for arm, colour in colours.items():
                    _draw_runs(axes, [run for run in runs if run.arm == arm], target, clock, colour)
                axes.axhline(target.limit, linestyle="--", linewidth=1, color="#222222", zorder=1)
        row[0].set_ylabel(about)
        _set_y_scale(row[0], targets, runs)
    for axes, (label, _) in zip(panels[-1], _CLOCKS.values(), strict=True):
        axes.set_xlabel(label)
        axes.set_xlim(left=0)
    figure.legend(handles=_legend(facts, colours), loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.align_ylabels(panels[:, 0])
    about_data = f"{facts.identity.arms[0].data.name} on {facts.device}"
    lines = [*describe_targets(facts).split("; "), about_data, *filter(None, [facts.notice])]
    figure.suptitle(figure_text("\n".join(lines)), fontsize=9)
    save_png(figure, path)


def _draw_share(axes: Any, sample: Times | None, colour: str) -> None:
    """Draw the share of runs that have converged, by Kaplan and Meier, with its 95 % interval."""
    if sample is None:
        return
    curve = estimate_survival(sample)
    is_seen = curve.times < NEVER
    ends = [0, *curve.times[is_seen]]
    share, low, high = ([0, *1 - values[is_seen]] for values in (curve.share, curve.high, curve.low))
    axes.step(ends, share, where="post", color=colour, linewidth=2)
    axes.fill_between(ends, low, high, step="post", color=colour, alpha=0.15, linewidth=0)


def percentiles_over_runs(curves: Sequence[tuple[list[float], list[float]]]) -> tuple[np.ndarray, np.ndarray]:
    """Return times (P,), and the 10th, 50th and 90th percentile of the curves there, (3, P), once all have begun.

    A run that has ended counts with its last value: otherwise the remaining runs would bias the percentiles.
    """
    start = max(times[0] for times, _ in curves)
    grid = np.unique([time for times, _ in curves for time in times if time >= start])
    return grid, np.percentile([np.interp(grid, *curve) for curve in curves], (10, 50, 90), axis=0)


def _evaluation_curve(run: TrialResult, target: Target, clock: Clock) -> tuple[list[float], list[float]]:
    known = [(clock(result), value) for result in run.evaluations if (value := target.of(result)) is not None]
    return [time for time, _ in known], [value for _, value in known]


def _draw_runs(axes: Any, runs: Sequence[TrialResult], target: Target, clock: Clock, colour: str) -> None:
    """Draw a thin line for each run, marked where it converged or ended, and median and percentiles of all runs."""
    curves = []
    for run in runs:
        moments, numbers = curve = _evaluation_curve(run, target, clock)
        if not numbers:
            continue
        curves.append(curve)
        axes.plot(moments, numbers, color=colour, linewidth=0.8, alpha=0.35)
        if run.outcome == "converged":
            at = next(clock(result) for result in run.evaluations if result.epoch == run.epochs)
            number = numbers[moments.index(at)]
            axes.plot(at, number, "o", color=colour, markersize=5, markeredgecolor="white", zorder=5)
        else:
            axes.plot(moments[-1], numbers[-1], "x", color=colour, markersize=6, zorder=5)
    if len(curves) > 1:
        grid, (low, middle, high) = percentiles_over_runs(curves)
        axes.plot(grid, middle, color=colour, linewidth=2)
        axes.fill_between(grid, low, high, color=colour, alpha=0.15, linewidth=0)


def _set_y_scale(axes: Any, targets: list[Target], runs: Sequence[TrialResult]) -> None:
    """Set the y axis: log for a distance; for shares, limits around the targets instead of the full range."""
    from matplotlib.ticker import LogLocator, NullFormatter

    if targets[0].name == "fcd":
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        return
    series = [
        numbers
        for run in runs
        for target in targets
        if (numbers := _evaluation_curve(run, target, lambda result: result.epoch)[1])
    ]
    limits = [target.limit for target in targets]
    room = 6 * min(1 - max(limits), min(limits)) if len(targets) == 1 else 2 * (max(limits) - min(limits))
    ends = [numbers[-1] for numbers in series]
    low, high = min([min(limits) - room, *ends]), max([max(limits) + room, *ends])
    lowest, highest = (choose(map(choose, [*series, limits])) for choose in (min, max))
    low, high = max(low, lowest), min(high, highest)
    margin = 0.04 * (high - low) or 0.01
    axes.set_ylim(low - margin, high + margin)


def _legend(facts: ConvergenceFacts, colours: dict[str, str]) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    for arm, colour in colours.items():
        of = facts.summary[arm]
        middle = of.epochs.median if of.epochs else None
        median = f", median {fmt(middle)} epochs" if middle is not None else ""
        label = f"{arm}: {of.converged} of {of.num} runs converged{median}"
        handles.append(Line2D([], [], color=colour, linewidth=2, label=figure_text(label)))
    grey = "#666666"
    return [
        *handles,
        Line2D([], [], color="#222222", linestyle="--", linewidth=1, label="target"),
        Line2D([], [], color=grey, linestyle="", marker="o", markersize=5, label="a run has converged"),
        Line2D([], [], color=grey, linestyle="", marker="x", markersize=6, label="a run has ended without"),
        Line2D([], [], color=grey, linewidth=0.8, alpha=0.6, label="one run (a seed)"),
        Patch(color=grey, alpha=0.2, label="share: its 95 % interval; below: median, 10th to 90th percentile (ended "
              "runs: their last)"),
    ]  # fmt: skip
