"""Images in files that a user names by a path, a folder or a .zip, and how their names tell classes."""

import io
import json
import os
import posixpath
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from PIL import Image

from distgan.config.image_spec import MAX_CLASSES
from distgan.config.registry import DATA_FILES
from distgan.data.image_source import FORMATS, ImageSource, natural_key
from distgan.errors import UserError, first_line, not_readable
from distgan.utils.files import is_ignorable
from distgan.utils.text import pluralize

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif")
_LABELS = "dataset.json"  # of StyleGAN's archives
_SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation"}
_NO_FILE = (-1, -1)
_MAX_FILE = 2**28  # bytes of one image as it lies in an archive
# What zipfile raises for a damaged archive or member, and for a version of the format that it does not know.
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError)


class _Arranged(NamedTuple):
    names: list[str]
    labels: list[int] | None
    class_names: list[str]
    notes: list[str]


def list_folder(path: Path, where: str) -> ImageSource:
    """List the images of a folder, whose sub-folders are classes if it has several. Raises UserError."""
    hidden: list[str] = []
    files = dict(_walk(path, where, hidden))
    read_labels = (path / _LABELS).read_bytes if _LABELS in files else None
    arranged = _arrange(list(files), hidden, read_labels, where)

    def open_image(index: int) -> Image.Image:
        name = arranged.names[index]
        if files[name] == _NO_FILE and not stat.S_ISREG(os.stat(path / name).st_mode):
            raise ValueError("not a regular file")  # of a pipe a reader would wait for ever
        return Image.open(path / name, formats=FORMATS)

    stamp: list[object] = [(name, *files[name]) for name in arranged.names]
    return ImageSource("folder", path, *arranged[:3], [*stamp, arranged.labels], arranged.notes, open_image)


