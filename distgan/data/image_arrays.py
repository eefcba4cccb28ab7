"""Images in arrays and tables that a user names by a path: an .npz, or parquet of Hugging Face's form."""

import io
import json
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from distgan.config.image_spec import MAX_CLASSES
from distgan.data.decoding import check_host_memory
from distgan.data.image_source import FORMATS, ImageSource, natural_key
from distgan.errors import UserError, first_line


def list_npz(path: Path, where: str) -> ImageSource:
    """Read `images`, and `labels` if there are any, in one of the shapes of `list_arrays`. Raises UserError."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            if "images" not in names:
                raise UserError(
                    f"{where}: has no array called images, only {', '.join(names)[:200] or 'nothing'}. Expected: "
                    "images as uint8 and, if there are any, labels",
                    code="bad-images",
                )
            shape, dtype = _header(archive, "images", where)
            _check_pixels(shape, dtype, where)
            check_host_memory(math.prod(shape), where)
            if "labels" in names:
                label_shape, label_type = _header(archive, "labels", where)
                if label_shape != shape[:1] or label_type.kind not in "iu":
                    raise UserError(
                        f"{where}: labels are {label_type} of the shape {label_shape}. Expected: integers of the "
                        f"shape ({shape[0]},), one for each image",
                        code="bad-images",
                    )
        with np.load(path) as arrays:
            images = arrays["images"]
            labels = arrays["labels"] if "labels" in names else None
    except UserError:
        raise
    except Exception as error:  # what numpy and zipfile raise for a broken file has no common name
        raise UserError(
            f"{where}: not a readable .npz of numbers ({first_line(error)}). Expected: what numpy.savez writes",
            code="bad-images",
        ) from error
    notes = [f"{name!r} is not used" for name in names if name not in ("images", "labels", "notice")]
    facts = path.stat()
    source = list_arrays(".npz", path, images, labels, notes, where)
    return source._replace(stamp=[facts.st_size, facts.st_mtime_ns])


def list_arrays(
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
                f"{where}: has labels from {low} to {high}. Expected: 0 to {MAX_CLASSES - 1}", code="bad-images"
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
            raise UserError(f"{where}: {name} holds {what}. Expected: a complete array of numbers", code="bad-images")
    return shape, dtype


def _check_pixels(shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> None:
    is_image = len(shape) == 3 or (len(shape) == 4 and (shape[-1] in (1, 3) or shape[1] in (1, 3)))
    if dtype != np.uint8 or not is_image or not all(shape):
        raise UserError(
            f"{where}: images are {dtype} of the shape {shape}. Expected: uint8 of the shape (N, H, W), (N, H, W, C) "
            "or (N, C, H, W), where C is 1 or 3",
            code="bad-images",
        )


def list_parquet(path: Path, where: str) -> ImageSource:
    """Read Hugging Face's form: a column of images, {bytes, path}, and a column `label` if there is one."""
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UserError(
            f"{where}: reading parquet needs pyarrow. Expected: pip install 'distgan[hf]', or another form of the data",
            code="missing-package",
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
                    f"{where}: {file.name} has no column of images, only {', '.join(schema.names)[:200]}. Expected: "
                    "one of {bytes, path}, and label",
                    code="bad-images",
                )
            label = next((name for name in ("label", "labels", "fine_label") if name in schema.names), None)
            if file is files[0]:
                notes += [f"column {name!r} is not used" for name in schema.names if name not in (column, label)]
            table = pq.read_table(file, columns=[column, *([label] if label else [])])
            images += [(row or {}).get("bytes") or b"" for row in table[column].to_pylist()]
            labels += table[label].to_pylist() if label else []
            class_names = class_names or _names_of_classes(schema.metadata or {}, label)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{where}: not readable parquet ({first_line(error)}). Expected: complete files of Hugging Face's form",
            code="bad-images",
        ) from error
    if not images or (labels and len(labels) != len(images)):
        raise UserError(
            f"{where}: has {len(images)} images and {len(labels)} labels. Expected: one for each", code="bad-images"
        )
    for number in labels:
        if type(number) is not int or not 0 <= number < MAX_CLASSES:
            raise UserError(
                f"{where}: has the label {str(number)[:40]}. Expected: integers from 0 to {MAX_CLASSES - 1}",
                code="bad-images",
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
