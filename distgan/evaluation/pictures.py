"""Pictures of an evaluation: the matrix, confused pairs, best and worst of each class, nearest real images.

Images are uint8 as a `Dataset` has them, (N, H, W) or in colour (N, 3, H, W), and drawn as (N, H, W, 3).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from distgan.evaluation.ensemble import EnsembleOutput
from distgan.evaluation.measure import Closest
from distgan.evaluation.schema import Quality, class_names_of
from distgan.utils.figures import (
    GAP,
    INK,
    PAPER,
    add_text,
    drawable_names,
    figure_text,
    font_of,
    new_figure,
    pixel_scale,
    save_png,
)
from distgan.utils.files import write_atomic
from distgan.utils.text import truncate

_NUM_STRIPS, _STRIP, _SIDE, _NEAREST = 6, 12, 8, 8
_TEXT_WIDTH = 190
_MOST_NUMBERS = 20  # classes of a matrix whose cells have room for numbers
_MOST_ROWS = 100  # classes of a picture with a strip for each
_MOST_LETTERS = 12  # of a class's name


def save_pictures(
    folder: Path,
    quality: Quality,
    images: Tensor,
    reading: EnsembleOutput,
    labels: Tensor | None,
    closest: Closest,
    trained: Tensor,
) -> list[str]:
    """Write the pictures that have content to `folder`. Return their names. `trained`: the training images."""
    images, trained = (batch if batch.ndim == 3 else batch.movedim(1, -1) for batch in (images, trained))
    names = drawable_names(class_names_of(quality))
    notice = "; ".join(quality.notices) or None
    owners = reading.classes if labels is None else labels
    pictures: dict[str, Image.Image] = {"digits.png": _best_and_worst(images, reading, owners, names)}
    if quality.confusions and labels is not None:
        pictures["confusions.png"] = _confused(quality, images, reading, labels)
    pictures["neighbours.png"] = _neighbours(images, closest, owners, trained, names)
    _save_matrix(folder / "matrix.png", quality)
    for name, picture in pictures.items():
        shown = add_text(picture, below=notice)
        write_atomic(folder / name, lambda file, shown=shown: shown.save(file, "png"))  # type: ignore[misc]
    (folder / "confusions.png").unlink(missing_ok=True) if "confusions.png" not in pictures else None
    return ["matrix.png", *pictures]


def _strips(rows: Sequence[tuple[str, Tensor]], heads: Sequence[str] = ()) -> Image.Image:
    """Draw images in strips, a strip per row, with its text on the left and `heads` over equal parts."""
    columns, top = max(len(images) for _, images in rows), 24 if heads else 0
    height, width = rows[0][1].shape[1:3]
    scale = pixel_scale(width)
    height, width = scale * height, scale * width
    cell_h, cell_w = max(height, 2 * 14) + GAP, width + GAP  # with room for two lines of words
    picture = Image.new("RGB", (_TEXT_WIDTH + columns * cell_w + GAP, top + len(rows) * cell_h + GAP), PAPER)
    draw = ImageDraw.Draw(picture)
    for part, head in enumerate(heads):
        left = _TEXT_WIDTH + part * columns * cell_w // len(heads)
        draw.text((left, top // 2), head, INK, font_of(head), anchor="lm")
    for row, (caption, images) in enumerate(rows):
        y = top + GAP + row * cell_h
        draw.multiline_text((10, y + cell_h // 2), caption, INK, font_of(caption), anchor="lm", spacing=3)
        for column, image in enumerate(images.numpy()):
            tile = Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST)
            picture.paste(tile, (_TEXT_WIDTH + column * cell_w, y))
    return picture


def _best_and_worst(images: Tensor, reading: EnsembleOutput, owners: Tensor, names: list[str]) -> Image.Image:
    """Draw per class, of many the first ones, the images of the highest and the lowest probability of it."""
    rows = []
    for label, name in enumerate(names[:_MOST_ROWS]):
        indices = (owners == label).nonzero().squeeze(1)
        order = indices[reading.probabilities[indices, label].argsort(descending=True, stable=True)]
        blank = torch.full((_SIDE, *images.shape[1:]), PAPER[0], dtype=torch.uint8)
        best, worst = images[order[:_SIDE]], images[order[-_SIDE:].flip(0)]
        shown = torch.cat([torch.cat([part, blank])[:_SIDE] for part in (best, worst)])
        rows.append((f"{_truncate(name)}  ({len(indices):,} images)", shown))
    return _strips(rows, heads=("the surest", "the least sure"))


def _confused(quality: Quality, images: Tensor, reading: EnsembleOutput, labels: Tensor) -> Image.Image:
    rows, names = [], drawable_names(class_names_of(quality))
    for confusion in quality.confusions[:_NUM_STRIPS]:
        requested, read = confusion.asked, confusion.read
        indices = ((labels == requested) & (reading.classes == read)).nonzero().squeeze(1)
        order = indices[reading.probabilities[indices, read].argsort(descending=True, stable=True)]
        pair = f"{_truncate(names[requested])} read as {_truncate(names[read])}"
        rows.append((f"{pair}\n{confusion.share.value:.1%}", images[order[:_STRIP]]))
    return _strips(rows)


def _neighbours(images: Tensor, closest: Closest, owners: Tensor, trained: Tensor, names: list[str]) -> Image.Image:
    """Draw per class, of many the first ones, the images closest to a training image, and at the median distance."""
    pairs, captions = [], []
    for label in owners.unique().tolist()[:_MOST_ROWS]:
        indices = (owners == label).nonzero().squeeze(1)
        order = indices[closest.greys[indices].argsort(stable=True)]
        chosen = torch.cat([order[: _NEAREST - 4], order[len(order) // 2 :][:4]])
        pairs.append((images[chosen], trained[closest.which[chosen]]))
        captions.append(
            f"{_truncate(names[label])}: {closest.greys[order[0]]:.0f} to {closest.greys[order].median():.0f} greys off"
        )
    rows = []
    for number, (generated, real) in enumerate(pairs):
        shown = torch.stack([generated, real], 1).flatten(0, 1)
        rows.append((captions[number], shown))
    return _strips(rows, heads=("the closest pairs", "usual pairs"))


def _save_matrix(path: Path, quality: Quality) -> None:
    """Plot label x read class in percent beside that of real images; without labels the classes' shares."""
    figure = new_figure(11, 5.4, dpi=110)
    left, right = figure.subplots(1, 2)
    title, num, names = f"{quality.n:,} generated images", len(quality.shares), drawable_names(class_names_of(quality))
    if quality.matrix is not None:
        _heat(left, np.array(quality.matrix), names, "requested", title)
    else:
        values, low, high = zip(*((share.value, share.low, share.high) for share in quality.shares), strict=True)
        errors = np.array([np.subtract(values, low), np.subtract(high, values)])
        left.bar(range(num), values, yerr=errors, capsize=3 if num <= _MOST_NUMBERS else 0, color="#4477aa")
        expected = quality.expected_shares or [1 / num] * num
        left.step(range(num), expected, where="mid", color="#333333", linestyle="--", linewidth=1)
        left.set(xlabel="read as", ylabel="share", title=title)
        _name_ticks(left.xaxis, names)
    real = np.array(quality.jury_matrix)
    _heat(right, real, names, "is", f"{real.sum():,} real images: the judges' own errors")
    if quality.notices:
        figure.suptitle("; ".join(quality.notices), color="#b00020")
    save_png(figure, path)


