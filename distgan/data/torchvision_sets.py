"""Data sets in colour that torchvision downloads, verifies and reads."""

import os
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import torch

from distgan.config.schema import DataConfig
from distgan.data.base import Dataset, Split, data_folder
from distgan.errors import UserError, first_line


def load_cifar10(config: DataConfig, split: Split) -> Dataset:
    """Return CIFAR-10: 50,000 or 10,000 images of 32 x 32 in ten classes. Raises UserError."""
    return _load("CIFAR10", config, train=split == "train")


def load_cifar100(config: DataConfig, split: Split) -> Dataset:
    """Return CIFAR-100: 50,000 or 10,000 images of 32 x 32 in a hundred classes. Raises UserError."""
    return _load("CIFAR100", config, train=split == "train")


def load_svhn(config: DataConfig, split: Split) -> Dataset:
    """Return SVHN: 73,257 or 26,032 house numbers of 32 x 32, digits cut out. Raises UserError."""
    return _load("SVHN", config, split=split)


def _load(kind: str, config: DataConfig, **part: Any) -> Dataset:
    import torchvision.datasets

    open_set: Callable[..., Any] = getattr(torchvision.datasets, kind)
    folder, name = data_folder(config)[0], kind.lower()
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):  # it says what it downloads
            dataset = open_set(str(folder), download=config.download, **part)
    except (RuntimeError, OSError) as error:  # what it raises for missing and damaged files, and for a failed download
        code = "download-failed" if config.download else "no-data"
        raise UserError(
            f"{'--data-dir' if config.dir else 'data'}: no {name} in {folder} ({first_line(error)}). Expected: its "
            "files as torchvision has them, their folder by --data-dir or $DISTGAN_DATA, or a download",
            code=code,
        ) from error
    pixels = dataset.data if dataset.data.shape[1] == 3 else dataset.data.transpose(0, 3, 1, 2)
    labels = torch.as_tensor(getattr(dataset, "targets", None) or dataset.labels, dtype=torch.int64)
    classes = getattr(dataset, "classes", None) or [str(number) for number in range(10)]
    images = torch.from_numpy(np.ascontiguousarray(pixels))
    return Dataset(name, images, labels, str(folder), class_names=list(classes))