def _walk(folder: Path, where: str, hidden: list[str]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the files below a folder by their path in it, with size and time. A link is followed, but not twice.

    Those that are hidden are added to `hidden`. Raises UserError that names a folder which can't be read.
    """
    seen = set()
    waiting = [""]
    while waiting:
        below = waiting.pop()
        try:
            facts, entries = os.stat(folder / below), list(os.scandir(folder / below))
        except OSError as error:
            raise not_readable(f"{where}: {below!r}" if below else where, error) from error
        if (facts.st_dev, facts.st_ino) in seen:
            continue
        seen.add((facts.st_dev, facts.st_ino))
        for entry in entries:
            name = f"{below}{entry.name}"
            if entry.name.startswith(".") or is_ignorable(entry.name):
                hidden.append(name)
                continue
            is_folder = is_file = False
            with suppress(OSError):  # a link that leads to itself
                is_folder, is_file = entry.is_dir(), entry.is_file()
            if is_folder:
                waiting.append(f"{name}/")
            elif is_file:
                facts = entry.stat()
                yield name, (facts.st_size, facts.st_mtime_ns)
            else:  # a link that leads nowhere, or a pipe: an image that can't be read
                yield name, _NO_FILE


def list_zip(path: Path, where: str) -> ImageSource:
    """List the images of a .zip as `list_folder` does; nothing is unpacked. Raises UserError."""
    try:
        archive = zipfile.ZipFile(path)
        # Some programs for Windows write \\ between folders, against the format's own rule.
        files = [entry for entry in archive.infolist() if not entry.is_dir()]
        entries = {entry.filename.replace("\\", "/"): entry for entry in files}
        num_twice = len(files) - len(entries)
    except _DAMAGED as error:
        raise UserError(
            f"{where}: not a readable .zip ({first_line(error)}). Expected: a complete archive", code="bad-images"
        ) from error
    for name, entry in entries.items():
        if name.startswith("/") or ".." in PurePosixPath(name).parts:
            raise UserError(
                f"{where}: has {name!r}, a path out of the archive. Expected: paths below it", code="bad-images"
            )
        if entry.flag_bits & 1:
            raise UserError(f"{where}: {name!r} is encrypted. Expected: without a password", code="bad-images")
        if entry.file_size > _MAX_FILE:
            raise UserError(
                f"{where}: {name!r} has {entry.file_size:,} bytes. Expected: at most {_MAX_FILE:,}", code="bad-images"
            )

    def read(name: str) -> bytes:
        with archive.open(entries[name]) as file:
            return file.read(_MAX_FILE)  # whatever the size that the archive gives for it

    hidden = [
        name
        for name in entries
        if any(part.startswith(".") or part == "__MACOSX" or is_ignorable(part) for part in name.split("/"))
    ]
    skipped = set(hidden)
    names = [name for name in entries if name not in skipped]
    read_labels = (lambda: read(_LABELS)) if _LABELS in entries else None
    arranged = _arrange(names, hidden, read_labels, where)
    if num_twice:
        arranged.notes.append(f"{pluralize(num_twice, 'file')} of a name that another one has: the last is used")

    def open_image(index: int) -> Image.Image:
        return Image.open(io.BytesIO(read(arranged.names[index])), formats=FORMATS)

    stamp = [(name, entries[name].file_size, entries[name].CRC) for name in arranged.names]
    return ImageSource(".zip", path, *arranged[:3], [*stamp, arranged.labels], arranged.notes, open_image)


def _arrange(files: list[str], hidden: list[str], read_labels: Callable[[], bytes] | None, where: str) -> _Arranged:
    """Put the images among `files` into order: by class, and within a class by name. Raises UserError."""
    names = [name for name in files if name.lower().endswith(SUFFIXES)]
    others = [name for name in files if not name.lower().endswith(SUFFIXES) and name != _LABELS]
    if not names:
        sources = sorted(name for name in others if name.lower().endswith((*DATA_FILES, ".csv")))
        content = f"only hidden files, as {min(hidden)!r}" if hidden else "it is empty"
        if others:
            content = f"only {pluralize(len(others), 'other file')}, as {(sources or sorted(others))[0]!r}"
        advice = f", or {sources[0]!r} by itself" if sources else ""
        raise UserError(
            f"{where}: holds no images, {content}. Expected: images as {', '.join(SUFFIXES)}{advice}", code="bad-images"
        )
    notes = []
    if others:
        verb = "are" if others[1:] else "is"
        notes.append(f"{pluralize(len(others), 'other file')} {verb} not used, as {min(others)!r}")
    if read_labels is not None:
        return _by_dataset_json(names, read_labels, notes, where)

    common = posixpath.commonpath({name.rpartition("/")[0] for name in names})
    start = len(common) + bool(common)
    if common:
        notes.append(f"all are in one folder, {common!r}, which is not a class")
    loose = [name for name in names if "/" not in name[start:]]
    if loose and len(loose) < len(names):
        raise UserError(
            f"{where}: has {pluralize(len(loose), 'image')} beside folders, as {loose[0]!r}, and "
            f"{len(names) - len(loose):,} in folders. Expected: all in class folders, or all beside each other",
            code="bad-images",
        )
    if loose:
        return _Arranged(sorted(names, key=natural_key), None, [], notes)
    classes = sorted({name[start:].split("/", 1)[0] for name in names}, key=natural_key)
    if {name.lower() for name in classes} <= _SPLITS:
        split = next((name for name in classes if name.lower().startswith("train")), classes[0])
        raise UserError(
            f"{where}: has the folders {', '.join(classes)}, which are splits, not classes. Expected: one of them, as "
            f"{where.split(' ', 1)[1]}/{split}",
            code="bad-images",
        )
    _check_num(len(classes), where)
    numbers = {name: number for number, name in enumerate(classes)}
    pairs = sorted(
        ((numbers[name[start:].split("/", 1)[0]], name) for name in names), key=lambda p: (p[0], natural_key(p[1]))
    )
    return _Arranged([name for _, name in pairs], [label for label, _ in pairs], classes, notes)


def _by_dataset_json(names: list[str], read: Callable[[], bytes], notes: list[str], where: str) -> _Arranged:
    """Take the classes from StyleGAN's dataset.json: {"labels": [["00000/img.png", 6], ...]}, or null for none."""
    try:
        pairs = json.loads(read())["labels"]
        known = None if pairs is None else {str(name): label for name, label in pairs}
    except (*_DAMAGED, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            f'{where}: invalid {_LABELS} ({first_line(error)}). Expected: {{"labels": [[NAME, CLASS], ...]}}',
            code="bad-images",
        ) from error
    if known is None:
        return _Arranged(sorted(names, key=natural_key), None, [], [*notes, f"{_LABELS} has no labels"])
    for name in names:
        if name not in known:
            raise UserError(
                f"{where}: {_LABELS} has no label for {name!r}. Expected: one for each image", code="bad-images"
            )
        if type(known[name]) is not int or not 0 <= known[name] < MAX_CLASSES:
            raise UserError(
                f"{where}: {_LABELS} has the label {str(known[name])[:40]} for {name!r}. Expected: integers from 0 to "
                f"{MAX_CLASSES - 1}",
                code="bad-images",
            )
    ordered = sorted(names, key=lambda name: (known[name], natural_key(name)))
    labels = [known[name] for name in ordered]
    return _Arranged(ordered, labels, [str(number) for number in range(max(labels) + 1)], notes)


def _check_num(num_classes: int, where: str) -> None:
    if num_classes > MAX_CLASSES:
        raise UserError(f"{where}: has {num_classes:,} classes. Expected: at most {MAX_CLASSES:,}", code="bad-images")