def _truncate(name: str) -> str:
    return truncate(name, _MOST_LETTERS)


def _name_ticks(axis: Any, names: list[str]) -> None:
    """Name the classes at an axis: all, or of many some."""
    chosen = range(0, len(names), -(-len(names) // _MOST_NUMBERS))
    is_long = axis.axis_name == "x" and max(map(len, names)) > 2
    axis.set_ticks(chosen, [figure_text(_truncate(names[label])) for label in chosen], rotation=90 if is_long else 0)


def _heat(axes: Any, counts: np.ndarray, names: list[str], rows: str, title: str) -> None:
    shares, num = counts / np.maximum(counts.sum(1, keepdims=True), 1), len(counts)
    axes.imshow(shares**0.5, cmap="Blues", vmin=0, vmax=1)
    for (row, column), value in np.ndenumerate(shares):
        if counts[row, column] and num <= _MOST_NUMBERS:
            text = f"{100 * value:.1f}" if value < 0.9995 else "100"
            axes.text(
                column, row, text, ha="center", va="center", color="white" if value > 0.3 else "black", fontsize=8
            )
    axes.set(xlabel="read as", ylabel=rows, title=f"{title}, %")
    _name_ticks(axes.xaxis, names)
    _name_ticks(axes.yaxis, names)
