"""`distgan bench compare A.json B.json`: ratios of seconds per step, or of epochs to the targets."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from distgan.benchmark import results
from distgan.benchmark.convergence_results import ConvergenceResults
from distgan.benchmark.measurement import Measurement
from distgan.benchmark.options import CompareConfig
from distgan.benchmark.results import Results, SpeedResults, differing_facts
from distgan.benchmark.tables import build_table, print_notes
from distgan.errors import CommandFailed, UserError
from distgan.utils.terminal import TerminalConsole

_DRAWN = 2_000_000  # numbers per chunk of the bootstrap

Times = Sequence[Sequence[float]]  # seconds per step, (rounds, repeats)


class StepRatio(NamedTuple):
    """Seconds per step of B over those of A: of the medians, and the 95% interval of a bootstrap."""

    ratio: float
    low: float
    high: float

    def is_regression(self, limit: float | None) -> bool:
        """True if B is slower than `limit` times A, and significantly slower."""
        return limit is not None and self.ratio > limit and self.low > 1


def compare(a: Path, b: Path, config: CompareConfig) -> None:
    """Print a table, and what else differs. Raises UserError, and CommandFailed for a regression."""
    before: Results = results.read(a, SpeedResults, ConvergenceResults)
    if isinstance(before, ConvergenceResults):
        from distgan.benchmark.convergence_comparison import compare_studies  # imports scipy: seconds

        failures = compare_studies(before, results.read(b, ConvergenceResults), (a, b), config.fail_above)
    else:
        assert isinstance(before, SpeedResults)
        failures = _compare_speeds(before, results.read(b, SpeedResults, kind=before.kind), (a, b), config)
    if failures:
        raise CommandFailed("\n".join(failures))


def _compare_speeds(
    before: SpeedResults, after: SpeedResults, paths: tuple[Path, Path], config: CompareConfig
) -> list[str]:
    """Return a line for each regression."""
    old, new = ({cell.id: cell for cell in side.cells} for side in (before, after))
    had = [key for key, cell in old.items() if cell.measured]
    shared = [key for key in had if key in new and new[key].measured]
    lost = [key for key in had if key not in shared]
    if not shared and (config.fail_above is None or not any(key in new for key in had)):
        raise UserError(
            "A, B: no common cell with a speed in both ({}, {}). Expected: results with the same cells".format(*paths),
            code="wrong-results",
        )
    rng = np.random.default_rng(0)
    ratios = {key: bootstrap_ratio(_times(old[key]), _times(new[key]), rng, config.resamples) for key in shared}
    console = TerminalConsole(soft_wrap=True)

    if ratios:
        rows = []
        for key, change in ratios.items():
            verdict = "slower" if change.low > 1 else "faster" if change.high < 1 else "no difference"
            verdict = "REGRESSION" if change.is_regression(config.fail_above) else verdict
            milliseconds = (f"{1e3 * _median(_times(side[key])):.4g}" for side in (old, new))
            rows.append((key, *milliseconds, f"{change.ratio:.3f} ({change.low:.3f}–{change.high:.3f})", verdict))
        title = "B / A of milliseconds per step; above 1, B is slower"
        made = build_table(title, "cell|A|B|B / A (95%)|", rows)
        made.columns[0].overflow = "fold"
        console.print_table(made)
        mean = float(np.exp(np.mean([np.log(change.ratio) for change in ratios.values()])))
        console.print(f"geometric mean of B / A: {mean:.3f} over {len(ratios)} cells")
    print_notes(console, [*differing_facts(before, after), *_differences(old, new)])
    if config.fail_above is None:
        return []
    return [
        f"{key}: {change.ratio:.3f} times the seconds per step ({change.low:.3f} to {change.high:.3f}). Expected: "
        f"at most {config.fail_above:g}"
        for key, change in ratios.items()
        if change.is_regression(config.fail_above)
    ] + [f"{name}: no speed in B" for name in lost]


def bootstrap_ratio(a: Times, b: Times, rng: np.random.Generator, resamples: int) -> StepRatio:
    """Return the ratio of the seconds per step of two cells, (rounds, repeats) each.

    Rounds of two runs are not paired, so each side is resampled independently: rounds with replacement, and within
    each its repeats, because repeats of one round are correlated.
    """
    low, high = np.percentile(_medians(b, rng, resamples) / _medians(a, rng, resamples), (2.5, 97.5))
    return StepRatio(_median(b) / _median(a), float(low), float(high))


def _medians(values: Times, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """Return the median of each resample, (resamples,)."""
    shortest = min(map(len, values))  # one length, unless a file was made by hand
    times = np.array([row[:shortest] for row in values])
    medians: list[float] = []
    while (left := resamples - len(medians)) > 0:
        num = min(left, max(1, _DRAWN // times.size))
        rounds = rng.integers(len(times), size=(num, len(times), 1))
        drawn = times[rounds, rng.integers(shortest, size=(num, *times.shape))]
        medians += np.median(drawn.reshape(num, -1), axis=1).tolist()
    return np.array(medians)


def _median(values: Times) -> float:
    return float(np.median(np.concatenate([np.array(row) for row in values])))


def _times(cell: Measurement) -> Times:
    return [run.step_s for run in cell.measured]


def _differences(old: dict[str, Measurement], new: dict[str, Measurement]) -> list[str]:
    """Return in which cells engines or data differ, and which have no speed in one of the results."""
    lines = []
    for key in [key for key in old if key in new and old[key].measured and new[key].measured]:
        ran_a, ran_b = (", ".join(of[key].engines) or None for of in (old, new))
        lines += [f"{key}: engine differs: A {ran_a}, B {ran_b}"] if ran_a != ran_b else []
        data_a, data_b = (of[key].fingerprints for of in (old, new))
        if data_a and data_b and data_a != data_b:  # plain loops and older results have none
            lines.append(f"{key}: data differ: A {', '.join(data_a)}, B {', '.join(data_b)}")
    for side, of, other in (("A", old, new), ("B", new, old)):
        lines += [f"{cell.id}: only in {side}" for key, cell in of.items() if key not in other]
        for cell in of.values():
            if not cell.measured:
                lines.append(f"{cell.id}: no speed in {side}: {': '.join(filter(None, [cell.status, cell.why]))}")
    return lines
