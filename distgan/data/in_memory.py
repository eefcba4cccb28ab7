"""Images that a program passes as arrays."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from distgan.config.image_spec import MAX_CLASSES, ImageSpec
from distgan.config.registry import IN_MEMORY
from distgan.config.schema import DataConfig
from distgan.data import base
from distgan.errors import UserError


class Dataset:
    """Images to train on, with or without classes.

    `images`: uint8 (N, H, W) grey, or (N, H, W, C) or (N, C, H, W) with C 1 or 3, as a NumPy array or a tensor; they
    are not copied where their layout allows it, and never changed. `labels`: integers (N,) from 0, or None.
    `class_names`: of each label, by default its number. Raises UserError for anything else.
    """

    def __init__(self, images: Any, labels: Any = None, *, class_names: Sequence[str] | None = None):
        pixels = _as_array(images, "images")
        is_image = pixels.ndim == 3 or (pixels.ndim == 4 and (pixels.shape[-1] in (1, 3) or pixels.shape[1] in (1, 3)))
        if pixels.dtype != np.uint8 or not is_image or not all(pixels.shape) or len(pixels) < 2:
            advice = "; of floats in [0, 1]: (255 * images).round().astype('uint8')" if pixels.dtype.kind == "f" else ""
            raise UserError(
                f"images: {pixels.dtype} of the shape {pixels.shape}. Expected: two or more, uint8 of the shape "
                f"(N, H, W), (N, H, W, C) or (N, C, H, W), where C is 1 or 3{advice}",
                code="bad-images",
            )
        if pixels.ndim == 4:
            pixels = pixels.transpose(0, 3, 1, 2) if pixels.shape[-1] in (1, 3) else pixels
            pixels = pixels.squeeze(1) if pixels.shape[1] == 1 else pixels
        with warnings.catch_warnings(action="ignore"):  # of an array that can't be written, which nothing does
            self.images = torch.from_numpy(np.ascontiguousarray(pixels))
        self.labels, self.class_names = _labels(labels, class_names, len(pixels))

    def __repr__(self) -> str:
        return f"Dataset({len(self.images):,} images of {self.spec.describe()})"

    @property
    def spec(self) -> ImageSpec:
        """Return size, channels and classes of the images."""
        return self._dataset().spec

    def prepare(self, config: DataConfig) -> base.Dataset:
        """Return the images as a training takes them: of `config.image_size` and `config.channels` if these are set."""
        return base.resize_dataset(self._dataset(), config, "dataset")

    def _dataset(self) -> base.Dataset:
        return base.Dataset(
            "images", self.images, self.labels, "a program", class_names=self.class_names, path=IN_MEMORY
        )


def _as_array(values: Any, name: str) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        return values.detach().cpu().numpy()
    if not isinstance(values, np.ndarray | list | tuple):
        raise UserError(f"{name}: a {type(values).__name__}. Expected: a NumPy array or a tensor", code="bad-images")
    try:
        return np.asarray(values)
    except ValueError as error:
        raise UserError(f"{name}: not of one shape ({error}). Expected: one array", code="bad-images") from error


def _labels(labels: Any, class_names: Sequence[str] | None, num: int) -> tuple[torch.Tensor, list[str]]:
    """Return labels (N,) int64, all 0 without classes, and the names of the classes. Raises UserError."""
    if labels is None:
        if class_names is not None:
            raise UserError("class_names: there are no labels. Expected: labels, or no class_names", code="bad-images")
        return torch.zeros(num, dtype=torch.int64), []
    numbers = _as_array(labels, "labels")
    is_integer = numbers.dtype.kind in "iu" and numbers.shape == (num,)
    if not is_integer or int(numbers.min()) < 0 or int(numbers.max()) >= MAX_CLASSES:
        what = f"from {numbers.min()} to {numbers.max()}" if is_integer else f"{numbers.dtype} of shape {numbers.shape}"
        raise UserError(
            f"labels: {what}. Expected: integers from 0 to {MAX_CLASSES - 1}, of shape ({num},)", code="bad-images"
        )
    num_classes = int(numbers.max()) + 1
    named = [class_names] if isinstance(class_names, str) else class_names  # a text is no list of names
    names = [str(number) for number in range(num_classes)] if named is None else list(named)
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names) or len(names) < num_classes:
        raise UserError(
            f"class_names: {len(names)} for labels up to {num_classes - 1}. Expected: different texts, one for each "
            "label",
            code="bad-images",
        )
    return torch.from_numpy(numbers.astype(np.int64)), names
