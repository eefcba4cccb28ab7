"""Files: written atomically, read within bounds; JSON, pydantic models and safetensors, checked."""

import errno
import json
import math
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open

from distgan.errors import UserError, not_readable
from distgan.utils.operating_system import open_regular, open_to_sync
from distgan.utils.paths import user_path

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

M = TypeVar("M", bound=BaseModel)

_MAX_LINE = 2**20  # bytes of a line of metrics.jsonl; ours have at most some thousands

# A file whose name starts so is not finished yet.
TEMPORARY = ".tmp-"

# What a killed process may have left: unfinished files and folders, those of older versions and of checkpoints too.
_LEFTOVER = re.compile(r"\.writable|\..+-[a-z0-9_]{8}(\.\w+)?|\.removed-.+|\.link-.+")
# What systems put into folders of their own accord.
_SYSTEM = re.compile(r"\.DS_Store|\._.*|\.nfs[0-9a-f]+|\.ipynb_checkpoints|Thumbs\.db|desktop\.ini")

# How file systems say that they can't put a folder on the disk, or nothing at all: FUSE, 9p, shared folders.
_NO_FSYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Raise an OSError of the block anew with the name of `path`."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def is_leftover(name: str) -> bool:
    """True if that is a name which only what is not finished has."""
    return _LEFTOVER.fullmatch(name) is not None


def is_ignorable(name: str) -> bool:
    """True if a folder that holds a file of that name may still be called empty."""
    return is_leftover(name) or _SYSTEM.fullmatch(name) is not None


def temporary_beside(path: Path, start: str = TEMPORARY) -> Path:
    """Return a name in the folder of `path` that nothing has. Opened or made, it gets the modes of the user's umask."""
    return path.with_name(f"{start}{token_hex(4)}")


def write_atomic(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write bytes, or what a function writes, beside `path`, flush it to the disk and rename it.

    A reader sees the old file or the new one, which has its mode. A link stays, and its target is written. An OSError
    names `path`, and leaves neither a part of it nor the temporary file.
    """
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    temporary = temporary_beside(path)
    try:
        with _naming(path):
            with temporary.open("xb") as file:
                file.write(content) if isinstance(content, bytes) else content(file)
                file.flush()
                _fsync(file.fileno())
            with suppress(OSError):  # there is none yet, or the file system has no modes
                shutil.copymode(path, temporary)
            temporary.replace(path)
            sync(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file and sync it to the disk. An OSError names `path`."""
    with _naming(path), path.open("xb") as file:
        file.write(data)
        file.flush()
        _fsync(file.fileno())


def sync(path: Path) -> None:
    """Wait until what was written to a file, or the names in a folder, are on the disk. An OSError names `path`."""
    with _naming(path):
        handle = open_to_sync(path)
        if handle is None:
            return
        try:
            _fsync(handle)
        finally:
            os.close(handle)


def _fsync(handle: int) -> None:
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FSYNC:
            raise


def set_aside(path: Path, ending: str) -> Path | None:
    """Rename what is at `path` to `<name>.<ending>`, or with a number where that is taken. Return its new path."""
    if not os.path.lexists(path):
        return None
    aside = path.with_name(f"{path.name}.{ending}")
    number = 1
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"{path.name}.{ending}-{number}")
    return path.rename(aside)


def read_within(path: Path, limit: int) -> bytes:
    """Read a regular file of at most `limit` bytes. Raises UserError; never blocks or reads on.

    A link is not followed, and a pipe, a device or a larger file is not read at all.
    """
    try:
        handle = open_regular(path)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"{path}: is a link", code="unreadable") from error
        raise not_readable(path, error) from error
    facts = os.fstat(handle)
    if not stat.S_ISREG(facts.st_mode):  # a folder can't even be opened as a file
        os.close(handle)
        raise UserError(f"{path}: not a regular file", code="unreadable")
    with open(handle, "rb") as file:
        if facts.st_size > limit:
            raise UserError(
                f"{path}: too large ({facts.st_size:,} bytes). Expected: at most {limit:,}", code="damaged-file"
            )
        try:
            return file.read(limit)
        except OSError as error:
            raise not_readable(path, error) from error


