"""MNIST's idx files, read with distrust: header, size and contents agree, or one clear error says how not."""

import gzip
import hashlib
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distgan.errors import UserError

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
        raise UserError(f"{found}: damaged ({error}); {mend}") from error
    except OSError as error:
        raise UserError(f"{found}: can't be read ({error.strerror or error}); {mend}") from error

    header = 4 + 4 * len(shape)
    dtype = _TYPES.get(raw[2]) if len(raw) >= 4 else None
    if len(raw) < header or raw[:2] != b"\0\0" or dtype is None or raw[3] != len(shape):
        raise UserError(
            f"{found}: starts with 0x{raw[:4].hex() or '(nothing)'}, which is no idx magic number for "
            f"{len(shape)} dimensions (0x000008{len(shape):02x}); {mend}"
        )
    stated = tuple(int(size) for size in np.frombuffer(raw, ">u4", count=len(shape), offset=4))
    if any(want is not None and want != size for want, size in zip(shape, stated, strict=True)):
        wanted = " x ".join("any" if size is None else f"{size}" for size in shape)
        raise UserError(f"{found}: holds {' x '.join(map(str, stated))} values, expected {wanted}; {mend}")
    promised = header + dtype.itemsize * math.prod(stated)
    if len(raw) != promised:
        fault = "cut short" if len(raw) < promised else "too long"
        raise UserError(
            f"{found}: {fault}: {len(raw):,} bytes where its header promises {promised:,}; {mend}"
        )
    values = np.frombuffer(raw, dtype, offset=header).reshape(stated)
    return IdxFile(values, hashlib.md5(raw, usedforsecurity=False).hexdigest())
