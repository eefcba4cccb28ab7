"""The launchers' other signals and files."""

import signal
from pathlib import Path

import pytest
from helpers.launchers import (
    assert_launch_file_starts,
    assert_signal_to_launcher_saves,
    assert_signal_to_our_launcher_saves,
    assert_zero_launch_file_starts,
    needs_deepspeed,
)
from helpers.runs import Run, Start


@pytest.mark.parametrize(
    ("launcher", "signum"),
    [
        ("torchrun", signal.SIGTERM),
        ("torchrun", signal.SIGUSR1),
        ("torchrun", signal.SIGINT),
        ("accelerate", signal.SIGINT),
        ("accelerate", signal.SIGUSR1),
        ("accelerate", signal.SIGKILL),
    ],
)
def test_a_signal_to_the_launcher_saves(start: Start, tmp_path: Path, launcher: str, signum: signal.Signals) -> None:
    assert_signal_to_launcher_saves(start, tmp_path, launcher, signum)


def test_sigterm_to_the_launcher_of_processes_saves_and_ends(start: Start, tmp_path: Path) -> None:
    assert_signal_to_our_launcher_saves(start, tmp_path, signal.SIGTERM)


@pytest.mark.parametrize(("file", "num"), [("cpu", 2), ("one_gpu", 1)])
def test_launch_file_starts(run: Run, tmp_path: Path, file: str, num: int) -> None:
    assert_launch_file_starts(run, tmp_path, file, num)


@needs_deepspeed
@pytest.mark.parametrize("stage", [1, 3])
def test_launch_file_of_a_stage_starts(run: Run, tmp_path: Path, stage: int) -> None:
    assert_zero_launch_file_starts(run, tmp_path, stage)
