"""A user's own images by their path: which kind of source it is, and its images decoded once and kept."""

import math
import os
from collections.abc import Callable
from pathlib import Path

from distgan.config.flags import did_you_mean_path
from distgan.config.registry import IN_MEMORY
from distgan.config.schema import DataConfig
from distgan.data.decoding import Decoded, decode_all
from distgan.data.image_arrays import list_npz, list_parquet
from distgan.data.image_cache import cache_folder, cache_key, use_cache
from distgan.data.image_files import SUFFIXES, list_folder, list_zip
from distgan.data.image_source import ImageSource
from distgan.errors import UserError, not_readable
from distgan.utils.paths import user_path

ALLOWED = (
    "a folder of images or of class folders, a .zip of one, an .npz with images (uint8) and, if there are any, labels, "
    "or .parquet of Hugging Face's form"
)
_READERS: dict[str, Callable[[Path, str], ImageSource]] = {".zip": list_zip, ".npz": list_npz, ".parquet": list_parquet}


def decode_own(config: DataConfig, flag: str, *, keep: bool) -> tuple[ImageSource, Decoded]:
    """Decode the images of a path, which `flag` named, and `keep` them, or read what was kept. Raises UserError."""
    if config.name == IN_MEMORY:
        raise UserError(
            f"{flag}: these images were passed by a program. Expected: dataset= of distgan's functions in Python, or "
            "--data PATH of the same images",
            code="no-data",
        )
    source = find_source(Path(os.path.abspath(user_path(config.name, flag))), flag)
    rules = (config.image_size, config.channels, config.background, config.skip_broken)
    key = cache_key(source.kind, source.stamp, source.class_names, rules)
    where = f"{flag} {config.name}"
    return source, use_cache(cache_folder(config.cache_dir), key, lambda: decode_all(source, config, where), keep=keep)


def find_source(path: Path, flag: str) -> ImageSource:
    """List the images at `path`. Raises UserError for what holds none, or that could be read in two ways."""
    where = f"{flag} {path}"
    suffix = path.suffix.lower()
    try:
        if path.is_dir():
            is_parquet = any(name.endswith(".parquet") for name in os.listdir(path))
            return list_parquet(path, where) if is_parquet else list_folder(path, where)
        if not path.exists():
            guess = did_you_mean_path(str(path)) or "."
            raise UserError(f"{where}: does not exist{guess} Expected: {ALLOWED}", code="no-data")
        if path.is_file() and suffix in _READERS:
            return _READERS[suffix](path, where)
    except OSError as error:
        raise not_readable(where, error) from error
    raise UserError(f"{where}: not a source of images. Expected: {ALLOWED}{_advice(path, suffix)}", code="bad-images")


def _advice(path: Path, suffix: str) -> str:
    """Return what to do with a file of a form that is not read, "" if that is all that can be said."""
    npz = str(path.with_suffix(".npz"))
    if suffix in SUFFIXES:
        return "; of a single image its folder"
    if suffix == ".npy":
        return f"; as .npz: import numpy as np; np.savez({npz!r}, images=np.load({str(path)!r}))"
    if suffix != ".csv" or not path.is_file():
        return ""
    with path.open("rb") as file:  # Kaggle's form: a line of names, then label and pixels of an image in each
        num_columns = file.readline(2**20).count(b",") + 1
    for num_labels in (1, 0):
        side = math.isqrt(num_columns - num_labels)
        if side > 1 and side * side == num_columns - num_labels:
            labels = ", labels=rows[:, 0]" if num_labels else ""
            return (
                f"; as .npz: import numpy as np; rows = np.loadtxt({str(path)!r}, np.uint8, delimiter=',', skiprows=1)"
                f"; np.savez({npz!r}, images=rows[:, {num_labels}:].reshape(-1, {side}, {side}){labels})"
            )
    return "; as .npz: numpy.savez(FILE, images=pixels, labels=labels)"
