"""When a run has converged, and what runs say together."""

import json
import math
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import fake_trainer
from helpers.fake_bench import EASY
from helpers.runs import MonkeyPatch

from distgan.benchmark import configurations as arms
from distgan.benchmark import trial
from distgan.benchmark.convergence_report import over_runs
from distgan.benchmark.convergence_statistics import compared, more_processes, p_value, ratio, spread, summarise
from distgan.benchmark.options import ConvergenceConfig
from distgan.cli import run_command
from distgan.errors import UserError
from distgan.evaluation.targets import (
    SHIPPED,
    CganTargets,
    Evaluation,
    VanillaTargets,
    detect,
    evaluations,
    read_targets,
    targets_of,
)
from distgan.utils.files import append_lines, write_whole

INF, NAN = math.inf, math.nan


CGAN = targets_of(CganTargets(max_fcd=1.0, min_agreement=0.9, min_coverage=0.7))


def evaluation(fcd: float | None, step: int = 0, **changes: Any) -> Evaluation:
    good = Evaluation(step, step / 4, step * 1.0, 0.5, fcd, 0.99, [0.95] * 10, [0.8] * 10)
    return good._replace(**changes)


def curve(*fcds: float | None) -> list[Evaluation]:
    """Four evaluations an epoch, from epoch 1/4 on."""
    return [evaluation(fcd, index + 1) for index, fcd in enumerate(fcds)]


@pytest.mark.parametrize(
    ("fcds", "reached", "why"),
    [
        ((3, 2, 0.9, 0.8, 0.7), 2, ""),
        ((3, 0.9, 0.9, 0.9, 50), 1, ""),  # a spike after it has held
        ((0.9, 3, 0.9, 0.8, 0.7), 2, ""),  # early luck
        ((1.0, 1.0, 1.0), 0, ""),  # exactly at the target
        ((1.1, 1.01, 1.001, 1.0001), None, "never met"),  # a plateau above it
        ((3, 0.9, 0.8, 3), None, "met at epoch 0.5 but not held"),
        ((3, 0.9, 2, 0.9, 0.9, 2), None, "met at epoch 0.5 but not held"),
        ((3, 2, 0.9, 0.8), None, "met at epoch 0.75, too late to be confirmed"),
        ((0.9, 2, 0.9), None, "met at epoch 0.75, too late to be confirmed"),
        ((0.9, None, 0.9, 0.9), None, "met at epoch 0.75, too late to be confirmed"),
        ((NAN, INF, None), None, "never met"),
        ((), None, "never met"),
    ],
)
def test_when_a_run_has_converged(fcds: tuple[float | None, ...], reached: int | None, why: str) -> None:
    found = detect(curve(*fcds), CGAN, hold=2)
    assert (found.reached, found.why) == (reached, why)


def test_without_a_hold_the_first_that_meets_counts() -> None:
    assert detect(curve(3, 0.9), CGAN, hold=0).reached == 1


def test_a_number_that_is_missing_meets_nothing() -> None:
    good = curve(0.9, 0.9, 0.9)
    assert detect(good, CGAN, 2).reached == 0
    for broken in (
        {"fcd": None},
        {"digits": [0.95] * 9},
        {"digits": [0.95] * 9 + [None]},
        {"coverages": []},
        {"coverages": [0.8] * 11},
    ):
        assert detect([*good[:2], good[2]._replace(**broken)], CGAN, 2).reached is None, broken
    # Not asked for in the C-GAN's targets.
    assert detect([each._replace(recognisable=None) for each in good], CGAN, 2).reached == 0


def test_the_worst_digit_counts() -> None:
    digits, coverages = [0.95] * 9 + [0.89], [0.8] * 9 + [0.69]
    missed = detect([evaluation(0.5, digits=digits)], CGAN, 0)
    assert (missed.reached, missed.targets) == (None, ["worst digit"])
    assert detect([evaluation(0.5, coverages=coverages)], CGAN, 0).targets == ["worst coverage"]


def test_shares_are_held_between_two_limits() -> None:
    wanted = targets_of(
        VanillaTargets(max_fcd=1, min_share=0.07, max_share=0.13, min_recognisable=0.9, min_coverage=0.7)
    )
    even = evaluation(0.5, digits=[0.1] * 10)
    assert detect([even], wanted, 0).reached == 0
    for changes, name in (
        ({"digits": [0.1] * 9 + [0.069]}, "smallest share"),
        ({"digits": [0.1] * 9 + [0.131]}, "largest share"),
        ({"recognisable": 0.89}, "recognisable"),
        ({"recognisable": None}, "recognisable"),
    ):
        assert detect([even._replace(**changes)], wanted, 0).targets == [name]


