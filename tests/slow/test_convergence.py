"""bench convergence of real trainings."""

import os
import signal
from pathlib import Path

import psutil
from helpers.fake_bench import EASY, content_of, write_presets
from helpers.runs import BIN, Run, Start, wait_for


def test_losses_that_are_no_numbers_are_infinite(distgan: Run, tmp_path: Path) -> None:
    write_presets(tmp_path)
    distgan.ok(
        "bench", "convergence", "--preset", "tiny.toml", "--against", "broken.toml", "--targets", "easy.toml",
        "--seeds", 1, "--threads", 1, "--device", "cpu", "--out", "out",
    )  # fmt: skip
    good, broken = content_of(tmp_path / "out")["cells"]
    assert (good["outcome"], broken["outcome"]) == ("converged", "diverged")
    assert "is nan at step" in broken["why"]


def test_a_killed_bench_of_real_trainings_goes_on(start: Start, run: Run, tmp_path: Path) -> None:
    """On two processes too, whose launcher and ranks must not outlive it."""
    write_presets(tmp_path)
    (tmp_path / "easy.toml").write_text(EASY.replace("max_fcd = 1000.0", "max_fcd = 1e-9"))  # out of reach
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
    run.ok(*words, timeout=280)
    found = {cell["id"]: cell for cell in content_of(tmp_path / "out")["cells"]}
    assert [cell["outcome"] for cell in found.values()] == ["not converged"] * 2
    assert found["tiny-processes2-seed0"]["resumed"]
    steps = [each["step"] for each in found["tiny-processes2-seed0"]["evaluations"]]
    assert steps == [each["step"] for each in found["tiny-seed0"]["evaluations"]] == [9 * i for i in range(1, 9)]
