"""What an evaluation is of: a generator or images of a file, against which real data, and how to measure it again."""

import hashlib
import math
import shlex
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from distgan.checkpoint.export import Loaded, load_generator
from distgan.config.command_settings import EvalConfig
from distgan.config.flags import flags_of, paths_by
from distgan.config.schema import DataConfig
from distgan.data.base import Dataset
from distgan.data.loader import steps_in_epoch
from distgan.errors import UserError, printable
from distgan.evaluation.ensemble import Jury
from distgan.evaluation.schema import Source
from distgan.utils.files import is_ignorable, read_json
from distgan.utils.paths import user_path

_IMAGES, _LABELS = (("images", "arr_0"), ("labels", "arr_1"))  # ours, then those that np.savez gives without names
_ALLOWED = (
    "images as uint8 of 0 to 255, or as floats of 0 to 1 or -1 to 1, with the shape (N, 28, 28), (N, 1, 28, 28) or "
    "(N, 28, 28, 1)"
)
_MAX_BYTES = 2**33


class Arrays(NamedTuple):
    """Images (N, 28, 28) uint8, labels (N,) int64 if there are any; `notices` is what to say of them."""

    images: Tensor
    labels: Tensor | None
    notices: list[str]


def read_npz(path: Path, num: int) -> Arrays:
    """The images of a file, or a fixed random choice of `num` where it has more.

    Raises UserError with one line for whatever is wrong with it.
    """
    if not path.is_file():  # of a pipe a reader would wait for ever
        found = "is no regular file" if path.exists() else "is not there"
        raise UserError(
            f"{path}: {found}; allowed: an .npz, a run, its weights, a checkpoint, or a .safetensors file",
            code="bad-data",
        )
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            images, labels, notice = (_of(archive, wanted) for wanted in (_IMAGES, _LABELS, ("notice",)))
    except Exception as error:  # what numpy and zipfile raise for a broken file has no common name
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
        raise UserError(f"{path}: is no .npz of numbers that can be read ({reason})", code="bad-data") from error
    if images is None:
        raise UserError(
            f"{path}: has no array of images, only {', '.join(names)[:200] or 'nothing'}; allowed: {_IMAGES[0]}",
            code="bad-data",
        )
    pixels, scale = _pixels(images, path)
    digits = None if labels is None else _labels(labels, len(pixels), path)
    notices = [] if notice is None else [f"trained on {_printable(notice)}"]
    notices += [f"its pixels are floats, taken as {scale}"] if scale else []
    if len(pixels) > num:
        notices.append(f"{num:,} of its {len(pixels):,} images, a fixed random choice")
        rows = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))[:num]
        pixels, digits = pixels[rows], None if digits is None else digits[rows]
    return Arrays(pixels, digits, notices)


def _of(archive: zipfile.ZipFile, names: tuple[str, ...]) -> np.ndarray | None:
    """The array of the first of these names, if it is as long as its header says. Nothing is allocated on its word."""
    name = next((name for name in names if f"{name}.npy" in archive.namelist()), None)
    if name is None:
        return None
    entry = archive.getinfo(f"{name}.npy")
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
        promised = math.prod(shape) * dtype.itemsize
        if promised != entry.file_size - file.tell() or promised > _MAX_BYTES:
            raise ValueError(
                f"{name}: its header promises {promised:,} bytes; allowed: what it holds, to {_MAX_BYTES:,}"
            )
    with archive.open(entry) as file:
        return np.lib.format.read_array(file)


def _printable(notice: np.ndarray) -> str:
    """Of a text; what else it may be, and what a terminal would obey, is left out."""
    text = str(notice) if notice.ndim == 0 and notice.dtype.kind == "U" else "data with a notice"
    return "".join(char for char in text if char.isprintable())[:100]


def _pixels(images: np.ndarray, path: Path) -> tuple[Tensor, str | None]:
    shape, kind = images.shape, images.dtype
    if len(shape) == 4 and 1 in (shape[1], shape[3]):
        images = images.reshape(shape[0], *(size for size in shape[1:] if size != 1))
    if images.ndim != 3 or images.shape[1:] != (28, 28):
        raise UserError(f"{path}: its images have the shape {shape}; allowed: {_ALLOWED}", code="bad-data")
    if not len(images):
        raise UserError(f"{path}: holds no images; allowed: {_ALLOWED}", code="bad-data")
    if kind == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(images)), None
    if kind not in (np.float16, np.float32, np.float64):
        raise UserError(f"{path}: its images are of the type {kind}; allowed: {_ALLOWED}", code="bad-data")
    images = images.astype(np.float64)
    if num_bad := int((~np.isfinite(images)).any(axis=(1, 2)).sum()):
        raise UserError(
            f"{path}: {num_bad:,} of {len(images):,} images have pixels that are no numbers (NaN or infinite)",
            code="bad-data",
        )
    low, high = float(images.min()), float(images.max())
    if low < -1 or high > 1:
        raise UserError(
            f"{path}: its images have values from {low:g} to {high:g}; allowed: {_ALLOWED}", code="bad-data"
        )
    scale = "-1 to 1" if low < 0 else "0 to 1"
    fractions = (images + 1) / 2 if low < 0 else images
    return torch.from_numpy((fractions * 255).round().astype(np.uint8)), scale


