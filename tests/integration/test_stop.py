"""Signals, time limits and launchers that die: the run saves, says so, and has its own exit code."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.fake_bench import EASY, write_presets
from helpers.launchers import LONG, trains
from helpers.runs import BIN, MonkeyPatch, Run, Start, assert_same_run, checkpoint, fits, quick, wait_for

from distgan.runs.run_dir import read_status
from distgan.training.stop import seconds_left
from distgan.utils.files import read_metrics


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGUSR1, 138), (signal.SIGHUP, 129)])
def test_a_signal_leaves_a_usable_run(
    start: Start, distgan: Run, tmp_path: Path, signum: signal.Signals, code: int
) -> None:
    process = start(BIN / "distgan", "train", *LONG, "--out", "run")
    run = tmp_path / "run"
    wait_for(lambda: trains(run), process)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert f"stopped by {signum.name} at step" in err
    assert "resume with: distgan train --out run" in err
    step = checkpoint(run)[1]
    assert 0 < step < 562
    assert read_metrics(run / "metrics.jsonl")[-1]["step"] == step
    status = read_status(run)
    assert (status["state"], status["exit_code"], status["step"]) == ("stopped", code, step)
    for name in ("weights/generator.safetensors", "timeline.png", "losses.png"):
        assert (run / name).exists()
    if signum != signal.SIGUSR1:
        return
    distgan.ok("sample", "run")
    # The command that it names continues, and ends where an unbroken run does.
    distgan.ok("train", "--out", "run", "--max-steps", step + 40)
    distgan.ok("train", *LONG, "--out", "straight", "--max-steps", step + 40)
    ours, theirs = checkpoint(run)[0], checkpoint(tmp_path / "straight")[0]
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert sorted(os.listdir(run / "samples")) == sorted(os.listdir(tmp_path / "straight" / "samples"))


def test_a_run_stops_at_its_targets_and_after_a_resume_at_the_same_step(distgan: Run, tmp_path: Path) -> None:
    """They are missed at first, which a run that forgets its evaluations in a resume would not know."""
    write_presets(tmp_path)
    # 36 steps per epoch, of which every ninth is judged; met from step 0 on but held only in the third evaluation.
    (tmp_path / "easy.toml").write_text(EASY.replace("hold = 1", "hold = 2"))
    words = ("train", "--config", "tiny.toml", "--threads", 1, "--tracker", "none", "--stop-at", "easy.toml")
    done = distgan.ok(*words, "--out", "one")
    assert "done in" in done.stderr
    assert fits("step 9 ... step 27; ", done.stderr)
    status = read_status(tmp_path / "one")
    assert (status["state"], status["step"], status["exit_code"]) == ("done", 27, 0)
    assert status["reason"] == "targets met at step 9 and held to step 27"
    distgan.ok(*words, "--out", "two", "--max-steps", 20)
    assert read_status(tmp_path / "two")["reason"] is None
    distgan.ok("train", "--out", "two")
    assert_same_run(tmp_path / "one", tmp_path / "two")
    files = {path: path.read_bytes() for path in (tmp_path / "one").rglob("*") if path.is_file()}
    again = distgan.ok("train", "--out", "one")
    assert files == {path: path.read_bytes() for path in (tmp_path / "one").rglob("*") if path.is_file()}
    assert "step 27; " in again.stderr
    assert checkpoint(tmp_path / "one")[1] == 27


def test_slurms_two_sigterms_are_one(start: Start, tmp_path: Path) -> None:
    process = start(BIN / "distgan", "train", *LONG, "--out", "run")
    wait_for(lambda: trains(tmp_path / "run"), process)
    for _ in range(3):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.02)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "Traceback" not in err
    assert checkpoint(tmp_path / "run")[1] == read_status(tmp_path / "run")["step"]


def test_a_second_ctrl_c_leaves_at_once(start: Start, distgan: Run, tmp_path: Path) -> None:
    flags = ("--model", "vanilla", "--width", 0.25, "--data", "digits", "--batch-size", 2048, "--log-every", 1,
             "--tracker", "none", "--save-every-steps", 1, "--out", "run")  # fmt: skip
    process = start(BIN / "distgan", "train", *flags)
    wait_for(lambda: len(read_metrics(tmp_path / "run" / "metrics.jsonl")) > 0, process, 120)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    requested = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - requested < 20, "a step of seconds, and no picture after it"
    assert process.returncode == 130
    assert "distgan: interrupted" in err
    assert "Traceback" not in err
    assert not (tmp_path / "run" / "timeline.png").exists()
    assert checkpoint(tmp_path / "run")[1] >= 0, "the last checkpoint is complete"
    assert read_status(tmp_path / "run")["state"] == "stopped"
    distgan.ok("checkpoint", "verify", "run")


def test_a_reader_that_leaves_does_not_end_the_run(start: Start, tmp_path: Path) -> None:
    """As when a launcher or a terminal dies that had the run's stderr."""
    process = start(BIN / "distgan", "train", *LONG, "--max-steps", 300, "--save-every-steps", 50, "--out", "run")
    assert process.stderr is not None
    wait_for(lambda: trains(tmp_path / "run"), process)
    process.stderr.close()
    assert process.wait(60) == 0
    process.stderr = None
    assert read_status(tmp_path / "run")["state"] == "done"


