"""`distgan data`: what it draws and says of names and numbers that are unusual."""

import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.runs import Capture, MonkeyPatch, expect_user_error

from distgan.config.command_settings import InspectConfig
from distgan.config.presets import build_config
from distgan.data.base import Dataset
from distgan.runs import data_inspection
from distgan.training.session import open_session
from distgan.utils.figures import PAPER


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def test_a_name_of_several_lines_stays_in_its_row() -> None:
    said = data_inspection._format_counts({"two\nlines\t": 3, "b": 2000})
    assert said == r"two\nlines\t (3), b (2,000)"


def test_one_image_is_too_few(tmp_path: Path, capsys: Capture) -> None:
    np.savez(tmp_path / "one.npz", images=np.zeros((1, 28, 28), np.uint8))
    with expect_user_error("one.npz: ... (1) ... 2 or more [bad-images]"):
        data_inspection.inspect(str(tmp_path / "one.npz"), InspectConfig())
    assert "28 x 28" in capsys.readouterr().out
    np.savez(tmp_path / "two.npz", images=np.zeros((2, 28, 28), np.uint8))
    data_inspection.inspect(str(tmp_path / "two.npz"), InspectConfig())


@pytest.mark.parametrize("shape", [(28, 28), (3, 28, 28)])
def test_where_a_class_has_no_image_the_sheet_is_paper(shape: tuple[int, ...]) -> None:
    images = torch.zeros(4, *shape, dtype=torch.uint8)
    data = Dataset("x", images, torch.tensor([0, 0, 0, 1]), "here", class_names=["a", "b"])
    sheet = np.asarray(data_inspection.draw_sheet(data))
    column = sheet[:, sheet.shape[1] * 3 // 4]
    assert (column == 0).all(1).any(), "its one image"
    assert (column[-5:] == PAPER).all()


def test_presets_that_cannot_train_on_the_images_are_named(tmp_path: Path, capsys: Capture) -> None:
    """By a last batch of one image, and by more clusters than images."""
    labels = np.arange(65) % 10
    np.savez(tmp_path / "few.npz", images=np.zeros((65, 28, 28), np.uint8), labels=labels)
    data_inspection.inspect(str(tmp_path / "few.npz"), InspectConfig(as_json=True))
    presets = json.loads(capsys.readouterr().out)["presets"]
    assert [presets[name].partition(":")[0] for name in ("vanilla-fast", "images-fast", "cgan-quick")] == [
        "--clusters",
        "--batch-size",
        "",
    ]
    for name in ("images-fast", "vanilla-fast", "cgan-quick"):
        config = build_config(name, {"data": str(tmp_path / "few.npz"), "out": str(tmp_path / name), "max_steps": 1})
        context = expect_user_error(presets[name]) if presets[name] else nullcontext()
        with context, open_session(config):
            pass
