"""Pillow's images as one uint8 array: which colours and size they all get, and what is wrong with which file."""

import hashlib
import os
import threading
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import psutil
from PIL import Image
from pydantic import BaseModel, ConfigDict

from distgan.config.schema import DataConfig
from distgan.data.image_source import ImageSource
from distgan.errors import UserError, first_line
from distgan.utils.operating_system import count_cores
from distgan.utils.parts_progress import PartsProgress
from distgan.utils.text import pluralize

T = TypeVar("T")

MEMORY_SHARE = 0.6  # of a machine's or a device's memory that the images may take
_MAX_BROKEN = 0.01  # share of unreadable files that are left out with a warning
_MAX_PIXELS = 10**8  # of one image: 300 MB in colour
_MAX_RATIO, _MAX_ENLARGED = 16, 8
_NUM_EXAMPLES = 20
_SHOWN, _FEW = 3, 2  # notes on classes, and the images of one below which there is a note
_PART = 64  # images that a thread takes at a time

_GREY = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"}
_ALPHA = {"LA", "La", "PA", "RGBA", "RGBa"}
_SAID = {
    "1": "1 bit", "I": "16 bits, of which the upper 8 are used", "CMYK": "CMYK, made RGB", "P": "a palette",
    "PA": "a palette",
}  # fmt: skip
# EXIF's orientation: what undoes it (EXIF 2.32, tag 0x0112).
_TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip


class Findings(BaseModel):
    """Contents of a source of images. Counts are of all files, lists have the first few."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    num_images: int
    sizes: dict[str, int]  # "WIDTH x HEIGHT" of the files, the most frequent first
    modes: dict[str, int]  # Pillow's
    classes: dict[str, int]
    num_duplicates: int
    num_broken: int
    broken: dict[str, str]  # name: reason
    notes: list[str]


class Decoded(NamedTuple):
    """`images` is (N, H, W) uint8 of greys, or (N, 3, H, W); `labels` is (N,) int64, or None.

    `indices` (N,) int64 has the number of each image in its source, `digests` (N, 16) uint8 the hash of its pixels.
    """

    images: np.ndarray
    labels: np.ndarray | None
    findings: Findings
    indices: np.ndarray
    digests: np.ndarray


class _Header(NamedTuple):
    mode: str
    size: tuple[int, int]  # width and height, upright
    is_grey: bool
    has_alpha: bool
    note: str  # what is to be said of such files, ""


class _Broken(NamedTuple):
    reason: str


class _IsTransparentError(Exception):
    pass


def decode_all(source: ImageSource, config: DataConfig, where: str) -> Decoded:
    """Decode every image, on all cores, with a bar. Raises UserError, as far as possible before the long part."""
    num = len(source.names)
    # Pillow's warnings: of large images, which are limited here, and of files that it then reads or does not.
    with warnings.catch_warnings(action="ignore"), PartsProgress(2 * num, f"reading {num:,} images") as progress:
        headers = _map_in_threads(lambda index: _header(source, index, config), range(num), progress)
        readable = [index for index, header in enumerate(headers) if isinstance(header, _Header)]
        broken = {index: header.reason for index, header in enumerate(headers) if isinstance(header, _Broken)}
        _check_broken(broken, source, config, where)
        known = {index: header for index in readable if isinstance(header := headers[index], _Header)}
        channels = config.channels or _common_channels(known, source, where)
        width, height = _common_size(known, source, config, where)
        check_host_memory(len(readable) * channels * width * height, where)

        pixels = np.empty((len(readable), *([3] if channels == 3 else []), height, width), np.uint8)
        # True once an image is known to need three channels: only of grey ones all pixels are compared.
        has_colour = [channels == 1 or config.channels is not None]

        def decode(row: int) -> _Broken | bytes:
            index = readable[row]
            try:
                with source.open_image(index) as image:
                    decoded = _to_array(image, channels, config.background, (width, height))
                    pixels[row] = decoded.transpose(2, 0, 1) if channels == 3 else decoded
                if not has_colour[0]:
                    has_colour[0] = bool((pixels[row, 1:] != pixels[row, 0]).any())
            except _IsTransparentError:
                raise UserError(
                    f"{where}: {source.names[index]!r} has transparent pixels. Expected: images without, or what is to "
                    "show through them by --background black or white",
                    code="bad-images",
                ) from None
            except Exception as error:  # Pillow's readers raise whatever a damaged file leads them to
                return _Broken(_reason(error))
            return hashlib.blake2b(pixels[row].data, digest_size=16).digest()

        digests = _map_in_threads(decode, range(len(readable)), progress)
    broken |= {readable[row]: digest.reason for row, digest in enumerate(digests) if isinstance(digest, _Broken)}
    _check_broken(broken, source, config, where)
    rows = [row for row, digest in enumerate(digests) if not isinstance(digest, _Broken)]
    for at, row in enumerate(rows):  # a copy of all but the broken ones would take their memory twice
        if at != row:
            pixels[at] = pixels[row]
    images = pixels[: len(rows)]
    labels = None if source.labels is None else np.array([source.labels[readable[row]] for row in rows], np.int64)
    hashes = [digest for digest in digests if not isinstance(digest, _Broken)]
    unused = _describe_unused(source, known, config)
    findings = _summarise(source, known, broken, labels, len(rows) - len(set(hashes)), unused, has_colour=has_colour[0])
    indices = np.array([readable[row] for row in rows], np.int64)
    return Decoded(images, labels, findings, indices, np.frombuffer(b"".join(hashes), np.uint8).reshape(len(rows), -1))


def _describe_unused(source: ImageSource, headers: dict[int, _Header], config: DataConfig) -> list[str]:
    """Return a note on each setting that these images have no use for."""
    notes = []
    if config.background and not any(header.has_alpha for header in headers.values()):
        notes.append("--background is not used: no image has transparency")
    if config.skip_broken and source.kind == ".npz":
        notes.append("--skip-broken is not used: arrays have no unreadable files")
    return notes


def _summarise(
    source: ImageSource,
    headers: dict[int, _Header],
    broken: dict[int, str],
    labels: np.ndarray | None,
    num_duplicates: int,
    notes: list[str],
    *,
    has_colour: bool,
) -> Findings:
    used = [header for index, header in headers.items() if index not in broken]
    counts = [] if labels is None else np.bincount(labels, minlength=len(source.class_names)).tolist()
    note_counts = Counter(header.note for header in used if header.note)
    notes += [] if has_colour else ["all images are grey, stored in colour: --channels 1 takes a third of the memory"]
    notes += [*source.notes, *(f"{pluralize(num, 'file')} with {note}" for note, num in note_counts.items())]
    small = [(name, count) for name, count in zip(source.class_names, counts, strict=True) if count < _FEW]
    notes += [f"class {name!r} has {pluralize(count, 'image')}" for name, count in small[:_SHOWN]]
    if len(small) > _SHOWN:
        notes.append(f"{len(small) - _SHOWN:,} more classes have fewer than {_FEW} images")
    if num_duplicates:
        notes.append(
            f"{pluralize(num_duplicates, 'image')} {'are' if num_duplicates > 1 else 'is'} equal to another one"
        )
    return Findings(
        kind=source.kind,
        num_images=len(used),
        sizes={f"{w} x {h}": num for (w, h), num in Counter(header.size for header in used).most_common(_NUM_EXAMPLES)},
        modes=dict(Counter(header.mode for header in used).most_common()),
        classes=dict(zip(source.class_names, counts, strict=True)),
        num_duplicates=num_duplicates,
        num_broken=len(broken),
        broken={source.names[index]: reason for index, reason in sorted(broken.items())[:_NUM_EXAMPLES]},
        notes=notes,
    )


def _map_in_threads(take: Callable[[int], T], indices: range, progress: PartsProgress) -> list[T]:
    """Return `take(index)` of each, by as many threads as there are cores: Pillow lets go of the interpreter."""
    is_over = threading.Event()

    def take_part(part: range) -> list[T]:
        return [] if is_over.is_set() else [take(index) for index in part]

    parts = [indices[start : start + _PART] for start in range(0, len(indices), _PART)]
    results: list[T] = []
    with ThreadPoolExecutor(count_cores()) as pool:
        try:
            for part in pool.map(take_part, parts):
                results += part
                progress.advance(len(part))
        finally:
            is_over.set()  # after an error, or Ctrl-C, the rest is not waited for
    return results


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "is a link that leads nowhere"
    if isinstance(error, OSError) and error.errno:
        return f"can't be read ({os.strerror(error.errno)})"
    name = type(error).__name__
    if name == "DecompressionBombError":
        return f"has more than {_MAX_PIXELS:,} pixels"
    return "is not an image, or damaged" if name == "UnidentifiedImageError" else f"is damaged ({first_line(error)})"


# -- Headers: what each file is, and what all of them come to --


def _header(source: ImageSource, index: int, config: DataConfig) -> _Header | _Broken:
    try:
        with source.open_image(index) as image:
            (width, height), mode = image.size, image.mode
            if width * height > _MAX_PIXELS:
                return _Broken(f"has {width} x {height} pixels, more than {_MAX_PIXELS:,}")
            if max(width, height) > _MAX_RATIO * min(width, height):
                return _Broken(f"is {width} x {height}, a ratio of sides of more than {_MAX_RATIO}")
            if config.image_size and config.image_size > _MAX_ENLARGED * min(width, height):
                return _Broken(f"is {width} x {height}; too small for --image-size {config.image_size}")
            if mode == "F" or (mode == "I" and image.format != "PNG"):
                return _Broken("has 32 bits a pixel instead of 8 or 16")
            note = _SAID.get("I" if mode.startswith("I;16") else mode, "")
            if getattr(image, "is_animated", False):
                note = "several frames, of which the first is used"
            size = (height, width) if _orientation(image) >= 5 else (width, height)
            is_grey = mode in _GREY or (mode == "P" and _has_grey_palette(image))
            return _Header(mode, size, is_grey, image.has_transparency_data, note)
    except Exception as error:  # Pillow's readers raise whatever a damaged file leads them to
        return _Broken(_reason(error))


def _has_grey_palette(image: Image.Image) -> bool:
    colours = np.array(image.getpalette("RGB") or [0, 0, 1]).reshape(-1, 3)
    return bool((colours == colours[:, :1]).all())


def _orientation(image: Image.Image) -> int:
    """Return EXIF's orientation, 1 where there is none; of a PNG only one that stands before its pixels."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    orientation = image.getexif().get(0x0112, 1)
    return orientation if orientation in _TURNED else 1