def test_which_targets_came_last_and_which_were_missed() -> None:
    low = [0.5] * 10
    steps = [evaluation(3, 1, digits=low), evaluation(0.9, 2, digits=low), *curve(0.9, 0.9)]
    assert detect(steps, CGAN, 1).targets == ["worst digit"]
    assert detect(curve(0.9, 0.9), CGAN, 1).targets == ["fcd", "worst digit", "worst coverage"]
    # Its best evaluation is the second.
    assert detect([steps[0], evaluation(3, 2), steps[0]], CGAN, 1).targets == ["fcd"]
    # One met all; the next ended it.
    assert detect([evaluation(0.9), evaluation(3), evaluation(9, digits=low)], CGAN, 1).targets == ["fcd"]
    assert detect([], CGAN, 1).targets == ["fcd", "worst digit", "worst coverage"]


def test_lines_become_evaluations() -> None:
    def line(step: int, **more: Any) -> dict[str, Any]:
        own = {"raw_fcd": 9.0, "ema_fcd": 1.0, "ema_recognisable": 0.9, "ema_digits": [0.5, NAN, "x"]}
        return {"step": step, "epoch": step / 10, "elapsed_s": 2.0, "eval_s": 0.5} | own | more

    lines = [
        {"step": 1, "epoch": 0.1, "elapsed_s": 1.0, "d_loss": 1.0},
        line(20),
        line(10),  # what a resume takes again may stand behind
        line(20, ema_fcd=3.0),
        line(30, elapsed_s=NAN),
        line(40, ema_fcd=NAN, ema_digits=None),
        line(50, eval_s=None),
    ]
    found = evaluations(lines)
    assert [each.step for each in found] == [10, 20, 40]
    assert [each.fcd for each in found] == [1.0, 3.0, None]
    assert found[0].digits == [0.5, None, None]
    assert found[2].digits == found[2].coverages == []
    raw = {"step": 5, "epoch": 1, "elapsed_s": 1, "eval_s": 1, "raw_fcd": 2}
    assert evaluations([raw])[0].fcd == 2


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


def test_the_shipped_targets() -> None:
    found = read_targets(SHIPPED)
    assert (found.frozen, found.protocol.num, found.protocol.hold) == ("2026-11-26", 5000, 3)
    assert found.protocol.evaluations_per_epoch == 2


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("format = 1", "format = 2", "has the format 2; allowed: 1"),
        ("format = 1\n", "", "has the format None"),
        ("format = 1", "format = ", "is not TOML"),
        ("max_fcd = 1000.0", "max_fcd = -1", "cgan.max_fcd: -1 is not allowed; allowed: greater than 0"),
        ("max_fcd = 1000.0", 'max_fcd = "1"', "cgan.max_fcd: '1' is not allowed; allowed: a valid number"),
        ("max_fcd = 1000.0", "max_fcd = nan", "cgan.max_fcd: nan is not allowed; allowed: a finite number"),
        ("max_fcd = 1000.0, ", "", "cgan.max_fcd: is missing"),
        ("max_fcd", "max_fdc", "cgan.max_fcd: is missing"),
        ("hold = 1", "hold = 1, held = 2", "protocol.held: unknown key"),
        ("min_share = 0", "min_share = 0.2", "vanilla.min_share: 0.2 is not allowed"),
        ("num = 100", "num = 10", "protocol.num: 10 is not allowed; allowed: greater than or equal to 65"),
        ('"2026-01-01"', '"today"', "frozen: 'today' is not allowed"),
        ("fcd = 2.5", "fcd = [nan]", "runs.0.fcd"),
    ],
)
def test_targets_that_are_none(before: str, after: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "targets.toml"
    assert before in EASY
    path.write_text(EASY.replace(before, after, 1))
    with pytest.raises(UserError) as error:
        read_targets(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


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


def test_a_file_that_grows_and_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = trial._Lines(path)
    assert not lines.read()
    text = fake_trainer.line(0, 3.0) + '{"step": 7, "d_loss": 1.0}\n' + fake_trainer.line(1, 2.0)
    path.write_text(text[:-9])  # the last line is being written
    assert lines.read()
    assert [each.fcd for each in lines.evaluations] == [3.0]
    assert not lines.read()
    with path.open("a") as file:
        file.write(text[-9:])
    assert lines.read()
    assert [each.fcd for each in lines.evaluations] == [3.0, 2.0]
    # A run that goes on from its first line, and what it found the second time.
    write_whole(path, lambda file: file.write(fake_trainer.line(0, 3.0).encode()))
    lines.read()
    append_lines(path, [fake_trainer.line(1, 1.5).strip()])
    assert lines.read()
    assert [each.fcd for each in lines.evaluations] == [3.0, 1.5]


def test_under_nohup_a_bench_outlives_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with pytest.raises(UserError):
            run_command("bench", "convergence")
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
