"""distgan bench throughput and compare: what is measured, what is refused, and that a wrong engine has no speed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.runs import Capture, MonkeyPatch

from distgan.benchmark import matrix, results, throughput
from distgan.benchmark import throughput_worker as cell
from distgan.benchmark.comparison import ratio
from distgan.benchmark.matrix import CellSpec, plan
from distgan.benchmark.options import ThroughputConfig
from distgan.benchmark.throughput import digest, hold_against_peers
from distgan.cli import run_command
from distgan.config.presets import training_of
from distgan.config.schema import Config, DataConfig, ModelConfig, RunConfig
from distgan.errors import CommandFailed, UserError
from distgan.training import session
from distgan.training.engines.selection import EngineSelection

ROOFLINE = {"matmul_flops": {"fp32": 1e11}, "peak_flops": {"fp32": 1e11}, "copy_bytes_per_s": 1e10, "how": ""}
TIMES = {"seconds": 0.5, "host_s": 0.6, "steps": 2, "images": 64}


def spec(**run: Any) -> CellSpec:
    config = Config(
        model=ModelConfig(width=0.1), data=DataConfig(name="digits", batch_size=32),
        run=RunConfig(device="cpu", precision="fp32", engine="eager", **run),
    )  # fmt: skip
    return CellSpec(config=config, gate_steps=2, warmup=1, steps=2, repeats=5)


def turn(*, passed: bool = True, seconds: float = 0.5) -> dict[str, Any]:
    """What a cell's process says."""
    found: dict[str, Any] = {
        "engine": {"asked": "auto", "name": "eager", "why": "as asked"},
        "build_s": {"imports": 1.0},
        "start_s": {},
        "gate": {"steps": 1, "losses": 0.5, "weights": 0.5, "tolerance": [0.1, 0.1], "passed": passed,
                 "words": "the losses differ by 5e-01", "seconds": 0.1},
        "runtime": {"device_type": "cpu"},
    }  # fmt: skip
    speeds = {
        "warmup": {"steps": 1, "seconds": 0.1}, "repeats": [TIMES | {"seconds": seconds}] * 5, "epoch_images": 6400,
        "peak_memory_gib": 1.0, "flops_per_image": 1_000_000, "operators_per_step": 100.0,
    }  # fmt: skip
    return found | speeds if passed else found


def answering(monkeypatch: MonkeyPatch, answer: Callable[[list[str]], dict[str, Any]]) -> None:
    """Lets the processes of a benchmark say what a test wants."""

    def outcome(words: list[str], config: object, *, is_cuda: bool) -> dict[str, Any]:
        return dict(ROOFLINE) if "distgan.benchmark.roofline" in words else json.loads(json.dumps(answer(words)))

    monkeypatch.setattr(throughput, "_outcome", outcome)


def saved(path: Path, **times: list[list[float]]) -> Path:
    """Results of throughput with a cell for each list of seconds per step."""
    cells = [
        {"id": key, "status": "ok", "step_s": step_s, "runs": [{"engine": {"name": "eager"}}]}
        for key, step_s in times.items()
    ]
    results.write(path, "throughput", {"device": "this one", "versions": {"torch": "2"}}, cells)
    return path


# -- what is measured -----------------------------------------------------------------------


def test_ratios_are_taken_within_a_round() -> None:
    cell = {"contender": "distgan", "model": "vanilla", "precision": "fp32", "batch_size": 32, "order": "alternating",
            "status": "ok", "runs": [turn(seconds=1.0), turn(seconds=2.0)]}  # fmt: skip
    peer = cell | {"contender": "pytorch", "runs": [turn(seconds=3.0), turn(seconds=6.0), turn(seconds=90.0)]}
    other = peer | {"batch_size": 64}
    for each in (cell, peer, other):
        digest(each, ROOFLINE)
    hold_against_peers([cell, peer, other])
    assert cell["against"] == {"pytorch fp32": {"median": 3.0, "p5": 3.0, "p95": 3.0, "num": 2, "min": 3.0, "max": 3.0}}
    assert "against" not in peer


def test_summary_is_of_all_repeats() -> None:
    assert results.summary([1.0, 2, 3, 4, 5]) == {"median": 3.0, "p5": 1.2, "p95": 4.8, "num": 5}


def test_the_matrix_has_each_cell_once() -> None:
    config = ThroughputConfig(
        presets=["cgan", "cgan"], engines=["eager", "compile"], precisions=["fp32", "bf16"], batch_sizes=[64, 32],
        orders=["alternating-fresh", "alternating"],
    )  # fmt: skip
    ids = [cell["id"] for cell in plan(config, is_cuda=False)]
    assert len(ids) == len(set(ids)) == 16
    assert ids[0] == "cgan/eager/fp32/64/alternating-fresh"


