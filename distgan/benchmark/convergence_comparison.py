"""Comparison of two results of `distgan bench convergence`: an older study against a newer one, arm by arm."""

from collections.abc import Sequence
from pathlib import Path

from distgan.benchmark.convergence_results import (
    MEASURES,
    OVER,
    ArmFacts,
    ConvergenceResults,
    Summary,
    Test,
    TrialResult,
)
from distgan.benchmark.convergence_statistics import LEVEL, compare_presets, summarise
from distgan.benchmark.results import differing_facts
from distgan.benchmark.tables import build_table, describe_targets, fmt2, median_with_interval, print_notes
from distgan.errors import UserError
from distgan.utils.terminal import TerminalConsole


def compare_studies(
    before: ConvergenceResults, after: ConvergenceResults, paths: tuple[Path, Path], fail_above: float | None
) -> list[str]:
    """Print medians with intervals, ratios and log-rank tests of each arm. Return a line for each regression.

    A regression is an arm that needs significantly more epochs in B, by a ratio of medians above `fail_above` or
    without a median in A or B, or that B lacks. Raises UserError for other targets, or studies without a common arm.
    """
    a, b = paths
    targets, other_targets = (describe_targets(side.facts) for side in (before, after))
    if targets != other_targets:
        raise UserError(
            f"A, B: different targets ({a}: {targets}; {b}: {other_targets}). Expected: the same targets",
            code="mismatch",
        )
    old, new = ({arm.name: arm for arm in side.facts.identity.arms} for side in (before, after))
    finished = [{cell.arm for cell in side.cells if cell.outcome in OVER} for side in (before, after)]
    shared = [name for name in old if name in finished[0] & finished[1]]
    if not shared:
        raise UserError(
            f"A, B: no common preset with finished runs in both ({a}, {b}). Expected: studies of the same presets",
            code="wrong-results",
        )
    console, rows, failures = TerminalConsole(soft_wrap=True), [], []
    for name in shared:
        sides = before.of_arm(name), after.of_arm(name)
        summaries, tests = [summarise(cells) for cells in sides], _tests(*sides)
        rows += _rows(name, summaries, tests)
        if fail_above is not None and (line := _regression(name, summaries, tests, fail_above)):
            failures.append(line)
    title = "B / A: medians until the targets were met (95%), and log-rank test; NR: not reached"
    console.print_table(build_table(title, "preset|until then|A|B|B / A|verdict", rows, left=range(6)))
    console.print(targets)
    notes = [f"{name}: {line}" for name in shared for line in _differing_settings(before, old[name], new[name])]
    for side, names in zip("AB", finished, strict=True):
        notes += [f"{name}: no finished runs in {side}" for name in {**old, **new} if name not in names]
    print_notes(console, [*differing_facts(before, after), *notes])
    if fail_above is not None:
        failures += [f"{name}: no finished runs in B" for name in old if name in finished[0] - finished[1]]
    return failures


def _tests(before: Sequence[TrialResult], after: Sequence[TrialResult]) -> dict[str, Test]:
    """Return the tests of one arm's runs of A against those of B, by measure."""
    sides = {"A": before, "B": after}
    cells = [cell.model_copy(update={"arm": side}) for side, cells in sides.items() for cell in cells]
    return {test.measure: test for test in compare_presets(cells, "A", "B")}


def _rows(name: str, summaries: Sequence[Summary], tests: dict[str, Test]) -> list[Sequence[str]]:
    converged = [f"{of.converged} of {of.num}" for of in summaries]
    rows: list[Sequence[str]] = [(name, "converged", *converged, "", "")]
    for measure, test in tests.items():
        medians = [median_with_interval(getattr(of, measure)) for of in summaries]
        ratio = "?" if test.ratio is None else fmt2(test.ratio)
        rows.append(("", MEASURES[measure], *medians, ratio, test.words))
    return rows


def _regression(name: str, summaries: Sequence[Summary], tests: dict[str, Test], limit: float) -> str:
    test = tests["epochs"]
    before, after = (of.epochs.median if of.epochs else None for of in summaries)
    # Without a median of A there is no ratio, and the test alone decides.
    is_slower = test.later == "B" if before is None else after is None or after > limit * before
    if not is_slower or test.p is None or test.p >= LEVEL:
        return ""
    ratio = f"its median is not reached in {'A' if before is None else 'B'}, and B needs more epochs"
    ratio = ratio if test.ratio is None else f"{test.ratio:.3f} times the epochs"
    return f"{name}: {ratio} (p = {test.p:.2g}). Expected: at most {limit:g}"


def _differing_settings(before: ConvergenceResults, old: ArmFacts, new: ArmFacts) -> list[str]:
    """Return the first difference of the settings or the data of an arm, if there is one."""
    identity = before.facts.identity
    one, other = (identity.model_copy(update={"arms": [arm]}) for arm in (old, new))
    if difference := one.difference(other):
        key, old_value, new_value = difference
        return [f"{key.removeprefix('arms.0.')} differs: A {old_value}, B {new_value}"]
    return []
