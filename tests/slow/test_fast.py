"""The tuned presets: short versions of them reach a stated quality on a stated budget of steps."""

from pathlib import Path

import pytest
from helpers.runs import Run

from distgan.utils.files import read_metrics

# So many steps of 128 real digits, half an epoch and of the GAN a complete one, have to reach this.
BUDGET = {"cgan-fast": 240, "vanilla-fast": 469}
REACHED = {
    "cgan-fast": {"agreement": 0.7, "fcd": 15, "coverage": 0.2, "digit": 0.3},
    "vanilla-fast": {"recognisable": 0.75, "fcd": 7, "coverage": 0.4, "digit": 0.06},
}


@pytest.mark.timeout(700)  # an older processor takes four minutes for the GAN's epoch on one core
@pytest.mark.parametrize("preset", list(REACHED))
def test_short_run_reaches(distgan: Run, mnist_dir: Path, tmp_path: Path, preset: str) -> None:
    flags = ("--preset", preset, "--data-dir", mnist_dir, "--max-steps", BUDGET[preset], "--eval-every-steps",
             BUDGET[preset], "--eval-num", 1000, "--tracker", "none", "--threads", 1, "--out", "run")  # fmt: skip
    distgan.ok("train", *flags, timeout=600)
    found = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
    bounds = REACHED[preset]
    assert found["ema_fcd"] < bounds.pop("fcd")
    assert min(found["ema_digits"]) > bounds.pop("digit"), found["ema_digits"]
    for name, bound in bounds.items():
        assert found[f"ema_{name}"] > bound, name
