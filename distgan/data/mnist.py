"""Data sets from torchvision's mirrors, or from another."""

import gzip
import hashlib
import math
import shutil
import socket
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distgan.config.schema import DataConfig
from distgan.errors import UserError, not_readable

DOWNLOAD_TIMEOUT_S = 20


class Source(NamedTuple):
    """Where torchvision's class of that name keeps its sets, and what must stand in them.

    `md5`: of the unpacked files (images, labels), where they are published; torchvision knows those of the packed
    ones, and checks them as it downloads.
    """

    folder: str
    images: str = "train-images-idx3-ubyte"
    labels: str = "train-labels-idx1-ubyte"
    num_images: int = 60_000
    num_test_images: int = 10_000
    label_columns: int | None = None
    md5: tuple[str, str] | None = None
    test_md5: tuple[str, str] | None = None
    is_transposed: bool = False  # stored column by column, so that digits lie on their side

    def test(self) -> "Source":
        """Return what no network is trained on: the real images that quality is measured against."""
        files = [name.replace("train", "test" if "-train" in name else "t10k") for name in (self.images, self.labels)]
        return self._replace(images=files[0], labels=files[1], num_images=self.num_test_images, md5=self.test_md5)


MNIST = Source(
    "MNIST",
    md5=("6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624"),
    test_md5=("2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"),
)
FASHION_MNIST = Source("FashionMNIST")
KMNIST = Source("KMNIST")
QMNIST = Source(
    "QMNIST", "qmnist-train-images-idx3-ubyte", "qmnist-train-labels-idx2-int", num_test_images=60_000, label_columns=8
)
EMNIST_DIGITS = Source(
    "EMNIST",
    "emnist-digits-train-images-idx3-ubyte",
    "emnist-digits-train-labels-idx1-ubyte",
    num_images=240_000,
    num_test_images=40_000,
    is_transposed=True,
)


def download(name: str, folder: Path, config: DataConfig, split: str = "train") -> None:
    """Lets torchvision's class of that name fill `folder/name/raw`. Raises UserError for whatever went wrong.

    It downloads into a folder beside the final one, so that nothing half-fetched stays.
    """
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision of another torch
        raise UserError(f"torchvision, which downloads it, does not import ({error})", code="unavailable") from error

    with _made(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as temporary, _timeout():
        arguments: dict[str, Any] = {"QMNIST": {"what": split}, "EMNIST": {"split": "digits"}}.get(name, {})
        try:
            _from_mirror(getattr(datasets, name), config)(temporary, download=True, **arguments)
        except (RuntimeError, OSError, EOFError, HTTPException, zipfile.BadZipFile, ValueError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"the download failed ({reason})", code="unavailable") from error
        raw = folder / name / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        for file in (Path(temporary) / name / "raw").iterdir():
            if file.suffix not in (".gz", ".zip"):
                shutil.move(file, raw / file.name)


def _from_mirror(dataset: type, config: DataConfig) -> type:
    """torchvision's class, fetching from `--data-mirror` where there is one."""
    changed: dict[str, Any] = {}
    unchecked = config.md5 == "accept"
    base = config.mirror and config.mirror.rstrip("/") + "/"
    if hasattr(dataset, "url"):  # EMNIST: one archive
        changed["url"] = base + "gzip.zip" if base else dataset.url
        changed["md5"] = None if unchecked else dataset.md5  # type: ignore[attr-defined]
    elif isinstance(dataset.resources, dict):  # type: ignore[attr-defined]  # QMNIST: whole addresses
        changed["resources"] = {
            split: [(base + url.rsplit("/", 1)[1] if base else url, None if unchecked else md5) for url, md5 in files]
            for split, files in dataset.resources.items()  # type: ignore[attr-defined]
        }
    else:
        changed["mirrors"] = [base] if base else dataset.mirrors  # type: ignore[attr-defined]
        changed["resources"] = [
            (file, None if unchecked else md5)
            for file, md5 in dataset.resources  # type: ignore[attr-defined]
        ]
    return type(dataset.__name__, (dataset,), changed)


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """The folder is there, and gone again if it was not there before and stays empty."""
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(f"{folder} can't be written to ({error.strerror or error})", code="unwritable") from error
    finally:
        if is_new and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


@contextmanager
def _timeout() -> Iterator[None]:
    """torchvision waits for ever for a mirror that accepts and says nothing."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


# -- MNIST's idx files, read with distrust: header, size and contents agree, or one clear error --

# The third byte of the magic number: the type of the values, big-endian (yann.lecun.com/exdb/mnist).
_TYPES: dict[int, np.dtype[Any]] = {0x08: np.dtype("u1"), 0x0C: np.dtype(">i4")}


class IdxFile(NamedTuple):
    values: np.ndarray
    md5: str


def read_idx(path: Path, shape: tuple[int | None, ...], mend: str) -> IdxFile:
    """The array of a file, or of its `.gz` twin, with the md5 of the unpacked bytes.

    `shape` is what must stand there, None for a size that is left open; `mend` is what to do about a
    file that does not hold it. Raises UserError. Nothing is allocated on the word of a header: the
    bytes are read first, and a packed file is unpacked no further than `shape` allows.
    """
    limit = 4 + 4 * len(shape) + 4 * math.prod(size or 1_000_000 for size in shape)
    try:
        if path.exists():
            found, raw = path, path.read_bytes()
        else:
            found = path.with_name(path.name + ".gz")
            with gzip.open(found) as file:
                raw = file.read(limit + 1)
    except (EOFError, gzip.BadGzipFile) as error:
        raise UserError(f"{found}: damaged ({error}); {mend}", code="bad-data") from error
    except OSError as error:
        raise not_readable(found, error, f"; {mend}") from error

    header = 4 + 4 * len(shape)
    dtype = _TYPES.get(raw[2]) if len(raw) >= 4 else None
    if len(raw) < header or raw[:2] != b"\0\0" or dtype is None or raw[3] != len(shape):
        raise UserError(
            f"{found}: starts with 0x{raw[:4].hex() or '(nothing)'}, which is no idx magic number for "
            f"{len(shape)} dimensions (0x000008{len(shape):02x}); {mend}",
            code="bad-data",
        )
    stated = tuple(int(size) for size in np.frombuffer(raw, ">u4", count=len(shape), offset=4))
    if any(want is not None and want != size for want, size in zip(shape, stated, strict=True)):
        wanted = " x ".join("any" if size is None else f"{size}" for size in shape)
        raise UserError(
            f"{found}: holds {' x '.join(map(str, stated))} values, expected {wanted}; {mend}", code="bad-data"
        )
    promised = header + dtype.itemsize * math.prod(stated)
    if len(raw) != promised:
        fault = "cut short" if len(raw) < promised else "too long"
        raise UserError(
            f"{found}: {fault}: {len(raw):,} bytes where its header promises {promised:,}; {mend}", code="bad-data"
        )
    values = np.frombuffer(raw, dtype, offset=header).reshape(stated)
    return IdxFile(values, hashlib.md5(raw, usedforsecurity=False).hexdigest())
