"""Signals, time limits and launchers that die: the run saves, says so, and has an exit code of its own."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import BIN, SCRIPT, TINY, Run, assert_user_error, checkpoint, quick, ranks_of, wait_for

from distgan.runs.run_dir import read_status
from distgan.training import stop
from distgan.training.stop import LAUNCHER_GONE, TIME_LIMIT, StopRequest, describe, exit_code, seconds, seconds_left
from distgan.utils.files import read_metrics

LONG = ("--preset", "cgan-quick", "--data", "digits", *TINY, "--epochs", 1, "--sample-epochs", "9")
TWO = (BIN / "torchrun", "--nproc-per-node", 2, "--standalone", SCRIPT)
ACCELERATE = (BIN / "accelerate", "launch", "--num_processes", 1, SCRIPT)
Start = Callable[..., "subprocess.Popen[str]"]


def trains(folder: Path) -> bool:
    return len(read_metrics(folder / "metrics.jsonl")) > 2


@pytest.mark.parametrize(
    ("signum", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138), (signal.SIGUSR2, 140), (signal.SIGHUP, 129)],
)
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
    assert "go on with: distgan train --out run" in err
    step = checkpoint(run)[1]
    assert 0 < step < 562
    assert read_metrics(run / "metrics.jsonl")[-1]["step"] == step
    status = read_status(run)
    assert (status["state"], status["exit_code"], status["step"]) == ("stopped", code, step)
    for name in ("weights/generator.safetensors", "timeline.png", "losses.png"):
        assert (run / name).exists()
    if signum != signal.SIGUSR1:
        return
    assert distgan("sample", "run").returncode == 0
    # The command that it names goes on, and ends where an unbroken run does.
    assert distgan("train", "--out", "run").returncode == 0
    assert distgan("train", *LONG, "--out", "straight").returncode == 0
    ours, theirs = checkpoint(run)[0], checkpoint(tmp_path / "straight")[0]
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert sorted(os.listdir(run / "samples")) == sorted(os.listdir(tmp_path / "straight" / "samples"))


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
    asked = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - asked < 20, "a step of seconds, and no picture after it"
    assert process.returncode == 130
    assert "distgan: interrupted" in err
    assert "Traceback" not in err
    assert not (tmp_path / "run" / "timeline.png").exists()
    assert checkpoint(tmp_path / "run")[1] >= 0, "the last checkpoint is whole"
    assert read_status(tmp_path / "run")["state"] == "stopped"
    assert distgan("checkpoint", "verify", "run").returncode == 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
def test_one_signalled_rank_stops_both(start: Start, tmp_path: Path, signum: signal.Signals) -> None:
    process = start(*TWO, *LONG, "--epochs", 9, "--out", "run")
    wait_for(lambda: trains(tmp_path / "run"), process)
    ranks = ranks_of(process)
    assert len(ranks) == 2
    os.kill(ranks[1], signum)
    _, err = process.communicate(timeout=90)
    assert f"distgan: stopped by {signum.name} at step" in err
    status = read_status(tmp_path / "run")
    assert (status["state"], status["exit_code"]) == ("stopped", 128 + signum)
    assert checkpoint(tmp_path / "run")[1] == read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["step"] > 0


@pytest.mark.parametrize(
    ("launcher", "signum"),
    [
        ("torchrun", signal.SIGUSR1),
        ("torchrun", signal.SIGKILL),
        ("accelerate", signal.SIGTERM),
        ("accelerate", signal.SIGINT),
        pytest.param("torchrun", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("torchrun", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("accelerate", signal.SIGUSR1, marks=pytest.mark.slow),
        pytest.param("accelerate", signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_the_launcher_saves(start: Start, tmp_path: Path, launcher: str, signum: signal.Signals) -> None:
    """torchrun hands SIGTERM and SIGINT on; of USR1 and -9 launchers die, and so does accelerate's of any."""
    process = start(*(TWO if launcher == "torchrun" else ACCELERATE), *LONG, "--epochs", 9, "--out", "run")
    wait_for(lambda: trains(tmp_path / "run"), process)
    ranks = ranks_of(process)
    assert len(ranks) == (2 if launcher == "torchrun" else 1)
    process.send_signal(signum)
    process.wait(90)
    end = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in ranks):
        assert time.monotonic() < end, "a rank stayed"
        time.sleep(0.05)
    assert process.returncode != 0
    status = read_status(tmp_path / "run")
    assert status["state"] == "stopped", status
    assert status["exit_code"] in (128 + signum, 143)
    assert checkpoint(tmp_path / "run")[1] == status["step"] > 0