def read_json(path: Path, limit: int, *, only_finite: bool = False) -> dict[str, Any]:
    """Return the object in a JSON file of at most `limit` bytes. Raises UserError that names the file.

    Python reads NaN, and 1e999 as infinity, which JSON has not; `only_finite` raises for them.
    """
    data, parse = read_within(path, limit), _finite if only_finite else None
    try:
        value = json.loads(data, parse_constant=parse, parse_float=parse)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})", code="damaged-file") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: not a JSON object", code="damaged-file")
    return value


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"holds {text}, which is not a finite number")
    return value


def read_model(path: Path, kind: type[M], limit: int, *, version: int, rule: str) -> M:
    """Return a JSON file as a model. Raises UserError for one that is damaged or has another `format`."""
    values = read_json(path, limit)
    check_format(path, values, version)
    return parse_model(kind, values, f"{path}: is damaged", rule=rule)


def check_format(path: Path, values: dict[str, Any], version: int) -> None:
    """Raise UserError unless `format` in a file is the version that is read here."""
    if (found := values.get("format")) != version:
        raise UserError(
            f"{path}: unknown format ({str(found)[:20]}). Expected: {version} (update distgan)", code="unknown-format"
        )


def read_environment(run: Path) -> dict[str, Any]:
    """Return environment.json of a run, {} where it is missing or damaged."""
    with suppress(UserError):
        return read_json(run / "environment.json", 2**20)
    return {}


def parse_model(
    kind: type[M], values: dict[str, Any], name: str, *, at: str = "", rule: str = "", strict: bool | None = None
) -> M:
    """Return the values of a file as a model. Raises UserError `NAME: KEY below AT: what is wrong. Expected: RULE`."""
    try:
        return kind.model_validate(values, strict=strict)
    except ValidationError as error:
        complaint = first_mistake(error, at)
        if rule and "Expected" not in complaint:
            complaint += f". Expected: {rule}"
        raise UserError(f"{name}: {complaint}", code="damaged-file") from error


def first_mistake(error: ValidationError, at: str = "") -> str:
    """Return the first of pydantic's complaints about a file in our words, `key.0.key: is missing`, in bounds."""
    first = error.errors(include_url=False)[0]
    where = ".".join([*filter(None, [at]), *(str(part)[:40] for part in first["loc"][:6])])
    value, words = first["input"], first["msg"].removeprefix("Value error, ")[:200]
    _, should, allowed = words.partition(" should ")
    if first["type"] == "missing":
        words = "is missing"
    elif first["type"] == "extra_forbidden":
        words = "unknown key"
    elif should:
        is_short = value is None or isinstance(value, str | float) or (isinstance(value, int) and abs(value) < 2**63)
        shown = repr(value)[:80] if is_short else f"a {type(value).__name__}"
        words = f"invalid value ({shown}). Expected: {allowed.removeprefix('be ')}"
    return f"{where}: {words}" if where else words


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_atomic(path, (json.dumps(value, indent=2) + "\n").encode())


def append_lines(path: Path, lines: list[str]) -> None:
    """Append lines, or on a full disk none of them. An OSError names `path`."""
    data = "".join(f"{line}\n" for line in lines).encode()
    with _naming(path), path.open("ab", buffering=0) as file:
        size = file.tell()
        if file.write(data) != len(data):
            file.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def not_writable(path: object, error: OSError) -> UserError:
    """Return what to raise where --out can't be written to."""
    return UserError(f"--out: not writable: {error.strerror} ({path})", code="unwritable")