def _check_broken(broken: dict[int, str], source: ImageSource, config: DataConfig, where: str) -> None:
    """Raise UserError for more unreadable files than are left out with a warning."""
    num = len(source.names)
    if not broken or (len(broken) < num and (config.skip_broken or len(broken) <= _MAX_BROKEN * num)):
        return
    index, reason = min(broken.items())
    advice = "" if len(broken) == num else ", or --skip-broken to leave out all of these"
    raise UserError(
        f"{where}: {len(broken):,} of {pluralize(num, 'file')} can't be used, as {source.names[index]!r}, which "
        f"{reason}. Expected: at most {_MAX_BROKEN:.0%} of them{advice}",
        code="bad-images",
    )


def _common_channels(headers: dict[int, _Header], source: ImageSource, where: str) -> int:
    first = {header.is_grey: index for index, header in reversed(headers.items())}
    if len(first) == 2:
        raise UserError(
            f"{where}: has grey images, as {source.names[first[True]]!r}, and coloured ones, as "
            f"{source.names[first[False]]!r}. Expected: --channels 1 to make all grey, or --channels 3",
            code="bad-images",
        )
    return 1 if True in first else 3


def _common_size(headers: dict[int, _Header], source: ImageSource, config: DataConfig, where: str) -> tuple[int, int]:
    """Return the width and height that all images get."""
    if config.image_size:
        return config.image_size, config.image_size
    first: dict[tuple[int, int], int] = {}
    for index, header in headers.items():
        first.setdefault(header.size, index)
    if len(first) > 1:
        (one, index), (other, second) = list(first.items())[:2]
        sides = sorted(min(header.size) for header in headers.values())
        fits = max(16, min(128, sides[len(sides) // 2] // 4 * 4))
        raise UserError(
            f"{where}: has images of {len(first):,} sizes, as {source.names[index]!r} of {one[0]} x {one[1]} and "
            f"{source.names[second]!r} of {other[0]} x {other[1]}. Expected: with --image-size, as {fits}, to which "
            "all are resized and cropped",
            code="bad-images",
        )
    return next(iter(first))


def check_host_memory(num_bytes: int, where: str) -> None:
    """Raise UserError for decoded images that would leave this machine too little memory."""
    total = psutil.virtual_memory().total
    if num_bytes > MEMORY_SHARE * total:
        raise UserError(
            f"{where}: the images take {num_bytes / 2**30:.1f} GiB when decoded. Expected on this machine: "
            f"{MEMORY_SHARE:.0%} of {total / 2**30:.1f} GiB; a smaller --image-size takes less",
            code="unavailable",
        )


# -- Pixels --


def _to_array(image: Image.Image, channels: int, background: str | None, size: tuple[int, int]) -> np.ndarray:
    """Return (H, W) uint8 of greys, or (H, W, 3)."""
    orientation = _orientation(image)
    image.load()
    if image.mode.startswith("I"):  # 16 bits
        upper = (np.asarray(image).astype(np.uint32).clip(0, 65_535) + 128) // 257
        image = Image.fromarray(upper.astype(np.uint8))
    elif image.mode in _ALPHA or "transparency" in image.info:
        image = _without_alpha(image.convert("RGBA"), background)
    image = image.convert("L" if channels == 1 else "RGB")
    if orientation in _TURNED:
        image = image.transpose(_TURNED[orientation])
    return np.asarray(_fit_image(image, *size))


def _without_alpha(image: Image.Image, background: str | None) -> Image.Image:
    alpha = image.getchannel("A")
    if alpha.getextrema()[0] == 255:
        return image.convert("RGB")
    if background is None:
        raise _IsTransparentError
    below = Image.new("RGB", image.size, background)
    below.paste(image, mask=alpha)
    return below


def _fit_image(image: Image.Image, width: int, height: int) -> Image.Image:
    """Return the middle of an image, resized (Lanczos) so that the shorter of its sides just fits."""
    scale = min(image.width / width, image.height / height)
    if scale == 1:  # nothing to resample
        column, row = (image.width - width) // 2, (image.height - height) // 2
        return image.crop((column, row, column + width, row + height))
    left, top = (image.width - width * scale) / 2, (image.height - height * scale) / 2
    box = (left, top, left + width * scale, top + height * scale)
    return image.resize((width, height), Image.Resampling.LANCZOS, box=box)
