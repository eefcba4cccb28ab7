"""The tables of `distgan bench convergence`, and its runs in words."""

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from distgan.benchmark.convergence_statistics import MEASURES
from distgan.benchmark.detector import Target, targets_of
from distgan.benchmark.scaling_report import wide_console
from distgan.benchmark.targets import CganTargets, VanillaTargets

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


def short(value: float | None, unknown: str = "never") -> str:
    """Three digits, or all before the point."""
    if value is None:
        return unknown
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def show(facts: dict[str, Any], cells: list[Cell], console: Console | None = None) -> None:
    """Each run, what those of an arm say together, the tests, and what was asked of the runs."""
    print_here = (console or wide_console()).print
    measured = [cell for cell in cells if cell["outcome"] not in ("unfinished", "error")]
    if measured:
        print_here(_runs(facts, measured))
        print_here(_summary(facts))
    for cell in cells:
        if cell["outcome"] not in ("converged", "unfinished"):
            style = "red" if cell["outcome"] == "error" else "yellow"
            print_here(f"{name(cell)}: {outcome(cell)}", style=style, markup=False)
    if left := sum(cell["outcome"] == "unfinished" for cell in cells):
        print_here(
            f"{left} of {len(cells)} runs are left: the same command goes on with them", style="yellow"
        )
    if facts["tests"]:
        print_here(_tests(facts["tests"]))
    print_here(f"{asked(facts)}; on {facts['device']}", markup=False)
    if facts["notice"]:
        print_here(f"!! Trained on {facts['notice']}. !!", style="bold yellow", markup=False)


def asked(facts: dict[str, Any]) -> str:
    """The targets and the protocol in words."""
    own, protocol = facts["identity"]["targets"], facts["protocol"]
    limits = ", ".join(
        f"{target.name} at {'most' if target.is_most else 'least'} {target.limit:g}"
        for target in wanted_by(facts)
    )
    text = (
        f"targets of {own['frozen']}: {limits}; met {protocol['hold'] + 1} times in a row, "
        f"{protocol['evaluations_per_epoch']} evaluations an epoch, {protocol['num']:,} images each"
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
        table.caption = "* went on after an interruption: nobody knows its seconds from the start"
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
    table = _table("runs together; a run that never converged is infinite")
    for column in ("preset", "converged (95%)", "until then"):
        table.add_column(column, no_wrap=True)
    for column in ("median (95%)", "olympic mean", "min to max"):
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
                short(found["olympic_mean"]) if "olympic_mean" in found else "-",
                f"{short(found['min'])} to {short(found['max'])}",
            )
            first = ("", "")
    return table


def _tests(tests: list[dict[str, Any]]) -> Table:
    table = _table("one against the other: ratios of medians, and tests by Mann and Whitney")
    for column in ("of", "", "ratio (95%)", "verdict"):
        table.add_column(column)
    for test in tests:
        ratio, low, high = (
            "?" if test[key] is None else f"{test[key]:.2f}" for key in ("ratio", "low", "high")
        )
        table.add_row(
            MEASURES[test["measure"]],
            f"{test['b']} / {test['a']}",
            f"{ratio} ({low} to {high})",
            test["words"],
        )
    return table
