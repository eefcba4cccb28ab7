"""The pictures of an evaluation: of any number of classes, any size, grey or in colour."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.made_up_runs import about, quality_of
from PIL import Image

from distgan.evaluation.ensemble import EnsembleOutput
from distgan.evaluation.measure import Closest
from distgan.evaluation.pictures import save_pictures
from distgan.evaluation.schema import Confusion, class_names_of


@pytest.mark.parametrize("kind", ["GAN", "C-GAN"])
@pytest.mark.parametrize(
    ("num_classes", "shape"), [(2, (28, 28)), (10, (28, 28)), (37, (32, 32, 3)), (100, (16, 64, 3))]
)
def test_pictures_hold_every_class(tmp_path: Path, num_classes: int, shape: tuple[int, ...], kind: str) -> None:
    n = 3 * num_classes
    labels = torch.arange(n) % num_classes
    images = torch.zeros(n, *shape, dtype=torch.uint8)
    images[..., :] = 200  # grey, or in colour
    if len(shape) == 3:
        images[..., 1:] = 0  # red
    probabilities = torch.nn.functional.one_hot(labels, num_classes).double()
    reading = EnsembleOutput(probabilities, labels[:, None], torch.zeros(n, 4))
    closest = Closest(torch.zeros(n), torch.zeros(n, dtype=torch.long), about(0.01))
    confusions = [Confusion(asked=1, read=1, share=about(0.5), jury=about(0.0), seen_by=3)] if kind == "C-GAN" else []
    quality = quality_of(kind, num_classes=num_classes, confusions=confusions)
    images = images if images.ndim == 3 else images.movedim(-1, 1)
    names = save_pictures(tmp_path, quality, images, reading, labels, closest, images)
    assert set(names) == {path.name for path in tmp_path.iterdir()}
    scale = 2 if max(shape) <= 32 else 1
    pixels = np.asarray(Image.open(tmp_path / "digits.png"))
    assert pixels.shape == (
        24 + 2 + num_classes * (scale * shape[0] + 2 + (12 if shape[0] < 28 else 0)),
        pixels.shape[1],
        3,
    )
    # The first image of the last class, and the last of the row.
    colour = [200, 0, 0] if len(shape) == 3 else [200] * 3
    assert pixels[-10 - 12 * (shape[0] < 28), 195].tolist() == colour
    assert pixels.shape[1] == 190 + 16 * (scale * shape[1] + 2) + 2


def test_names_that_are_no_plain_words_are_drawn(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """A formula would end in an error, a letter that the font lacks in a box and matplotlib's warning."""
    labels = torch.arange(6) % 2
    images = torch.zeros(6, 28, 28, dtype=torch.uint8)
    reading = EnsembleOutput(torch.nn.functional.one_hot(labels, 2).double(), labels[:, None], torch.zeros(6, 4))
    closest = Closest(torch.zeros(6), torch.zeros(6, dtype=torch.long), about(0.01))
    quality = quality_of("C-GAN", num_classes=2).model_copy(update={"class_names": ["$\\frac$\n", "猫"]})
    assert class_names_of(quality) == [r"$\frac$\n", "猫"], "a line for each"
    save_pictures(tmp_path, quality, images, reading, labels, closest, images)
    assert not [str(warning.message) for warning in recwarn]
