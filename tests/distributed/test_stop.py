"""Signals to one rank, to all, and to the launcher."""

import os
import signal
import time
from pathlib import Path

import pytest
from helpers.fake_bench import write_presets
from helpers.forkserver import Ranks
from helpers.launchers import ACCELERATE, LONG, TWO, trains
from helpers.runs import Start, checkpoint, fits, ranks_of, wait_for

from distgan.runs.run_dir import read_status
from distgan.utils.files import read_metrics


def test_one_signalled_rank_stops_both(start: Start, tmp_path: Path) -> None:
    signum = signal.SIGUSR1
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


def test_two_ranks_stop_at_their_targets(ranks: Ranks, tmp_path: Path) -> None:
    write_presets(tmp_path)
    ranks.ok(2, "train", "--config", "tiny.toml", "--threads", 1, "--tracker", "none", "--stop-at", "easy.toml",
             "--out", "run")  # fmt: skip
    assert read_status(tmp_path / "run")["reason"] == "targets met at step 9 and held to step 18"
    assert checkpoint(tmp_path / "run")[1] == 18


def test_a_terminals_ctrl_c_saves_under_torchrun(start: Start, tmp_path: Path) -> None:
    """The terminal sends it to all, and torchrun once more to its ranks: still one press."""
    process = start(*TWO, *LONG, "--epochs", 9, "--out", "run")
    wait_for(lambda: trains(tmp_path / "run"), process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=90)
    assert fits("distgan: stopped ... SIGINT ... step", err)
    assert checkpoint(tmp_path / "run")[1] == read_status(tmp_path / "run")["step"] > 0


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL])
@pytest.mark.parametrize(("launcher", "num"), [(TWO, 2), (ACCELERATE, 1)], ids=["torchrun", "accelerate"])
def test_a_signal_to_the_launcher_saves(
    start: Start, tmp_path: Path, launcher: tuple[object, ...], num: int, signum: signal.Signals
) -> None:
    """torchrun hands SIGTERM and SIGINT on; of USR1 and -9 launchers die, and so does accelerate's of any."""
    process = start(*launcher, *LONG, "--epochs", 9, "--out", "run")
    wait_for(lambda: trains(tmp_path / "run"), process)
    ranks = ranks_of(process)
    assert len(ranks) == num
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
