"""Files: written atomically, read within bounds; JSON, pydantic models and safetensors, checked."""

import errno
import json
import math
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
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

# Prefix of the name of an unfinished file.
TEMPORARY = ".tmp-"

# Names of what a killed process may have left: unfinished files and folders, also of checkpoints and older versions.
_LEFTOVER = re.compile(r"\.writable|\..+-[a-z0-9_]{8}(\.\w+)?|\.removed-.+|\.link-.+")
# Files that operating systems and tools create in folders.
_SYSTEM = re.compile(r"\.DS_Store|\._.*|\.nfs[0-9a-f]+|\.ipynb_checkpoints|Thumbs\.db|desktop\.ini")

# Errors of file systems without fsync, of folders or at all: FUSE, 9p, shared folders.
_NO_FSYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


@contextmanager
def _add_path_to_errors(path: Path) -> Iterator[None]:
    """Re-raise an OSError of the block with `path` as its file name."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def is_leftover(name: str) -> bool:
    """True if only an unfinished file or folder has such a name."""
    return _LEFTOVER.fullmatch(name) is not None


def is_ignorable(name: str) -> bool:
    """True if a folder with a file of that name still counts as empty."""
    return is_leftover(name) or _SYSTEM.fullmatch(name) is not None


def temporary_path(path: Path, start: str = TEMPORARY) -> Path:
    """Return an unused path in the folder of `path`; unlike tempfile's, what is created there has the umask's modes."""
    return path.with_name(f"{start}{token_hex(4)}")


def write_atomic(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write a temporary file beside `path`, by bytes or a function, sync it to the disk and rename it.

    A reader sees the old file or the new one, with the same mode. If `path` is a link, its target is replaced. An
    OSError names `path`, and leaves neither a partial nor a temporary file.
    """
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    temporary = temporary_path(path)
    try:
        with _add_path_to_errors(path):
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
    with _add_path_to_errors(path), path.open("xb") as file:
        file.write(data)
        file.flush()
        _fsync(file.fileno())


def sync(path: Path) -> None:
    """Sync a file's content, or the names in a folder, to the disk. An OSError names `path`."""
    with _add_path_to_errors(path):
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
    """Rename `path` to `<name>.<ending>`, with a number if that exists. Return the new path, None without a file."""
    if not os.path.lexists(path):
        return None
    aside = path.with_name(f"{path.name}.{ending}")
    number = 1
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"{path.name}.{ending}-{number}")
    return path.rename(aside)


def read_limited(path: Path, limit: int) -> bytes:
    """Read a regular file of at most `limit` bytes. Raises UserError.

    It follows no link, and does not read a pipe, a device or a larger file.
    """
    try:
        handle = open_regular(path)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"{path}: is a link. Expected: a regular file", code="unreadable") from error
        raise not_readable(path, error) from error
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise UserError(f"{path}: a folder, pipe or device. Expected: a regular file", code="unreadable")
    with open(handle, "rb") as file:
        if status.st_size > limit:
            raise UserError(
                f"{path}: too large ({status.st_size:,} bytes). Expected: at most {limit:,}", code="damaged-file"
            )
        try:
            return file.read(limit)
        except OSError as error:
            raise not_readable(path, error) from error


def read_json(path: Path, limit: int, *, only_finite: bool = False) -> dict[str, Any]:
    """Return the object in a JSON file of at most `limit` bytes. Raises UserError that names the file.

    Python parses NaN, which JSON does not have, and 1e999 as infinity; `only_finite` raises for both.
    """
    data, parse = read_limited(path, limit), _parse_finite if only_finite else None
    try:
        value = json.loads(data, parse_constant=parse, parse_float=parse)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}). Expected: a JSON object", code="damaged-file") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: a {type(value).__name__}. Expected: a JSON object", code="damaged-file")
    return value


def _parse_finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"holds {text}, which is not a finite number")
    return value


def read_model(path: Path, model: type[M], limit: int, *, version: int, rule: str) -> M:
    """Return a JSON file as a model. Raises UserError for one that is damaged or has another `format`."""
    values = read_json(path, limit)
    check_format(path, values, version)
    return parse_model(model, values, f"{path}: is damaged", rule=rule)


def check_format(path: Path, values: Mapping[str, object], version: int) -> None:
    """Raise UserError unless `format` in a file is `version`."""
    if (format_ := values.get("format")) != version:
        raise UserError(
            f"{path}: unknown format ({str(format_)[:20]}). Expected: {version} (update distgan)", code="unknown-format"
        )


