"""Data sets from torchvision's mirrors, or from another."""

import gzip
import hashlib
import math
import shutil
import socket
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from distgan.config.schema import DataConfig
from distgan.errors import UserError, not_readable

DOWNLOAD_TIMEOUT_S = 20


class Source(NamedTuple):
    """Where torchvision's class of that name keeps its sets, and what must stand in them.

    `md5`: of the unpacked files (images, labels), where they are published; `packed_md5`: of the same with .gz behind
    their name, which torchvision checks as it downloads (of EMNIST it checks the archive that they are in).
    """

    folder: str
    images: str = "train-images-idx3-ubyte"
    labels: str = "train-labels-idx1-ubyte"
    num_images: int = 60_000
    num_test_images: int = 10_000
    label_columns: int | None = None
    md5: tuple[str, str] | None = None
    test_md5: tuple[str, str] | None = None
    packed_md5: tuple[str, str] = ("", "")
    test_packed_md5: tuple[str, str] = ("", "")
    is_transposed: bool = False  # stored column by column, so that digits lie on their side

    def test(self) -> "Source":
        """Return what no network is trained on: the real images that quality is measured against."""
        files = [name.replace("train", "test" if "-train" in name else "t10k") for name in (self.images, self.labels)]
        return self._replace(
            images=files[0],
            labels=files[1],
            num_images=self.num_test_images,
            md5=self.test_md5,
            packed_md5=self.test_packed_md5,
        )

    def files(self) -> list[tuple[str, str, str]]:
        """Return the names of both files, each with its published sums: unpacked and packed, "" where there is none."""
        return list(zip((self.images, self.labels), self.md5 or ("", ""), self.packed_md5, strict=True))


MNIST = Source(
    "MNIST",
    md5=("6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624"),
    test_md5=("2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"),
    packed_md5=("f68b3c2dcbeaaa9fbdd348bbdeb94873", "d53e105ee54ea40749a09fcbcd1e9432"),
    test_packed_md5=("9fb629c4189551a2d022fa330f9573f3", "ec29112dd5afa0611ce80d1b7f02629c"),
)
FASHION_MNIST = Source(
    "FashionMNIST",
    md5=("f4a8712d7a061bf5bd6d2ca38dc4d50a", "9018921c3c673c538a1fc5bad174d6f9"),
    test_md5=("8181f5470baa50b63fa0f6fddb340f0a", "15d484375f8d13e6eb1aabb0c3f46965"),
    packed_md5=("8d4fb7e6c68d591d4c3dfef9ec88bf0d", "25c81989df183df01b3e8a0aad5dffbe"),
    test_packed_md5=("bef4ecab320f06d8554ea6380940ec79", "bb300cfdad3c16e7a12a480ee83cd310"),
)
KMNIST = Source(
    "KMNIST",
    packed_md5=("bdb82020997e1d708af4cf47b453dcf7", "e144d726b3acfaa3e44228e80efcd344"),
    test_packed_md5=("5c965bf0a639b31b8f53240b1b52f4d7", "7320c461ea6c1c855c0b718fb2a4b134"),
)
QMNIST = Source(
    "QMNIST",
    "qmnist-train-images-idx3-ubyte",
    "qmnist-train-labels-idx2-int",
    num_test_images=60_000,
    label_columns=8,
    packed_md5=("ed72d4157d28c017586c42bc6afe6370", "0058f8dd561b90ffdd0f734c6a30e5e4"),
    test_packed_md5=("1394631089c404de565df7b7aeaf9412", "5b5b05890a5e13444e108efe57b788aa"),
)
EMNIST_DIGITS = Source(
    "EMNIST",
    "emnist-digits-train-images-idx3-ubyte",
    "emnist-digits-train-labels-idx1-ubyte",
    num_images=240_000,
    num_test_images=40_000,
    packed_md5=("d2662ecdc47895a6bbfce25de9e9a677", "2223fcfee618ac9c89ef20b6e48bcf9e"),
    test_packed_md5=("a159b8b3bd6ab4ed4793c1cb71a2f5cc", "8afde66ea51d865689083ba6bb779fac"),
    is_transposed=True,
)

