"""The tuned presets: short versions of them reach a stated quality on a stated budget of steps."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.runs import Run

from distgan.utils.files import read_tensors

SMALL = ("--width", 0.1, "--data", "digits", "--log-every", 2, "--tracker", "none", "--threads", 1)


@pytest.mark.parametrize("preset", ["cgan-fast", "vanilla-fast"])
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
