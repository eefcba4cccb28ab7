"""distgan bench throughput and compare, in processes."""

import json
import sys
from pathlib import Path

import pytest
from helpers.runs import Run, assert_user_error

from distgan.benchmark import results, speed
from distgan.benchmark.flops import flops_per_image
from distgan.benchmark.measurement import RunSpec
from distgan.benchmark.options import ThroughputConfig
from distgan.benchmark.results import SpeedResults
from distgan.config.presets import parse_training
from distgan.config.schema import Config, ModelConfig
from distgan.utils.child_process import ChildFailed

TINY = ("--width", "0.1", "--data", "digits", "--batch-size", "32", "--rounds", "1", "--steps", "1",
        "--warmup", "1", "--gate-steps", "1", "--device", "cpu", "--threads", "1")  # fmt: skip


def test_throughput_from_the_command_to_a_comparison(distgan: Run, tmp_path: Path) -> None:
    wrong = distgan("bench", "throughput", "--precision", "fp32,fp16", *TINY, "--out", "out")
    assert_user_error(wrong, "--precision: ... (fp16)", code="no-gpu")
    cells = ("--preset", "vanilla", "--precision", "fp32", "--batch-size", "64,17969")
    made = distgan("bench", "throughput", *TINY, *cells, "--out", "out", "--profile")
    assert made.returncode == 1, made.stderr
    assert "1 of 2 cells failed" in made.stderr
    found = results.read(tmp_path / "out", SpeedResults)
    good, bad = found.cells
    assert bad.status == "error"
    assert "leaves a last batch of 1 of 17,970 images" in str(bad.why)
    assert good.status == "ok"
    (run,) = good.runs
    assert run.gate.passed
    assert good.engines == ["eager"]
    assert len(run.repeats) == 5
    assert good.images_per_s.p5 <= good.images_per_s.median <= good.images_per_s.p95
    assert good.epoch_s.median == pytest.approx(17_970 / good.images_per_s.median)
    assert good.flops_per_image == flops_per_image(ModelConfig(width=0.1), Config().optim)
    peak = found.facts.roofline.peak_flops["fp32"]
    assert good.mfu == pytest.approx((good.flops_per_image or 0) * good.images_per_s.median / peak)
    assert (run.operators_per_step or 0) > 100
    assert (good.peak_memory_gib or 0) > 0.1
    facts = found.facts.model_dump()
    assert facts["command"].startswith("distgan bench throughput --width 0.1")
    assert {"versions", "git", "device", "cores", "threads", "settings", "pace", "flop_formula"} <= set(facts)
    assert (tmp_path / "out" / "throughput.png").read_bytes().startswith(b"\x89PNG")
    traces = list((tmp_path / "out").glob("trace-*.json"))
    assert len(traces) == 1
    assert json.loads(traces[0].read_text())["traceEvents"]

    compared = distgan.ok("bench", "compare", "out", "out/results.json", "--fail-above", "1.05")
    assert "B / A: 1.000 over 1 cells" in compared.stdout
    assert_user_error(distgan("bench", "throughput", *TINY, "--out", "out"), "--out: ... (out", code="output-exists")


@pytest.mark.parametrize(
    ("loop", "words"),
    [
        ("pytorch", ("--preset", "cgan")),
        # With a penalty, clusters and a moving average, as in the fast presets.
        ("accelerate", ("--preset", "vanilla-fast", "--clusters", "1", "--precision", "fp32")),
    ],
)
def test_the_loops_train_what_the_cells_train(run: Run, mnist_dir: Path, loop: str, words: tuple[str, ...]) -> None:
    more = ("--data", "mnist", "--data-dir", str(mnist_dir), "--batch-size", "4", "--width", "0.1")
    config = parse_training([*words, *more])[0]
    spec = RunSpec(config=config, gate_steps=1, warmup=1, steps=2, repeats=5)
    made = run(sys.executable, "-m", f"distgan.benchmark.peers.{loop}_loop", spec.model_dump_json(exclude_unset=True))
    assert made.returncode == 0, made.stderr
    found = json.loads(made.stdout.splitlines()[-1])
    assert [(each["steps"], each["images"]) for each in found["repeats"]] == [(2, 8)] * 5
    assert all(each["seconds"] > 0 for each in found["repeats"])
    assert found["epoch_images"] == 60_000


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import os; os.kill(os.getpid(), 9)", "SIGKILL"),
        ("raise MemoryError('all of it')", "MemoryError: all of it"),
        ("print('no JSON')", "exit code 0"),
        ("import time; time.sleep(60)", "--timeout 2 s"),
    ],
)
def test_a_process_that_fails_says_why(code: str, why: str) -> None:
    with pytest.raises(ChildFailed, match=why):
        speed._outcome([sys.executable, "-c", code], ThroughputConfig(timeout=2), 1)