def test_a_terminals_ctrl_c_saves_under_torchrun(start: Start, tmp_path: Path) -> None:
    """The terminal sends it to all, and torchrun once more to its ranks: still one press."""
    process = start(*TWO, *LONG, "--epochs", 9, "--out", "run")
    wait_for(lambda: trains(tmp_path / "run"), process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=90)
    assert "distgan: stopped by SIGINT at step" in err
    assert checkpoint(tmp_path / "run")[1] == read_status(tmp_path / "run")["step"] > 0


def test_a_reader_that_leaves_does_not_end_the_run(start: Start, tmp_path: Path) -> None:
    """As when a launcher or a terminal dies that had the run's stderr."""
    process = start(BIN / "distgan", "train", *LONG, "--max-steps", 300, "--save-every-steps", 50, "--out", "run")
    assert process.stderr is not None
    wait_for(lambda: trains(tmp_path / "run"), process)
    process.stderr.close()
    assert process.wait(60) == 0
    process.stderr = None
    assert read_status(tmp_path / "run")["state"] == "done"


def test_a_failed_run_is_told_from_a_stopped_one(distgan: Run, tmp_path: Path) -> None:
    assert distgan("train", *quick("run", "--g-lr", "1e38")).returncode == 1
    status = read_status(tmp_path / "run")
    assert status["state"] == "failed"
    assert "a weight is no number" in status["reason"] or "is nan" in status["reason"]


# -- time limits -------------------------------------------------------------------------------------------


def test_a_time_limit_is_kept(distgan: Run, tmp_path: Path) -> None:
    began = time.monotonic()
    result = distgan("train", *LONG, "--epochs", 999, "--time-limit", "20s", "--out", "run")
    assert time.monotonic() - began < 20
    assert result.returncode == 75, result.stderr
    assert "stopped before its time limit at step" in result.stderr
    status = read_status(tmp_path / "run")
    assert (status["state"], status["exit_code"]) == ("stopped", 75)
    assert checkpoint(tmp_path / "run")[1] == status["step"] > 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["run"]["time_limit"] == "20s"
    result = distgan("train", "--out", "run", "--max-steps", status["step"] + 2)
    assert result.returncode == 0, "a limit is that of one sitting"


def test_a_limit_that_is_over_stops_after_one_step(distgan: Run, tmp_path: Path) -> None:
    assert distgan("train", *quick("run", "--time-limit", "1s")).returncode == 75
    assert checkpoint(tmp_path / "run")[1] == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90s", 90), ("45m", 2700), ("1h30m", 5400), ("2d", 172_800), ("1:30:00", 5400), ("45:00", 2700),
     ("1-12:00:00", 129_600), ("0:07", 7)],
)  # fmt: skip
def test_durations(text: str, expected: int) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["90", "soon", "1h30", "-5s", "", "1:5", "1.5h", "10 m"])
def test_no_duration(distgan: Run, text: str) -> None:
    result = distgan("train", *quick("run", f"--time-limit={text}", "--dry-run"))
    assert_user_error(result, "--time-limit: ", "allowed: a time as 90s, 45m, 1h30m, 1:30:00 or 1-12:00:00")


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
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


def test_slurms_limit_is_taken(squeue: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
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
    squeue("0:12")
    assert distgan("train", *LONG, "--epochs", 999, "--out", "run").returncode == 75
    assert checkpoint(tmp_path / "run")[1] > 0


def test_slow_steps_and_saves_are_allowed_for(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(stop.time, "monotonic", lambda: now[0])
    with StopRequest(60.0, is_launched=False) as request:
        now[0] += 10
        assert request.reason() == 0
        now[0] += 10  # 40 s are left; two such steps would take 20, the pictures 5
        assert request.reason() == 0
        request.save_s = 8.0
        assert request.reason() == TIME_LIMIT


def test_a_press_that_a_launcher_hands_on_is_not_a_second_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(stop.time, "monotonic", lambda: now[0])
    with StopRequest(None, is_launched=True) as request:
        signal.raise_signal(signal.SIGINT)
        now[0] += 0.5
        signal.raise_signal(signal.SIGINT)
        assert request.reason() == signal.SIGINT
        now[0] += 1
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with StopRequest(None, is_launched=False):
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_reasons_in_words_and_codes() -> None:
    assert (describe(signal.SIGUSR1), exit_code(signal.SIGUSR1)) == ("by SIGUSR1", 138)
    assert (describe(TIME_LIMIT), exit_code(TIME_LIMIT)) == ("before its time limit", 75)
    assert (describe(LAUNCHER_GONE), exit_code(LAUNCHER_GONE)) == ("because its launcher is gone", 143)
