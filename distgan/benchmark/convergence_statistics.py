"""Statistics over the runs of a bench, one for each seed: survival analysis of the time to the targets, by scipy.

A run that ended without meeting them is right-censored at its last evaluation; one that diverged, at NEVER.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from scipy import stats

from distgan.benchmark import results
from distgan.benchmark.trial import OVER, clocks_at
from distgan.config.schema import ModelName
from distgan.evaluation.scores import estimate_proportion
from distgan.evaluation.targets import CganTargets, Evaluation, Protocol, VanillaTargets
from distgan.utils.files import parse_model

# What is measured of a run, and what it is called after "fewer".
MEASURES = {
    "epochs": "epochs",
    "train_s": "seconds of training",
    "mlperf_s": "seconds with evaluations",
    "cold_s": "seconds from the start",
}
LEVEL = 0.05

_NUM_PERMUTATIONS = 2000
NEVER = 1e300  # later than any time; scipy takes no infinity

Cell = dict[str, Any]


class Times(NamedTuple):
    """Times at which runs converged, and times up to which the others had not (right-censored)."""

    reached: list[float]
    censored: list[float]

    @property
    def data(self) -> stats.CensoredData:
        return stats.CensoredData(uncensored=self.reached, right=self.censored)

    @property
    def num(self) -> int:
        return len(self.reached) + len(self.censored)


def times(cells: Sequence[Cell], measure: str) -> Times | None:
    """Return the times of the runs that are over, None if there are none. Runs whose time is not known are left out."""
    reached, censored = list[float](), list[float]()
    for cell in cells:
        if cell["outcome"] == "converged" and cell[measure] is not None:
            reached.append(cell[measure])
        elif cell["outcome"] == "diverged":
            censored.append(NEVER)
        elif cell["outcome"] == "not converged" and (end := _last_time(cell, measure)) is not None:
            censored.append(end)
    return Times(reached, censored) if reached or censored else None


def _last_time(cell: Cell, measure: str) -> float | None:
    """Return the time of the last evaluation of a run, 0 of one that had none."""
    if not (found := evaluations_of(cell)):
        return 0.0
    return clocks_at(found, len(found) - 1, is_resumed=cell["resumed"])[measure]


def summarise(cells: Sequence[Cell]) -> dict[str, Any]:
    """Return how many runs of an arm converged, with an interval by Wilson 1927, and each measure of them."""
    over = [cell for cell in cells if cell["outcome"] in OVER]
    num = sum(cell["outcome"] == "converged" for cell in over)
    return {"num": len(over), "converged": num, "rate": estimate_proportion(num, len(over)).model_dump()} | {
        measure: summarise_times(found) for measure in MEASURES if (found := times(cells, measure)) is not None
    }


def summarise_times(found: Times) -> dict[str, float | int | None]:
    """Return the median with its 95 % interval `low` to `high`, and the smallest and largest time.

    The median is the first time at which half of the runs have converged. Its interval is that of Brookmeyer and
    Crowley 1982, of the interval of the survival function. None is beyond the last run.
    """
    curve = survival_of(found)
    return {
        "median": _first(curve.times, curve.share),
        "low": _first(curve.times, curve.low),
        "high": _first(curve.times, curve.high),
        "min": min(found.reached, default=None),
        "max": None if found.censored else max(found.reached),
        "num": found.num,
    }


class Survival(NamedTuple):
    """The share of runs that have not converged after each of `times`, all (T,), with its 95 % interval."""

    times: np.ndarray
    share: np.ndarray
    low: np.ndarray
    high: np.ndarray


def survival_of(found: Times) -> Survival:
    """Return the estimate of Kaplan and Meier 1958, with its log-log interval."""
    survival = stats.ecdf(found.data).sf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        interval = survival.confidence_interval(method="log-log")
    # It is NaN where all runs are left, or none is.
    low = np.where(np.isnan(interval.low.probabilities), survival.probabilities, interval.low.probabilities)
    high = np.nan_to_num(interval.high.probabilities, nan=1)
    return Survival(survival.quantiles, survival.probabilities, low, high)


def _first(times: np.ndarray, survival: np.ndarray) -> float | None:
    """Return the first time at which at most half are left."""
    reached = times[survival <= 0.5]
    return float(reached[0]) if len(reached) and reached[0] < NEVER else None


def p_value(a: Times, b: Times, alternative: Literal["two-sided", "less"]) -> float | None:
    """Return p of a log-rank permutation test; `less`: A's times are smaller. None with fewer than 2 runs on a side.

    With up to 6 runs against 6 all permutations are taken and p is exact; the asymptotic p would be too small.
    """
    if min(a.num, b.num) < 2:
        return None
    runs = [(time, is_censored) for side in (a, b) for is_censored, found in enumerate(side) for time in found]

    def statistic(ours: np.ndarray, theirs: np.ndarray) -> float:
        sides = (np.array([runs[index] for index in side]).T for side in (ours, theirs))
        return _logrank(*(stats.CensoredData.right_censored(*side) for side in sides))

    samples = np.arange(a.num), np.arange(a.num, len(runs))
    test = stats.permutation_test(
        samples, statistic, vectorized=False, n_resamples=_NUM_PERMUTATIONS, random_state=np.random.default_rng(0),
        alternative="greater" if alternative == "less" else alternative,
    )  # fmt: skip
    return float(test.pvalue)


def _logrank(a: stats.CensoredData, b: stats.CensoredData) -> float:
    """Return the statistic; 0 where no run has converged, or all have at the same time."""
    with np.errstate(invalid="ignore"):
        return float(np.nan_to_num(stats.logrank(a, b).statistic, nan=0.0))


def compared(a: str, b: str, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Compare two presets by each measure, in numbers and words."""
    rows = []
    for measure, words in MEASURES.items():
        ours, theirs = (times(of_arm(cells, name), measure) for name in (a, b))
        if ours is None or theirs is None:
            continue
        p = p_value(ours, theirs, "two-sided")
        # An earlier time is a greater hazard, and a greater statistic.
        fewer, more = (a, b) if _logrank(ours.data, theirs.data) > 0 else (b, a)
        verdict = f"{fewer} needs fewer {words} than {more}"
        rows.append(
            {"measure": measure, "a": a, "b": b, "alternative": "two-sided", "p": p}
            | {"ratio": _ratio(ours, theirs), "words": _words(verdict, "no significant difference", p)}
        )
    return rows


