"""Draw the pictures of the page about the 2023 report."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from report_2023_files import Training, epoch_of, pair_of, score

from distgan.benchmark.plots import save_panels
from distgan.evaluation.schema import Estimate, Quality
from distgan.utils.figures import TEXT_HEIGHT, draw_timeline, grid

COLOURS = {"gan": "#c4773a", "cgan": "#1f5f8b", "gan-fast": "#e0b58f", "cgan-fast": "#86b3d1"}
# The epochs of its pictures; the C-GAN's first is added.
SHOWN = {"gan": (1, 20, 42, 81, 120, 129, 149), "cgan": (1, 13, 42, 81, 120, 129, 149)}


def draw_curves(axes: Any, trainings: Iterable[Training], key: str, title: str) -> None:
    for training in trainings:
        epochs = [row.epoch for row in training.rows]
        axes.plot(
            epochs, [getattr(row, key) for row in training.rows], color=COLOURS[training.name], label=training.title
        )
    axes.set(title=title, xlabel="epoch")


def draw_quality(
    axes: Any, trainings: Iterable[Training], pick: Callable[[Quality], Estimate], title: str, scale: str = "linear"
) -> None:
    for training in trainings:
        epochs = [epoch_of(quality) for quality in training.qualities]
        values = [pick(quality) for quality in training.qualities]
        bars = [[each.value - each.low for each in values], [each.high - each.value for each in values]]
        colour = COLOURS[training.name]
        axes.errorbar(
            epochs, [each.value for each in values], yerr=bars, color=colour, label=training.title, marker="."
        )
    axes.set(title=title, xlabel="epoch", yscale=scale)


def draw_digits(axes: Any, training: Training) -> None:
    """Draw a map of digits by epochs: the share read as requested or, without labels, that recognisable."""
    shares = [
        [digit.agreement or (digit.sample and digit.sample.recognisable) for digit in quality.per_digit]
        for quality in training.qualities
    ]
    values = np.array([[share.value if share else 0.0 for share in row] for row in shares])
    picture = axes.imshow(values.T, aspect="auto", vmin=0, vmax=1, cmap="viridis")
    axes.set_xticks(range(len(values)), [f"{epoch_of(q):g}" for q in training.qualities], fontsize=7)
    axes.set_yticks(range(10), range(10))
    axes.grid(visible=False)
    about = "share read as requested" if training.is_conditional else "share recognisable, of the images read as it"
    axes.set(title=f"{training.title}: {about}", xlabel="epoch", ylabel="digit")
    axes.figure.colorbar(picture, ax=axes)


def draw_matrix(axes: Any, quality: Quality) -> None:
    """Draw the confusion matrix of the last evaluation: requested by read, in per cent of the requested."""
    assert quality.matrix is not None
    shares = np.array(quality.matrix, dtype=float)
    shares = 100 * shares / shares.sum(1, keepdims=True)
    axes.imshow(shares, vmin=0, vmax=100, cmap="Blues")
    for (row, column), value in np.ndenumerate(shares):
        if round(value) >= 1:
            axes.text(
                column,
                row,
                f"{value:.0f}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if value > 50 else "black",
            )
    axes.set_xticks(range(10), range(10))
    axes.set_yticks(range(10), range(10))
    axes.grid(visible=False)
    axes.set(title="C-GAN at its last epoch, per cent", xlabel="read as (three judges)", ylabel="requested")


def draw_side_by_side(trainings: Iterable[Training]) -> Image.Image:
    """Return 50 of the last samples of each network beside each other; the C-GAN's by digit."""
    pictures = []
    for training in trainings:
        with np.load(training.folder / f"{training.name}.npz") as arrays:
            images = arrays["images"]
            if "labels" in arrays:
                order = [np.flatnonzero(arrays["labels"] == digit)[:5] for digit in range(10)]
                images = images[np.stack(order, axis=1).reshape(-1)]
        pictures.append(grid(images[:50], 10, caption=training.title_at_last))
    gap = 16
    sheet = Image.new("RGB", (sum(p.width for p in pictures) + gap * (len(pictures) - 1), pictures[0].height), "white")
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width + gap
    return sheet


def draw(trainings: dict[str, Training], out: Path) -> None:
    """Draw the page's pictures into `out`."""
    pair = pair_of(trainings)
    losses = [partial(draw_curves, trainings=pair, key=key, title=title) for key, title in (
        ("d_loss", "D's loss"), ("g_loss", "G's loss"),
        ("real_logits", "D's logits of real images"), ("fake_logits", "D's logits of generated images"),
    )]  # fmt: skip
    save_panels(out / "curves.png", losses, "Means by epoch")
    of_both = partial(draw_quality, trainings=pair)
    panels = [
        partial(of_both, pick=lambda quality: quality.fcd, title="FCD, lower is better", scale="log"),
        partial(of_both, pick=lambda quality: quality.recognisable, title="share recognisable"),
        partial(draw_quality, trainings=pair[-1:], pick=score, title="share read as requested"),
        partial(of_both, pick=lambda quality: quality.coverage, title="coverage"),
    ]
    save_panels(out / "quality.png", panels, "Measured at checkpoints; bars: 95 % intervals")
    save_panels(out / "digits.png", [partial(draw_digits, training=each) for each in pair], "Digits over the epochs",
                heights=[3.2] * len(pair), width=9)  # fmt: skip
    save_panels(out / "confusion.png", [partial(draw_matrix, quality=trainings["cgan"].last)], "", heights=[5.0])
    draw_side_by_side(pair).save(out / "side-by-side.png")
    for training in pair:
        draw_stages(training).save(out / f"{training.name}-timeline.png")


def draw_stages(training: Training) -> Image.Image:
    """Return the first two rows of the grid of each epoch of SHOWN, below one another."""
    frames = []
    for epoch in SHOWN[training.name]:
        path = training.folder / f"{training.name}-{epoch:03d}.png"
        if path.exists():
            with Image.open(path) as picture:
                heads = TEXT_HEIGHT * training.is_conditional
                rows = picture.crop((0, 0, picture.width, heads + 2 * (picture.height - heads) // 10))
                frames.append((f"epoch {epoch}", rows.convert("RGB")))
    return draw_timeline(frames, per_row=1)