def test_peers_stand_beside_their_model(tmp_path: Path) -> None:
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    cells = plan(ThroughputConfig(peers=True, data_dir=str(tmp_path), precisions=["fp32", "bf16"]), is_cuda=False)
    assert [(cell["model"], cell["contender"]) for cell in cells[:7]] == [
        ("vanilla", "distgan"), ("vanilla", "distgan"), ("vanilla", "pytorch"), ("vanilla", "accelerate"),
        ("vanilla", "pytorch"), ("vanilla", "accelerate"), ("cgan", "distgan"),
    ]  # fmt: skip


def test_any_preset_and_file_is_a_cell_that_trains_as_it_does(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        '[model]\nname = "cgan"\n[data]\nbatch_size = 64\n[optim]\norder = "alternating-fresh"\n'
    )
    config = ThroughputConfig(presets=["cgan-fast", "vanilla", str(tmp_path / "mine.toml")], precisions=["fp32"])
    cells = plan(config, is_cuda=False)
    assert [each["id"] for each in cells] == [
        "cgan-fast/auto/fp32/128/alternating", "vanilla/auto/fp32/256/alternating",
        "mine/auto/fp32/64/alternating-fresh"
    ]  # fmt: skip
    fast = matrix._training(cells[0], config, "cpu")
    own = training_of(["--preset", "cgan-fast", "--data", "mnist", "--precision", "fp32", "--device", "cpu"])[0]
    assert fast == own
    # An axis of the matrix replaces the preset's own.
    small = ThroughputConfig(presets=["vanilla"], family="dcgan", width=0.5, batch_sizes=[32], data="digits")
    (cell,) = [each for each in plan(small, is_cuda=False) if each["precision"] == "fp32"]
    assert cell["id"] == "vanilla/auto/fp32/32/alternating/dcgan/width 0.5/digits"
    assert matrix._training(cell, small, "cpu").model.width == 0.5
    # A cell's id tells other networks than the preset's from its own.
    seed = ThroughputConfig(presets=["cgan-quick"], family="report2023", precisions=["fp32"])
    assert [each["id"] for each in plan(seed, is_cuda=False)] == ["cgan-quick/auto/fp32/128/alternating/report2023"]