def more_processes(one: str, many: str, cells: Sequence[Cell]) -> dict[str, Any] | None:
    """Test if a preset needs more epochs on `many` processes than on `one`; None without runs of both."""
    ours, theirs = (times(of_arm(cells, name), "epochs") for name in (one, many))
    if ours is None or theirs is None:
        return None
    p = p_value(ours, theirs, "less")
    words = _words(
        f"{many} needs more epochs than on 1", f"{many}: no significant increase in epochs over 1 process", p
    )
    return {"measure": "epochs", "a": one, "b": many, "alternative": "less", "p": p} | {
        "ratio": _ratio(ours, theirs),
        "words": words,
    }


def of_arm(cells: Sequence[Cell], name: str) -> list[Cell]:
    return [cell for cell in cells if cell["arm"] == name]


def _ratio(a: Times, b: Times) -> float | None:
    """Return the median of B over that of A; None where one of them has none."""
    ours, theirs = summarise_times(a)["median"], summarise_times(b)["median"]
    return theirs / ours if ours and theirs is not None else None


def _words(difference: str, none: str, p: float | None) -> str:
    if p is None:
        return "not tested (fewer than 2 runs)"
    return f"{difference if p < LEVEL else none} (p = {p:.2g})"


# -- What results.json has of the runs of `distgan bench convergence`, checked when it is read --

KIND = "convergence"


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


# Those of older benches have `seen_s` besides.
_Evaluation = Annotated[Evaluation, BeforeValidator(lambda each: _fields(each))]


def _fields(each: dict[str, Any]) -> dict[str, Any]:
    return {key: each[key] for key in Evaluation._fields if key in each}


class _Cell(_Strict):
    id: str
    arm: str
    seed: int
    outcome: str


class _Ended(_Cell):
    outcome: Literal["converged", "not converged", "diverged", "error"]
    why: str
    targets: list[str]
    resumed: bool
    evaluations: list[_Evaluation]
    last: dict[str, float | None]
    epochs: float | None
    train_s: float | None
    mlperf_s: float | None
    cold_s: float | None

    @model_validator(mode="after")
    def _converged_at_an_evaluation(self) -> "_Ended":
        if self.outcome == "converged" and self.epochs not in [each.epoch for each in self.evaluations]:
            raise ValueError("epochs is at none of its evaluations")
        return self


class _Data(_Strict):
    name: str


class _Arm(_Strict):
    name: str
    preset: str
    processes: int
    data: _Data


class _Targets(_Strict):
    frozen: str
    protocol: Protocol
    cgan: CganTargets
    vanilla: VanillaTargets


class _Identity(_Strict):
    arms: list[_Arm] = Field(min_length=1)
    targets: _Targets


class _Facts(_Strict):
    identity: _Identity
    protocol: Protocol
    model: ModelName
    device: str
    notice: str | None


def read(path: Path) -> results.Results:
    """Read a results.json. Raises UserError that names the file, and the key of a value that is missing or damaged."""
    found = results.read(path, KIND)
    parse_model(_Facts, found.facts, f"{path}: is damaged", at="facts")
    for index, cell in enumerate(found.cells):
        kind = _Cell if cell.get("outcome") == "unfinished" else _Ended
        parse_model(kind, cell, f"{path}: is damaged", at=f"cells.{index}")
    return found


def evaluations_of(cell: dict[str, Any]) -> list[Evaluation]:
    """Return the evaluations of a run that has ended, by step."""
    return [Evaluation(**_fields(each)) for each in cell["evaluations"]]
