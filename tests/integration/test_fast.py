"""The tuned presets: short versions of them reach a stated quality on a stated budget of steps."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.runs import Run

from distgan.utils.files import read_tensors

# A precision by name: the presets' `auto` goes by measured times, and two runs may choose differently.
SMALL = (
    *("--width", 0.1, "--data", "digits", "--precision", "fp32"),
    *("--log-every", 2, "--tracker", "none", "--threads", 1),
)


@pytest.mark.parametrize("preset", ["cgan-fast", "vanilla-fast"])
def test_clustered_run_samples_resumes_and_is_judged(distgan: Run, tmp_path: Path, preset: str) -> None:
    flags = ("train", "--preset", preset, "--batch-size", 32, *SMALL, "--clusters", 4, "--epochs", 1)
    distgan.ok(*flags, "--max-steps", 6, "--out", "straight")
    distgan.ok(*flags, "--max-steps", 3, "--out", "broken")
    distgan.ok("train", "--out", "broken", "--max-steps", 6)
    straight, _ = read_tensors(tmp_path / "straight" / "weights" / "generator_ema.safetensors")
    broken, _ = read_tensors(tmp_path / "broken" / "weights" / "generator_ema.safetensors")
    assert all(np.array_equal(straight[key], broken[key]) for key in straight)
    # Each of 17,970 images is counted once.
    assert int(straight["cluster_counts"].sum()) == 17_970
    assert straight["cluster_counts"].shape == (10 if preset == "cgan-fast" else 1, 4)

    distgan.ok("sample", "straight", "--num", 30, "--out", "a.npz")
    distgan.ok("sample", "straight", "--num", 40, "--out", "b.npz")
    with np.load(tmp_path / "a.npz") as a, np.load(tmp_path / "b.npz") as b:
        assert np.array_equal(a["images"], b["images"][:30])
    for out in ("grid.png", "walk.gif"):
        more = ("--interpolate",) if out == "walk.gif" else ()
        distgan.ok("sample", "straight", "--num", 5, "--out", out, *more)
    judged = distgan.ok("eval", "straight", "--num", 100, "--no-gan-train", "--json")
    assert (json.loads(judged.stdout)["agreement"] is None) == (preset == "vanilla-fast")
