"""When a run has converged, and what runs say together."""

import json
import math
import signal
from typing import Any

import numpy as np
import pytest
from helpers.runs import MonkeyPatch

from distgan.benchmark import configurations as arms
from distgan.benchmark.convergence_report import over_runs
from distgan.benchmark.convergence_statistics import compared, more_processes, p_value, ratio, spread, summarise
from distgan.benchmark.options import ConvergenceConfig
from distgan.cli import run_command
from distgan.errors import UserError

INF, NAN = math.inf, math.nan


def cells(arm: str, *epochs: float, outcome: str = "not converged", **changes: Any) -> list[dict[str, Any]]:
    """Of runs that converged after so many epochs, or ended otherwise."""
    found = []
    for each in epochs:
        number = each if each < INF else None
        clocks = dict.fromkeys(("epochs", "train_s", "mlperf_s", "cold_s"), number)
        kind = outcome if number is None else "converged"
        found.append({"arm": arm, "outcome": kind} | clocks | changes)
    return found


def test_a_run_that_never_converged_is_infinite() -> None:
    assert spread([3, 1, 2]) | {"low": 0, "high": 0} == {
        "median": 2, "low": 0, "high": 0, "min": 1, "max": 3, "olympic_mean": 2, "num": 3
    }  # fmt: skip
    one = spread([5, 1, 2, INF])
    assert (one["median"], one["olympic_mean"], one["min"], one["max"]) == (3.5, 3.5, 1, None)
    two = spread([1, 2, INF, INF])
    assert (two["median"], two["olympic_mean"]) == (None, None)
    assert spread([1, 2, 4, INF, INF])["median"] == 4
    assert "olympic_mean" not in spread([1, INF])
    assert spread([INF]) == {"median": None, "low": None, "high": None, "min": None, "max": None, "num": 1}
    assert spread([7]) == {"median": 7, "low": 7, "high": 7, "min": 7, "max": 7, "num": 1}


@pytest.mark.filterwarnings("error")
def test_the_interval_of_a_median() -> None:
    """Of 3 values the bootstrap's median is the smallest in 7 of 27 samples, and so the smallest is the lower end."""
    found = spread([1, 2, 3])
    assert (found["low"], found["high"]) == (1, 3)
    found = spread([1, 2, INF])
    assert (found["low"], found["high"]) == (1, None)
    # About 95 of 100 intervals hold what they are of.
    draw, inside = np.random.default_rng(3), 0
    for _ in range(100):
        found = spread(draw.normal(10, 1, 30).tolist())
        inside += found["low"] <= 10 <= found["high"]  # type: ignore[operator]
    assert 88 <= inside <= 100


def test_runs_that_crashed_count_nowhere() -> None:
    found = cells("a", 1, 2, INF) + cells("a", INF, outcome="diverged") + cells("a", INF, outcome="error")
    summary = summarise(found + cells("a", INF, outcome="unfinished"))
    assert (summary["num"], summary["converged"]) == (4, 2)
    # By hand, from Wilson's formula with z = 1.96.
    assert summary["rate"] == pytest.approx({"value": 0.5, "low": 0.15004, "high": 0.84996}, abs=1e-4)
    assert (summary["epochs"]["num"], summary["epochs"]["median"]) == (4, None)


def test_a_time_that_nobody_knows_is_left_out() -> None:
    found = cells("a", 1, 2) + cells("a", 3, cold_s=None)
    summary = summarise(found)
    assert (summary["train_s"]["num"], summary["cold_s"]["num"]) == (3, 2)
    assert "cold_s" not in summarise(cells("a", 3, cold_s=None))
    json.dumps(summary, allow_nan=False)


