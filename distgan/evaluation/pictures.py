"""Pictures of an evaluation: the matrix, confused pairs, best and worst of each digit, nearest real images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from distgan.evaluation.ensemble import Reading
from distgan.evaluation.measure import Closest
from distgan.evaluation.schema import Quality
from distgan.utils.figures import GAP, INK, PAPER, SCALE, new_figure, save_png, with_text
from distgan.utils.files import write_atomic

_NUM_STRIPS, _STRIP, _SIDE, _NEAREST = 6, 12, 8, 8
_TEXT_WIDTH, _CELL = 190, 28 * SCALE + GAP


def save_pictures(
    folder: Path,
    quality: Quality,
    images: Tensor,
    reading: Reading,
    labels: Tensor | None,
    closest: Closest,
    trained: Tensor,
) -> list[str]:
    """Write the pictures that have content to `folder`. Return their names. `trained`: the training images."""
    notice = "; ".join(quality.notices) or None
    owners = reading.digits if labels is None else labels
    pictures: dict[str, Image.Image] = {"digits.png": _best_and_worst(images, reading, owners)}
    if quality.confusions and labels is not None:
        pictures["confusions.png"] = _confused(quality, images, reading, labels)
    pictures["neighbours.png"] = _neighbours(images, closest, owners, trained)
    _save_matrix(folder / "matrix.png", quality)
    for name, picture in pictures.items():
        shown = with_text(picture, below=notice)
        write_atomic(folder / name, lambda file, shown=shown: shown.save(file, "png"))  # type: ignore[misc]
    (folder / "confusions.png").unlink(missing_ok=True) if "confusions.png" not in pictures else None
    return ["matrix.png", *pictures]


def _strips(rows: Sequence[tuple[str, Tensor]], heads: Sequence[str] = ()) -> Image.Image:
    """Draw images (N, 28, 28) in strips, a strip per row, with its text on the left and `heads` above."""
    columns, top = max(len(images) for _, images in rows), 24 if heads else 0
    picture = Image.new("RGB", (_TEXT_WIDTH + columns * _CELL + GAP, top + len(rows) * _CELL + GAP), PAPER)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    for part, head in enumerate(heads):
        left = _TEXT_WIDTH + part * columns * _CELL // len(heads)
        draw.text((left, top // 2), head, INK, font, anchor="lm")
    for row, (words, images) in enumerate(rows):
        y = top + GAP + row * _CELL
        draw.multiline_text((10, y + _CELL // 2), words, INK, font, anchor="lm", spacing=3)
        for column, image in enumerate(images.numpy()):
            tile = Image.fromarray(image).resize((28 * SCALE, 28 * SCALE), Image.Resampling.NEAREST)
            picture.paste(tile, (_TEXT_WIDTH + column * _CELL, y))
    return picture


def _best_and_worst(images: Tensor, reading: Reading, owners: Tensor) -> Image.Image:
    """Draw per digit the images of the highest and the lowest probability of it."""
    rows = []
    for digit in range(10):
        own = (owners == digit).nonzero().squeeze(1)
        order = own[reading.probabilities[own, digit].argsort(descending=True, stable=True)]
        blank = torch.full((_SIDE, 28, 28), PAPER[0], dtype=torch.uint8)
        best, worst = images[order[:_SIDE]], images[order[-_SIDE:].flip(0)]
        shown = torch.cat([torch.cat([part, blank])[:_SIDE] for part in (best, worst)])
        rows.append((f"{digit}  ({len(own):,} images)", shown))
    return _strips(rows, heads=("the surest", "the least sure"))


def _confused(quality: Quality, images: Tensor, reading: Reading, labels: Tensor) -> Image.Image:
    rows = []
    for each in quality.confusions[:_NUM_STRIPS]:
        own = ((labels == each.asked) & (reading.digits == each.read)).nonzero().squeeze(1)
        order = own[reading.probabilities[own, each.read].argsort(descending=True, stable=True)]
        rows.append((f"{each.asked} read as {each.read}\n{each.share.value:.1%}", images[order[:_STRIP]]))
    return _strips(rows)


def _neighbours(images: Tensor, closest: Closest, owners: Tensor, trained: Tensor) -> Image.Image:
    """Draw per digit the images closest to a training image, and one at the median distance."""
    pairs, words = [], []
    for digit in range(10):
        own = (owners == digit).nonzero().squeeze(1)
        if len(own):
            order = own[closest.greys[own].argsort(stable=True)]
            chosen = torch.cat([order[: _NEAREST - 4], order[len(order) // 2 :][:4]])
            pairs.append((images[chosen], trained[closest.which[chosen]]))
            words.append(f"{digit}: {closest.greys[order[0]]:.0f} to {closest.greys[order].median():.0f} greys off")
    rows = []
    for number, (own, real) in enumerate(pairs):
        shown = torch.stack([own, real], 1).flatten(0, 1)
        rows.append((words[number], shown))
    return _strips(rows, heads=("a sample and its nearest training image: the closest pairs", "usual pairs"))


def _save_matrix(path: Path, quality: Quality) -> None:
    """Plot label x read digit in percent beside that of real digits; without labels the digits' shares."""
    figure = new_figure(11, 5.4, dpi=110)
    left, right = figure.subplots(1, 2)
    if quality.matrix is not None:
        _heat(left, np.array(quality.matrix), "asked for", f"{quality.n:,} generated images")
    else:
        values = [each.value for each in quality.shares]
        errors = [
            [each.value - each.low for each in quality.shares],
            [each.high - each.value for each in quality.shares],
        ]
        left.bar(range(10), values, yerr=errors, capsize=3, color="#4477aa")
        left.axhline(0.1, color="#333333", linestyle="--", linewidth=1)
        left.set(xticks=range(10), xlabel="read as", ylabel="share", title=f"{quality.n:,} generated images")
    real = np.array(quality.jury_matrix)
    _heat(right, real, "is", f"{real.sum():,} real images: the jury's own errors")
    if quality.notices:
        figure.suptitle("; ".join(quality.notices), color="#b00020")
    save_png(figure, path)


def _heat(axes: object, counts: np.ndarray, rows: str, title: str) -> None:
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares**0.5, cmap="Blues", vmin=0, vmax=1)  # type: ignore[attr-defined]
    for (row, column), value in np.ndenumerate(shares):
        if counts[row, column]:
            words = f"{100 * value:.1f}" if value < 0.9995 else "100"
            ink = "white" if value > 0.3 else "black"
            axes.text(column, row, words, ha="center", va="center", color=ink, fontsize=8)  # type: ignore[attr-defined]
    axes.set(xticks=range(10), yticks=range(10), xlabel="read as", ylabel=rows, title=f"{title}, %")  # type: ignore[attr-defined]
