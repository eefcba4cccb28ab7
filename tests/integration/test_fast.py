"""The tuned presets: short versions of them reach a stated quality on a stated budget of steps."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Run, assert_user_error

from distgan.utils.files import read_metrics, read_tensors

SMALL = ("--width", 0.1, "--data", "digits", "--log-every", 2, "--tracker", "none", "--threads", 1)

# So many steps of 128 real digits, half an epoch and of the GAN a whole one, have to reach this.
BUDGET = {"cgan-fast": 240, "vanilla-fast": 469}
REACHED = {
    "cgan-fast": {"agreement": 0.7, "fcd": 15, "coverage": 0.2, "digit": 0.3},
    "vanilla-fast": {"recognisable": 0.75, "fcd": 7, "coverage": 0.4, "digit": 0.06},
}


@pytest.mark.timeout(700)  # an older processor takes four minutes for the GAN's epoch on one core
@pytest.mark.parametrize("preset", list(REACHED))
def test_short_run_reaches(distgan: Run, mnist_dir: Path, tmp_path: Path, preset: str) -> None:
    flags = ("--preset", preset, "--data-dir", mnist_dir, "--max-steps", BUDGET[preset])
    trained = distgan(
        "train",
        *flags,
        "--eval-every-steps",
        BUDGET[preset],
        "--eval-num",
        1000,
        "--tracker",
        "none",
        "--threads",
        1,
        "--out",
        "run",
        timeout=600,
    )
    assert trained.returncode == 0, trained.stderr
    found = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
    bounds = REACHED[preset]
    assert found["ema_fcd"] < bounds.pop("fcd")
    assert min(found["ema_digits"]) > bounds.pop("digit"), found["ema_digits"]
    for name, bound in bounds.items():
        assert found[f"ema_{name}"] > bound, name


@pytest.mark.parametrize("preset", list(REACHED))
def test_clustered_run_samples_resumes_and_is_judged(distgan: Run, tmp_path: Path, preset: str) -> None:
    flags = ("train", "--preset", preset, "--batch-size", 32, *SMALL, "--clusters", 4, "--epochs", 1)
    assert distgan(*flags, "--max-steps", 6, "--out", "straight").returncode == 0
    assert distgan(*flags, "--max-steps", 3, "--out", "broken").returncode == 0
    assert distgan("train", "--out", "broken", "--max-steps", 6).returncode == 0
    straight, _ = read_tensors(tmp_path / "straight" / "weights" / "generator_ema.safetensors")
    broken, _ = read_tensors(tmp_path / "broken" / "weights" / "generator_ema.safetensors")
    assert all(np.array_equal(straight[key], broken[key]) for key in straight)
    # Each of 17,970 images is counted once.
    assert int(straight["cluster_counts"].sum()) == 17_970
    assert straight["cluster_counts"].shape == (10 if preset == "cgan-fast" else 1, 4)

    assert distgan("sample", "straight", "--num", 30, "--out", "a.npz").returncode == 0
    assert distgan("sample", "straight", "--num", 40, "--out", "b.npz").returncode == 0
    with np.load(tmp_path / "a.npz") as a, np.load(tmp_path / "b.npz") as b:
        assert np.array_equal(a["images"], b["images"][:30])
    for out in ("grid.png", "walk.gif"):
        more = ("--interpolate",) if out == "walk.gif" else ()
        assert distgan("sample", "straight", "--num", 5, "--out", out, *more).returncode == 0
    judged = distgan("eval", "straight", "--num", 100, "--json")
    assert judged.returncode == 0, judged.stderr
    assert (json.loads(judged.stdout)["agreement"] is None) == (preset == "vanilla-fast")


def test_wrong_numbers_of_clusters_are_one_line(distgan: Run) -> None:
    flags = ("train", "--preset", "cgan-fast", *SMALL, "--max-steps", 2)
    assert_user_error(distgan(*flags, "--clusters", 5000), "--clusters 5000: of 17,970 images; allowed: at most 1797")
    assert_user_error(distgan(*flags, "--clusters", 0), "--clusters: '0' is not allowed", "1 or more")
    assert_user_error(distgan(*flags, "--family", "small"), "--clusters 25: with --family small", "allowed:")
    assert_user_error(
        distgan("train", "--model", "cgan", "--family", "clustered"), "--clusters unset: with --family clustered"
    )
