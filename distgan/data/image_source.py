"""A list of images that nobody has decoded yet."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")  # Pillow's names of those that are read


class ImageSource(NamedTuple):
    """Images in the order in which training numbers them, none of them decoded.

    `labels` has a number for each image, or is None. `stamp` changes when the files do; `notes` are for the user.
    `open_image(index)` gives a Pillow image of which only the header may have been read. It raises OSError or
    ValueError for a file that is not an image, and may be called by several threads.
    """

    kind: str
    path: Path
    names: list[str]
    labels: list[int] | None
    class_names: list[str]
    stamp: list[Any]
    notes: list[str]
    open_image: Callable[[int], Image.Image]


_NUMBERS = re.compile(r"(\d+)")


def natural_key(name: str) -> tuple[list[Any], str]:
    """Sort as people do: 2 before 10, capital letters with small ones."""
    parts: list[Any] = _NUMBERS.split(name.casefold())
    parts[1::2] = [int(part[:4_000]) for part in parts[1::2]]  # Python reads no longer numbers
    return parts, name
