"""distgan bench convergence: when a run has converged, what runs say together; nothing is lost or left behind."""

import contextlib
import json
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess, Popen
from typing import Any

import forked
import numpy as np
import psutil
import pytest
import sham_training
import torch
from conftest import BIN, assert_user_error, wait_for

from distgan.benchmark import configurations as arms
from distgan.benchmark import results, trial
from distgan.benchmark.convergence_report import over_runs
from distgan.benchmark.convergence_statistics import compared, more_processes, p_value, ratio, spread, summarise
from distgan.benchmark.options import ConvergenceConfig
from distgan.benchmark.targets import (
    SHIPPED,
    CganTargets,
    Evaluation,
    VanillaTargets,
    detect,
    evaluations,
    read_targets,
    targets_of,
)
from distgan.cli import run_command
from distgan.data.base import Dataset
from distgan.errors import CommandFailed, Stopped, UserError
from distgan.utils.files import append_lines, write_whole

INF, NAN = math.inf, math.nan
CGAN = targets_of(CganTargets(max_fcd=1.0, min_agreement=0.9, min_coverage=0.7))
EASY = """format = 1
frozen = "2026-01-01"
runs = [{preset = "cgan-quick", seed = 0, fcd = 2.5, is_ours = true}]
protocol = {num = 100, evaluations_per_epoch = 4, hold = 1}
cgan = {max_fcd = 1000.0, min_agreement = 0.0, min_coverage = 0.0}
vanilla = {max_fcd = 1000.0, min_share = 0, max_share = 1, min_recognisable = 0, min_coverage = 0}
"""
TINY = """[model]
name = "cgan"
family = "small"
width = 0.1
[data]
name = "digits"
batch_size = 512
[optim]
d_lr = 1e-3
[run]
epochs = 2
sample_epochs = [2]
"""


def evaluation(fcd: float | None, step: int = 0, **changes: Any) -> Evaluation:
    good = Evaluation(step, step / 4, step * 1.0, 0.5, fcd, 0.99, [0.95] * 10, [0.8] * 10)
    return good._replace(**changes)


def curve(*fcds: float | None) -> list[Evaluation]:
    """Four evaluations an epoch, from epoch 1/4 on."""
    return [evaluation(fcd, index + 1) for index, fcd in enumerate(fcds)]


# -- the detector ---------------------------------------------------------------------------


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


# -- statistics -----------------------------------------------------------------------------


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
    found = ratio([2, 2, 2], [1, 1, 1])
    assert found == {"ratio": 0.5, "low": 0.5, "high": 0.5}
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
    assert alike[0]["words"] == "no difference can be told (p = 1)"
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


# -- the targets ----------------------------------------------------------------------------


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


# -- what is run ----------------------------------------------------------------------------


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Sham":
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHAM", str(tmp_path / "sham.json"))
    set_stage(monkeypatch.setattr)
    (tmp_path / "easy.toml").write_text(EASY.replace("max_fcd = 1000.0", "max_fcd = 1.0"))
    for name in ("one", "two"):
        (tmp_path / f"{name}.toml").write_text(TINY)
    return Sham(tmp_path)


def set_stage(patch: Callable[[Any, str, Any], None]) -> None:
    """A training that is none, and data that take no time."""
    images = torch.zeros(1000, 28, 28, dtype=torch.uint8)
    patch(trial, "TRAINING", ("sham_training",))
    patch(arms, "_load", lambda config: Dataset("digits", images, torch.arange(1000) % 10, "nowhere"))


