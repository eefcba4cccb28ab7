"""The images that a user names by a path, listed before any is decoded: a folder, a .zip, an .npz, or parquet."""

import io
import json
import math
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from distgan.config.image_spec import MAX_CLASSES
from distgan.errors import UserError, first_line, not_readable
from distgan.utils.files import is_ignorable

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")  # Pillow's names of what these hold
ALLOWED = (
    "a folder of images or of class folders, a .zip of one, an .npz with images (uint8) and, if there are any, labels, "
    "or .parquet of Hugging Face's form"
)
_LABELS = "dataset.json"  # of StyleGAN's archives
_SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation"}
_MAX_FILE = 2**28  # bytes of one image as it lies in an archive
_MAX_LABELS = 2**28


class ImageSource(NamedTuple):
    """Images in the order in which training numbers them, none of them decoded.

    `labels` has a number for each image, or is None. `stamp` changes when the files do; `notes` are for the user.
    `open_image(index)` gives a Pillow image of which only the header may have been read. It raises OSError or
    ValueError for a file that is no image, and may be called by several threads.
    """

    kind: str
    path: Path
    names: list[str]
    labels: list[int] | None
    class_names: list[str]
    stamp: list[Any]
    notes: list[str]
    open_image: Callable[[int], Image.Image]


def find_source(path: Path, flag: str = "--data") -> ImageSource:
    """List the images at `path`. Raises UserError for what holds none, or holds them in a way that is not clear."""
    where = f"{flag} {path}"
    suffix = path.suffix.lower()
    try:
        if path.is_dir():
            is_parquet = any(entry.name.endswith(".parquet") for entry in os.scandir(path))
            return _of_parquet(path, where) if is_parquet else _of_folder(path, where)
        if not path.exists():
            raise UserError(f"{where}: is not there; allowed: {ALLOWED}", code="not-found")
        if path.is_file() and suffix in _READERS:
            return _READERS[suffix](path, where)
    except OSError as error:
        raise not_readable(where, error) from error
    advice = "; as .npz: numpy.savez(FILE, images=pixels, labels=labels)" if suffix == ".csv" else ""
    raise UserError(f"{where}: is no such source of images; allowed: {ALLOWED}{advice}", code="bad-data")


def natural_key(name: str) -> list[Any]:
    """Sort as people do: 2 before 10, capital letters with small ones."""
    parts: list[Any] = [int(part) if at % 2 else part.casefold() for at, part in enumerate(re.split(r"(\d+)", name))]
    return [*parts, name]


# -- Folders and .zip files: names, and how they tell classes --


class _Arranged(NamedTuple):
    names: list[str]
    labels: list[int] | None
    class_names: list[str]
    notes: list[str]


def _of_folder(path: Path, where: str) -> ImageSource:
    files = dict(_walk(path))
    read_labels = (path / _LABELS).read_bytes if _LABELS in files else None
    arranged = _arrange(list(files), read_labels, where)

    def open_image(index: int) -> Image.Image:
        return Image.open(path / arranged.names[index], formats=FORMATS)

    stamp = [(name, *files[name]) for name in arranged.names]
    return ImageSource("folder", path, *arranged[:3], [*stamp, arranged.labels], arranged.notes, open_image)


