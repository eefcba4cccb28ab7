"""Resuming on another number of processes: one more recipe."""

from pathlib import Path

from helpers.launchers import assert_resume_on_other_numbers
from helpers.runs import Run


def test_one_two_one_process_is_the_unbroken_run(
    distgan: Run, run: Run, tmp_path: Path, data_flags: tuple[str, ...]
) -> None:
    flags = ("--preset", "vanilla-quick", "--loss", "wgan-gp", "--order", "fresh", "--ema-decay", 0.9)
    assert_resume_on_other_numbers(distgan, run, tmp_path, (*data_flags, *flags))
