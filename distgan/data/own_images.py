"""A user's own images by their path: which kind of source it is, and its images decoded once and kept."""

import os
from collections.abc import Callable
from pathlib import Path

from distgan.config.schema import DataConfig
from distgan.data.decoding import Decoded, decode_all
from distgan.data.image_arrays import of_npz, of_parquet
from distgan.data.image_cache import cache_folder, cached, key_of
from distgan.data.image_files import of_folder, of_zip
from distgan.data.image_source import ImageSource
from distgan.errors import UserError, not_readable
from distgan.utils.paths import user_path

ALLOWED = (
    "a folder of images or of class folders, a .zip of one, an .npz with images (uint8) and, if there are any, labels, "
    "or .parquet of Hugging Face's form"
)
_READERS: dict[str, Callable[[Path, str], ImageSource]] = {".zip": of_zip, ".npz": of_npz, ".parquet": of_parquet}


def decode_own(config: DataConfig, *, keep: bool = True) -> tuple[ImageSource, Decoded]:
    """Decode the images of a path, and `keep` them, or read what was kept before. Raises UserError."""
    source = find_source(Path(os.path.abspath(user_path(config.name, "--data"))))
    rules = (config.image_size, config.channels, config.background, config.skip_broken)
    key = key_of(source.kind, source.stamp, source.class_names, rules)
    where = f"--data {config.name}"
    return source, cached(cache_folder(config.cache_dir), key, lambda: decode_all(source, config, where), keep=keep)


def find_source(path: Path, flag: str = "--data") -> ImageSource:
    """List the images at `path`. Raises UserError for what holds none, or that could be read in two ways."""
    where = f"{flag} {path}"
    suffix = path.suffix.lower()
    try:
        if path.is_dir():
            is_parquet = any(entry.name.endswith(".parquet") for entry in os.scandir(path))
            return of_parquet(path, where) if is_parquet else of_folder(path, where)
        if not path.exists():
            raise UserError(f"{where}: does not exist. Expected: {ALLOWED}", code="no-data")
        if path.is_file() and suffix in _READERS:
            return _READERS[suffix](path, where)
    except OSError as error:
        raise not_readable(where, error) from error
    advice = "; as .npz: numpy.savez(FILE, images=pixels, labels=labels)" if suffix == ".csv" else ""
    raise UserError(f"{where}: not a source of images. Expected: {ALLOWED}{advice}", code="bad-images")
