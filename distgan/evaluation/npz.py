"""Images of any program in an .npz file: read in blocks, and converted to uint8."""

import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from distgan.config.image_spec import MNIST_SPEC, ImageSpec
from distgan.errors import UserError

_IMAGES, _LABELS = (("images", "arr_0"), ("labels", "arr_1"))  # ours, then those that np.savez gives without names
_MAX_BYTES, _MAX_NOTICE = 2**33, 2**16
_BLOCK_BYTES = 2**23  # of an array that is read, and what is converted at once
_RANGES = {"unit": (0.0, 1.0), "signed": (-1.0, 1.0), "byte": (0.0, 255.0)}
# A range is recognised by all values but for rounding errors; and -1 to 1 by many below 0, not by one that is.
_SLACK, _MANY = 1e-3, 0.1


class Arrays(NamedTuple):
    """Images as a `Dataset` has them, labels (N,) int64 if there are any.

    `notices`: to show with every result. `unused`: names of other arrays in the file.
    """

    images: Tensor
    labels: Tensor | None
    notices: list[str]
    unused: list[str]


class _Member(NamedTuple):
    """An array member of a zip archive: its header's shape and dtype; its data begin at byte `start` of `entry`."""

    name: str
    entry: zipfile.ZipInfo
    start: int
    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype[Any]

    def blocks(self, archive: zipfile.ZipFile, width: int) -> Iterator[np.ndarray]:
        """Yield the values in the order of the file, as (some, width)."""
        with archive.open(self.entry) as file:
            file.read(self.start)
            size = width * self.dtype.itemsize
            while data := file.read(max(1, _BLOCK_BYTES // size) * size):
                yield np.frombuffer(data, self.dtype).reshape(-1, width)


def check_is_file(path: Path) -> None:
    """Raise UserError for a path that is no regular file: reading a pipe would block."""
    if not path.is_file():
        reason = "not a regular file" if path.exists() else "does not exist"
        raise UserError(
            f"{path}: {reason}. Expected: an .npz, a run, its weights, a checkpoint, or a .safetensors file",
            code="bad-data" if path.exists() else "not-found",
        )


def read_npz(path: Path, num: int, pixel_range: str | None = None, spec: ImageSpec = MNIST_SPEC) -> Arrays:
    """Return the images of a file, which are of `spec`, or a fixed random choice of `num` where it has more.

    Raises UserError with one line for whatever is wrong with it. Memory: that of the chosen images, as they lie in
    the file, and some MiB.
    """
    check_is_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive, path, num, pixel_range, spec)
    except UserError:
        raise
    except Exception as error:  # what numpy and zipfile raise for a broken file has no common name
        reason = _printable(" ".join(str(getattr(error, "strerror", None) or error).split()))[:200]
        raise UserError(f"{path}: damaged ({reason}). Expected: an .npz of numbers", code="bad-images") from error


def _read(archive: zipfile.ZipFile, path: Path, num: int, pixel_range: str | None, spec: ImageSpec) -> Arrays:
    names = [_printable(name.removesuffix(".npy")) for name in archive.namelist()]
    images, labels, notice = (_member(archive, wanted) for wanted in (_IMAGES, _LABELS, ("notice",)))
    if images is None:
        raise UserError(
            f"{path}: has no array of images, only {', '.join(names)[:200] or 'nothing'}. Expected: {_IMAGES[0]}",
            code="bad-images",
        )
    _check_images(images, path, spec)
    num_images = images.shape[0]
    classes = None if labels is None else _labels(archive, labels, num_images, path, spec.num_classes)
    notices = [] if notice is None else [f"trained on {_notice(archive, notice)}"]
    rows = torch.arange(num_images)
    if num_images > num:
        rows = torch.randperm(num_images, generator=torch.Generator().manual_seed(0))[:num]
    values = _scan_values(archive, images, path)
    if pixel_range == "signed" and values.is_uint8:
        raise UserError(
            f"--range: the images of {path} are uint8 (signed). Expected: byte, or unit where 1 is white",
            code="setting-not-applicable",
        )
    name = pixel_range or _detect_range(values, path, spec)
    pixels = _pixels(archive, images, rows.numpy(), *_RANGES[name])
    notices += [f"its pixels are {conversion}"] if (conversion := _describe_conversion(values, *_RANGES[name])) else []
    if num_images > num:
        notices.append(f"{num:,} of its {num_images:,} images, a fixed random choice")
    used = {member.name for member in (images, labels, notice) if member}
    unused = [name for name in names if name not in used]
    tensor = torch.from_numpy(pixels)
    if spec.channels == 1:
        tensor = tensor.reshape(len(rows), spec.height, spec.width)
    elif images.shape[1:] != (spec.channels, spec.height, spec.width):
        tensor = tensor.movedim(-1, 1).contiguous()
    return Arrays(tensor, None if classes is None else classes[rows], notices, unused)


def _member(archive: zipfile.ZipFile, names: tuple[str, ...]) -> _Member | None:
    """Return the array of the first of these names, if it is as long as its header says. None where there is none."""
    name = next((name for name in names if f"{name}.npy" in archive.namelist()), None)
    if name is None:
        return None
    entry = archive.getinfo(f"{name}.npy")
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read_header(file)
        start, promised = file.tell(), math.prod(shape) * dtype.itemsize
    if dtype.hasobject or promised != entry.file_size - start or not 0 <= promised <= _MAX_BYTES:
        raise ValueError(f"{name}: its header promises {promised:,} bytes. Expected: what it holds, to {_MAX_BYTES:,}")
    return _Member(name, entry, start, shape, is_fortran, dtype)


def _printable(text: str) -> str:
    """Return text from a file without control characters."""
    return "".join(char for char in text if char.isprintable())


def _notice(archive: zipfile.ZipFile, member: _Member) -> str:
    if member.shape != () or member.dtype.kind != "U" or not 0 < member.dtype.itemsize <= _MAX_NOTICE:
        return "data with a notice"
    (block,) = member.blocks(archive, 1)
    return _printable(str(block[0, 0]))[:100]


def _labels(archive: zipfile.ZipFile, member: _Member, num_images: int, path: Path, num_classes: int) -> Tensor:
    last = num_classes - 1
    if member.shape != (num_images,):
        raise UserError(
            f"{path}: its labels have the shape {member.shape}. Expected: ({num_images},), one per image",
            code="bad-images",
        )
    if member.dtype.kind not in "iu":
        raise UserError(
            f"{path}: its labels have the type {member.dtype}. Expected: integers from 0 to {last}", code="bad-images"
        )
    labels = np.concatenate(list(member.blocks(archive, 1)))[:, 0]
    if labels.min() < 0 or labels.max() > last:
        raise UserError(
            f"{path}: its labels are from {labels.min()} to {labels.max()}. Expected: 0 to {last}", code="bad-images"
        )
    return torch.from_numpy(labels.astype(np.int64))


# -- Pixels: first what all of them are, then the greys of the chosen images --


class _Values(NamedTuple):
    """`negative` is the share of pixels that are below 0 by more than rounding."""

    is_uint8: bool
    low: float
    high: float
    negative: float


def _shapes(spec: ImageSpec) -> list[tuple[int, ...]]:
    """Return the shapes that one image may have."""
    sides = (spec.height, spec.width)
    return [*([sides] if spec.channels == 1 else []), (spec.channels, *sides), (*sides, spec.channels)]


def _allowed(spec: ImageSpec) -> str:
    *shapes, last = (f"(N, {', '.join(map(str, shape))})" for shape in _shapes(spec))
    return (
        f"images as uint8 of 0 to 255, or as floats of 0 to 1 or -1 to 1, with the shape {', '.join(shapes)} or {last}"
    )


def _check_images(member: _Member, path: Path, spec: ImageSpec) -> None:
    """Raise UserError for what can't be images of `spec` by its header."""
    shape = member.shape
    if shape[1:] not in _shapes(spec):
        raise UserError(f"{path}: its images have the shape {shape}. Expected: {_allowed(spec)}", code="bad-images")
    if not shape[0]:
        raise UserError(f"{path}: no images. Expected: {_allowed(spec)}", code="bad-images")
    if member.dtype.newbyteorder("=") not in (np.uint8, np.float16, np.float32, np.float64):
        raise UserError(
            f"{path}: its images have the type {member.dtype}. Expected: {_allowed(spec)}", code="bad-images"
        )


def _scan_values(archive: zipfile.ZipFile, member: _Member, path: Path) -> _Values:
    """Return type and range of the values of all images. Raises UserError for non-finite pixels."""
    num, size = member.shape[0], math.prod(member.shape[1:])
    is_bad = np.zeros(num, bool)
    low, high, num_negative, start = math.inf, -math.inf, 0, 0
    for block in member.blocks(archive, num if member.is_fortran else size):
        if member.is_fortran:  # a pixel of all images after the other
            is_bad |= ~np.isfinite(block).all(0)
        else:
            is_bad[start : start + len(block)] = ~np.isfinite(block).all(1)
        low, high = min(low, float(block.min())), max(high, float(block.max()))
        num_negative += int((block < -_SLACK).sum())
        start += len(block)
    if num_bad := int(is_bad.sum()):
        raise UserError(
            f"{path}: {num_bad:,} of {num:,} images have NaN or infinite pixels. Expected: finite ones",
            code="non-finite-values",
        )
    return _Values(member.dtype == np.uint8, low, high, num_negative / (num * size))


def _detect_range(values: _Values, path: Path, spec: ImageSpec) -> str:
    """Return the name of the range that the values are of. Raises UserError where they fit several or none."""
    is_uint8, low, high, negative = values
    if is_uint8 and high != 1:
        return "byte"
    if not is_uint8 and low >= -_SLACK and high <= 1 + _SLACK:
        return "unit"
    if not is_uint8 and low >= -1 - _SLACK and high <= 1 + _SLACK and negative >= _MANY:
        return "signed"
    content = f"uint8 of {low:g} and {high:g} alone" if is_uint8 else f"values from {_digits(low)} to {_digits(high)}"
    content += f", {negative:.2%} of them below 0" if low < 0 else ""
    raise UserError(
        f"{path}: its images have {content}. Expected: {_allowed(spec)}; or give "
        "their range by --range unit, signed or byte",
        code="bad-images",
    )


def _describe_conversion(values: _Values, start: float, end: float) -> str:
    """Return the conversion of the values as text, "" without one."""
    if values.is_uint8 and end == 255:
        return ""
    text = f"{'uint8' if values.is_uint8 else 'floats'}, taken as {start:g} to {end:g}"
    if values.low < start or values.high > end:
        text += f"; what lies beyond, from {_digits(values.low)} to {_digits(values.high)}, is clipped"
    return text


def _digits(value: float) -> str:
    """Return a number with 6 digits, or with as many as show that it is beyond the end of a range, an integer."""
    texts = (f"{value + 0.0:.{digits}g}" for digits in range(6, 18))  # + 0.0: there is no -0
    return next(text for text in texts if float(text).is_integer() == value.is_integer())


def _pixels(archive: zipfile.ZipFile, member: _Member, rows: np.ndarray, start: float, end: float) -> np.ndarray:
    """Return the images of these rows, (n, ...) uint8, in the file's shape: `start` is black and `end` is white."""
    num, shape = member.shape[0], member.shape[1:]
    size = math.prod(shape)
    pixels = np.empty((len(rows), size), np.uint8)
    places = np.full(num, -1)
    places[rows] = np.arange(len(rows))

    def to_uint8(values: np.ndarray) -> np.ndarray:
        if values.dtype == np.uint8 and end == 255:
            return values
        fractions = (values.astype(np.float64) - start) / (end - start)
        return (fractions.clip(0, 1) * 255).round().astype(np.uint8)

    first = 0
    for block in member.blocks(archive, num if member.is_fortran else size):
        here = slice(first, first := first + len(block))
        if member.is_fortran:
            pixels[:, here] = to_uint8(block[:, rows]).T
        else:
            is_chosen = places[here] >= 0
            pixels[places[here][is_chosen]] = to_uint8(block[is_chosen])
    if not member.is_fortran:
        return pixels.reshape(-1, *shape)
    reverse = pixels.reshape(-1, *shape[::-1])  # its first index runs fastest
    return np.ascontiguousarray(reverse.transpose(0, *range(len(shape), 0, -1)))