def _walk(folder: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the files below a folder by their path in it, with size and time. A link is followed, but not twice."""
    seen = set()
    waiting = [""]
    while waiting:
        below = waiting.pop()
        facts = os.stat(folder / below)
        if (facts.st_dev, facts.st_ino) in seen:
            continue
        seen.add((facts.st_dev, facts.st_ino))
        for entry in os.scandir(folder / below):
            name = f"{below}{entry.name}"
            if entry.name.startswith(".") or is_ignorable(entry.name):
                continue
            if entry.is_dir():
                waiting.append(f"{name}/")
            elif entry.is_file():
                facts = entry.stat()
                yield name, (facts.st_size, facts.st_mtime_ns)
            elif entry.is_symlink():  # that leads nowhere: an image that can't be read
                yield name, (0, 0)


def _of_zip(path: Path, where: str) -> ImageSource:
    try:
        archive = zipfile.ZipFile(path)
        entries = {entry.filename: entry for entry in archive.infolist() if not entry.is_dir()}
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise UserError(f"{where}: is no whole .zip ({first_line(error)})", code="bad-data") from error
    for name, entry in entries.items():
        if name.startswith("/") or ".." in PurePosixPath(name).parts:
            raise UserError(
                f"{where}: has {name!r}, a path out of the archive; allowed: paths below it", code="bad-data"
            )
        if entry.flag_bits & 1:
            raise UserError(f"{where}: {name!r} is encrypted; allowed: without a password", code="bad-data")
        if entry.file_size > _MAX_FILE:
            raise UserError(
                f"{where}: {name!r} has {entry.file_size:,} bytes; allowed: at most {_MAX_FILE:,}", code="bad-data"
            )

    def read(name: str) -> bytes:
        with archive.open(entries[name]) as file:
            return file.read(_MAX_FILE)  # whatever the size that the archive gives for it

    names = [
        name
        for name in entries
        if not any(part.startswith(".") or part == "__MACOSX" or is_ignorable(part) for part in name.split("/"))
    ]
    read_labels = (lambda: read(_LABELS)) if _LABELS in entries else None
    arranged = _arrange(names, read_labels, where)

    def open_image(index: int) -> Image.Image:
        return Image.open(io.BytesIO(read(arranged.names[index])), formats=FORMATS)

    stamp = [(name, entries[name].file_size, entries[name].CRC) for name in arranged.names]
    return ImageSource(".zip", path, *arranged[:3], [*stamp, arranged.labels], arranged.notes, open_image)


def _arrange(files: list[str], read_labels: Callable[[], bytes] | None, where: str) -> _Arranged:
    """Put the images among `files` into order: by class, and within a class by name. Raises UserError."""
    names = [name for name in files if name.lower().endswith(SUFFIXES)]
    others = [name for name in files if not name.lower().endswith(SUFFIXES) and name != _LABELS]
    if not names:
        found = f"only {len(others):,} other files, as {others[0]!r}" if others else "it is empty"
        raise UserError(f"{where}: holds no images, {found}; allowed: {ALLOWED}", code="bad-data")
    notes = [f"{len(others):,} other files are not used, as {min(others)!r}"] if others else []
    if read_labels is not None:
        return _by_dataset_json(names, read_labels, notes, where)

    first, depth = names[0].split("/"), 0
    while all(
        "/" in name[_start(first, depth) :] and name.startswith("/".join(first[: depth + 1]) + "/") for name in names
    ):
        depth += 1
    start = _start(first, depth)
    if depth:
        notes.append(f"all are in one folder, {'/'.join(first[:depth])!r}, which is no class")
    loose = [name for name in names if "/" not in name[start:]]
    if loose and len(loose) < len(names):
        raise UserError(
            f"{where}: has {len(loose):,} images beside folders, as {loose[0]!r}, and {len(names) - len(loose):,} in "
            "folders; allowed: all in class folders, or all beside each other",
            code="bad-data",
        )
    if loose:
        return _Arranged(sorted(names, key=natural_key), None, [], notes)
    classes = sorted({name[start:].split("/", 1)[0] for name in names}, key=natural_key)
    if {name.lower() for name in classes} <= _SPLITS:
        raise UserError(
            f"{where}: has the folders {', '.join(classes)}, which are no classes; allowed: one of them, as "
            f"{where.split(' ', 1)[1]}/{classes[-1]}",
            code="bad-data",
        )
    _check_num(len(classes), where)
    numbers = {name: number for number, name in enumerate(classes)}
    pairs = sorted(
        ((numbers[name[start:].split("/", 1)[0]], name) for name in names), key=lambda p: (p[0], natural_key(p[1]))
    )
    return _Arranged([name for _, name in pairs], [label for label, _ in pairs], classes, notes)


def _start(parts: list[str], depth: int) -> int:
    """Return where a name goes on below its first `depth` folders."""
    return sum(len(part) + 1 for part in parts[:depth])


def _by_dataset_json(names: list[str], read: Callable[[], bytes], notes: list[str], where: str) -> _Arranged:
    """Take the classes from StyleGAN's dataset.json: {"labels": [["00000/img.png", 6], ...]}, or null for none."""
    try:
        pairs = json.loads(read())["labels"]
        known = None if pairs is None else {str(name): label for name, label in pairs}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            f'{where}: its {_LABELS} is not of the form {{"labels": [[NAME, CLASS], ...]}} ({first_line(error)})',
            code="bad-data",
        ) from error
    if known is None:
        return _Arranged(sorted(names, key=natural_key), None, [], [*notes, f"{_LABELS} has no labels"])
    for name in names:
        if name not in known:
            raise UserError(
                f"{where}: {_LABELS} has no label for {name!r}; allowed: one for each image", code="bad-data"
            )
        if type(known[name]) is not int or not 0 <= known[name] < MAX_CLASSES:
            raise UserError(
                f"{where}: {_LABELS} has the label {str(known[name])[:40]} for {name!r}; allowed: whole numbers from 0 "
                f"to {MAX_CLASSES - 1}",
                code="bad-data",
            )
    ordered = sorted(names, key=lambda name: (known[name], natural_key(name)))
    labels = [known[name] for name in ordered]
    return _Arranged(ordered, labels, [str(number) for number in range(max(labels) + 1)], notes)