# Sets of torchvision that no name here stands for: the md5 of their packed images and labels, for training and test.
OTHERS = {
    "EMNIST byclass": "712dda0bd6f00690f32236ae4325c377 ee299a3ee5faf5c31e9406763eae7e43 "
    "1435209e34070a9002867a9ab50160d7 7a0f934bd176c798ecba96b36fda6657",
    "EMNIST bymerge": "4a792d4df261d7e1ba27979573bf53f3 491be69ef99e1ab1f5b7f9ccc908bb26 "
    "8eb5d34c91f1759a55831c37ec2a283f c13f4cd5211cdba1b8fa992dae2be992",
    "EMNIST balanced": "4041b0d6f15785d3fa35263901b5496b 7a35cc7b2b7ee7671eddf028570fbd20 "
    "6818d20fe2ce1880476f747bbc80b22b acd3694070dcbf620e36670519d4b32f",
    "EMNIST letters": "8795078f199c478165fe18db82625747 c16de4f1848ddcdddd39ab65d2a7be52 "
    "382093a19703f68edac6d01b8dfdfcad d4108920cd86601ec7689a97f2de7f59",
    "EMNIST mnist": "3663598a39195d030895b6304abb5065 6c092f03c9bb63e678f80f8bc605fe37 "
    "fb51b6430fc4dd67deaada1bf25d4524 ae7f6be798a9a5d5f2bd32e078a402dd",
}