def test_ratios_of_medians() -> None:
    assert ratio([2, 2, 2], [1, 1, 1]) == {"ratio": 0.5, "low": 0.5, "high": 0.5}
    assert ratio([1, 1], [INF, INF]) == {"ratio": None, "low": None, "high": None}
    assert ratio([INF, INF], [1, 1]) == {"ratio": 0, "low": 0, "high": 0}
    # Both may be infinite at once, and then the ratio could be anything.
    assert ratio([INF, INF], [INF, INF]) == {"ratio": None, "low": 0, "high": None}
    assert ratio([1, 2, INF], [1, 2, INF])["low"] == 0


def test_the_tests_on_known_samples() -> None:
    """Of 4 against 4 apart, 2 of the 70 ways to share them out are as extreme, 1 on one side."""
    low, high = [1.0, 2, 3, 4], [5.0, 6, INF, INF]
    assert p_value(low, high, "two-sided") == pytest.approx(2 / 70)
    assert p_value(low, high, "less") == pytest.approx(1 / 70)
    assert p_value(high, low, "less") == 1
    assert p_value([1, 1, 1], [1, 1, 1], "two-sided") == 1
    assert p_value([INF] * 3, [INF] * 3, "two-sided") == 1
    assert p_value([1], [2, 3], "less") is None


def test_two_presets_in_words() -> None:
    found = cells("slow", 5, 6, 7, 8, INF) + cells("quick", 1, 2, 3, 4, 4)
    words = [row["words"] for row in compared("slow", "quick", found)]
    assert words[0] == "quick needs fewer epochs than slow (p = 0.0079)"
    assert words[1] == "quick needs fewer seconds of training than slow (p = 0.0079)"
    assert compared("quick", "slow", found)[0]["words"] == words[0]
    assert compared("quick", "slow", found)[0]["ratio"] == pytest.approx(7 / 3)
    alike = compared("a", "b", cells("a", 1, 3, 5) + cells("b", 2, 3, 4))
    assert alike[0]["words"] == "no significant difference (p = 1)"
    assert not compared("a", "b", cells("a", 1, 2))


def test_more_processes_are_tested_on_one_side() -> None:
    one, many = cells("p", 1, 2, 3, 4), cells("p on 2 processes", 5, 6, 7, 8)
    found = more_processes("p", "p on 2 processes", one + many)
    assert found is not None
    assert found["words"] == "p on 2 processes needs more epochs than on 1 (p = 0.014)"
    fewer = more_processes("p on 2 processes", "p", one + many)
    assert fewer is not None
    assert fewer["p"] == 1
    assert more_processes("p", "p on 2 processes", one) is None


def test_a_run_that_has_ended_counts_with_its_last_number() -> None:
    grid, (low, middle, high) = over_runs([([1.0, 2.0], [10.0, 4.0]), ([1.0, 3.0], [10.0, 0.0])])
    assert (grid[0], grid[-1]) == (1, 3)
    assert (middle[0], middle[-1]) == (10, 2)
    assert (low[-1], high[-1]) == (pytest.approx(0.4), pytest.approx(3.6))


def test_gpus_are_dealt_to_runs(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(arms, "count_gpus", lambda: 4)

    def dealt(**settings: Any) -> list[str]:
        return [each["CUDA_VISIBLE_DEVICES"] for each in arms.slots(ConvergenceConfig(**settings), is_cuda=True)]

    assert dealt() == ["0", "1", "2", "3"]
    assert dealt(processes=2) == ["0,1", "2,3"]
    assert dealt(processes=3) == ["0,1,2"]
    assert dealt(jobs=2) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert dealt(processes=2) == ["4,5", "6,7"]
    for settings, message in (({"processes": 5}, "--processes 5: there are 4 GPUs"), ({"jobs": 5}, "--jobs 5: ")):
        with pytest.raises(UserError, match=message):
            dealt(**settings)
    assert arms.slots(ConvergenceConfig(), is_cuda=False) == [{}]
    assert len(arms.slots(ConvergenceConfig(jobs=3), is_cuda=False)) == 3


def test_under_nohup_a_bench_outlives_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with pytest.raises(UserError):
            run_command("bench", "convergence")
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
