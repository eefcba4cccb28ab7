"""Data sets from torchvision's mirrors, or from another."""

import shutil
import socket
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

from distgan.config.schema import DataConfig
from distgan.errors import UserError

DOWNLOAD_TIMEOUT_S = 20


def download(name: str, folder: Path, config: DataConfig, split: str = "train") -> None:
    """Lets torchvision's class of that name fill `folder/name/raw`. Raises UserError for whatever went wrong.

    It downloads into a folder beside the final one, so that nothing half-fetched stays.
    """
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision of another torch
        raise UserError(f"torchvision, which downloads it, does not import ({error})") from error

    with _made(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as temporary, _timeout():
        arguments: dict[str, Any] = {"QMNIST": {"what": split}, "EMNIST": {"split": "digits"}}.get(name, {})
        try:
            _from_mirror(getattr(datasets, name), config)(temporary, download=True, **arguments)
        except (RuntimeError, OSError, EOFError, HTTPException, zipfile.BadZipFile, ValueError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"the download failed ({reason})") from error
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
            split: [
                (base + url.rsplit("/", 1)[1] if base else url, None if unchecked else md5)
                for url, md5 in files
            ]
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
        raise UserError(f"{folder} can't be written to ({error.strerror or error})") from error
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
