"""When a run has converged, and what runs say together."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.own_networks import LOSS, none_loaded, write_pair
from helpers.runs import ROOT, Capture, MonkeyPatch, expect_user_error
from scipy.stats import logrank

from distgan.benchmark import convergence_statistics, results
from distgan.benchmark import trial as arms
from distgan.benchmark.convergence_results import ConvergenceResults, TrialResult
from distgan.benchmark.convergence_statistics import (
    compare_presets,
    compare_processes,
    p_value,
    run_times,
    summarise,
    summarise_times,
)
from distgan.benchmark.measurement import Engine
from distgan.benchmark.options import ConvergenceConfig
from distgan.benchmark.plots import percentiles_over_runs, plot_convergence
from distgan.benchmark.tables import print_convergence
from distgan.cli import run_command
from distgan.data.base import Dataset
from distgan.errors import CommandFailed, UserError
from distgan.evaluation.targets import Evaluation, Protocol
from distgan.training.engines.selection import EngineSelection


def cells(arm: str, *epochs: float, outcome: str = "not converged", **changes: Any) -> list[TrialResult]:
    """Cells of runs that converged after so many epochs or, below 0, ended otherwise after so many."""
    found = []
    for each in epochs:
        clocks = dict.fromkeys(("epochs", "train_s", "mlperf_s", "cold_s"), each if each > 0 else None)
        last = Evaluation(1, abs(each), abs(each), 0.0, 9.0, 0.5, [], [], abs(each))
        cell = {"id": "x", "arm": arm, "seed": 0, "outcome": "converged" if each > 0 else outcome}
        found.append(TrialResult.model_validate(cell | {"evaluations": [last]} | clocks | changes))
    return found


# Weeks in remission of 42 patients (Freireich et al. 1963), of which those below 0 are censored.
TREATED = [6, 6, 6, 7, 10, 13, 16, 22, 23, -6, -9, -10, -11, -17, -19, -20, -25, -32, -32, -34, -35]
PLACEBO = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]


@pytest.mark.filterwarnings("error")
def test_medians_and_the_test_are_those_of_a_published_study() -> None:
    """As R's survfit (conf.type = "log-log") and survdiff have them: 23 (13 to NA), 8 (4 to 11), chi-square 16.8."""
    treated, placebo = (run_times(cells("a", *weeks), "epochs") for weeks in (TREATED, PLACEBO))
    assert treated is not None
    assert placebo is not None
    assert summarise_times(treated).model_dump() == {
        "median": 23,
        "low": 13,
        "high": None,
        "min": 6,
        "max": None,
        "num": 21,
    }
    assert summarise_times(placebo).model_dump() == {"median": 8, "low": 4, "high": 11, "min": 1, "max": 23, "num": 21}
    assert logrank(treated.data, placebo.data).statistic ** 2 == pytest.approx(16.793, abs=1e-3)
    assert p_value(placebo, treated, "less") < 2e-3  # type: ignore[operator]


@pytest.mark.filterwarnings("error")
def test_the_test_on_few_runs_is_exact() -> None:
    """With 4 against 4 apart, 2 of the 70 ways to share them out are as extreme, 1 on one side."""
    low, high = (run_times(cells("a", *epochs), "epochs") for epochs in ((1, 2, 3, 4), (5, 6, -9, -9)))
    assert low is not None
    assert high is not None
    assert p_value(low, high, "two-sided") == pytest.approx(2 / 70)
    assert p_value(low, high, "less") == pytest.approx(1 / 70)
    assert p_value(high, low, "less") == 1
    assert p_value(low, low, "two-sided") == 1