def download(source: Source, folder: Path, config: DataConfig, split: str = "train") -> None:
    """Let torchvision's class fill `folder/source.folder/raw`. Raises UserError for whatever went wrong.

    It downloads into a folder beside the final one, so that nothing half-fetched stays. Packed files stay where
    they alone have a published sum.
    """
    name = source.folder
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision of another torch
        raise UserError(
            f"torchvision, which downloads it, does not import ({error})", code="missing-package"
        ) from error

    with _new_folder(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as temporary, _timeouts():
        arguments: dict[str, Any] = {"QMNIST": {"what": split}, "EMNIST": {"split": "digits"}}.get(name, {})
        try:
            _from_mirror(getattr(datasets, name), config)(temporary, download=True, **arguments)
        except (RuntimeError, OSError, EOFError, HTTPException, zipfile.BadZipFile, zlib.error, ValueError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            place = f" from {config.mirror}" if config.mirror and config.mirror not in reason else ""
            raise UserError(f"the download{place} failed ({reason})", code="download-failed") from error
        raw = folder / name / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        fetched = Path(temporary) / name / "raw"
        for archive in fetched.glob("*.zip"):  # EMNIST's, out of which torchvision leaves the unpacked files
            _extract_packed(archive, source.images.partition("train")[0].partition("test")[0], fetched)
        for file in fetched.iterdir():
            if file.suffix != ".zip" and (file.suffix != ".gz" or source.md5 is None):
                shutil.move(file, raw / file.name)


def _extract_packed(archive: Path, prefix: str, folder: Path) -> None:
    """Put the .gz members of an archive whose names start with `prefix` into `folder`."""
    with zipfile.ZipFile(archive) as members:
        for member in members.namelist():
            name = member.rpartition("/")[2]
            if name.startswith(prefix) and name.endswith(".gz"):
                with members.open(member) as packed, (folder / name).open("wb") as file:
                    shutil.copyfileobj(packed, file)


def _from_mirror(dataset: type, config: DataConfig) -> type:
    """Return torchvision's class, downloading from `--data-mirror` if set."""
    changed: dict[str, Any] = {}
    unchecked = config.md5 == "accept"
    base = config.mirror and config.mirror.rstrip("/") + "/"
    if hasattr(dataset, "url"):  # EMNIST: one archive
        changed["url"] = base + "gzip.zip" if base else dataset.url
        changed["md5"] = None if unchecked else dataset.md5  # type: ignore[attr-defined]
    elif isinstance(dataset.resources, dict):  # type: ignore[attr-defined]  # QMNIST: full addresses
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
def _new_folder(folder: Path) -> Iterator[None]:
    """Create the folder, and remove it again if it is new and stays empty."""
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(f"{folder}: not writable ({error.strerror or error})", code="unwritable") from error
    finally:
        if is_new and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


class _LocalFiles(urllib.request.FileHandler):
    """Give the response to a file:// address a length, which torchvision reads."""

    def file_open(self, req: urllib.request.Request) -> Any:
        response: Any = super().file_open(req)
        response.length = int(response.headers["Content-Length"])
        return response


@contextmanager
def _timeouts() -> Iterator[None]:
    """Limit each wait for a mirror, which torchvision does not, and let it read file:// addresses."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    urllib.request.install_opener(urllib.request.build_opener(_LocalFiles))
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
        urllib.request.install_opener(None)  # the default one is made anew


# -- MNIST's idx files, read with distrust: header, size and contents agree, or one clear error --

# The third byte of the magic number: the type of the values, big-endian (yann.lecun.com/exdb/mnist).
_TYPES: dict[int, np.dtype[Any]] = {0x08: np.dtype("u1"), 0x0C: np.dtype(">i4")}


class IdxFile(NamedTuple):
    """`path` is the file that was read, packed or not, and `md5` that of its unpacked bytes.

    `sums` are the md5s of that file, and of a packed twin that was not read.
    """

    values: np.ndarray
    path: Path
    md5: str
    sums: dict[Path, set[str]]


def read_idx(path: Path, shape: tuple[int | None, ...], remedy: str, packed_md5: str = "") -> IdxFile:
    """Return the array of a file, or of its `.gz` twin: where that is the only one, or has the sum `packed_md5`.

    `shape` is what must stand there, None for a size that is left open; `remedy` is what to do about a
    file that does not hold it. Raises UserError. Nothing is allocated on the word of a header: a file is no
    larger than it is, and a packed one is unpacked no further than `shape` allows.
    """
    existing = packed = path.with_name(path.name + ".gz")
    try:
        sums = {packed: {_md5_of(packed)}} if packed.is_file() else {}
        if path.is_file() and not (packed_md5 and packed_md5 in sums.get(packed, ())):
            existing, sums[path] = path, set()
        with cast(Any, gzip.open(existing) if existing == packed else existing.open("rb")) as file:
            head = file.read(4 + 4 * len(shape))
            dtype, stated = _header(head, shape, existing, remedy)
            promised = dtype.itemsize * math.prod(stated)
            most = dtype.itemsize * math.prod(size or 1_000_000 for size in shape)
            data = _read_up_to(file, min(promised, path.stat().st_size if existing == path else most))
            num_more = len(file.read(1))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{existing}: damaged ({error}). Expected: {remedy}", code="bad-dataset") from error
    except OSError as error:
        raise not_readable(existing, error, remedy) from error
    size, due = len(head) + len(data), len(head) + promised
    fault = f"cut short: {size:,} bytes where its header promises {due:,}" if len(data) < promised else ""
    if num_more:
        what = "too long, or damaged" if existing == packed else "too long"
        fault = f"{what}: more than {size:,} bytes where its header promises {due:,}"
    if fault:
        raise UserError(f"{existing}: {fault}. Expected: {remedy}", code="bad-dataset")
    md5 = hashlib.md5(head, usedforsecurity=False)
    md5.update(data.data)
    values = data.view(dtype).reshape(stated)
    sums[existing].add(md5.hexdigest())
    return IdxFile(values, existing, md5.hexdigest(), sums)


def _header(
    head: bytes, shape: tuple[int | None, ...], path: Path, remedy: str
) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Return the type and the shape that a header states. Raises UserError unless `shape` allows it."""
    dtype = _TYPES.get(head[2]) if len(head) >= 4 else None
    if len(head) < 4 + 4 * len(shape) or head[:2] != b"\0\0" or dtype is None or head[3] != len(shape):
        raise UserError(
            f"{path}: starts with 0x{head[:4].hex() or '(nothing)'}. Expected: the idx magic number for {len(shape)} "
            f"dimensions (0x000008{len(shape):02x}); {remedy}",
            code="bad-dataset",
        )
    stated = tuple(int(size) for size in np.frombuffer(head, ">u4", count=len(shape), offset=4))
    if any(want is not None and want != size for want, size in zip(shape, stated, strict=True)):
        wanted = " x ".join("any" if size is None else f"{size}" for size in shape)
        raise UserError(
            f"{path}: {' x '.join(map(str, stated))} values. Expected: {wanted}; {remedy}", code="bad-dataset"
        )
    return dtype, stated


def _md5_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _read_up_to(file: Any, size: int) -> np.ndarray:
    """Return the next `size` bytes of a file, or what there is. Memory that is not filled is never touched."""
    data = np.empty(size, np.uint8)
    num, view = 0, data.data
    while num < size and (read := file.readinto(view[num : num + 2**20])):
        num += read
    return data[:num]
