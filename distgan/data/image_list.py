"""The list of a run's images, in a small file of its folder: a resume with others names the first that differs."""

import json
import posixpath
import zlib
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from distgan.errors import UserError
from distgan.utils.files import pack_tensors, read_tensors, write_atomic

FILE = "images.safetensors"
_DIGEST = 8  # bytes that are kept of an image's hash: they tell a changed image, and prove nothing
_MAX_NAMES = 2**28  # bytes
_WITH_NAMES = ("folder", ".zip")  # kinds of sources whose images have their own names; others count them


class ImageList(NamedTuple):
    """Names, classes and hashes of images, in the order of training. `digests` is (N, 8 or more) uint8."""

    kind: str
    names: list[str]
    labels: np.ndarray | None
    class_names: list[str]
    digests: np.ndarray

    def write(self, path: Path) -> None:
        """Write the list, about 20 bytes an image. Raises OSError."""
        tensors = {"digests": torch.from_numpy(np.ascontiguousarray(self.digests[:, :_DIGEST]))}
        if self.labels is not None:
            tensors["labels"] = torch.from_numpy(self.labels.astype(np.int16))
        if self.kind in _WITH_NAMES:
            packed = zlib.compress("\0".join(self.names).encode("utf-8", "surrogateescape"))
            tensors["names"] = torch.frombuffer(bytearray(packed), dtype=torch.uint8)
        facts = {"kind": self.kind, "class_names": json.dumps(self.class_names)}
        write_atomic(path, pack_tensors(tensors, facts))

    def locate(self, index: int) -> str:
        """Return where an image is: its name, or its number and class."""
        name = repr(self.names[index]) if self.kind in _WITH_NAMES else self.names[index]
        has_class = self.labels is not None and self.kind not in _WITH_NAMES
        return f"{name} of class {self._class_of(index)!r}" if has_class else name

    def _class_of(self, index: int) -> str:
        return "" if self.labels is None else self.class_names[int(self.labels[index])]

    def _short_names(self) -> list[str]:
        """Return the names without the folder that all are in, which a .zip may have and a folder not."""
        common = posixpath.commonpath({name.rpartition("/")[0] for name in self.names})
        return [name[len(common) + bool(common) :] for name in self.names]

    def _keys(self) -> list[tuple[bytes, str]]:
        return [(row.tobytes(), self._class_of(at)) for at, row in enumerate(self.digests[:, :_DIGEST])]


def read_list(path: Path) -> ImageList | None:
    """Return the list that a run has, None if it has none or a damaged one: older versions wrote none."""
    with suppress(UserError, KeyError, ValueError, IndexError, zlib.error):
        tensors, facts = read_tensors(path)
        digests, kind = tensors["digests"].numpy(), facts["kind"]
        names = [f"image {number}" for number in range(len(digests))]
        if kind in _WITH_NAMES:
            packed = tensors["names"].numpy().tobytes()
            text = zlib.decompressobj().decompress(packed, _MAX_NAMES)
            names = text.decode("utf-8", "surrogateescape").split("\0")
        labels = tensors["labels"].numpy() if "labels" in tensors else None
        image_list = ImageList(kind, names, labels, json.loads(facts["class_names"]), digests)
        if len(names) == len(digests) and digests.shape[1] == _DIGEST:
            image_list._keys()  # raises for labels of classes that have no name
            return image_list
    return None


def first_difference(before: ImageList, now: ImageList) -> str:
    """Return the first image that is not as it was, and how many are not; "" if all are."""
    if now.class_names == [str(number) for number in range(len(before.class_names))]:  # as in arrays, without names
        now = now._replace(class_names=before.class_names)
    for name in [*before.class_names, *now.class_names]:
        if name not in now.class_names:
            return f"class {name!r} is gone"
        if name not in before.class_names:
            return f"class {name!r} was added"
    if before.kind in _WITH_NAMES and now.kind in _WITH_NAMES:
        return _difference_of_files(before, now)
    old, new = before._keys(), now._keys()
    common = min(len(old), len(new))
    at = next((index for index in range(common) if old[index] != new[index]), common)
    if at == len(old) == len(new):
        return ""
    counts = f"{len(old):,} images then, {len(new):,} now"
    if at < common:
        return f"{now.locate(at)} is not what it was ({counts})"
    return f"{before.locate(at)} is gone ({counts})" if at < len(old) else f"{now.locate(at)} was added ({counts})"


def _difference_of_files(before: ImageList, now: ImageList) -> str:
    old, new = (dict(zip(images._short_names(), images._keys(), strict=True)) for images in (before, now))
    removed = [index for index, name in enumerate(old) if name not in new]
    added = [index for index, name in enumerate(new) if name not in old]
    changed = [index for index, name in enumerate(new) if name in old and old[name] != new[name]]
    kinds = [(removed, before, "removed"), (added, now, "added"), (changed, now, "changed")]
    first = [(indices[0], images.locate(indices[0]), what) for indices, images, what in kinds if indices]
    if not first:
        at = next((at for at, (a, b) in enumerate(zip(old, new, strict=True)) if a != b), None)
        return "" if at is None else f"{now.locate(at)} is in another place of the order"
    _, name, what = min(first)
    return (
        f"{name} was {what} (in all: "
        + ", ".join(f"{len(indices):,} {what}" for indices, _, what in kinds if indices)
        + ")"
    )
