"""Figures of matplotlib are written completely, at the size that was requested."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distgan.utils import figures
from distgan.utils.figures import describe_numbered, draw_timeline, drawable_names, grid, new_figure, save_png


def test_a_figure_becomes_a_png(tmp_path: Path) -> None:
    figure = new_figure(4, 3, facecolor="white")
    figure.subplots().plot([0, 1], [0, 1])
    save_png(figure, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as image:
        assert (image.format, image.size) == ("PNG", (480, 360))
        pixels = np.asarray(image.convert("RGB"))
    assert tuple(pixels[0, 0]) == (255, 255, 255)
    assert pixels.min() < 100
    assert new_figure(1, 1, dpi=50).dpi == 50


def test_a_figure_that_can_not_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "plot.png").mkdir()
    with pytest.raises(OSError, match=r"plot\.png"):
        save_png(new_figure(1, 1), tmp_path / "plot.png")
    assert [path.name for path in tmp_path.iterdir()] == ["plot.png"]


def test_small_images_are_enlarged_until_a_name_fits_above_them() -> None:
    widths = (8, 16, 28, 32, 63, 64, 128)
    assert [figures.pixel_scale(width) for width in widths] == [8, 4, 2, 2, 2, 1, 1]


def test_a_timeline_of_eight_epochs_is_no_wider_than_a_screen() -> None:
    frames = [(f"epoch {epoch}", grid(np.zeros((64, 28, 28), np.uint8), 8)) for epoch in range(8)]
    width, height = draw_timeline(frames).size
    assert width <= 1920
    assert width < 2.5 * height


def test_names_whose_letters_no_font_has_are_numbers() -> None:
    names = ["cat", "собака", "γάτα", "عربي", "two\nlines", "猫", "日本語 cat", "한국어", "\udcff", ""]
    drawn = ["cat", "собака", "γάτα", "عربي", "two lines", "#5", "#6", "#7", "\\udcff", ""]
    assert drawable_names(names) == drawn
    assert describe_numbered(names).endswith(": #5 猫, #6 日本語 cat, #7 한국어")
    assert describe_numbered(names[:5]) == ""
    assert describe_numbered(["猫"] * 30).endswith("#19 猫 and 10 more")
    images = np.zeros((2, 28, 28), np.uint8)
    first, second = (np.asarray(grid(images, 2, heads=heads)) for heads in (["猫", "猫"], ["日", "日"]))
    assert np.array_equal(first, second), "a box, whatever the letter"