def test_few_runs_and_runs_that_never_converged() -> None:
    def summary(*epochs: float, **changes: Any) -> dict[str, Any]:
        found = run_times(cells("a", *epochs, **changes), "epochs")
        assert found is not None
        return summarise_times(found).model_dump()

    assert summary(7) == {"median": 7, "low": 7, "high": None, "min": 7, "max": 7, "num": 1}
    assert summary(-7) == {"median": None, "low": None, "high": None, "min": None, "max": None, "num": 1}
    assert summary(1, 2, -3, -3)["median"] == 2
    assert summary(1, -3, -3)["median"] is None
    # A run that diverged never gets there; one that was given up early might have.
    assert summary(2, 3, -1)["median"] == 2
    assert summary(2, 3, -1, outcome="diverged")["median"] == 3
    one, other = run_times(cells("a", 1, 2), "epochs"), run_times(cells("a", 1), "epochs")
    assert p_value(one, other, "two-sided") is None  # type: ignore[arg-type]
    never = run_times(cells("a", -1, -2), "epochs")
    assert p_value(never, never, "two-sided") == 1  # type: ignore[arg-type]


def test_runs_that_crashed_count_nowhere() -> None:
    found = cells("a", 1, 2, -9) + cells("a", -9, outcome="diverged") + cells("a", -9, outcome="error")
    summary = summarise(found + cells("a", -9, outcome="unfinished"))
    assert (summary.num, summary.converged) == (4, 2)
    # By hand, from Wilson's formula with z = 1.96.
    assert summary.rate.model_dump() == pytest.approx({"value": 0.5, "low": 0.15004, "high": 0.84996}, abs=1e-4)
    assert summary.epochs is not None
    assert (summary.epochs.num, summary.epochs.median) == (4, 2)


def test_a_time_that_nobody_knows_is_left_out() -> None:
    found = cells("a", 1, 2) + cells("a", 3, cold_s=None)
    summary = summarise(found)
    assert summary.train_s is not None
    assert summary.cold_s is not None
    assert (summary.train_s.num, summary.cold_s.num) == (3, 2)
    assert summarise(cells("a", 3, cold_s=None)).cold_s is None


def test_two_presets_in_words() -> None:
    found = cells("slow", 5, 6, 7, -9) + cells("quick", 1, 2, 3, 4)
    words = [test.words for test in compare_presets(found, "slow", "quick")]
    assert words[0] == "quick needs fewer epochs than slow (p = 0.029)"
    assert words[1] == "quick needs fewer seconds of training than slow (p = 0.029)"
    assert compare_presets(found, "quick", "slow")[0].words == words[0]
    assert compare_presets(found, "quick", "slow")[0].ratio == pytest.approx(6 / 2)
    alike = compare_presets(cells("a", 1, 3, 5) + cells("b", 2, 3, 4), "a", "b")
    assert alike[0].words == "no significant difference (p = 0.9)"
    assert not compare_presets(cells("a", 1, 2), "a", "b")


def test_more_processes_are_tested_on_one_side() -> None:
    one, many = cells("p", 1, 2, 3, 4), cells("p on 2 processes", 5, 6, 7, 8)
    (found,) = compare_processes(one + many, "p", "p on 2 processes")
    assert found.words == "p on 2 processes needs more epochs than on 1 (p = 0.014)"
    (fewer,) = compare_processes(one + many, "p on 2 processes", "p")
    assert fewer.p == 1
    assert not compare_processes(one, "p", "p on 2 processes")


def test_a_run_that_has_ended_counts_with_its_last_number() -> None:
    grid, (low, middle, high) = percentiles_over_runs([([1.0, 2.0], [10.0, 4.0]), ([1.0, 3.0], [10.0, 0.0])])
    assert (grid[0], grid[-1]) == (1, 3)
    assert (middle[0], middle[-1]) == (10, 2)
    assert (low[-1], high[-1]) == (pytest.approx(0.4), pytest.approx(3.6))


