"""The tables of `distgan bench convergence`, and its runs in words."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich import box
from rich.table import Table

from distgan.benchmark.convergence_statistics import MEASURES, NEVER, evaluations_of, of_arm, survival_of, times
from distgan.benchmark.results import print_fallbacks
from distgan.evaluation.targets import CganTargets, Evaluation, Target, VanillaTargets, targets_of
from distgan.training.engines.selection import fallback_notice
from distgan.utils.figures import figure_text, new_figure, save_png
from distgan.utils.terminal import TerminalConsole

Cell = dict[str, Any]


def wanted_by(facts: dict[str, Any]) -> list[Target]:
    """The targets that the runs of a results.json had to meet."""
    of = facts["identity"]["targets"]
    is_cgan = facts["model"] == "cgan"
    return targets_of(CganTargets(**of["cgan"]) if is_cgan else VanillaTargets(**of["vanilla"]))


def outcome(cell: Cell) -> str:
    """`converged at epoch 3.5 (12 s of training)`, or why it has not."""
    kind, names = cell["outcome"], ", ".join(cell.get("targets", []))
    if kind == "converged":
        return f"converged at epoch {cell['epochs']:.4g} ({short(cell['train_s'])} s of training)"
    if kind == "not converged" and names:
        return f"not converged: {cell['why']} (missed: {names})"
    return f"{kind}: {cell['why']}" if cell.get("why") else kind


def short(value: float | None, unknown: str = "NR") -> str:
    """Return three digits, or all before the point."""
    if value is None:
        return unknown
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def show(facts: dict[str, Any], cells: list[Cell]) -> None:
    """Each run, what those of an arm say together, the tests, and what was asked of the runs."""
    console = TerminalConsole()
    print_fallbacks(console, ((name(cell), fallback_notice(cell.get("engine"))) for cell in cells))
    measured = [cell for cell in cells if cell["outcome"] not in ("unfinished", "error")]
    if measured:
        console.print_table(_runs(facts, measured))
        console.print_table(_summary(facts))
    for cell in cells:
        if cell["outcome"] not in ("converged", "unfinished"):
            style = "red" if cell["outcome"] == "error" else "yellow"
            console.print(f"{name(cell)}: {outcome(cell)}", style=style)
    if left := sum(cell["outcome"] == "unfinished" for cell in cells):
        console.print(f"{left} of {len(cells)} runs are left: the same command resumes them", style="yellow")
    if facts["tests"]:
        console.print_table(_tests(facts["tests"]))
    console.print(f"{asked(facts)}; on {facts['device']}")
    if facts["notice"]:
        console.print(f"!! Trained on {facts['notice']}. !!", style="bold yellow")


def asked(facts: dict[str, Any]) -> str:
    """The targets and the protocol in words."""
    own, protocol = facts["identity"]["targets"], facts["protocol"]
    limits = ", ".join(
        f"{target.name} at {'most' if target.is_most else 'least'} {target.limit:g}" for target in wanted_by(facts)
    )
    text = (
        f"targets of {own['frozen']}: {limits}; met {protocol['hold'] + 1} times in a row, "
        f"{protocol['evaluations_per_epoch']} evaluations per epoch, {protocol['num']:,} images each"
    )
    if protocol["num"] != own["protocol"]["num"]:
        text += f" (another measure: the targets are for {own['protocol']['num']:,})"
    return text


def name(cell: Cell) -> str:
    return f"{cell['arm']}, seed {cell['seed']}"


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )


def _runs(facts: dict[str, Any], measured: list[Cell]) -> Table:
    wanted = wanted_by(facts)
    table = _table("epochs and seconds until the targets were met; the last evaluation")
    if any(cell["resumed"] for cell in measured):
        table.caption = "* resumed after an interruption: its seconds from the start are not known"
    table.add_column("preset, seed", no_wrap=True)
    for column in ("epochs", "training", "with\nevals", "from\nstart"):
        table.add_column(column, justify="right", no_wrap=True)
    for target in wanted:
        table.add_column(target.name.replace(" ", "\n"), justify="right", no_wrap=True)
    table.add_column("met last")
    for cell in measured:
        has_converged = cell["outcome"] == "converged"
        table.add_row(
            f"{cell['arm']}, {cell['seed']}{'*' * cell['resumed']}",
            *(short(cell[measure], "?" if has_converged else "-") for measure in MEASURES),
            *("-" if (value := cell["last"][target.name]) is None else f"{value:.3f}" for target in wanted),
            _names(cell, wanted) if has_converged else "-",
        )
    return table


def _names(cell: Cell, wanted: list[Target]) -> str:
    return "all at once" if len(cell["targets"]) == len(wanted) else ", ".join(cell["targets"])


def _summary(facts: dict[str, Any]) -> Table:
    table = _table("runs together, by Kaplan and Meier: a run that ended without is censored; NR: not reached")
    for column in ("preset", "converged (95%)", "until then"):
        table.add_column(column, no_wrap=True)
    for column in ("median (95%)", "min to max"):
        table.add_column(column, justify="right", no_wrap=True)
    for arm, of in facts["summary"].items():
        rate = of["rate"]
        first = (arm, f"{of['converged']} of {of['num']} ({rate['low']:.0%} to {rate['high']:.0%})")
        for measure, words in MEASURES.items():
            if (found := of.get(measure)) is None:
                continue
            table.add_row(
                *first,
                words,
                f"{short(found['median'])} ({short(found['low'])} to {short(found['high'])})",
                f"{short(found['min'])} to {short(found['max'])}",
            )
            first = ("", "")
    return table


def _tests(tests: list[dict[str, Any]]) -> Table:
    table = _table("one against the other: ratio of medians, and log-rank test")
    for column in ("of", "", "ratio", "verdict"):
        table.add_column(column)
    for test in tests:
        ratio = "?" if test["ratio"] is None else f"{test['ratio']:.2f}"
        table.add_row(MEASURES[test["measure"]], f"{test['b']} / {test['a']}", ratio, test["words"])
    return table


# -- Picture: the share of converged runs and each number that has a target, against epochs and seconds --

_COLOURS = ("#1f5f8b", "#c4573a", "#5b8c3e", "#8a5fa8")
_CLOCKS: dict[str, Callable[[Evaluation], float]] = {
    "epochs": lambda each: each.epoch,
    "seconds of training": lambda each: each.elapsed_s,
}


class _Run(NamedTuple):
    cell: Cell
    evaluations: list[Evaluation]


def save_plot(path: Path, facts: dict[str, Any], cells: list[Cell]) -> None:
    """Plot the share of converged runs, and each number that has a target, against each clock.

    Nothing where no run has an evaluation.
    """
    runs = [_Run(cell, evaluations_of(cell)) for cell in cells if cell.get("evaluations")]
    if not runs:
        return
    rows: dict[str, list[Target]] = {}
    for target in wanted_by(facts):
        rows.setdefault(target.about, []).append(target)
    colours = dict(zip(facts["summary"], _COLOURS, strict=False))
    figure = new_figure(11, 2.5 * (len(rows) + 1) + 2, facecolor="white")
    panels = figure.subplots(len(rows) + 1, len(_CLOCKS), squeeze=False, sharex="col", sharey="row")
    _draw_shares(panels[0], cells, colours)
    for row, (about, targets) in zip(panels[1:], rows.items(), strict=True):
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
    figure.legend(handles=_legend(facts, colours), loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.align_ylabels(panels[:, 0])
    about_data = f"{facts['identity']['arms'][0]['data']['name']} on {facts['device']}"
    lines = [*asked(facts).split("; "), about_data, *filter(None, [facts["notice"]])]
    figure.suptitle(figure_text("\n".join(lines)), fontsize=9)
    save_png(figure, path)


def _draw_shares(panels: Any, cells: list[Cell], colours: dict[str, str]) -> None:
    """Draw the share of the runs of each arm that have converged, by Kaplan and Meier, with its 95 % interval."""
    for axes, measure in zip(panels, ("epochs", "train_s"), strict=True):
        for arm, colour in colours.items():
            if (found := times(of_arm(cells, arm), measure)) is None:
                continue
            curve = survival_of(found)
            is_seen = curve.times < NEVER
            ends = [0, *curve.times[is_seen]]
            share, low, high = ([0, *1 - each[is_seen]] for each in (curve.share, curve.high, curve.low))
            axes.step(ends, share, where="post", color=colour, linewidth=2)
            axes.fill_between(ends, low, high, step="post", color=colour, alpha=0.15, linewidth=0)
        axes.set_ylim(-0.04, 1.04)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("share of runs\nthat have converged")


def over_runs(curves: Sequence[tuple[list[float], list[float]]]) -> tuple[np.ndarray, np.ndarray]:
    """Times (P,), and the 10th, 50th and 90th percentile of the curves there, (3, P), from where all have begun.

    A run that has ended counts with its last number, or those that are left would speak for all.
    """
    start = max(times[0] for times, _ in curves)
    grid = np.unique([time for times, _ in curves for time in times if time >= start])
    return grid, np.percentile([np.interp(grid, *curve) for curve in curves], (10, 50, 90), axis=0)


def _numbers(run: _Run, target: Target) -> list[float]:
    return [value for each in run.evaluations if (value := target.of(each)) is not None]


def _draw(axes: Any, runs: list[_Run], target: Target, clock: Callable[[Evaluation], float], colour: str) -> None:
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
            axes.plot(times[at], numbers[at], "o", color=colour, markersize=5, markeredgecolor="white", zorder=5)
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
        handles.append(Line2D([], [], color=colour, linewidth=2, label=figure_text(words)))
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
            label="share: its 95 % interval; below: median, 10th to 90th percentile (ended runs: their last)",
        ),
    ]
