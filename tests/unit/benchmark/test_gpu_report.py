"""`make gpu-report`: what parts find becomes a report."""

import argparse
import ast
import gzip
import json
import sys
import time
from pathlib import Path
from typing import Any

import gpu_report
import pytest
import torch
from gpu_report import Part, Report
from helpers.gpu_reports import read, statuses
from helpers.measurements import a_round, measured, saved
from helpers.runs import Capture, MonkeyPatch

from distgan.benchmark import results
from distgan.training.engines.selection import EngineSelection

CPU = ("--device", "cpu", "--quick")


def report_of(tmp_path: Path, *, quick: bool = False) -> Report:
    for name in ("out", "work"):
        (tmp_path / name).mkdir()
    args = argparse.Namespace(
        out=tmp_path / "out",
        budget_s=100.0,
        quick=quick,
        parts=list(gpu_report.PARTS),
        device="cuda",
        data_dir=tmp_path,
    )
    return Report(args, tmp_path / "work", "token", time.monotonic())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "no CUDA device here"),
        (("--device", "cpu"), "Expected: --device cpu with --quick"),
        ((*CPU, "--parts", "facts,moon"), "--parts: unknown (moon)"),
    ],
)
def test_a_mistake_is_a_line(flags: tuple[str, ...], words: str, tmp_path: Path, capsys: Capture) -> None:
    assert gpu_report.main(["--out", str(tmp_path / "out"), *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_not_written_to(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "mine").write_text("kept")
    assert gpu_report.main(["--out", str(tmp_path), *CPU]) == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if path.name != "hf"] == ["mine"]


@pytest.mark.parametrize("broken", ["commands", "collect"])
def test_a_part_that_raises_has_failed(tmp_path: Path, monkeypatch: MonkeyPatch, broken: str) -> None:
    report = report_of(tmp_path)
    part = Part(0, 9, lambda report: [], lambda report, name: {})._replace(**{broken: lambda *_: 1 / 0})
    monkeypatch.setitem(gpu_report.PARTS, "facts", part)
    report.run_part("facts")
    assert statuses(tmp_path / "out")["facts"] == "failed: ZeroDivisionError: division by zero"


def lines_of(report: Report, epochs: float, epoch_s: float) -> None:
    folder = report.work / "run-vanilla"
    folder.mkdir()
    line = {"step": 1, "epoch": epochs, "elapsed_s": epochs * epoch_s, "images_per_s": 60_000 / epoch_s}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + '\n{"step": 2, "epo')
    facts = {"engine": {"name": "graph"}, "precision": "bf16", "data": {"num_images": 60_000}}
    (folder / "environment.json").write_text(json.dumps(facts))


@pytest.mark.parametrize(
    ("epochs", "epoch_s", "status", "expected"),
    [
        (150.0, 0.11, "done", [(0.11, True, False), (28.0, True, False)]),
        (150.0, 0.15, "done", [(0.15, False, False), (28.0, True, False)]),
        (150.0, 0.25, "done", [(0.25, False, True), (28.0, True, False)]),
        (149.0, 0.11, "done", [(0.11, True, False), (None, None, False)]),
        (7.0, 0.11, "timed out after 9 s", [(0.11, True, False), (None, None, False)]),
    ],
)
def test_a_figure_is_held_against_its_aim(
    tmp_path: Path, epochs: float, epoch_s: float, status: str, expected: list[tuple]
) -> None:
    report = report_of(tmp_path)
    lines_of(report, epochs, epoch_s)
    assert report.collect("run-vanilla") is None
    report.parts["run-vanilla"] |= {"status": status, "commands": [{"command": "x", "seconds": 28.0}]}
    report.save()
    found = read(tmp_path / "out")["figures"]
    assert [
        (row["value"] and pytest.approx(row["value"]), row["reached"], row["is_over"]) for row in found[:2]
    ] == expected
    assert {row["value"] for row in found[2:]} == {None}
    text = (tmp_path / "out" / "report.md").read_text()
    assert ("NO, and over the limit" in text) == expected[0][2]
    assert "| cgan, the complete command | not measured | - | at most 22 s | - |" in text


def cell(
    report: Report, number: int, name: str, epoch_s: float, *, engine: dict[str, Any] | None = None, **more: Any
) -> None:
    """Add a cell to the results of a bench. Those of one epoch of 100 images."""
    model, requested, precision, size, _ = name.split("/")
    ran = engine or {"asked": requested, "name": requested, "why": "as requested"}
    settings = {"id": name, "model": model, "preset": model, "engine": requested, "precision": precision, "mfu": None,
                "batch_size": int(size), "epoch_images": 100} | more  # fmt: skip
    run = a_round(epoch_s, images=100, engine=ran)
    made = measured(**{"runs": [run]} | settings)
    folder = report.work / f"throughput-{number}"
    folder.mkdir(exist_ok=True)
    path = folder / results.FILE
    before = json.loads(path.read_text())["cells"] if path.exists() else []
    content = json.loads(saved(path, made).read_text())
    # What it has by other cells and a roofline.
    content["cells"][0] |= {key: value for key, value in more.items() if key in ("against", "mfu")}
    path.write_text(json.dumps(content | {"cells": before + content["cells"]}))


