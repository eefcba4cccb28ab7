"""Pictures: grids of images, the timeline, animations, and matplotlib figures."""

import importlib.util
import os
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from distgan.errors import printable
from distgan.utils.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCALE = 2  # screen pixels per image pixel in a grid
GAP = 2
INK, PAPER, WARNING = (235, 235, 235), (48, 48, 48), (255, 196, 64)
TEXT_HEIGHT = 22
_MAX_TEXT = 200
_MAX_NUMBERED = 20  # classes of a line
_NO_LETTER = "\U0010fffe"  # in no font: Unicode gives it no meaning


def grid(
    images: np.ndarray,
    columns: int,
    *,
    heads: Sequence[object] = (),
    caption: str | None = None,
    scale: int | None = None,
) -> Image.Image:
    """Draw images (N, H, W) or (N, H, W, 3) row by row, `heads` over the columns, and `caption` below as a warning."""
    num, height, width = images.shape[:3]
    scale = scale or pixel_scale(width)
    rows = -(-num // columns)
    cell_h, cell_w = height * scale + GAP, width * scale + GAP
    top = TEXT_HEIGHT if heads else 0
    picture = Image.new("RGB", (columns * cell_w + GAP, rows * cell_h + GAP + top), PAPER)
    draw = ImageDraw.Draw(picture)
    for column, head in enumerate(heads):
        center = (GAP + column * cell_w + cell_w // 2, TEXT_HEIGHT // 2)
        text = _truncate(str(head), width * scale)
        draw.text(center, text, INK, font_of(text), anchor="mm")
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        tile = Image.fromarray(image).resize((width * scale, height * scale), Image.Resampling.NEAREST)
        picture.paste(tile, (GAP + column * cell_w, top + GAP + row * cell_h))
    return add_text(picture, below=caption)


def pixel_scale(width: int) -> int:
    """Return the screen pixels per image pixel in a grid of images of that width: 2 from 22 to 63, more for smaller."""
    return max(SCALE, 64 // width) if width < 64 else 1


def _truncate(text: str, width: int) -> str:
    """Return the text, truncated with an ellipsis to `width` screen pixels."""
    text = _caption_line(text)
    while len(text) > 1 and font_of(text).getlength(text) > width:
        text = text[:-2] + "\N{HORIZONTAL ELLIPSIS}"
    return text


def add_text(picture: Image.Image, above: str | None = None, below: str | None = None) -> Image.Image:
    """Return the picture with a line of text above or below it, widened to fit the text."""
    if not above and not below:
        return picture
    above, below = (text and _caption_line(text) for text in (above, below))
    texts = [text for text in (above, below) if text]
    width = max([picture.width, *(round(font_of(text).getlength(text)) + 2 * GAP for text in texts)])
    framed = Image.new("RGB", (width, picture.height + TEXT_HEIGHT * len(texts)), PAPER)
    draw = ImageDraw.Draw(framed)
    framed.paste(picture, ((width - picture.width) // 2, TEXT_HEIGHT if above else 0))
    if above:
        draw.text((width // 2, TEXT_HEIGHT // 2), above, INK, font_of(above), anchor="mm")
    if below:
        draw.text((width // 2, framed.height - TEXT_HEIGHT // 2), below, WARNING, font_of(below), anchor="mm")
    return framed


def add_names(frames: Sequence[tuple[str, Image.Image]]) -> list[Image.Image]:
    """Return each picture with its name above it."""
    return [add_text(picture, above=name) for name, picture in frames]


def draw_timeline(frames: Sequence[tuple[str, Image.Image]], per_row: int = 4) -> Image.Image:
    """Return all grids side by side with their names, in rows of at most `per_row`."""
    pictures = add_names(frames)
    cell_w, cell_h = max(p.width for p in pictures) + 3 * GAP, max(p.height for p in pictures) + 3 * GAP
    columns = min(per_row, len(pictures))
    strip = Image.new("RGB", (columns * cell_w, -(-len(pictures) // columns) * cell_h), PAPER)
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        strip.paste(picture, (column * cell_w, row * cell_h))
    return strip


def save_gif(
    file: BinaryIO, frames: Sequence[Image.Image], frame_s: float, last_s: float, comment: bytes = b""
) -> None:
    """Write a looping animation: `last_s` seconds for the last frame, `frame_s` for the others."""
    durations = [round(1000 * frame_s)] * (len(frames) - 1) + [round(1000 * last_s)]
    options = {"comment": comment} if comment else {}
    frames[0].save(file, "gif", save_all=True, append_images=list(frames[1:]), duration=durations, loop=0, **options)


def _caption_line(text: str) -> str:
    """Return text as one printable line of at most _MAX_TEXT characters."""
    return " ".join(printable(text).split())[:_MAX_TEXT]


def font_of(text: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's font for ASCII text, matplotlib's, with more alphabets, for other text."""
    spec = None if text.isascii() else importlib.util.find_spec("matplotlib")
    for folder in spec.submodule_search_locations or () if spec else ():
        with suppress(OSError):
            return ImageFont.truetype(Path(folder) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf", 13)
    return ImageFont.load_default(14)


def drawable_names(names: Sequence[str]) -> list[str]:
    """Return the names of classes 0 to N - 1 as pictures show them: `#3` for one with letters that no font here has."""
    return [_caption_line(name) if _has_letters(name) else f"#{number}" for number, name in enumerate(names)]


def describe_numbered(names: Sequence[str]) -> str:
    """Return which numbers stand for which classes in pictures, "" if all are drawn by name."""
    lines = [f"#{number} {_caption_line(name)}" for number, name in enumerate(names) if not _has_letters(name)]
    more = f" and {len(lines) - _MAX_NUMBERED} more" if len(lines) > _MAX_NUMBERED else ""
    return (
        f"by number in pictures, whose font lacks their letters: {', '.join(lines[:_MAX_NUMBERED])}{more}"
        if lines
        else ""
    )


def _has_letters(name: str) -> bool:
    """True if the font of that text has each of its characters: others are all drawn as one and the same box."""
    text = _caption_line(name)
    if text.isascii():
        return True
    font = font_of(text)
    box, *drawn = (font.getmask(char) for char in (_NO_LETTER, *sorted(set(text))))
    return all((mask.size, bytes(mask)) != (box.size, bytes(box)) for mask in drawn)


def load_matplotlib() -> None:
    """Import matplotlib with the backend agg. Call it before any other import of matplotlib.

    The import fails for an $MPLBACKEND that is not installed, as one inherited from a notebook.
    """
    backend = os.environ.get("MPLBACKEND")
    os.environ["MPLBACKEND"] = "agg"
    try:
        import matplotlib  # noqa: F401
    finally:
        del os.environ["MPLBACKEND"]
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


def figure_text(text: str) -> str:
    """Return untrusted text escaped for a figure, where $ would begin a formula."""
    return printable(text).replace("$", r"\$")


def new_figure(width: float, height: float, **options: Any) -> "Figure":
    """Return a matplotlib figure of that size in inches. The first call takes most of a second."""
    load_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", **{"dpi": 120} | options)


def save_png(figure: "Figure", path: Path) -> None:
    """Draw a figure and write it atomically. Raises OSError that names `path`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    write_atomic(path, buffer.getvalue())
