"""Statistics over the runs of a bench, one for each seed: survival analysis of the time to the targets, by scipy.

A run that ended without meeting them is right-censored at its last evaluation; one that diverged, at NEVER.
"""

import warnings
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

from distgan.benchmark.convergence_results import MEASURES, OVER, Clocks, Summary, Test, TimesSummary, TrialResult
from distgan.evaluation.scores import estimate_proportion

LEVEL = 0.05

_NUM_PERMUTATIONS = 2000
NEVER = 1e300  # later than any time; scipy takes no infinity

Cells = Sequence[TrialResult]


class Times(NamedTuple):
    """Times at which runs converged, and the right-censored times of the others."""

    reached: list[float]
    censored: list[float]

    @property
    def data(self) -> stats.CensoredData:
        return stats.CensoredData(uncensored=self.reached, right=self.censored)

    @property
    def num(self) -> int:
        return len(self.reached) + len(self.censored)


def run_times(cells: Cells, measure: str) -> Times | None:
    """Return the times of the runs that are over, None if there are none. Runs whose time is not known are left out."""
    reached, censored = list[float](), list[float]()
    for cell in cells:
        time = getattr(cell, measure)
        if cell.outcome == "converged" and time is not None:
            reached.append(time)
        elif cell.outcome == "diverged":
            censored.append(NEVER)
        elif cell.outcome == "not converged" and (end := _last_time(cell, measure)) is not None:
            censored.append(end)
    return Times(reached, censored) if reached or censored else None


def _last_time(cell: TrialResult, measure: str) -> float | None:
    """Return the time of the last evaluation of a run, 0 of one that had none."""
    if not cell.evaluations:
        return 0.0
    return getattr(Clocks.at(cell.evaluations, -1, is_resumed=cell.resumed), measure)


def summarise(cells: Cells) -> Summary:
    """Return how many runs of an arm converged, with an interval by Wilson 1927, and each measure of them."""
    over = [cell for cell in cells if cell.outcome in OVER]
    num = sum(cell.outcome == "converged" for cell in over)
    known = {measure: summarise_times(sample) for measure in MEASURES if (sample := run_times(cells, measure))}
    return Summary(num=len(over), converged=num, rate=estimate_proportion(num, len(over)), **known)


def summarise_times(sample: Times) -> TimesSummary:
    """Return the median with its 95 % interval `low` to `high`, and the smallest and largest time.

    The median is the first time at which half of the runs have converged. Its interval is that of Brookmeyer and
    Crowley 1982, of the interval of the survival function. None is beyond the last run.
    """
    curve = estimate_survival(sample)
    median, low, high = (_median_time(curve.times, values) for values in (curve.share, curve.low, curve.high))
    longest = None if sample.censored else max(sample.reached)
    return TimesSummary(
        median=median, low=low, high=high, min=min(sample.reached, default=None), max=longest, num=sample.num
    )


class Survival(NamedTuple):
    """The share of runs that have not converged after each of `times`, all (T,), with its 95 % interval."""

    times: np.ndarray
    share: np.ndarray
    low: np.ndarray
    high: np.ndarray


def estimate_survival(sample: Times) -> Survival:
    """Return the estimate of Kaplan and Meier 1958, with its log-log interval."""
    survival = stats.ecdf(sample.data).sf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        interval = survival.confidence_interval(method="log-log")
    # It is NaN where all runs remain, or none does.
    low = np.where(np.isnan(interval.low.probabilities), survival.probabilities, interval.low.probabilities)
    high = np.nan_to_num(interval.high.probabilities, nan=1)
    return Survival(survival.quantiles, survival.probabilities, low, high)


def _median_time(times: np.ndarray, survival: np.ndarray) -> float | None:
    """Return the first time at which at most half have not converged."""
    reached = times[survival <= 0.5]
    return float(reached[0]) if len(reached) and reached[0] < NEVER else None


def p_value(a: Times, b: Times, alternative: Literal["two-sided", "less"]) -> float | None:
    """Return p of a log-rank permutation test; `less`: A's times are smaller. None with fewer than 2 runs on a side.

    With up to 6 runs against 6 all permutations are taken and p is exact; the asymptotic p would be too small.
    """
    if min(a.num, b.num) < 2:
        return None
    runs = [(time, is_censored) for side in (a, b) for is_censored, durations in enumerate(side) for time in durations]

    def statistic(side_a: np.ndarray, side_b: np.ndarray) -> float:
        sides = (np.array([runs[index] for index in side]).T for side in (side_a, side_b))
        return _logrank(*(stats.CensoredData.right_censored(*side) for side in sides))

    samples = np.arange(a.num), np.arange(a.num, len(runs))
    test = stats.permutation_test(
        samples, statistic, vectorized=False, n_resamples=_NUM_PERMUTATIONS, random_state=np.random.default_rng(0),
        alternative="greater" if alternative == "less" else alternative,
    )  # fmt: skip
    return float(test.pvalue)


def _logrank(a: stats.CensoredData, b: stats.CensoredData) -> float:
    """Return the statistic; 0 if no run has converged, or all have at the same time."""
    with np.errstate(invalid="ignore"):
        return float(np.nan_to_num(stats.logrank(a, b).statistic, nan=0.0))


def compare_presets(cells: Cells, a: str, b: str) -> list[Test]:
    """Compare two presets by each measure, in numbers and words."""
    tests = []
    for measure, quantity in MEASURES.items():
        if (result := _test(cells, a, b, measure, "two-sided")) is None:
            continue
        times_a, times_b, test = result
        # An earlier time is a greater hazard, and a greater statistic.
        fewer, more = (a, b) if _logrank(times_a.data, times_b.data) > 0 else (b, a)
        test.later = more
        test.words = _verdict(f"{fewer} needs fewer {quantity} than {more}", "no significant difference", test.p)
        tests.append(test)
    return tests


def compare_processes(cells: Cells, one: str, many: str) -> list[Test]:
    """Test if a preset needs more epochs on `many` processes than on `one`; nothing without runs of both."""
    if (result := _test(cells, one, many, "epochs", "less")) is None:
        return []
    none = f"{many}: no significant increase in epochs over 1 process"
    result[-1].words = _verdict(f"{many} needs more epochs than on 1", none, result[-1].p)
    return [result[-1]]


def _test(
    cells: Cells, a: str, b: str, measure: str, alternative: Literal["two-sided", "less"]
) -> tuple[Times, Times, Test] | None:
    """Return the times of both arms and their test, with the ratio of medians B / A; None without runs of both."""
    side_a, side_b = (run_times([cell for cell in cells if cell.arm == name], measure) for name in (a, b))
    if side_a is None or side_b is None:
        return None
    p, (mine, other) = p_value(side_a, side_b, alternative), (summarise_times(side).median for side in (side_a, side_b))
    ratio = other / mine if mine and other is not None else None
    return side_a, side_b, Test(measure=measure, a=a, b=b, alternative=alternative, p=p, ratio=ratio, words="")


def _verdict(difference: str, none: str, p: float | None) -> str:
    if p is None:
        return "not tested (fewer than 2 runs)"
    return f"{difference if p < LEVEL else none} (p = {p:.2g})"