def make_folder(folder: Path) -> None:
    """Make the folder of --out, and try to write there. Raises UserError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise not_writable(folder, error) from error


def tensor_bytes(tensors: dict[str, "Tensor"], metadata: dict[str, str]) -> bytes:
    """Return a safetensors file. The same tensors and metadata give the same bytes.

    The library writes the metadata in the order of a hash map, another one each time: the header is written again.
    """
    from safetensors.torch import save  # imports torch, which `train --help` does without

    data = memoryview(save(tensors, metadata))
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(bytes(data[8:start]))
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # aligns the tensors
    return b"".join((len(text).to_bytes(8, "little"), text, data[start:]))


_KINDS = {"int64": "I64", "uint8": "U8"}  # of arrays, as safetensors calls them; those with the longest items first


def write_arrays(file: BinaryIO, arrays: "dict[str, np.ndarray]", metadata: dict[str, str]) -> None:
    """Write a safetensors file of arrays as they lie in memory: the library makes two copies, of gigabytes here."""
    header: dict[str, Any] = {"__metadata__": metadata}
    ordered = sorted(arrays.items(), key=lambda item: list(_KINDS).index(str(item[1].dtype)))
    end = 0
    for name, array in ordered:
        start, end = end, end + array.nbytes
        header[name] = {"dtype": _KINDS[str(array.dtype)], "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for _, array in ordered:
        if not array.flags.c_contiguous:
            raise ValueError("an array that does not lie in one piece")
        file.write(array.data.cast("B") if array.size else b"")


def output_file(out: str | Path, mark: bytes, what: str) -> Path:
    """Return the file that --out names, or that a link there points to. Raises UserError, before any work is done.

    A file that is there is replaced only if it is empty or has `mark` in its first or last 2,000 bytes: it is `what`.
    """
    path = user_path(out, "--out")
    if path.is_symlink():
        path = Path(os.path.realpath(path))
        if path.is_symlink():
            raise UserError(f"--out: is a link to itself ({out}). Expected: a link to a file", code="bad-path")
    if path.is_dir():
        raise UserError(f"--out: is a folder ({out}). Expected: a file in one", code="bad-path")
    if path.exists() and not (path.is_file() and _may_be_replaced(path, mark)):
        raise UserError(
            f"--out: exists already and is no {what} ({out}). Expected: a new file, or one of those",
            code="output-exists",
        )
    if not path.parent.is_dir():
        raise UserError(
            f"--out: no such folder: {path.parent} ({out}). Expected: a file in a folder that exists", code="not-found"
        )
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            return path
    except OSError as error:
        raise not_writable(out, error) from error


def _may_be_replaced(path: Path, mark: bytes) -> bool:
    with path.open("rb") as file:
        head = file.read(2000)
        file.seek(max(0, path.stat().st_size - 2000))
        return not head or mark in head or mark in file.read(2000)


def read_tensors(path: Path) -> tuple[dict[str, "Tensor"], dict[str, str]]:
    """Return the tensors and the metadata. Raises UserError for a file that is missing, damaged or none."""
    with _safetensors(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118


def read_shapes(path: Path) -> dict[str, list[int]]:
    """Return the shape of each tensor, which is not read itself. Raises UserError as read_tensors."""
    with _safetensors(path) as file:
        return {key: list(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118


@contextmanager
def _name_in_utf8(path: Path) -> Iterator[Path]:
    """Yield the path, or that of a link to it if it is not UTF-8, which safetensors does not open."""
    if not any("\udc80" <= char <= "\udcff" for char in str(path)):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        (link := Path(folder) / "link").symlink_to(path.absolute())
        yield link


@contextmanager
def _safetensors(path: Path) -> Iterator[Any]:
    try:
        with _name_in_utf8(path) as name, safe_open(name, framework="pt") as file:
            yield file
    except OSError as error:
        raise not_readable(path, error) from error
    except SafetensorError as error:
        reason = "".join(char for char in str(error)[:200] if char.isprintable())  # it quotes the file
        raise UserError(f"{path}: not a complete safetensors file ({reason})", code="damaged-file") from error


def metric_lines(path: Path) -> Iterator[dict[str, Any] | None]:
    """Yield each line of a metrics.jsonl of any length in turn, None for an incomplete one."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        encoding = "utf-8-sig"  # of the first line
        while data := file.readline(_MAX_LINE):
            is_cut = len(data) == _MAX_LINE and not data.endswith(b"\n")
            while is_cut and (rest := file.readline(_MAX_LINE)) and not rest.endswith(b"\n"):
                pass
            text, encoding = data.decode(encoding, "replace"), "utf-8"
            if not text.strip():
                continue
            values = None
            with suppress(ValueError, RecursionError):
                values = None if is_cut else json.loads(text)
            yield values if isinstance(values, dict) and isinstance(values.get("step"), int) else None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a short metrics.jsonl."""
    return [line for line in metric_lines(path) if line is not None]


def finite(value: Any) -> float | None:
    """Return a finite number of a file, or None."""
    if type(value) not in (int, float) or abs(value) > 1e300 or not math.isfinite(value):
        return None
    return float(value)
