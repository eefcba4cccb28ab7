"""Files of a run: whole or not at all, read within bounds, and safetensors with words for a damaged one."""

import errno
import json
import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from distgan.errors import UserError


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes beside `path`, flushes to the disk and renames: a reader sees the old file or the new one.

    An OSError names `path`, and leaves neither a part of it nor the temporary file.
    """
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}-", suffix=path.suffix, delete=False
        ) as file:
            temporary = Path(file.name)
            write(file)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # a temporary file is its owner's alone
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_synced(path: Path, data: bytes) -> None:
    """A new file whose bytes are on the disk when this returns. An OSError names `path`."""
    try:
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def sync(path: Path) -> None:
    """Waits until what was written to a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_within(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes. Raises UserError, and never waits or reads on.

    A link is not followed, and a pipe, a device or a larger file is not read at all.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        reason = "is a link" if error.errno == errno.ELOOP else f"can't be read ({error.strerror})"
        raise UserError(f"{path}: {reason}") from error
    facts = os.fstat(handle)
    if not stat.S_ISREG(facts.st_mode):  # a folder can't even be opened as a file
        os.close(handle)
        raise UserError(f"{path}: is no regular file")
    with open(handle, "rb") as file:
        if facts.st_size > limit:
            raise UserError(f"{path}: has {facts.st_size:,} bytes; allowed: at most {limit:,}")
        try:
            return file.read(limit)
        except OSError as error:
            raise UserError(f"{path}: can't be read ({error.strerror})") from error


def write_json(path: Path, value: Any) -> None:
    write_whole(path, lambda file: file.write((json.dumps(value, indent=2) + "\n").encode()))


def append_lines(path: Path, lines: list[str]) -> None:
    """Adds lines, or on a full disk none of them. An OSError names `path`."""
    data = "".join(f"{line}\n" for line in lines).encode()
    try:
        with path.open("ab", buffering=0) as file:
            size = file.tell()
            if file.write(data) != len(data):
                file.truncate(size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """A safetensors file. Serialised here and written by us, for safetensors neither syncs nor names ENOSPC."""
    on_cpu = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    write_whole(path, lambda file: file.write(save(on_cpu, metadata)))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata. Raises UserError for a file that is missing, damaged or none."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror or error})") from error
    except SafetensorError as error:
        raise UserError(f"{path}: is no whole safetensors file ({error})") from error


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a metrics.jsonl; one that was cut short is left out."""
    lines = []
    if path.is_file():
        for line in path.read_text(errors="replace").splitlines():
            with suppress(ValueError, RecursionError):
                if isinstance(values := json.loads(line), dict) and isinstance(values.get("step"), int):
                    lines.append(values)
    return lines
