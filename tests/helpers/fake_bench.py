"""Run `distgan bench convergence` on scripted trainings (fake_trainer.py)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from distgan.benchmark import trial
from distgan.cli import run_command
from distgan.data.base import Dataset

EASY = """format = 1
frozen = "2026-01-01"
runs = [{preset = "cgan-quick", seed = 0, fcd = 2.5, is_ours = true}]
protocol = {num = 100, evaluations_per_epoch = 4, hold = 1}
cgan = {max_fcd = 1000.0, min_agreement = 0.0, min_coverage = 0.0}
vanilla = {max_fcd = 1000.0, min_share = 0, max_share = 1, min_recognisable = 0, min_coverage = 0}
"""


TINY = """[model]
name = "cgan"
family = "dcgan"
width = 0.1
[data]
name = "digits"
batch_size = 512
[optim]
d_lr = 1e-3
[run]
epochs = 2
sample_epochs = [2]
"""


def fake_training(patch: Callable[[Any, str, Any], None]) -> None:
    """Replace the training by fake_trainer.py, and the data by zeros."""
    images = torch.zeros(1000, 28, 28, dtype=torch.uint8)
    patch(trial, "TRAINING", ("helpers.fake_trainer",))
    patch(trial, "_load", lambda config: Dataset("digits", images, torch.arange(1000) % 10, "nowhere"))


def content_of(folder: Path) -> dict[str, Any]:
    """Return the content of results.json."""
    return json.loads((folder / "results.json").read_text())


class FakeBench:
    """`distgan bench convergence` on scripted trainings; `play` sets what each run does."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.words = ["convergence", "--preset", "one.toml", "--targets", "easy.toml", "--out", "out"]

    def play(self, **runs: dict[str, Any]) -> None:
        named = {name.replace("_", "-"): run for name, run in runs.items()}
        (self.folder / "fake_trainer.json").write_text(json.dumps(named))

    def __call__(self, *more: object) -> dict[str, dict[str, Any]]:
        """Run the benchmark with more flags. Return the cells by id."""
        run_command("bench", *self.words, *map(str, more))
        return self.cells()

    def cells(self) -> dict[str, dict[str, Any]]:
        return {cell["id"]: cell for cell in content_of(self.folder / "out")["cells"]}

    @property
    def facts(self) -> dict[str, Any]:
        return content_of(self.folder / "out")["facts"]

    @property
    def starts(self) -> list[str]:
        path = self.folder / "starts"
        return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


GOOD, BAD = {"fcd": [3, 0.9, 0.8, 0.7, 0.6, 0.5] + [0.5] * 200}, {"fcd": [3, 2, 2]}


def write_presets(folder: Path) -> None:
    (folder / "tiny.toml").write_text(TINY)
    (folder / "broken.toml").write_text(TINY.replace("1e-3", "1e30"))
    (folder / "easy.toml").write_text(EASY)
