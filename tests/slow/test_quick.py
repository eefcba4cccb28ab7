"""The quick presets at full length: what the README's pictures show, in numbers. Minutes."""

from pathlib import Path

import numpy as np
import pytest
from helpers.runs import MonkeyPatch, Run
from sklearn.neighbors import KNeighborsClassifier

from distgan.config.schema import DataConfig
from distgan.data.base import load_dataset

pytestmark = pytest.mark.timeout(1800)


def neighbours(mnist_dir: Path) -> KNeighborsClassifier:
    """A judge that needs no training: the five nearest of 20,000 real digits."""
    real = load_dataset(DataConfig(dir=str(mnist_dir)))
    return KNeighborsClassifier(5).fit(real.images[:20_000].flatten(1).numpy(), real.labels[:20_000].numpy())


@pytest.fixture(autouse=True)
def _all_cores(monkeypatch: MonkeyPatch, _no_user_settings: None) -> None:
    """These run one after the other."""
    monkeypatch.delenv("OMP_NUM_THREADS")


def images_of(distgan: Run, mnist_dir: Path, tmp_path: Path, preset: str) -> dict[str, np.ndarray]:
    distgan.ok("train", "--preset", preset, "--data-dir", mnist_dir, "--out", "run", timeout=1500)
    distgan.ok("sample", "run", "--num", 1000, "--out", "images.npz")
    with np.load(tmp_path / "images.npz") as arrays:
        return dict(arrays)


def test_cgan_quick_draws_the_requested_digits(distgan: Run, mnist_dir: Path, tmp_path: Path) -> None:
    arrays = images_of(distgan, mnist_dir, tmp_path, "cgan-quick")
    assert (neighbours(mnist_dir).predict(arrays["images"].reshape(1000, -1)) == arrays["labels"]).mean() > 0.9


def test_vanilla_quick_draws_most_digits(distgan: Run, mnist_dir: Path, tmp_path: Path) -> None:
    arrays = images_of(distgan, mnist_dir, tmp_path, "vanilla-quick")
    votes = neighbours(mnist_dir).predict_proba(arrays["images"].reshape(1000, -1))
    shares = np.bincount(votes.argmax(1), minlength=10) / 1000
    assert (shares > 0.02).sum() >= 8, shares
    # Five neighbours of one digit have 0.10 of random noise, 0.42 of this preset's images and 0.83 of cgan-quick's.
    assert (votes.max(1) == 1).mean() > 0.3