def read_environment(run: Path) -> dict[str, Any]:
    """Return environment.json of a run, {} where it is missing or damaged."""
    with suppress(UserError):
        return read_json(run / "environment.json", 2**20)
    return {}


def parse_model(
    model: type[M], values: Mapping[str, object], name: str, *, at: str = "", rule: str = "", strict: bool | None = None
) -> M:
    """Return the values of a file as a model. Raises UserError `NAME: KEY below AT: what is wrong. Expected: RULE`."""
    try:
        return model.model_validate(values, strict=strict)
    except ValidationError as error:
        problem = describe_first_error(error, at)
        if rule and "Expected" not in problem:
            problem += f". Expected: {rule}"
        raise UserError(f"{name}: {problem}", code="damaged-file") from error


def describe_first_error(error: ValidationError, at: str = "") -> str:
    """Return pydantic's first error about a file as `key.0.key: is missing`, of bounded length."""
    first = error.errors(include_url=False)[0]
    key = ".".join([*filter(None, [at]), *(str(part)[:40] for part in first["loc"][:6])])
    value, message = first["input"], first["msg"].removeprefix("Value error, ")[:200]
    _, should, allowed = message.partition(" should ")
    if first["type"] == "missing":
        message = "is missing"
    elif first["type"] == "extra_forbidden":
        message = "unknown key"
    elif should:
        is_short = value is None or isinstance(value, str | float) or (isinstance(value, int) and abs(value) < 2**63)
        shown = repr(value)[:80] if is_short else f"a {type(value).__name__}"
        message = f"invalid value ({shown}). Expected: {allowed.removeprefix('be ')}"
    return f"{key}: {message}" if key else message


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_atomic(path, (json.dumps(value, indent=2) + "\n").encode())


def append_lines(path: Path, lines: list[str]) -> None:
    """Append all lines, or on a full disk none. An OSError names `path`."""
    data = "".join(f"{line}\n" for line in lines).encode()
    with _add_path_to_errors(path), path.open("ab", buffering=0) as file:
        size = file.tell()
        if file.write(data) != len(data):
            file.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def not_writable(path: object, error: OSError) -> UserError:
    """Return the UserError for an --out that can't be written to."""
    return UserError(f"--out: not writable: {error.strerror} ({path}). Expected: another path", code="unwritable")


def make_folder(folder: Path) -> None:
    """Create the folder of --out, and check that it is writable. Raises UserError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise not_writable(folder, error) from error


def pack_tensors(tensors: dict[str, "Tensor"], metadata: dict[str, str]) -> bytes:
    """Return the bytes of a safetensors file; the same for the same tensors and metadata.

    The library writes the metadata in random order, so the header is rebuilt in sorted order.
    """
    from safetensors.torch import save  # imports torch, which `train --help` does not need

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


def output_file(out: str | Path, mark: bytes, kind: str) -> Path:
    """Return the path that --out names, links resolved. Raises UserError if it can't be written.

    An existing file, of a `kind`, is replaced only if it is empty or has `mark` in its first or last 2,000 bytes.
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
            f"--out: exists already and is no {kind} ({out}). Expected: a new file, or one of those",
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
    """Return tensors and metadata of a safetensors file. Raises UserError if it is missing or damaged."""
    with _safetensors(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118


def read_shapes(path: Path) -> dict[str, list[int]]:
    """Return the shape of each tensor, without reading the data. Raises UserError as read_tensors."""
    with _safetensors(path) as file:
        return {key: list(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118


@contextmanager
def _name_in_utf8(path: Path) -> Iterator[Path]:
    """Yield the path, or a link to it if it is not UTF-8, which safetensors can't open."""
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
        raise UserError(
            f"{path}: damaged ({reason}). Expected: a complete safetensors file", code="damaged-file"
        ) from error


def metric_lines(path: Path) -> Iterator[dict[str, Any] | None]:
    """Yield each line of a metrics.jsonl of any length, None for an incomplete one."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        encoding = "utf-8-sig"  # the first line may begin with a byte order mark
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


def finite_or_none(value: Any) -> float | None:
    """Return `value` as a float if it is a finite number, else None."""
    if type(value) not in (int, float) or abs(value) > 1e300 or not math.isfinite(value):
        return None
    return float(value)
