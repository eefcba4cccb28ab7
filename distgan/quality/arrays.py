"""Images of any other program: an `.npz` of greys and, where a digit was asked for, labels. Read with distrust."""

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from distgan.errors import UserError

_IMAGES, _LABELS = (
    ("images", "arr_0"),
    ("labels", "arr_1"),
)  # ours, then those that np.savez gives without names
_ALLOWED = (
    "images as uint8 of 0 to 255, or as floats of 0 to 1 or -1 to 1, with the shape (N, 28, 28), (N, 1, 28, 28) or "
    "(N, 28, 28, 1)"
)
_MAX_BYTES = 2**33


class Arrays(NamedTuple):
    """Images (N, 28, 28) uint8, labels (N,) int64; `notice`: what they are not; `scale`: how floats were read."""

    images: Tensor
    labels: Tensor | None
    notice: str | None
    scale: str | None


def read_npz(path: Path, num: int) -> Arrays:
    """At most the first `num` images of a file. Raises UserError with one line for whatever is wrong with it."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > _MAX_BYTES:
            raise UserError(f"{path}: holds {size:,} bytes; allowed: at most {_MAX_BYTES:,}")
        with np.load(path) as file:
            names = list(file.files)
            images = _of(file, _IMAGES, path)
            labels = _of(file, _LABELS, path)
            notice = _of(file, ("notice",), path)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise UserError(f"{path}: is no .npz of numbers that can be read ({reason})") from error
    if images is None:
        raise UserError(
            f"{path}: has no array of images, only {', '.join(names) or 'nothing'}; allowed: {_IMAGES[0]}"
        )
    pixels, scale = _pixels(images[:num], path)
    text = None if notice is None else str(notice)
    return Arrays(pixels, None if labels is None else _labels(labels, len(images), num, path), text, scale)


def _of(file: np.lib.npyio.NpzFile, names: tuple[str, ...], path: Path) -> np.ndarray | None:
    name = next((name for name in names if name in file.files), None)
    return None if name is None else file[name]


def _pixels(images: np.ndarray, path: Path) -> tuple[Tensor, str | None]:
    shape, kind = images.shape, images.dtype
    if len(shape) == 4 and 1 in (shape[1], shape[3]):
        images = images.reshape(shape[0], *(size for size in shape[1:] if size != 1))
    if images.ndim != 3 or images.shape[1:] != (28, 28):
        raise UserError(f"{path}: its images have the shape {shape}; allowed: {_ALLOWED}")
    if not len(images):
        raise UserError(f"{path}: holds no images; allowed: {_ALLOWED}")
    if kind == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(images)), None
    if kind not in (np.float16, np.float32, np.float64):
        raise UserError(f"{path}: its images are of the type {kind}; allowed: {_ALLOWED}")
    images = images.astype(np.float64)
    if num_bad := int((~np.isfinite(images)).any(axis=(1, 2)).sum()):
        raise UserError(
            f"{path}: {num_bad:,} of {len(images):,} images have pixels that are no numbers (NaN or infinite)"
        )
    low, high = float(images.min()), float(images.max())
    if low < -1 or high > 1:
        raise UserError(f"{path}: its images have values from {low:g} to {high:g}; allowed: {_ALLOWED}")
    scale = "-1 to 1" if low < 0 else "0 to 1"
    fractions = (images + 1) / 2 if low < 0 else images
    return torch.from_numpy((fractions * 255).round().astype(np.uint8)), scale


def _labels(labels: np.ndarray, num_images: int, num: int, path: Path) -> Tensor:
    if labels.shape != (num_images,):
        raise UserError(
            f"{path}: its labels have the shape {labels.shape}; allowed: ({num_images},), one an image"
        )
    if labels.dtype.kind not in "iu":
        raise UserError(
            f"{path}: its labels are of the type {labels.dtype}; allowed: whole numbers from 0 to 9"
        )
    if labels.min() < 0 or labels.max() > 9:
        raise UserError(f"{path}: its labels are from {labels.min()} to {labels.max()}; allowed: 0 to 9")
    return torch.from_numpy(labels[:num].astype(np.int64))