def _check_num(num_classes: int, where: str) -> None:
    if num_classes > MAX_CLASSES:
        raise UserError(f"{where}: has {num_classes:,} classes; allowed: at most {MAX_CLASSES:,}", code="bad-data")


# -- Arrays --


def _of_npz(path: Path, where: str) -> ImageSource:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            if "images" not in names:
                raise UserError(
                    f"{where}: has no array called images, only {', '.join(names)[:200] or 'nothing'}; allowed: images "
                    "as uint8 and, if there are any, labels",
                    code="bad-data",
                )
            shape, dtype = _header(archive, "images", where)
            _check_pixels(shape, dtype, where)
            if "labels" in names:
                label_shape, label_type = _header(archive, "labels", where)
                if label_shape != shape[:1] or label_type.kind not in "iu":
                    raise UserError(
                        f"{where}: labels are {label_type} of the shape {label_shape}; allowed: whole numbers of the "
                        f"shape ({shape[0]},), one for each image",
                        code="bad-data",
                    )
        with np.load(path, allow_pickle=False) as arrays:
            images = arrays["images"]
            labels = arrays["labels"] if "labels" in names else None
    except UserError:
        raise
    except Exception as error:  # what numpy and zipfile raise for a broken file has no common name
        raise UserError(
            f"{where}: is no .npz of numbers that can be read ({first_line(error)})", code="bad-data"
        ) from error
    notes = [f"{name!r} is not used" for name in names if name not in ("images", "labels", "notice")]
    facts = path.stat()
    source = of_arrays(".npz", path, images, labels, notes, where)
    return source._replace(stamp=[facts.st_size, facts.st_mtime_ns])


def of_arrays(
    kind: str, path: Path, images: np.ndarray, labels: np.ndarray | None, notes: list[str], where: str
) -> ImageSource:
    """List images (N, H, W), (N, H, W, C) or (N, C, H, W) uint8 that are in memory."""
    pixels = images[..., None] if images.ndim == 3 else images
    if pixels.shape[-1] not in (1, 3):
        pixels = pixels.transpose(0, 2, 3, 1)
    numbers = None
    if labels is not None:
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= MAX_CLASSES:
            raise UserError(
                f"{where}: has labels from {low} to {high}; allowed: 0 to {MAX_CLASSES - 1}", code="bad-data"
            )
        numbers = labels.tolist()

    def open_image(index: int) -> Image.Image:
        return Image.fromarray(
            np.ascontiguousarray(pixels[index].squeeze(-1) if pixels.shape[-1] == 1 else pixels[index])
        )

    names = [f"image {index}" for index in range(len(pixels))]
    classes = [] if numbers is None else [str(number) for number in range(max(numbers) + 1)]
    return ImageSource(kind, path, names, numbers, classes, [], notes, open_image)