def _labels(labels: np.ndarray, num_images: int, path: Path) -> Tensor:
    if labels.shape != (num_images,):
        raise UserError(
            f"{path}: its labels have the shape {labels.shape}; allowed: ({num_images},), one an image", code="bad-data"
        )
    if labels.dtype.kind not in "iu":
        raise UserError(
            f"{path}: its labels are of the type {labels.dtype}; allowed: whole numbers from 0 to 9", code="bad-data"
        )
    if labels.min() < 0 or labels.max() > 9:
        raise UserError(
            f"{path}: its labels are from {labels.min()} to {labels.max()}; allowed: 0 to 9", code="bad-data"
        )
    return torch.from_numpy(labels.astype(np.int64))


# -- What is evaluated, against which real data, and where the result goes --

FILE = "eval.json"


class Subject(NamedTuple):
    """What is judged: a generator, or images (N, 28, 28) uint8 that are there already."""

    what: str
    sha256: str
    is_conditional: bool
    notices: list[str]
    generator: nn.Module | None = None
    loaded: Loaded | None = None
    images: Tensor | None = None
    labels: Tensor | None = None


def load_subject(where: str, config: EvalConfig) -> Subject:
    path = user_path(where)
    if path.suffix == ".npz":
        arrays = read_npz(path, config.num)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        is_conditional = arrays.labels is not None
        return Subject(where, digest, is_conditional, arrays.notices, images=arrays.images, labels=arrays.labels)
    loaded = load_generator(where, ema=config.ema)
    digest = hashlib.sha256(loaded.path.read_bytes()).hexdigest()
    notices = ([f"trained on {loaded.notice}"] if loaded.notice else []) + loaded.warnings
    return Subject(where, digest, loaded.config.model.is_conditional, notices, loaded.generator, loaded)


def data_config(subject: Subject, config: EvalConfig) -> DataConfig:
    trained = subject.loaded.config.data if subject.loaded else DataConfig()
    changes = {"name": config.data or trained.name, "download": config.download}
    return trained.model_copy(update=changes | ({"dir": config.reference} if config.reference else {}))


def out_folder(where: str, config: EvalConfig) -> Path:
    """Raises UserError for one that holds something else."""
    path = user_path(where)
    is_run = (path / "checkpoints").is_dir() or (path / "weights").is_dir()
    folder = path / "eval" if is_run else Path(f"eval-{path.stem}")
    folder = user_path(config.out, "--out") if config.out else folder
    if folder.exists() and not folder.is_dir():
        raise UserError(
            f"--out {folder}: is no folder; allowed: a new folder, or one of distgan eval", code="not-found"
        )
    if folder.is_dir() and not (folder / FILE).exists() and not all(is_ignorable(e.name) for e in folder.iterdir()):
        raise UserError(
            f"--out {folder}: holds other things than {FILE}; allowed: a new folder, or one of distgan eval",
            code="exists",
        )
    return folder


def source_of(where: str, subject: Subject, config: EvalConfig, train: Dataset, test: Dataset, jury: Jury) -> Source:
    loaded = subject.loaded
    facts: dict[str, Any] = {"weights": None, "preset": None, "step": None, "epoch": None, "ema": None, "seed": None}
    if loaded is not None:
        batch, epoch = loaded.config.data.batch_size, None
        if loaded.step is not None and batch is not None and train.name == loaded.config.data.name != "digits":
            epoch = loaded.step / steps_in_epoch(len(train.images), batch, loaded.config.data.drop_last)
        facts |= {"weights": str(loaded.path), "preset": _preset(loaded), "step": loaded.step, "epoch": epoch}
        facts |= {"ema": loaded.path.stem == "generator_ema", "seed": config.seed}
    # Those that shape the numbers.
    names = {flag.path: flag.name for flag in flags_of(EvalConfig)}
    values = {names[path]: getattr(config, path[0]) for path in paths_by(EvalConfig, "on_resume", "confirm")}
    flags = [
        f"{name} {shlex.quote(str(value))}"
        for name, value in values.items()
        if not isinstance(value, bool) and value not in (None, 0)
    ]
    flags += [f"--no-{name[2:]}" for name, value in values.items() if value is False]
    facts |= {
        "what": where,
        "sha256": subject.sha256,
        "data": train.name,
        "reference": f"{len(test.images):,} test images of {test.name}, {test.source}, fingerprint {test.fingerprint}",
        "judged_by": f"{jury.record.data}, fingerprint {jury.record.recipe.train}",
        "command": " ".join(["distgan eval", shlex.quote(where), *flags]),
    }
    # The name of a folder may hold bytes that are no text, which JSON does not take.
    return Source(**{key: printable(value) if isinstance(value, str) else value for key, value in facts.items()})


def _preset(loaded: Loaded) -> str:
    """What the run was called, or else its model."""
    for folder in list(loaded.path.parents)[:3]:
        with suppress(UserError):
            if preset := read_json(folder / "environment.json", 2**20).get("preset"):
                return str(preset)
    return loaded.config.model.name