class Sham:
    """`distgan bench convergence` of trainings that do as they are told."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.words = ["convergence", "--preset", "one.toml", "--targets", "easy.toml", "--out", "out"]

    def play(self, **runs: dict[str, Any]) -> None:
        named = {name.replace("_", "-"): run for name, run in runs.items()}
        (self.folder / "sham.json").write_text(json.dumps(named))

    def __call__(self, *more: object) -> dict[str, dict[str, Any]]:
        """The cells by their ids."""
        run_command("bench", *self.words, *map(str, more))
        return self.cells()

    def cells(self) -> dict[str, dict[str, Any]]:
        return {cell["id"]: cell for cell in results.read(self.folder / "out", "convergence").cells}

    @property
    def starts(self) -> list[str]:
        path = self.folder / "starts"
        return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


GOOD, BAD = {"fcd": [3, 0.9, 0.8, 0.7, 0.6, 0.5] + [0.5] * 200}, {"fcd": [3, 2, 2]}


def test_outcomes(bench: Sham, capsys: pytest.CaptureFixture[str]) -> None:
    bench.play(
        one_seed0=GOOD, one_seed1=BAD, one_seed2={"fcd": [3], "end": "nan"},
        one_seed3={"fcd": [3, 0.9, 0.8], "end": "nan"}, one_seed4={"fcd": [3, 0.9], "end": "done"},
    )  # fmt: skip
    found = bench("--seeds", 5, "--threads", 1)
    assert [cell["outcome"] for cell in found.values()] == [
        "converged", "not converged", "diverged", "converged", "not converged"
    ]  # fmt: skip
    first = found["one-seed0"]
    assert (first["epochs"], first["train_s"], first["mlperf_s"], first["images"]) == (0.5, 2.0, 3.0, 5000)
    assert 0.05 < first["cold_s"] < 30
    assert first["evaluations"][1]["seen_s"] == first["cold_s"]
    assert not first["resumed"]
    assert first["targets"] == ["fcd"]
    assert len(first["evaluations"]) < 50, "it was not stopped"
    assert found["one-seed1"]["why"] == "never met"
    assert found["one-seed1"]["targets"] == ["fcd"]
    assert found["one-seed1"]["last"]["fcd"] == 2
    assert found["one-seed1"]["images"] == 7 * 1000 + 512
    assert found["one-seed2"]["why"] == "d_loss is nan at step 12"
    assert found["one-seed4"]["why"] == "met at epoch 0.5, too late to be confirmed"
    facts = results.read(bench.folder / "out").facts
    assert facts["summary"]["one"]["converged"] == 2
    assert facts["summary"]["one"]["epochs"]["median"] is None
    assert facts["protocol"] == {"num": 100, "evaluations_per_epoch": 4, "hold": 1}
    assert (bench.folder / "out" / "convergence.png").read_bytes().startswith(b"\x89PNG")
    out, err = capsys.readouterr()
    assert "one, seed 0: converged at epoch 0.5 (2 s of training)" in err
    assert "one, seed 2: diverged: d_loss is nan at step 12" in err
    assert "2 of 5 (" in out
    assert not left_over(bench.folder)


def test_a_crash_is_told_and_the_rest_is_measured(bench: Sham) -> None:
    bench.play(one_seed0={"fcd": [3], "end": "crash"}, one_seed1=GOOD)
    with pytest.raises(CommandFailed, match=r"1 of 2 runs crashed; .*one, seed 0: rank 1: it is gone"):
        bench("--seeds", 2)
    found = bench.cells()
    assert [cell["outcome"] for cell in found.values()] == ["error", "converged"]
    # The same command tries it again, and it alone.
    bench.play(one_seed0=GOOD)
    found = bench("--seeds", 2)
    assert bench.starts == ["one-seed0", "one-seed1", "one-seed0"]
    assert found["one-seed0"]["outcome"] == "converged"
    assert found["one-seed0"]["resumed"]
    assert found["one-seed0"]["cold_s"] is None
    assert found["one-seed0"]["train_s"] == 2.0


def test_a_run_that_hangs_is_given_up(bench: Sham) -> None:
    bench.play(one_seed0={"fcd": [3], "end": "hang"})
    with pytest.raises(CommandFailed, match="one, seed 0: not done after --timeout 3 s"):
        bench("--seeds", 1, "--timeout", 3)
    assert not left_over(bench.folder)


def test_two_presets_take_turns(bench: Sham) -> None:
    seeds = range(4)
    early, late = {"fcd": [0.9] * 9}, {"fcd": [3, 3, 3, 0.9, 0.9, 0.9]}
    bench.play(**{f"one_seed{seed}": late for seed in seeds}, **{f"two_seed{seed}": early for seed in seeds})
    bench("--against", "two.toml", "--seeds", 4)
    assert bench.starts[:4] == ["one-seed0", "two-seed0", "one-seed1", "two-seed1"]
    facts = results.read(bench.folder / "out").facts
    assert facts["tests"][0]["words"] == "two needs fewer epochs than one (p = 0.029)"
    assert facts["tests"][0]["ratio"] == 0.25
    assert [test["measure"] for test in facts["tests"]] == ["epochs", "train_s", "mlperf_s", "cold_s"]


def test_more_processes_that_need_more_epochs_end_in_1(bench: Sham) -> None:
    seeds, late = range(4), {"fcd": [3, 3, 3, 0.9, 0.9, 0.9]}
    bench.play(
        **{f"one_seed{seed}": GOOD for seed in seeds}, **{f"one_processes2_seed{seed}": late for seed in seeds}
    )  # fmt: skip
    with pytest.raises(CommandFailed, match=r"^one on 2 processes needs more epochs than on 1 \(p = 0\.014\)$"):
        bench("--processes", 2, "--seeds", 4, "--jobs", 2)
    assert len(bench.starts) == 8


def test_the_words_of_a_training(bench: Sham, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = read_targets(Path("easy.toml")).protocol
    monkeypatch.setattr(arms, "cores", lambda: 8)

    def words(num_jobs: int = 1, **settings: Any) -> str:
        config = ConvergenceConfig(preset="one.toml", **settings)
        return " ".join(arms.arms(config, protocol, num_jobs, is_cuda=False)[0].words)

    # Of 2 steps an epoch 4 evaluations can't be: each step has one.
    assert "--eval-every 0 --eval-every-steps 1 --eval-num 100" in words()
    assert "--threads" not in words()
    assert "--threads 4" in words(2)
    assert "--threads 2" in words(2, processes=2)
    assert "--threads 1" in words(30)
    assert "--threads 3" in words(2, threads=3)
    # A cap leaves the schedule of the rates as it is.
    assert words(epochs=1).endswith("--max-steps 2")
    assert words(epochs=5).endswith("--epochs 5")
    # Nor does it raise the preset's own.
    Path("one.toml").write_text(TINY + "max_steps = 1\n")
    assert words(epochs=1).endswith("--max-steps 1")
    Path("one.toml").write_text(TINY.replace("[optim]", '[optim]\nlr_schedule = "linear"'))
    with pytest.raises(UserError, match="--epochs 5: the rates of this preset fall over its 2 epochs"):
        words(epochs=5)
    assert words(data="mnist", device="cpu", precision="bf16", engine="eager").startswith(
        "--config one.toml --data mnist --device cpu --precision bf16 --engine eager"
    )


def test_no_two_presets_share_a_folder(bench: Sham) -> None:
    protocol = read_targets(Path("easy.toml")).protocol
    Path("one-processes2.toml").write_text(TINY)
    config = ConvergenceConfig(preset="one.toml", against="one-processes2.toml", processes=2)
    with pytest.raises(UserError, match=r"--against one-processes2\.toml: has the name of --preset one\.toml"):
        arms.arms(config, protocol, 1, is_cuda=False)


def test_an_odd_number_of_steps(bench: Sham) -> None:
    Path("one.toml").write_text(TINY.replace("512", "91"))  # 11 steps an epoch, the last of 90 images
    bench.play(one_seed0=BAD)
    arm = arms.arms(ConvergenceConfig(preset="one.toml"), read_targets(SHIPPED).protocol, 1, is_cuda=False)[0]
    assert arm.steps_per_epoch == 11
    assert "--eval-every-steps 5" in " ".join(arm.words)
    assert [arm.images(step) for step in (5, 11, 12, 22)] == [455, 1000, 1091, 2000]


def test_gpus_are_dealt_to_runs(monkeypatch: pytest.MonkeyPatch) -> None:
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


# -- what is interrupted --------------------------------------------------------------------


def _perform(words: list[str], folder: Path, environment: dict[str, str]) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream.fileno())
    set_stage(setattr)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from distgan.cli import main

    sys.exit(main(["bench", *words]))


def left_over(folder: Path) -> list[int]:
    """The trainings of a bench in this folder that are still there."""
    path = folder / "starts"
    pids = [int(line.split()[1]) for line in path.read_text().splitlines()] if path.exists() else []
    alive = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                alive.append(pid)
    return alive


@pytest.fixture
def interrupted(bench: Sham) -> Iterator[Callable[[int], Any]]:
    """Starts a bench of three runs in a process of its own, and sends it a signal in the middle of the second."""
    processes = []

    def interrupt(signum: int) -> Any:
        slow = {"fcd": [3] * 400, "pause": 0.1}
        bench.play(one_seed0=GOOD, one_seed1=slow, one_seed2=GOOD)
        words = [*bench.words, "--seeds", "3"]
        process = forked.CONTEXT.Process(target=_perform, args=(words, bench.folder, dict(os.environ)))
        processes.append(process)
        process.start()
        end = time.monotonic() + 120
        lines = bench.folder / "out" / "runs" / "one-seed1" / "metrics.jsonl"
        while not (lines.exists() and lines.read_text().count("\n") > 2):
            assert process.is_alive(), (bench.folder / "said").read_text()
            assert time.monotonic() < end
            time.sleep(0.02)
        assert process.pid is not None
        os.kill(process.pid, signum)
        process.join(60)
        return process.exitcode

    yield interrupt
    for process in processes:
        process.kill()
        process.join()
    for pid in left_over(bench.folder):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_bench_that_is_stopped_keeps_what_it_has(signum: int, bench: Sham, interrupted: Callable[[int], Any]) -> None:
    assert interrupted(signum) == 130
    assert not left_over(bench.folder)
    assert [cell["outcome"] for cell in bench.cells().values()] == ["converged", "unfinished", "unfinished"]
    assert json.loads((bench.folder / "out/runs/one-seed1/status.json").read_text())["exit_code"] == 143
    said = (bench.folder / "said").read_text()
    assert "2 of 3 runs are left: the same command goes on with them" in said
    assert "Traceback" not in said


def test_a_bench_that_was_killed_goes_on(bench: Sham, interrupted: Callable[[int], Any]) -> None:
    assert interrupted(signal.SIGKILL) == -signal.SIGKILL
    before = bench.cells()
    assert [cell["outcome"] for cell in before.values()] == ["converged", "unfinished", "unfinished"]
    lines = (bench.folder / "out/runs/one-seed1/metrics.jsonl").read_text().count("\n")
    bench.play(one_seed1={"fcd": [3] * lines + [0.9] * 200}, one_seed2=GOOD)
    found = bench("--seeds", 3)  # at once, while the training may still be leaving
    assert bench.starts == ["one-seed0", "one-seed1", "one-seed1", "one-seed2"]
    assert found["one-seed0"] == before["one-seed0"]
    assert [cell["resumed"] for cell in found.values()] == [False, True, False]
    assert [cell["cold_s"] is None for cell in found.values()] == [False, True, False]
    assert all(cell["outcome"] == "converged" for cell in found.values())
    assert found["one-seed1"]["epochs"] >= lines / 4
    assert not left_over(bench.folder)


def test_a_run_that_ended_before_the_bench_could_say_so(bench: Sham) -> None:
    bench.play(one_seed0=GOOD, one_seed1=BAD)
    bench("--seeds", 2)
    path = bench.folder / "out" / "results.json"
    content = json.loads(path.read_text())
    for cell in content["cells"]:
        cell["outcome"] = "unfinished"
    path.write_text(json.dumps(content))
    found = bench("--seeds", 2)
    assert [cell["outcome"] for cell in found.values()] == ["converged", "not converged"]
    assert len(bench.starts) == 2, "they were run again"


def test_a_file_that_grows_and_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = trial._Lines(path)
    assert not lines.read()
    text = sham_training.line(0, 3.0) + '{"step": 7, "d_loss": 1.0}\n' + sham_training.line(1, 2.0)
    path.write_text(text[:-9])  # the last line is being written
    assert lines.read()
    assert [each.fcd for each in lines.evaluations] == [3.0]
    assert not lines.read()
    with path.open("a") as file:
        file.write(text[-9:])
    assert lines.read()
    assert [each.fcd for each in lines.evaluations] == [3.0, 2.0]
    # A run that goes on from its first line, and what it found the second time.
    write_whole(path, lambda file: file.write(sham_training.line(0, 3.0).encode()))
    lines.read()
    append_lines(path, [sham_training.line(1, 1.5).strip()])
    assert lines.read()
    assert [each.fcd for each in lines.evaluations] == [3.0, 1.5]


def test_a_training_that_a_killed_bench_left_is_waited_for(
    bench: Sham, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.play(one_seed0=GOOD)
    folder = bench.folder / "out" / "runs" / "one-seed0"
    folder.mkdir(parents=True)
    (folder / "status.json").write_text(json.dumps({"pid": 4711, "host": "here"}))
    handle = trial.lock(folder)
    monkeypatch.setattr(trial, "_GRACE_S", 0.3)
    with pytest.raises(UserError, match="process 4711 on here trains in it"):
        trial_of(bench).await_folder(print)
    os.close(handle)
    trial_of(bench).await_folder(print)
    assert "waits for the end of a training" in capsys.readouterr().out


def trial_of(bench: Sham) -> trial.Trial:
    protocol = read_targets(Path("easy.toml")).protocol
    arm = arms.arms(ConvergenceConfig(preset="one.toml"), protocol, 1, is_cuda=False)[0]
    return trial.Trial(arm, 0, Path("out"), CGAN, 1)


def test_a_module_on_a_tether_ends_with_its_parent(start: Callable[..., Popen[str]], tmp_path: Path) -> None:
    """The parent is a shell that is killed; what it started is asked to stop."""
    (tmp_path / "child.py").write_text(
        "import os, signal, time\n"
        "def stop(*_): open('stopped', 'w').close(); os._exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\nopen('started', 'w').close()\ntime.sleep(60)\n"
    )
    parent = (
        "import subprocess, sys, time; "
        "command = [sys.executable, '-m', 'distgan.benchmark.exit_with_parent', 'child']; "
        "p = subprocess.Popen(command, stdin=subprocess.PIPE); "
        "time.sleep(60)"
    )
    process = start("env", f"PYTHONPATH={tmp_path}", sys.executable, "-c", parent)
    wait_for((tmp_path / "started").exists, process)
    os.kill(process.pid, signal.SIGKILL)
    end = time.monotonic() + 20
    while not (tmp_path / "stopped").exists():
        assert time.monotonic() < end, "it goes on without its parent"
        time.sleep(0.02)


# -- more seeds, and benches of other machines ---------------------------------------------------


def test_more_seeds_and_other_seeds_go_on_in_the_same_folder(bench: Sham) -> None:
    bench.play(**{f"one_seed{seed}": GOOD for seed in range(6)})
    bench("--seeds", 1)
    assert list(bench("--seeds", 2, "--first-seed", 4)) == ["one-seed0", "one-seed4", "one-seed5"]
    found = bench("--seeds", 3)
    assert list(found) == [f"one-seed{seed}" for seed in (0, 1, 2, 4, 5)]
    assert all(cell["outcome"] == "converged" for cell in found.values())
    assert bench.starts == [f"one-seed{seed}" for seed in (0, 4, 5, 1, 2)]
    assert results.read(bench.folder / "out", "convergence").facts["summary"]["one"]["num"] == 5


@pytest.mark.parametrize(("end", "code"), [("limit", 75), ("usr1", 138)])
def test_a_training_that_stops_stops_the_bench(bench: Sham, end: str, code: int) -> None:
    bench.play(one_seed0={"fcd": [3, 2], "end": end}, one_seed1=GOOD)
    with pytest.raises(Stopped, match="one, seed 0: stopped; the same command goes on with it") as stopped:
        bench("--seeds", 2)
    assert stopped.value.exit_code == code
    assert [cell["outcome"] for cell in bench.cells().values()] == ["unfinished", "unfinished"]
    bench.play(one_seed0=GOOD, one_seed1=GOOD)
    found = bench("--seeds", 2)
    assert [cell["outcome"] for cell in found.values()] == ["converged", "converged"]
    assert [cell["resumed"] for cell in found.values()] == [True, False]
    assert bench.starts == ["one-seed0", "one-seed0", "one-seed1"]


def test_a_run_that_is_done_without_an_evaluation_is_no_measurement(bench: Sham) -> None:
    bench.play(one_seed0={"fcd": [], "end": "done"})
    with pytest.raises(CommandFailed, match=r"metrics\.jsonl holds no evaluation of a run that is done"):
        bench("--seeds", 1)
    assert bench.cells()["one-seed0"]["outcome"] == "error"
    assert results.read(bench.folder / "out", "convergence").facts["summary"]["one"]["num"] == 0


def test_benches_of_a_seed_each_are_joined(bench: Sham, capsys: pytest.CaptureFixture[str]) -> None:
    bench.play(one_seed0=GOOD, one_seed1=BAD, one_seed2=GOOD)
    together = bench("--seeds", 3)
    whole = results.read(bench.folder / "out", "convergence").facts
    for seed in (2, 0, 1):
        bench.words[-1] = f"array/seed-{seed}"
        run_command("bench", *bench.words, "--seeds", "1", "--first-seed", str(seed))
    capsys.readouterr()
    run_command("bench", "convergence", "--join", "array")
    assert "2 of 3" in capsys.readouterr().out
    joined = results.read(bench.folder / "array", "convergence")
    assert joined.facts["joined"] == [f"seed-{seed}/results.json" for seed in range(3)]
    assert (bench.folder / "array" / "convergence.png").exists()
    assert [cell["id"] for cell in joined.cells] == list(together)
    for key in ("epochs", "outcome"):
        assert [cell[key] for cell in joined.cells] == [cell[key] for cell in together.values()]
    assert joined.facts["summary"]["one"]["epochs"] == whole["summary"]["one"]["epochs"]
    assert joined.facts["tests"] == whole["tests"]
    # A cluster may have machines of several kinds.
    path = bench.folder / "array" / "seed-2" / "results.json"
    path.write_text(path.read_text().replace(whole["device"], "another GPU"))
    run_command("bench", "convergence", "--join", "array")
    joined = results.read(bench.folder / "array", "convergence")
    assert joined.facts["device"] == ", ".join(sorted([whole["device"], "another GPU"]))
    assert len(joined.cells) == 3
    # What one of them says of a crash, the whole does too.
    content = json.loads(path.read_text())
    content["cells"][0] |= {"outcome": "error", "why": "it is gone", "epochs": None}
    path.write_text(json.dumps(content))
    with pytest.raises(
        CommandFailed, match=r"1 of 3 runs crashed; the first, one, seed 2: it is gone \(see array/seed-2/runs/"
    ):
        run_command("bench", "convergence", "--join", "array")


def test_what_does_not_belong_together_is_not_joined(bench: Sham) -> None:
    bench.play(one_seed0=GOOD, one_seed1=GOOD)
    with pytest.raises(UserError, match="--join nowhere: is no folder; allowed: the folder above some benches"):
        run_command("bench", "convergence", "--join", "nowhere")
    Path("empty").mkdir()
    with pytest.raises(UserError, match=r"--join empty: there is no results\.json in a folder below it"):
        run_command("bench", "convergence", "--join", "empty")
    for name, more in (("a", []), ("b", ["--first-seed", "1", "--num", "100"])):
        bench.words[-1] = f"array/{name}"
        run_command("bench", *bench.words, "--seeds", "1", *more)
    with pytest.raises(UserError, match=r"array/b/results\.json has another --num \(100, not unset\) than array/a/"):
        run_command("bench", "convergence", "--join", "array")
    shutil.rmtree("array/b")
    shutil.copytree("array/a", "array/b")
    with pytest.raises(UserError, match=r"both array/a/.* and array/b/.* have one-seed0; allowed: each run once"):
        run_command("bench", "convergence", "--join", "array")
    assert not Path("array/results.json").exists()
    shutil.rmtree("array/b")
    shutil.copy("array/a/results.json", "array/results.json")
    with pytest.raises(UserError, match="--join array: has a bench of its own, which is not overwritten"):
        run_command("bench", "convergence", "--join", "array")


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("cells", 0, "seed"), None, r"cells\.0\.seed: is missing"),
        (("cells", 0, "id"), ["x"], r"cells\.0\.id: a list is not allowed; allowed: a valid string"),
        (("cells", 0, "epochs"), "x", r"cells\.0\.epochs: 'x' is not allowed; allowed: a valid number"),
        (("cells", 0, "epochs"), 0.7, r"cells\.0: .*epochs is at none of its evaluations"),
        (("cells", 0, "last"), None, r"cells\.0\.last: is missing"),
        (("cells", 0, "outcome"), "well", r"cells\.0\.outcome: "),
        (("cells", 0, "evaluations"), "x", r"cells\.0\.evaluations: "),
        (("facts", "identity"), None, r"facts\.identity: is missing"),
        (("facts", "identity", "arms"), [], r"facts\.identity\.arms: "),
        (("facts", "notice"), 3, r"facts\.notice: "),
    ],
)
def test_results_that_are_damaged_but_json(bench: Sham, where: tuple[Any, ...], value: Any, message: str) -> None:
    bench.play(one_seed0=GOOD)
    bench.words[-1] = "array/a"
    run_command("bench", *bench.words, "--seeds", "1")
    path = bench.folder / "array" / "a" / "results.json"
    content = json.loads(path.read_text())
    parent = content
    for key in where[:-1]:
        parent = parent[key]
    parent[where[-1]] = value
    if value is None:
        del parent[where[-1]]
    path.write_text(json.dumps(content))
    for words in (["convergence", "--join", "array"], [*bench.words, "--seeds", "1"]):
        with pytest.raises(UserError, match=r"array/a/results\.json: is damaged: " + message):
            run_command("bench", *words)
    assert not Path("array/results.json").exists()


# -- mistakes -------------------------------------------------------------------------------


def test_another_bench_is_refused(bench: Sham) -> None:
    bench.play(one_seed0=BAD)
    bench("--seeds", 1)
    for words, message in (
        (["--against", "two.toml"], "--out out: was begun with --against unset, now two.toml; allowed: the same, or a"),
        (["--num", 100], "begun with --num unset, now 100"),
    ):
        with pytest.raises(UserError) as error:
            bench(*words)
        assert message in str(error.value)
        assert "\n" not in str(error.value)
    Path("easy.toml").write_text(Path("easy.toml").read_text().replace("max_fcd = 1.0", "max_fcd = 2.0"))
    with pytest.raises(UserError, match=r"begun with targets\.cgan\.max_fcd 1\.0, now 2\.0"):
        bench("--seeds", 1)
    Path("easy.toml").write_text(Path("easy.toml").read_text().replace("max_fcd = 2.0", "max_fcd = 1.0"))
    Path("one.toml").write_text(TINY.replace("1e-3", "1e-4"))
    with pytest.raises(UserError, match=r"begun with arms\.0\.config\.optim\.d_lr 0\.001, now 0\.0001"):
        bench("--seeds", 1)
    Path("one.toml").write_text(TINY)
    assert bench("--seeds", 1, "--timeout", 99)["one-seed0"]["outcome"] == "not converged"
    assert bench.starts == ["one-seed0"]


def test_a_folder_of_something_else_is_refused(bench: Sham) -> None:
    Path("out").mkdir()
    Path("out", "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"--out out: holds config\.json and no results\.json"):
        bench()
    Path("out", "config.json").unlink()
    results.write(Path("out", "results.json"), "scaling", {}, [])
    with pytest.raises(UserError, match="holds the results of bench scaling; allowed: of convergence"):
        bench()
    Path("out", "results.json").unlink()
    handle = trial.lock(Path("out"))
    with pytest.raises(UserError, match="--out out: another bench convergence is at work in it"):
        bench()
    os.close(handle)
    bench.play(one_seed0=BAD)
    assert bench("--seeds", 1)


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        ([], ["names no preset", "--preset NAME"]),
        (["--preset", "cgan-quik"], ["--preset cgan-quik: unknown preset, did you mean cgan-quick?"]),
        (["--preset", "nowhere.toml"], ["nowhere.toml: can't be read"]),
        (["--preset", "cgan", "--against", "x"], ["--against x: unknown preset"]),
        (["--preset", "cgan", "--against", "cgan"], ["--against cgan: has the name of --preset cgan"]),
        (["--preset", "one.toml", "--targets", "."], [".: is no regular file"]),
        (["--preset", "cgan", "--against", "vanilla"], ["--against vanilla: trains vanilla, cgan cgan"]),
        (["--preset", "cgan", "--seeds", "0"], ["--seeds: '0'", "1 or more"]),
        (["--preset", "cgan", "--seeds", "many"], ["--seeds: 'many'", "a whole number"]),
        (["--preset", "cgan", "--num", "64"], ["--num: '64'", "65 or more"]),
        (["--preset", "cgan", "--jobs", "0"], ["--jobs: '0'", "1 or more"]),
        (["--preset", "cgan", "--targets", "nowhere.toml"], ["nowhere.toml: can't be read"]),
        (["--preset", "cgan", "--engine", "graph", "--device", "cpu"], ["--engine graph: needs a CUDA device"]),
        (["--preset", "cgan", "--precision", "fp16", "--device", "cpu"], ["--precision fp16: needs a CUDA"]),
        (["cgan"], ["cgan: belongs to no flag"]),
    ],
)
def test_mistakes(words: list[str], fragments: list[str], bench: Sham) -> None:
    with pytest.raises(UserError) as error:
        run_command("bench", "convergence", *words)
    for fragment in fragments:
        assert fragment in str(error.value)
    assert "\n" not in str(error.value)
    assert not Path("bench").exists()


def test_under_nohup_a_bench_outlives_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with pytest.raises(UserError):
            run_command("bench", "convergence")
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


# -- real trainings -------------------------------------------------------------------------


def write_presets(folder: Path) -> None:
    (folder / "tiny.toml").write_text(TINY)
    (folder / "broken.toml").write_text(TINY.replace("1e-3", "1e30"))
    (folder / "easy.toml").write_text(EASY)


def test_from_the_command_to_the_picture(distgan: Callable[..., CompletedProcess[str]], tmp_path: Path) -> None:
    write_presets(tmp_path)
    words = ("bench", "convergence", "--preset", "tiny.toml", "--targets", "easy.toml", "--seeds", 2, "--epochs", 2)
    made = distgan(*words, "--threads", 1, "--device", "cpu", "--out", "out")
    assert made.returncode == 0, made.stdout + made.stderr
    found = results.read(tmp_path / "out", "convergence")
    for seed, cell in enumerate(found.cells):
        assert cell["outcome"] == "converged"
        first = cell["evaluations"][0]
        assert cell["epochs"] == first["epoch"] == pytest.approx(9 / 36)
        assert cell["images"] == 9 * 512
        assert 0 < cell["train_s"] < cell["mlperf_s"] < cell["cold_s"]
        assert cell["mlperf_s"] == pytest.approx(first["elapsed_s"] + first["eval_s"])
        status = json.loads((tmp_path / "out" / "runs" / cell["id"] / "status.json").read_text())
        assert (status["state"], status["exit_code"]) == ("stopped", 143), "it was not stopped in order"
        assert f"--seed {seed} --out out/runs/tiny-seed{seed}" in cell["command"]
    assert found.facts["summary"]["tiny"]["rate"]["value"] == 1
    assert (tmp_path / "out" / "convergence.png").read_bytes().startswith(b"\x89PNG")
    assert "NOT MNIST" in made.stdout
    again = distgan(*words, "--threads", 2, "--device", "cpu", "--out", "out")
    assert_user_error(again, "--out out: was begun with --threads 1, now 2")


@pytest.mark.slow
def test_losses_that_are_no_numbers_are_infinite(distgan: Callable[..., CompletedProcess[str]], tmp_path: Path) -> None:
    write_presets(tmp_path)
    made = distgan(
        "bench", "convergence", "--preset", "tiny.toml", "--against", "broken.toml", "--targets", "easy.toml",
        "--seeds", 1, "--threads", 1, "--device", "cpu", "--out", "out",
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    good, broken = results.read(tmp_path / "out").cells
    assert (good["outcome"], broken["outcome"]) == ("converged", "diverged")
    assert "is nan at step" in broken["why"]


@pytest.mark.slow
def test_a_killed_bench_of_real_trainings_goes_on(
    start: Callable[..., Popen[str]], run: Callable[..., CompletedProcess[str]], tmp_path: Path
) -> None:
    """On two processes too, whose launcher and ranks must not outlive it."""
    write_presets(tmp_path)
    text = EASY.replace("max_fcd = 1000.0", "max_fcd = 1e-9")
    (tmp_path / "easy.toml").write_text(text)  # out of reach
    words = (
        BIN / "distgan", "bench", "convergence", "--preset", "tiny.toml", "--targets", "easy.toml", "--seeds", 1,
        "--processes", 2, "--threads", 1, "--device", "cpu", "--out", "out",
    )  # fmt: skip
    process = start(*words)
    lines = tmp_path / "out" / "runs" / "tiny-processes2-seed0" / "metrics.jsonl"
    wait_for(lambda: lines.exists() and "eval_s" in lines.read_text(), process, 180)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 3
    os.kill(process.pid, signal.SIGKILL)
    assert not psutil.wait_procs(children, timeout=60)[1], "trainings outlive their bench"
    done = run(*words, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {cell["id"]: cell for cell in results.read(tmp_path / "out").cells}
    assert [cell["outcome"] for cell in found.values()] == ["not converged"] * 2
    assert found["tiny-processes2-seed0"]["resumed"]
    steps = [each["step"] for each in found["tiny-processes2-seed0"]["evaluations"]]
    assert steps == [each["step"] for each in found["tiny-seed0"]["evaluations"]] == [9 * i for i in range(1, 9)]
