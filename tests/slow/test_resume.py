"""Resuming on another number of processes: one more recipe."""

from pathlib import Path

import pytest
from helpers.forkserver import Ranks
from helpers.launchers import assert_recipes_resume, assert_resume_on_other_numbers
from helpers.runs import Run


def test_one_two_one_process_is_the_unbroken_run(
    distgan: Run, ranks: Ranks, tmp_path: Path, data_flags: tuple[str, ...]
) -> None:
    flags = ("--preset", "vanilla-quick", "--loss", "wgan-gp", "--order", "alternating-fresh", "--ema-decay", 0.9)
    assert_resume_on_other_numbers(distgan, ranks, tmp_path, (*data_flags, *flags))


@pytest.mark.parametrize("third", [1, 2])
def test_every_other_recipe_goes_on_to_the_same_bits(tmp_path: Path, third: int) -> None:
    assert_recipes_resume(tmp_path, third)