def test_gpus_are_dealt_to_runs(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(arms, "count_gpus", lambda: 4)

    def dealt(**settings: Any) -> list[str]:
        return [each["CUDA_VISIBLE_DEVICES"] for each in arms.assign_gpus(ConvergenceConfig(**settings), is_cuda=True)]

    assert dealt() == ["0", "1", "2", "3"]
    assert dealt(processes=2) == ["0,1", "2,3"]
    assert dealt(processes=3) == ["0,1,2"]
    assert dealt(jobs=2) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert dealt(processes=2) == ["4,5", "6,7"]
    for key in ("processes", "jobs"):
        with expect_user_error(f"--{key}: ... (5) ... 4", code="unavailable"):
            dealt(**{key: 5})
    assert arms.assign_gpus(ConvergenceConfig(), is_cuda=False) == [{}]
    assert len(arms.assign_gpus(ConvergenceConfig(jobs=3), is_cuda=False)) == 3


def test_the_contents_of_a_users_file_are_a_part_of_a_study(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """Its place is not: a study may continue elsewhere, but not with other networks or another loss."""
    images = torch.zeros(1000, 28, 28, dtype=torch.uint8)
    monkeypatch.setattr(arms, "_load", lambda config: Dataset("digits", images, torch.arange(1000) % 10, "nowhere"))
    protocol = Protocol(num=100, evaluations_per_epoch=4, hold=1)

    def facts(folder: str, text: str) -> dict[str, Any]:
        path = write_pair(tmp_path / folder)
        path.write_text(path.read_text() + text)
        toml = path.with_name("mine.toml")
        toml.write_text("[model]\nname = 'cgan'\nnetworks = 'my_gan.py'\n[data]\nname = 'digits'\n")
        config = ConvergenceConfig(preset=str(toml))
        with none_loaded():
            (arm,) = arms.build_arms(config, protocol, Path("targets.toml"), 1, is_cuda=False)
        assert arm.words[:2] == ["--config", str(toml)]
        return arm.facts().model_dump()

    assert facts("a", "") == facts("b", "") != facts("c", "\n")
    assert facts("a", "")["config"]["optim"]["loss"] == "bce"
    assert facts("a", LOSS.format("hinge"))["config"]["optim"]["loss"] == "own"


def test_under_nohup_a_bench_outlives_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with pytest.raises(UserError):
            run_command("bench", "convergence")
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_fallback_stands_above_the_tables(capsys: Capture) -> None:
    eager = EngineSelection("auto", "eager", "graph was not taken: it differs", is_fallback=True).describe()
    found = results.read(ROOT / "tests" / "fixtures" / "bench-of-format-1" / "convergence.json", ConvergenceResults)
    first, second = found.cells
    found.cells = [
        first.model_copy(update={"outcome": "error", "why": "killed", "engine": Engine.model_validate(eager)}),
        second.model_copy(update={"outcome": "unfinished"}),
    ]
    print_convergence(found)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "!! tiny, seed 0: engine eager: graph was not taken: it differs !!"
    assert sum("!!" in line for line in lines) == 2, "and the notice that these were other digits"


def test_results_of_format_1_are_read(tmp_path: Path) -> None:
    path = ROOT / "tests" / "fixtures" / "bench-of-format-1" / "convergence.json"
    old = json.loads(path.read_text())
    found = results.read(path, ConvergenceResults)
    assert [cell.outcome for cell in found.cells] == ["converged", "converged"]
    assert found.cells[0].model_dump()["evaluations"] == old["cells"][0]["evaluations"]
    assert summarise(found.cells).model_dump() == old["facts"]["summary"]["tiny"]
    plot_convergence(found, tmp_path / "x.png")
    assert (tmp_path / "x.png").exists()


# -- compare --------------------------------------------------------------------------------


def study(path: Path, *runs: TrialResult, **changes: Any) -> Path:
    """The results.json of a study with these runs."""
    content = json.loads((ROOT / "tests" / "fixtures" / "bench-of-format-1" / "convergence.json").read_text())
    identity = content["facts"]["identity"]
    (arm,) = identity["arms"]
    identity["arms"] = [arm | {"name": name, "preset": name} for name in dict.fromkeys(run.arm for run in runs)]
    for keys, value in changes.items():
        place = content["facts"]
        *outer, last = keys.split("__")
        for key in outer:
            place = place[int(key) if key.isdigit() else key]
        place[last] = value
    path.write_text(json.dumps(content | {"cells": [run.model_dump() for run in runs]}))
    return path


def test_studies_are_compared_arm_by_arm(tmp_path: Path, capsys: Capture) -> None:
    a = study(tmp_path / "a.json", *cells("p", 1, 2, 3, 4), *cells("same", 3, 3), *cells("gone", 1))
    b = study(tmp_path / "b.json", *cells("p", 5, 6, 7, -9), *cells("same", 3, 3), device="that one")
    run_command("bench", "compare", str(a), str(b))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "p converged 4 of 4 3 of 4" in lines
    assert "epochs 2 (1 to NR) 6 (5 to NR) 3.00 A needs fewer epochs than B (p = 0.029)" in lines
    assert lines.count("epochs 3 (3 to NR) 3 (3 to NR) 1.00 no significant difference (p = 1)") == 1
    assert "note: gone: no finished runs in B" in lines
    assert any(line.startswith("note: device differs: ") and line.endswith(", B that one") for line in lines)


def test_a_study_that_needs_more_epochs_is_a_regression(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    def is_regression(limit: float, ours: tuple[float, ...], theirs: tuple[float, ...]) -> bool:
        a, b = (study(tmp_path / f"{name}.json", *cells("p", *each)) for name, each in (("a", ours), ("b", theirs)))
        try:
            run_command("bench", "compare", str(a), str(b), "--fail-above", str(limit))
        except CommandFailed as error:
            assert str(error).startswith("p: ")  # noqa: PT017
            return True
        return False

    quick, slow = (1, 2, 3, 4), (5, 6, 7, 8)
    assert is_regression(1.5, quick, slow)
    assert not is_regression(4, quick, slow), "the ratio of medians is 3"
    assert not is_regression(1.5, slow, quick)
    assert not is_regression(1.1, (1, 9), (2, 9)), "noise"
    assert is_regression(9, quick, (-9, -9, -9, -9)), "its median is not reached"
    monkeypatch.setattr(convergence_statistics, "_NUM_PERMUTATIONS", 200)
    few, none = (1,) * 9 + (-9,) * 12, (-9,) * 21
    assert is_regression(9, few, none), "A's median is not reached, and B needs significantly more"
    assert not is_regression(9, none, few), "A needs more"
    assert not is_regression(9, few[8:11], none[:3]), "noise"
    a, b = study(tmp_path / "a.json", *cells("p", 1), *cells("q", 1)), study(tmp_path / "b.json", *cells("q", 1))
    with pytest.raises(CommandFailed, match=r"^p: .* B$"):
        run_command("bench", "compare", str(a), str(b), "--fail-above", "2")


def test_studies_that_can_not_be_compared(tmp_path: Path) -> None:
    a = study(tmp_path / "a.json", *cells("p", 1, 2))
    other = study(tmp_path / "b.json", *cells("p", 1, 2), protocol__hold=7)
    with expect_user_error(f"A, B: ... {a}: ... {other}: ... 8 times", code="mismatch"):
        run_command("bench", "compare", str(a), str(other))
    other = study(tmp_path / "b.json", *cells("q", 1, 2), *cells("p", -1, outcome="error"))
    with expect_user_error(f"A, B: ... ({a}, {other})", code="wrong-results"):
        run_command("bench", "compare", str(a), str(other))
    speeds = ROOT / "tests" / "fixtures" / "bench-of-format-1" / "throughput.json"
    with expect_user_error(f"{speeds}: ... (throughput) ... convergence", code="wrong-results"):
        run_command("bench", "compare", str(a), str(speeds))
    with expect_user_error(f"{a}: ... (convergence) ... throughput", code="wrong-results"):
        run_command("bench", "compare", str(speeds), str(a))
