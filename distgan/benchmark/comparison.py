"""`distgan bench compare A.json B.json`: ratios of seconds per step, cell by cell, with intervals."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich import box
from rich.table import Table

from distgan.benchmark import results
from distgan.benchmark.options import CompareConfig
from distgan.errors import CommandFailed, UserError
from distgan.utils.terminal import TerminalConsole

_DRAWN = 2_000_000  # numbers at a time
_STATED = ("device", "python", "versions", "threads", "cuda", "cudnn")


class Ratio(NamedTuple):
    """Seconds per step of B over those of A: of the medians, and the 95% interval of a bootstrap."""

    ratio: float
    low: float
    high: float

    def is_regression(self, limit: float) -> bool:
        return self.ratio > limit and self.low > 1


def compare(a: Path, b: Path, config: CompareConfig) -> None:
    """Prints a table, and what else differs. Raises UserError, and CommandFailed for a regression."""
    before, after = results.read(a, "throughput"), results.read(b, "throughput")
    old, new = (_cells(found, path) for found, path in ((before, a), (after, b)))
    speeds_a, speeds_b = ({key: cell["step_s"] for key, cell in of.items() if "step_s" in cell} for of in (old, new))
    shared = [key for key in speeds_a if key in speeds_b]
    if not shared:
        if set(speeds_a) & set(new):
            _check_regressions({}, list(speeds_a), config.fail_above)
        raise UserError(
            f"{a}, {b}: have no cell in common that has a speed in both; allowed: two of the same matrix",
            code="bad-data",
        )
    rng = np.random.default_rng(0)
    ratios = {key: ratio(speeds_a[key], speeds_b[key], rng, config.resamples) for key in shared}
    console = TerminalConsole(soft_wrap=True)
    console.print_table(_table(speeds_a, speeds_b, ratios, config.fail_above))
    mean = float(np.exp(np.mean([np.log(each.ratio) for each in ratios.values()])))
    console.print(f"geometric mean of B / A: {mean:.3f} over {len(ratios)} cells")
    for line in _differences(before, after, old, new, shared):
        console.print(f"note: {line}", style="yellow")
    _check_regressions(ratios, [key for key in speeds_a if key not in speeds_b], config.fail_above)


def ratio(a: list[list[float]], b: list[list[float]], rng: np.random.Generator, resamples: int) -> Ratio:
    """Of the seconds per step of two cells, (rounds, repeats) each.

    Rounds of two runs are no pairs, so each side is drawn by itself: rounds with replacement, and within
    each its repeats, as those of a round are more alike than those of two.
    """
    low, high = np.percentile(_medians(b, rng, resamples) / _medians(a, rng, resamples), (2.5, 97.5))
    return Ratio(_median(b) / _median(a), float(low), float(high))


def _medians(values: list[list[float]], rng: np.random.Generator, resamples: int) -> np.ndarray:
    """Of each resample, (resamples,)."""
    shortest = min(map(len, values))  # one length, unless a file was made by hand
    times = np.array([row[:shortest] for row in values])
    medians: list[float] = []
    while (left := resamples - len(medians)) > 0:
        num = min(left, max(1, _DRAWN // times.size))
        rounds = rng.integers(len(times), size=(num, len(times), 1))
        drawn = times[rounds, rng.integers(shortest, size=(num, *times.shape))]
        medians += np.median(drawn.reshape(num, -1), axis=1).tolist()
    return np.array(medians)


def _median(values: list[list[float]]) -> float:
    return float(np.median(np.concatenate([np.array(row) for row in values])))


def _cells(found: results.Results, path: Path) -> dict[str, dict[str, Any]]:
    """By id. Raises UserError for cells that bench throughput has not written."""
    cells = {}
    for index, cell in enumerate(found.cells):
        key = cell.get("id")
        if not isinstance(key, str) or key in cells:
            raise UserError(f"{path}: is damaged: cell {index} has no id of its own", code="bad-data")
        if "step_s" in cell and not _is_times(cell["step_s"]):
            raise UserError(f"{path}: is damaged: step_s of {key} is no table of seconds above 0", code="bad-data")
        cells[key] = cell
    return cells


def _is_times(value: Any) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return all(
        isinstance(row, list) and row and all(type(each) in (int, float) and each > 0 for each in row) for row in value
    )


def _table(a: dict[str, Any], b: dict[str, Any], ratios: dict[str, Ratio], limit: float | None) -> Table:
    title = "B / A of milliseconds per step; above 1, B is slower"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column("cell", overflow="fold")
    for column in ("A", "B", "B / A (95%)", ""):
        table.add_column(column, justify="right", no_wrap=True)
    for key, each in ratios.items():
        verdict = "slower" if each.low > 1 else "faster" if each.high < 1 else "no difference"
        if limit is not None and each.is_regression(limit):
            verdict = "REGRESSION"
        milliseconds = (f"{1e3 * _median(side[key]):.4g}" for side in (a, b))
        table.add_row(key, *milliseconds, f"{each.ratio:.3f} ({each.low:.3f}–{each.high:.3f})", verdict)
    return table


def _differences(
    before: results.Results, after: results.Results, old: dict[str, Any], new: dict[str, Any], shared: list[str]
) -> list[str]:
    """What else is not the same, and so may be the reason of a ratio."""
    lines = [
        f"{key} differs: A {before.facts.get(key)}, B {after.facts.get(key)}"
        for key in _STATED
        if before.facts.get(key) != after.facts.get(key)
    ]
    for key in shared:
        ran_a, ran_b = (_ran(of[key]) for of in (old, new))
        if ran_a != ran_b:
            lines.append(f"{key}: another engine ran: A {ran_a}, B {ran_b}")
    for side, of, other in (("A", old, new), ("B", new, old)):
        lines += [f"{key}: is in {side} alone" for key in of if key not in other]
        lines += [f"{key}: has no speed in {side}: {_why(of[key])}" for key in of if "step_s" not in of[key]]
    return lines


def _ran(cell: dict[str, Any]) -> str | None:
    match cell:
        case {"runs": [*_, {"engine": {"name": str(ran)}}]}:
            return ran
    return None


def _why(cell: dict[str, Any]) -> str:
    return ": ".join(str(cell[key]) for key in ("status", "why") if cell.get(key))


def _check_regressions(ratios: dict[str, Ratio], lost: list[str], limit: float | None) -> None:
    """Raises CommandFailed for cells that are slower than the limit allows, or have lost their speed."""
    if limit is None:
        return
    lines = [
        f"{key}: {each.ratio:.3f} times the seconds per step ({each.low:.3f} to {each.high:.3f}); allowed: {limit:g}"
        for key, each in ratios.items()
        if each.is_regression(limit)
    ] + [f"{key}: has no speed any more" for key in lost]
    if lines:
        raise CommandFailed("\n".join(lines))