def test_a_fallback_stands_at_the_head_of_the_report(tmp_path: Path) -> None:
    report = report_of(tmp_path)
    lines_of(report, 150.0, 0.5)
    eager = EngineSelection("auto", "eager", "graph was not taken: it differs", is_fallback=True).describe()
    facts = {"engine": eager, "precision": "bf16", "data": {"num_images": 60_000}}
    (report.work / "run-vanilla" / "environment.json").write_text(json.dumps(facts))
    cell(report, 0, "vanilla/graph/bf16/256/alternating", 0.2, engine=eager | {"asked": "graph"})
    cell(report, 0, "cgan/graph/bf16/256/alternating", 0.2)
    for name in ("run-vanilla", "throughput"):
        assert report.collect(name) is None
    head = [line for line in (tmp_path / "out" / "report.md").read_text().splitlines() if line][1:4]
    assert head == [
        "**FALLBACK** run-vanilla: engine eager: graph was not taken: it differs",
        "**FALLBACK** vanilla/graph/bf16/256/alternating: engine eager: graph was not taken: it differs",
        "unknown device; revision unknown",
    ]


def test_the_benches_of_throughput_become_one(tmp_path: Path) -> None:
    """A cell that was measured twice keeps its ratios, and its speed if it fails the second time."""
    report = report_of(tmp_path)
    ratio = {"median": 25.0, "p5": 24.0, "p95": 26.0, "num": 3, "min": 24.0, "max": 26.0}
    cell(report, 0, "vanilla/graph/bf16/256/alternating", 0.2, against={"pytorch bf16": ratio})
    cell(report, 0, "cgan/graph/bf16/256/alternating", 0.1, against={"pytorch bf16": ratio | {"median": 5.0}})
    cell(report, 1, "vanilla/graph/bf16/2048/alternating", 0.09, mfu=0.3)
    cell(report, 2, "vanilla/graph/bf16/256/alternating", 0.15)
    cell(report, 2, "cgan/graph/bf16/256/alternating", 0.1, status="error", why="killed")
    cell(report, 3, "vanilla/graph-compiled/bf16/2048/alternating", 0.07, mfu=0.45)
    cell(report, 3, "cgan/graph-compiled/bf16/2048/alternating", 0.01, status="waits", runs=[])
    assert report.collect("throughput") is None
    found = {row["what"]: row for row in read(tmp_path / "out")["figures"]}
    assert found["vanilla, batches of 2048, an epoch"]["value"] == 0.07
    assert found["vanilla, batches of 2048, MFU"]["value"] == pytest.approx(45)
    assert found["vanilla, batches of 2048, MFU"]["by"].endswith("ran graph-compiled")
    assert found["vanilla, plain loop (pytorch bf16) / distgan"]["reached"] is True
    assert found["cgan, plain loop (pytorch bf16) / distgan"]["reached"] is False
    assert found["cgan, plain loop (accelerate bf16) / distgan"]["value"] is None
    merged = {each.id: each for each in results.read(tmp_path / "out" / "throughput.json", results.SpeedResults).cells}
    assert len(merged) == 4
    assert merged["vanilla/graph/bf16/256/alternating"].epoch_s.median == 0.15  # type: ignore[union-attr]
    text = report.parts["throughput"]["text"]
    assert "vanilla/graph-compiled/bf16/2048/alternating: 0.0700 s per epoch" in text
    assert "ran graph-compiled, MFU 45.0 %" in text


A, B = "tests/gpu/test_gpu.py::test_a[x]", "tests/gpu/test_gpu.py::test_b"


@pytest.mark.parametrize(
    ("log", "problem"),
    [
        (f"{A} PASSED [ 10%]\n{B} PASSED [ 20%]\n", None),
        (f"[gw0] [ 10%] PASSED {A} \n[gw1] [ 20%] PASSED {B} \n", None),
        (f"{A} PASSED [ 10%]\n{B} FAILED [ 20%]\n", "1 passed, 1 failed"),
        (f"{A} SKIPPED (no GPU) [ 10%]\n", "1 skipped"),
        ("", "no test has finished"),
    ],
)
def test_parity_is_what_pytest_says(tmp_path: Path, log: str, problem: str | None) -> None:
    report = report_of(tmp_path)
    (report.work / "parity-0.out").write_text(log)
    assert report.collect("parity") == problem
    assert (report.kept / "parity.log").read_text() == log