def _header(archive: zipfile.ZipFile, name: str, where: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and type of an array as its header has them, if it is as long as that says."""
    entry = archive.getinfo(f"{name}.npy")
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        promised = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or promised != entry.file_size - file.tell():
            what = (
                "Python objects" if dtype.hasobject else f"{entry.file_size - file.tell():,} bytes for {shape} {dtype}"
            )
            raise UserError(f"{where}: {name} holds {what}; allowed: an array of numbers, whole", code="bad-data")
    return shape, dtype


def _check_pixels(shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> None:
    is_image = len(shape) == 3 or (len(shape) == 4 and (shape[-1] in (1, 3) or shape[1] in (1, 3)))
    if dtype != np.uint8 or not is_image or not all(shape):
        raise UserError(
            f"{where}: images are {dtype} of the shape {shape}; allowed: uint8 of the shape (N, H, W), (N, H, W, C) or "
            "(N, C, H, W), where C is 1 or 3",
            code="bad-data",
        )


def _of_parquet(path: Path, where: str) -> ImageSource:
    """Read Hugging Face's form: a column of images, {bytes, path}, and a column `label` if there is one."""
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UserError(
            f"{where}: reading parquet needs pyarrow; allowed: pip install 'distgan[hf]', or another form of the data",
            code="unavailable",
        ) from error
    files = sorted(path.glob("*.parquet"), key=lambda file: natural_key(file.name)) if path.is_dir() else [path]
    trained = [file for file in files if file.name.startswith("train")]
    notes = [f"{len(files) - len(trained)} files of other splits are not used"] if 0 < len(trained) < len(files) else []
    files = trained or files
    images: list[bytes] = []
    labels: list[Any] = []
    class_names: list[str] | None = None
    try:
        for file in files:
            schema = pq.read_schema(file)
            column = next((field.name for field in schema if _holds_images(field)), None)
            if column is None:
                raise UserError(
                    f"{where}: {file.name} has no column of images, only {', '.join(schema.names)[:200]}; allowed: one "
                    "of {bytes, path}, and label",
                    code="bad-data",
                )
            label = next((name for name in ("label", "labels", "fine_label") if name in schema.names), None)
            table = pq.read_table(file, columns=[column, *([label] if label else [])])
            images += [(row or {}).get("bytes") or b"" for row in table[column].to_pylist()]
            labels += table[label].to_pylist() if label else []
            class_names = class_names or _names_of_classes(schema.metadata or {}, label)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{where}: is no parquet that can be read ({first_line(error)})", code="bad-data") from error
    if not images or (labels and len(labels) != len(images)):
        raise UserError(
            f"{where}: has {len(images)} images and {len(labels)} labels; allowed: one for each", code="bad-data"
        )
    for number in labels:
        if type(number) is not int or not 0 <= number < MAX_CLASSES:
            raise UserError(
                f"{where}: has the label {str(number)[:40]}; allowed: whole numbers from 0 to {MAX_CLASSES - 1}",
                code="bad-data",
            )
    num_classes = max(labels) + 1 if labels else 0
    if class_names is None or len(class_names) < num_classes:
        class_names = [str(number) for number in range(num_classes)]

    def open_image(index: int) -> Image.Image:
        return Image.open(io.BytesIO(images[index]), formats=FORMATS)

    stamp = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    names = [f"row {index}" for index in range(len(images))]
    return ImageSource(".parquet", path, names, labels or None, class_names if labels else [], stamp, notes, open_image)


def _holds_images(field: Any) -> bool:
    kind = field.type
    return (
        hasattr(kind, "num_fields")
        and kind.num_fields
        and "bytes" in [kind.field(i).name for i in range(kind.num_fields)]
    )


def _names_of_classes(metadata: dict[bytes, bytes], label: str | None) -> list[str] | None:
    """Return the names that Hugging Face's metadata has for the labels, if it has them."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
        return [str(name) for name in names] if 0 < len(names) <= MAX_CLASSES else None
    except (KeyError, ValueError, TypeError):
        return None


_READERS: dict[str, Callable[[Path, str], ImageSource]] = {".zip": _of_zip, ".npz": _of_npz, ".parquet": _of_parquet}
