"""What runs of a bench say together: medians with intervals, and tests. One that never converged is infinite."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from scipy import stats

from distgan.benchmark import results
from distgan.benchmark.trial import OVER
from distgan.config.schema import ModelName
from distgan.evaluation.scores import share
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

_NUM_DRAWS = 10_000
# Up to 10 runs against 10 each way to share them out is looked at, and p is exact.
_NUM_PERMUTATIONS = 200_000

Cell = dict[str, Any]


def values(cells: Sequence[Cell], measure: str) -> list[float]:
    """Of the runs that are over. One that converged and whose number nobody knows is left out."""
    found = []
    for cell in cells:
        if cell["outcome"] == "converged":
            found += [] if cell[measure] is None else [cell[measure]]
        elif cell["outcome"] in OVER:
            found.append(math.inf)
    return found


def summarise(cells: Sequence[Cell]) -> dict[str, Any]:
    """Of the runs of an arm: how many converged, by Wilson 1927, and each measure. None is infinite."""
    over = [cell for cell in cells if cell["outcome"] in OVER]
    num = sum(cell["outcome"] == "converged" for cell in over)
    return {"num": len(over), "converged": num, "rate": share(num, len(over)).model_dump()} | {
        measure: spread(found) for measure in MEASURES if (found := values(cells, measure))
    }


def spread(found: Sequence[float]) -> dict[str, float | None]:
    """`low` and `high`: the 95 % interval of the median by a bootstrap. `olympic_mean` is absent of fewer than 3.

    None is infinite.
    """
    low, high = _interval(_medians(found, np.random.default_rng(0)))
    numbers = {"median": float(np.median(found)), "low": low, "high": high, "min": min(found), "max": max(found)}
    if len(found) > 2:
        numbers["olympic_mean"] = float(np.mean(sorted(found)[1:-1]))
    return {key: _or_none(value) for key, value in numbers.items()} | {"num": len(found)}


def ratio(a: Sequence[float], b: Sequence[float]) -> dict[str, float | None]:
    """Of the medians, B over A, and its 95 % interval by a bootstrap of each side. None is infinite, or unknown."""
    rng = np.random.default_rng(0)
    with np.errstate(invalid="ignore"):
        draws = _medians(b, rng) / _medians(a, rng)
        middle = float(np.median(b) / np.median(a))
    # Infinite over infinite could be anything.
    low, _ = _interval(np.nan_to_num(draws, nan=0.0, posinf=math.inf))
    _, high = _interval(np.nan_to_num(draws, nan=math.inf, posinf=math.inf))
    return {"ratio": _or_none(middle), "low": _or_none(low), "high": _or_none(high)}


def p_value(a: Sequence[float], b: Sequence[float], alternative: Literal["two-sided", "less"]) -> float | None:
    """By Mann and Whitney's test, over permutations; `less`: that A's are smaller. None of fewer than 2 on a side."""
    if min(len(a), len(b)) < 2:
        return None
    # Ranks, in which all that never came are alike: the test can't compute with infinities.
    ranks = stats.rankdata([*a, *b])
    method = stats.PermutationMethod(_NUM_PERMUTATIONS, random_state=np.random.default_rng(0))
    return float(stats.mannwhitneyu(ranks[: len(a)], ranks[len(a) :], alternative=alternative, method=method).pvalue)


def compared(a: str, b: str, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Two presets by each measure, in numbers and words."""
    rows = []
    for measure, words in MEASURES.items():
        ours, theirs = (values(of_arm(cells, name), measure) for name in (a, b))
        if not ours or not theirs:
            continue
        p = p_value(ours, theirs, "two-sided")
        fewer, more = (b, a) if _mean_rank(theirs, ours) < _mean_rank(ours, theirs) else (a, b)
        verdict = f"{fewer} needs fewer {words} than {more}"
        rows.append(
            {"measure": measure, "a": a, "b": b, "alternative": "two-sided", "p": p}
            | ratio(ours, theirs)
            | {"words": _words(verdict, "no significant difference", p)}
        )
    return rows


def more_processes(one: str, many: str, cells: Sequence[Cell]) -> dict[str, Any] | None:
    """Whether a preset needs more epochs on `many` processes than on `one`; None without runs of both."""
    ours, theirs = (values(of_arm(cells, name), "epochs") for name in (one, many))
    if not ours or not theirs:
        return None
    p = p_value(ours, theirs, "less")
    words = _words(
        f"{many} needs more epochs than on 1", f"{many}: no significant increase in epochs over 1 process", p
    )
    return (
        {"measure": "epochs", "a": one, "b": many, "alternative": "less", "p": p}
        | ratio(ours, theirs)
        | {"words": words}
    )


def of_arm(cells: Sequence[Cell], name: str) -> list[Cell]:
    return [cell for cell in cells if cell["arm"] == name]


def _words(difference: str, none: str, p: float | None) -> str:
    if p is None:
        return "not tested (fewer than 2 runs)"
    return f"{difference if p < LEVEL else none} (p = {p:.2g})"


def _mean_rank(own: Sequence[float], others: Sequence[float]) -> float:
    """Of the first among all."""
    return float(stats.rankdata([*own, *others])[: len(own)].mean())


def _medians(found: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """Of each bootstrap sample, (draws,)."""
    return np.median(np.array(found)[rng.integers(len(found), size=(_NUM_DRAWS, len(found)))], axis=1)


def _interval(draws: np.ndarray) -> tuple[float, float]:
    """The 2.5th and the 97.5th percentile: draws themselves, as nothing lies between a number and infinity."""
    low, high = np.sort(draws)[[int(0.025 * len(draws)), int(0.975 * len(draws)) - 1]]
    return float(low), float(high)


def _or_none(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None


# -- What results.json has of the runs of `distgan bench convergence`, checked when it is read --

KIND = "convergence"


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


# In a cell one has `seen_s` besides.
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
    """Raises UserError that names the file, and the key where something is missing or is no such thing."""
    found = results.read(path, KIND)
    parse_model(_Facts, found.facts, f"{path}: is damaged", at="facts")
    for index, cell in enumerate(found.cells):
        kind = _Cell if cell.get("outcome") == "unfinished" else _Ended
        parse_model(kind, cell, f"{path}: is damaged", at=f"cells.{index}")
    return found


def evaluations_of(cell: dict[str, Any]) -> list[Evaluation]:
    """Those of a run that has ended, in their order."""
    return [Evaluation(**_fields(each)) for each in cell["evaluations"]]