def test_a_time_limit_is_kept(distgan: Run, tmp_path: Path) -> None:
    began = time.monotonic()
    result = distgan("train", *LONG, "--epochs", 999, "--time-limit", "12s", "--out", "run")
    assert time.monotonic() - began < 12
    assert result.returncode == 75, result.stderr
    assert fits("stopped ... time limit ... step", result.stderr)
    status = read_status(tmp_path / "run")
    assert (status["state"], status["exit_code"]) == ("stopped", 75)
    assert checkpoint(tmp_path / "run")[1] == status["step"] > 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["run"]["time_limit"] == "12s"
    result = distgan("train", "--out", "run", "--max-steps", status["step"] + 2)
    assert result.returncode == 0, "a limit is that of one sitting"


def test_a_limit_that_is_over_stops_after_one_step(distgan: Run, tmp_path: Path) -> None:
    assert distgan("train", *quick("run", "--time-limit", "1s")).returncode == 75
    assert checkpoint(tmp_path / "run")[1] == 1


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: MonkeyPatch) -> Callable[[str], None]:
    """A squeue that answers, in a job."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)

    def answer(text: str) -> None:
        (tmp_path / "bin").mkdir(exist_ok=True)
        command = tmp_path / "bin" / "squeue"
        command.write_text(f'#!/bin/sh\ntest "$*" = "--noheader --job 7 --format %L" && echo {text}\n')
        command.chmod(0o755)

    return answer


def test_slurms_limit_is_taken(squeue: Callable[[str], None], monkeypatch: MonkeyPatch) -> None:
    for answer, expected in (
        ("1-02:03:04", 93_784),
        ("59:30", 3570),
        ("UNLIMITED", None),
        ("INVALID", None),
        ("", None),
    ):
        squeue(answer)
        assert seconds_left(None, time.time()) == expected
    assert seconds_left("1h", time.time() - 600) == pytest.approx(3000, abs=1), "one's own comes first"
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 500))
    assert seconds_left(None, 0) == pytest.approx(500, abs=2)
    monkeypatch.delenv("SLURM_JOB_END_TIME")
    monkeypatch.setenv("PATH", "/nowhere")
    assert seconds_left(None, 0) is None
    monkeypatch.delenv("SLURM_JOB_ID")
    assert seconds_left(None, 0) is None


def test_a_slurm_job_saves_before_its_end(distgan: Run, tmp_path: Path, squeue: Callable[[str], None]) -> None:
    squeue("0:01")
    assert distgan("train", *quick("run")).returncode == 75
    assert checkpoint(tmp_path / "run")[1] == 1