def test_a_profile_counts_kernels(tmp_path: Path) -> None:
    report = report_of(tmp_path)
    (report.work / "profile-0").mkdir()
    events = [
        {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur}
        for cat, name, ts, dur in (
            ("kernel", "gemm", 0, 6.0), ("kernel", "gemm", 10, 6.0), ("gpu_memset", "fill", 20, 4.0),
            ("cpu_op", "x", 0, 99),
        )
    ]  # fmt: skip
    (report.work / "profile-0" / "trace-vanilla-graph.json").write_text(json.dumps({"traceEvents": events}))
    assert report.collect("profile") is None
    (of,) = report.parts["profile"]["found"]["traces"].values()
    assert of["rows"] == [
        {"name": "gemm", "calls": 2, "us": 12.0, "share": 0.75},
        {"name": "fill", "calls": 1, "us": 4.0, "share": 0.25},
    ]
    assert of["span_us"] == 24
    assert (report.kept / "trace.json.gz").exists()


def test_commands_of_the_full_report_are_known_to_distgan(tmp_path: Path) -> None:
    """Flags and values, without a GPU: by the parsers themselves."""
    from distgan.benchmark.options import ScalingConfig, ThroughputConfig
    from distgan.config.flags import Parser, add_flags, from_flags

    report = report_of(tmp_path)
    kinds = {"throughput": ThroughputConfig, "scaling": ScalingConfig}
    seen = 0
    for part in gpu_report.PARTS.values():
        assert isinstance(part, Part)
        for words in part.commands(report):
            if "bench" not in words:
                continue
            section = kinds[words[words.index("bench") + 1]]
            parser = Parser(prog="x")
            add_flags(parser, section)
            from_flags(section, parser.parse(words[words.index("bench") + 2 :]))
            seen += 1
    assert seen == len(gpu_report.MATRIX) + 3


@pytest.mark.parametrize(("budget_s", "without_time"), [(180, 7), (480, 0), (840, 0)])
def test_the_parts_keep_to_the_budget(budget_s: float, without_time: int) -> None:
    found = gpu_report.limits(budget_s, list(gpu_report.PARTS))
    assert sum(found.values()) == pytest.approx(budget_s - gpu_report.RESERVE_S, rel=0.01)
    assert list(found.values()).count(0.0) == without_time
    assert min(found["facts"], found["profile"], found["parity"]) > 0, "what tells most comes first"


def test_what_a_part_leaves_over_is_for_those_behind_it(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_report, "BUDGET_S", 100.0)  # that of report_of
    for name, part in list(gpu_report.PARTS.items()):
        most = {"facts": 60.0, "profile": 36.0}.get(name, 5.0)
        monkeypatch.setitem(gpu_report.PARTS, name, part._replace(least_s=5.0, most_s=most))
    report = report_of(tmp_path)
    assert report.limits["parity"] == 0
    left = report.ends["parity"] - time.monotonic()
    assert 5 < left <= 96, "nothing is done yet, so all that is left may be its"
    assert report.ends["facts"] < report.ends["profile"] == report.ends["parity"]


def test_a_profile_of_another_engine_is_said_first(tmp_path: Path) -> None:
    report = report_of(tmp_path)
    cell(report, 0, "vanilla/graph/bf16/256/alternating", 1.5)
    folder = (report.work / "throughput-0").rename(report.work / "profile-0")
    content = json.loads((folder / "results.json").read_text())
    engine = {"asked": "graph", "name": "eager", "why": "graph was not taken: no memory", "is_fallback": True}
    content["cells"][0]["runs"][0]["engine"] = engine
    (folder / "results.json").write_text(json.dumps(content))
    event = {"ph": "X", "cat": "kernel", "name": "gemm", "ts": 0, "dur": 6.0}
    (folder / "trace-vanilla-graph.json").write_text(json.dumps({"traceEvents": [event]}))
    assert report.collect("profile") is None
    text = (tmp_path / "out" / "report.md").read_text()
    assert text.index("graph was not taken: no memory") < text.index("| figure |")
    assert "ran eager" in report.parts["profile"]["text"]


def test_nothing_but_the_standard_library_is_imported_at_its_top() -> None:
    tree = ast.parse(Path(gpu_report.__file__).read_text())
    names = [each.name for node in tree.body if isinstance(node, ast.Import) for each in node.names]
    names += [str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names
    # Further down it reads what the commands write, and knows nothing of how they are made.
    inside = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name for name in inside if name and name.startswith("distgan")} == {"distgan.utils.child_process"}


def test_packed_files_of_mnist_are_unpacked_beside(tmp_path: Path) -> None:
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"1"))
    found = gpu_report.unpack_data(tmp_path / "data", tmp_path / "scratch")
    assert (found / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").read_bytes() == b"1"
    assert found == tmp_path / "scratch"
    (raw / "t10k-labels-idx1-ubyte").write_bytes(b"1")
    assert gpu_report.unpack_data(tmp_path / "data", tmp_path / "scratch") == tmp_path / "data"


def test_files_that_are_unpacked_already_are_used_as_well(tmp_path: Path) -> None:
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-labels-idx1-ubyte").write_bytes(b"2")
    (raw / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"1"))
    found = gpu_report.unpack_data(tmp_path / "data", tmp_path / "scratch") / "MNIST" / "raw"
    assert (found / "train-labels-idx1-ubyte").read_bytes() == b"2"
    assert (found / "t10k-labels-idx1-ubyte").read_bytes() == b"1"