def test_a_matrix_that_can_not_be_trained_ends_before_a_folder_is_made(
    tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        Path(folder).mkdir()
        Path(folder, "x.toml").write_text('[model]\nname = "cgan"\n')
    for command in ("throughput", "scaling"):
        with pytest.raises(UserError, match=r"--preset cgan-fast: model: .*clusters"):
            run_command("bench", command, "--preset", "cgan-fast", "--family", "dcgan", "--device", "cpu")
    with pytest.raises(UserError, match=r"--preset b/x\.toml: has the name of another preset, x"):
        run_command("bench", "throughput", "--preset", "a/x.toml,b/x.toml", "--device", "cpu")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_presets_are_repeated_or_joined_and_precisions_are_what_the_device_has(
    monkeypatch: MonkeyPatch, capsys: Capture
) -> None:
    planned = []
    monkeypatch.setattr(throughput, "plan", lambda config, **_: planned.append(config) or 1 / 0)
    for words in (["--preset", "cgan,vanilla-fast"], ["--preset", "cgan", "--preset", "vanilla-fast"]):
        with pytest.raises(ZeroDivisionError):
            run_command("bench", "throughput", *words, "--device", "cpu")
        assert planned.pop().presets == ["cgan", "vanilla-fast"]
    for imitates, expected in ((True, ["fp32"]), (False, ["fp32", "bf16"])):
        monkeypatch.setattr(matrix, "imitates_bf16", lambda imitates=imitates: imitates)
        cells = plan(ThroughputConfig(presets=["cgan"]), is_cuda=False)
        assert [cell["precision"] for cell in cells] == expected


def test_an_engine_chooses_for_the_whole_run_or_for_what_is_measured(monkeypatch: MonkeyPatch) -> None:
    totals = []
    build = session.build_engine
    monkeypatch.setattr(session, "build_engine", lambda *args: totals.append(args[4]) or build(*args))
    for whole_run in (True, False):
        cell.measure(spec().model_copy(update={"whole_run": whole_run}))
    assert totals[0] > 1000 > totals[1] == 2 + 1 + 2 * 5 + 2 * 3


# -- the gate -------------------------------------------------------------------------------


@pytest.mark.parametrize("is_broken", [False, True])
def test_an_engine_that_is_wrong_has_no_speed(monkeypatch: MonkeyPatch, is_broken: bool) -> None:
    build_engine = session.build_engine

    def wrong(gan: Any, *args: Any) -> Any:
        engine = build_engine(gan, *args)
        advance = engine.advance

        def advance_wrongly(limit: int) -> tuple[torch.Tensor, int]:
            found = advance(limit)
            with torch.no_grad():
                for weight in gan.generator.parameters():
                    weight.mul_(1.5)
            return found

        if is_broken:
            engine.reference, engine.advance = advance, advance_wrongly
        return engine

    monkeypatch.setattr(session, "build_engine", wrong)
    found = cell.measure(spec())
    speeds = {"repeats", "warmup", "peak_memory_gib", "operators_per_step"}
    assert found["gate"]["passed"] == (not is_broken)
    assert speeds & set(found) == (set() if is_broken else speeds)


def test_a_failed_gate_prints_no_speed(monkeypatch: MonkeyPatch, capsys: Capture, tmp_path: Path) -> None:
    """In the second round, when there already was one."""
    calls: list[object] = []

    def answer(words: list[str]) -> dict[str, Any]:
        calls.append(words)
        return turn(passed=len(calls) < 4 or '"order":"alternating-fresh"' not in words[-1])

    answering(monkeypatch, answer)
    flags = "--model vanilla --precision fp32 --order alternating,alternating-fresh --rounds 3 --device cpu --out"
    with pytest.raises(CommandFailed, match="1 of 2 cells have no speed: vanilla/auto/fp32/256/alternating-fresh"):
        run_command("bench", "throughput", *flags.split(), str(tmp_path / "out"))
    good, bad = results.read(tmp_path / "out").cells
    assert good["images_per_s"]["median"] == 128
    assert bad["status"] == "gate failed"
    assert not {"step_s", "images_per_s", "epoch_s", "mfu", "against"} & set(bad)
    assert not [run for run in bad["runs"] if "repeats" in run]
    assert len(calls) == 5  # the third round is the good one's alone
    out = capsys.readouterr().out
    assert "vanilla alternating-fresh: gate failed: the losses differ by 5e-01" in " ".join(out.split())
    assert sum("128" in line for line in out.splitlines()) == 1


def test_a_fallback_stands_above_the_tables(monkeypatch: MonkeyPatch, tmp_path: Path, capsys: Capture) -> None:
    eager = EngineSelection("compile", "eager", "compile was not taken: no compiler", is_fallback=True).describe()
    answering(monkeypatch, lambda words: turn() | ({"engine": eager} if '"engine":"compile"' in words[-1] else {}))
    flags = "--model vanilla --engine eager,compile --precision fp32 --device cpu --out"
    run_command("bench", "throughput", *flags.split(), str(tmp_path / "out"))
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert lines[0].startswith("!! vanilla compile: engine eager: compile was not taken: no compiler"), lines
    assert sum("!!" in line for line in lines) == 1


def test_what_was_measured_outlives_ctrl_c(monkeypatch: MonkeyPatch, tmp_path: Path) -> None:
    def answer(words: list[str]) -> dict[str, Any]:
        if '"precision":"bf16"' in words[-1]:
            raise KeyboardInterrupt
        return turn()

    answering(monkeypatch, answer)
    with pytest.raises(KeyboardInterrupt):
        run_command("bench", "throughput", "--model", "cgan", "--device", "cpu", "--out", str(tmp_path / "out"))
    assert [cell["status"] for cell in results.read(tmp_path / "out").cells] == ["ok", "waits"]
    assert (tmp_path / "out" / "throughput.png").exists()


# -- compare --------------------------------------------------------------------------------


def test_an_interval_holds_the_ratio() -> None:
    """Of 100 comparisons whose truth is known, about 95 intervals hold it."""
    draw, inside = np.random.default_rng(5), 0
    for _ in range(100):
        a, b = (draw.normal(mean, 0.01, (1, 40)).tolist() for mean in (1.0, 1.02))
        found = ratio(a, b, draw, 300)
        inside += found.low <= 1.02 <= found.high
    assert 88 <= inside <= 100


@pytest.mark.parametrize(
    ("factor", "limit", "is_failure"), [(1.2, 1.05, True), (1.2, 1.3, False), (1.2, None, False), (0.8, 1.05, False)]
)
def test_a_regression_ends_in_1(tmp_path: Path, factor: float, limit: float | None, is_failure: bool) -> None:
    times = [[2.0, 2.02, 1.98, 2.0, 2.0], [2.0, 2.04, 1.96, 2.0, 2.0]]
    slower = [[factor * each for each in row] for row in times]
    words = ["compare", saved(tmp_path / "a.json", x=times), saved(tmp_path / "b.json", x=slower)]
    words += [] if limit is None else ["--fail-above", limit]
    if not is_failure:
        run_command("bench", *map(str, words))
        return
    with pytest.raises(CommandFailed, match=r"x: 1\.200 times the seconds per step"):
        run_command("bench", *map(str, words))


def test_noise_is_no_regression(tmp_path: Path) -> None:
    """A median above the limit does not count while the interval holds 1."""
    a, b = [[1.0, 1.0, 1.0, 2.0, 2.0]], [[1.0, 1.0, 1.2, 2.0, 2.0]]
    words = [saved(tmp_path / "a.json", x=a), saved(tmp_path / "b.json", x=b), "--fail-above", 1.05]
    run_command("bench", "compare", *map(str, words))


def test_compare_says_what_else_differs(tmp_path: Path, capsys: Capture) -> None:
    a = saved(tmp_path / "a.json", x=[[1.0] * 5], gone=[[1.0] * 5], lost=[[1.0] * 5])
    content = json.loads(saved(tmp_path / "b.json", x=[[1.0] * 5], new=[[1.0] * 5]).read_text())
    content["facts"]["device"] = "that one"
    content["cells"][0]["runs"][0]["engine"]["name"] = "graph"
    content["cells"].append({"id": "lost", "status": "gate failed", "why": "it is wrong", "runs": []})
    (tmp_path / "b.json").write_text(json.dumps(content))
    words = ["compare", str(a), str(tmp_path / "b.json")]
    run_command("bench", *words)
    out = " ".join(capsys.readouterr().out.split())
    assert "device differs: A this one, B that one" in out
    assert "x: another engine ran: A eager, B graph" in out
    assert "gone: is in A alone" in out
    assert "new: is in B alone" in out
    assert "lost: has no speed in B: gate failed: it is wrong" in out
    with pytest.raises(CommandFailed, match="lost: has no speed any more"):
        run_command("bench", *words, "--fail-above", "2")


def test_another_batch_is_another_cell(tmp_path: Path) -> None:
    a, b = saved(tmp_path / "a.json", x=[[1.0]]), saved(tmp_path / "b.json", y=[[1.0]])
    with pytest.raises(UserError, match="have no cell in common"):
        run_command("bench", "compare", str(a), str(b))


# -- mistakes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("[1, 2]", "JSON object"),
        ('{"kind": "throughput"}', "holds no results of distgan bench"),
        ('{"format": 2, "kind": "throughput", "facts": {}, "cells": []}', "(2). Expected: 1"),
        ('{"format": 1, "kind": "scaling", "facts": {}, "cells": []}', "results of bench scaling"),
        ('{"format": 1, "kind": "throughput", "facts": [], "cells": []}', "is damaged"),
        ('{"format": 1, "kind": "throughput", "facts": {}, "cells": [1]}', "is damaged"),
        ('{"format": 1, "kind": "throughput", "facts": {"x": NaN}, "cells": []}', "NaN, which is not a finite"),
        ('{"format": 1, "kind": "throughput", "facts": {"x": 1e999}, "cells": []}', "1e999, which is not a finite"),
        ('{"format": 1, "kind": "throughput", "facts": {}, "cells": [{"step_s": [[1.0]]}]}', "no id of its own"),
        ('{"format": 1, "kind": "throughput", "facts": {}, "cells": [{"id": "x", "step_s": [[0]]}]}', "step_s of x"),
        ('{"format": 1, "kind": "throughput", "facts": {}, "cells": [{"id": "x", "step_s": []}]}', "step_s of x"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_files_that_are_none_of_ours(text: str, reason: str, tmp_path: Path) -> None:
    bad, good = tmp_path / "bad.json", saved(tmp_path / "good.json", x=[[1.0]])
    bad.write_text(text)
    for words in ([bad, good], [good, bad]):
        with pytest.raises(UserError) as error:
            run_command("bench", "compare", *map(str, words))
        message = str(error.value)
        assert str(bad) in message
        assert reason in message
        assert "\n" not in message


def test_no_number_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        results.write(tmp_path / "x.json", "throughput", {}, [{"x": float("nan")}])
    assert not list(tmp_path.iterdir())
