"""The format of a checkpoint: a folder of safetensors and JSON, written atomically and verified before use.

    step-00000235/
        generator.safetensors  discriminator.safetensors  generator_ema.safetensors (with a moving average)
        g_optim.safetensors  d_optim.safetensors          Adam's moments, `<parameter>.exp_avg` and so on
        random.safetensors                                `rank0.cpu`, `rank0.cuda`: torch's generators
        state.json  config.json                           counters and settings
        manifest.json                                     size and SHA-256 of each of them, and of itself

Nothing in it is executed, and no file is parsed before its size and hash match the manifest.
"""

import errno
import hashlib
import json
import shutil
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar

from pydantic import AllowInfNan, BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from distgan import __version__
from distgan.config.schema import Config
from distgan.errors import TRANSIENT, UserError
from distgan.models.base import tensor_layouts
from distgan.utils.files import (
    describe_first_error,
    pack_tensors,
    read_limited,
    set_aside,
    sync,
    temporary_path,
    write_synced,
)

FORMAT = 1

Finite = Annotated[float, AllowInfNan(False)]
Count = Annotated[int, Field(ge=0, le=10**15)]
Positive = Annotated[int, Field(ge=1, le=10**9)]
Stats = Annotated[list[Finite], Field(min_length=4, max_length=4)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Entry(_Strict):
    """A file of a checkpoint, as its manifest has it."""

    size: Count  # bytes
    sha256: str  # of the file


class Manifest(_Strict):
    """The content of manifest.json."""

    format: int  # version of the checkpoint format
    distgan: str  # version of distgan that wrote it
    saved_at: str  # time in UTC, ISO 8601
    step: Count  # optimizer steps
    files: dict[str, Entry]  # every other file of the checkpoint by its name
    networks: str | None = None  # hash of the user's file of networks; not there for a family
    sha256: str = ""  # of this file as it is without this value

    def to_bytes(self) -> bytes:
        bare = self._dump("")
        return self._dump(hashlib.sha256(bare).hexdigest())

    def _dump(self, sha256: str) -> bytes:
        values = {key: value for key, value in self.model_dump().items() if (key, value) != ("networks", None)}
        return (json.dumps(values | {"sha256": sha256}, indent=2) + "\n").encode()


class State(_Strict):
    """Counters of a run. The position in the data is a function of `step`; it is recorded to be checked."""

    step: Count  # optimizer steps
    epoch: Count  # complete epochs
    step_in_epoch: Count  # steps of the epoch that is not complete
    steps_per_epoch: Positive  # steps of an epoch
    batch_size: Count  # images of a step over all ranks
    data: str  # fingerprint of the images and labels
    notice: str | None  # what the data is, where it is not MNIST
    world_size: Positive  # number of processes
    engine: str  # the engine that executed the steps
    g_lr: Finite  # G's learning rate at this step
    d_lr: Finite  # D's learning rate at this step
    grad_scaler: dict[str, int | Finite] | None  # state of the loss scaler, with fp16
    elapsed_s: Finite  # of training alone
    logged_step: Count  # the last step of the last line of metrics.jsonl
    num_lines: Count  # of metrics.jsonl, up to there
    unlogged: list[Stats]  # losses and mean logits of each step since then
    metrics: dict[str, Finite]  # numbers of the newest line of metrics.jsonl, which --keep-best compares

    @model_validator(mode="after")
    def _counters_agree(self) -> "State":
        if divmod(self.step, self.steps_per_epoch) != (self.epoch, self.step_in_epoch):
            raise ValueError(f"epoch {self.epoch} and step_in_epoch {self.step_in_epoch} are not step {self.step}")
        if self.logged_step + len(self.unlogged) != self.step:
            raise ValueError(f"logged_step {self.logged_step} and {len(self.unlogged)} more are not step {self.step}")
        return self


M = TypeVar("M", bound=BaseModel)

MANIFEST = "manifest.json"
NETWORKS = ("generator", "discriminator", "generator_ema")
TENSOR_FILES = (*NETWORKS, "g_optim", "d_optim", "random")
OPTIONAL = {"generator_ema.safetensors"}
FILES = {*(f"{name}.safetensors" for name in TENSOR_FILES), "state.json", "config.json"}

# What a file may measure before it is read. A tensor file's own limit comes from the networks of the config.
_MAX_JSON = 2**20
_MAX_HEADER = 2**20
_MAX_RANDOM = 2**26  # 16 KiB for each of 4,096 ranks
# Says nothing about the file itself, which must not be set aside for it.
_UNREADABLE_NOW = TRANSIENT | {errno.EACCES, errno.EPERM}


class Checkpoint(NamedTuple):
    """`tensors` are on the CPU; the part of a key before its first dot names its file."""

    tensors: dict[str, Tensor]
    state: State
    config: Config


class Damaged(UserError):
    """An invalid file of a checkpoint: which one, and why."""

    def __init__(self, message: str):
        super().__init__(message, code="damaged-checkpoint")


def folder_name(step: int) -> str:
    """Return the name of a checkpoint's folder."""
    return f"step-{step:08}"


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> tuple[Path, int]:
    """Write `folder/step-...`, synced before it gets its name. Return its path and its size in bytes.

    A folder of that name, which is a damaged one or of another config, is set aside. Raises OSError and
    leaves everything as it was.
    """
    state, config = checkpoint.state, checkpoint.config
    target = folder / folder_name(state.step)
    temporary = temporary_path(target, f".{target.name}-")
    try:
        temporary.mkdir()
        entries = {}
        for name in TENSOR_FILES:
            start = f"{name}."
            part = {key[len(start) :]: value for key, value in checkpoint.tensors.items() if key.startswith(start)}
            if part or f"{name}.safetensors" not in OPTIONAL:
                metadata = {"format": "pt", "network": name, "step": str(state.step)}
                metadata |= {"notice": state.notice} if state.notice else {}
                entries[f"{name}.safetensors"] = _write(temporary / f"{name}.safetensors", pack_tensors(part, metadata))
        for name, value in (("state", state), ("config", config)):
            text = json.dumps(value.model_dump(mode="json"), indent=2) + "\n"
            entries[f"{name}.json"] = _write(temporary / f"{name}.json", text.encode())
        manifest = Manifest(
            format=FORMAT,
            distgan=__version__,
            saved_at=datetime.now(UTC).isoformat(timespec="seconds"),
            step=state.step,
            files=entries,
            networks=config.model.networks_sha256,
        ).to_bytes()
        write_synced(temporary / MANIFEST, manifest)
        sync(temporary)
        set_aside(target, "damaged")
        temporary.rename(target)
        sync(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target, len(manifest) + sum(entry.size for entry in entries.values())


def _write(path: Path, data: bytes) -> Entry:
    write_synced(path, data)
    return Entry(size=len(data), sha256=hashlib.sha256(data).hexdigest())


def read_manifest(path: Path) -> Manifest:
    """Return the manifest of a checkpoint, which lists all of its files. Raises Damaged."""
    data = _read(path / MANIFEST, _MAX_JSON)
    try:
        version = json.loads(data).get("format")
    except (ValueError, RecursionError, AttributeError) as error:
        raise Damaged(f"{path / MANIFEST}: is not the JSON of a manifest") from error
    if version != FORMAT:
        raise Damaged(f"{path / MANIFEST}: format {str(version)[:20]!r}; this distgan reads format {FORMAT}")
    manifest = _parse(Manifest, data, path / MANIFEST)
    # Compared byte by byte, so that each bit of the file is verified.
    if manifest.to_bytes() != data:
        raise Damaged(f"{path / MANIFEST}: does not match its own SHA-256")
    for name in sorted(manifest.files.keys() - FILES):
        raise Damaged(f"{path / MANIFEST}: unknown file ({name[:80]!r}). Expected: {', '.join(sorted(FILES))}")
    for name in sorted(FILES - OPTIONAL - manifest.files.keys()):
        raise Damaged(f"{path / MANIFEST}: does not name {name}")
    for name in sorted(name for name in FILES - manifest.files.keys() if (path / name).exists()):
        raise Damaged(f"{path / name}: is no part of the checkpoint (the manifest does not name it)")
    return manifest


def foreign_files(path: Path) -> list[str]:
    """Return a warning if the folder of a checkpoint holds other files: nothing else checks for them."""
    names = sorted(entry.name[:80] for entry in islice(path.iterdir(), 100) if entry.name not in FILES | {MANIFEST})
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [f"{path}: holds {', '.join(names[:3])}{more}, no part of a checkpoint; ignored"] if names else []


def read_checkpoint(path: Path) -> Checkpoint:
    """Return a checkpoint whose every byte is verified. Raises Damaged that names the file and the reason.

    Time and memory are bounded by the size of the networks in the config or, if the code of a user's networks is not
    loaded, of the files.
    """
    manifest = read_manifest(path)
    config = _parse(Config, _content(path, manifest, "config.json", _MAX_JSON), path / "config.json")
    state = _state(path, manifest)
    if config.model.networks_sha256 != manifest.networks:
        raise Damaged(f"{path / 'config.json'}: networks other than the manifest's ({config.model.networks_sha256})")
    networks, limits = {}, {"random": _MAX_RANDOM}
    if known := tensor_layouts(config.model):
        g_layout, d_layout = known
        networks = {"generator": g_layout, "generator_ema": g_layout, "discriminator": d_layout}
        g_bytes, d_bytes = (sum(value.nbytes for value in layout.values()) for layout in known)
        limits |= {"generator": g_bytes, "generator_ema": g_bytes, "discriminator": d_bytes}
        # Adam keeps two moments of each parameter and a counter.
        limits |= {"g_optim": 2 * g_bytes, "d_optim": 2 * d_bytes}
    tensors: dict[str, Tensor] = {}
    for name in TENSOR_FILES:
        if (file := f"{name}.safetensors") in manifest.files:
            limit = limits[name] if name in limits else manifest.files[file].size
            part = _tensors(_content(path, manifest, file, limit + _MAX_HEADER), path / file)
            if name in networks:
                _check_layout(part, networks[name], path / file)
            tensors |= {f"{name}.{key}": value for key, value in part.items()}
    return Checkpoint(tensors, state, config)


def read_state(path: Path) -> State:
    """Return the counters of a checkpoint without its tensors. Raises Damaged."""
    return _state(path, read_manifest(path))


def _state(path: Path, manifest: Manifest) -> State:
    state = _parse(State, _content(path, manifest, "state.json", 16 * _MAX_JSON), path / "state.json")
    if state.step != manifest.step:
        raise Damaged(f"{path / 'state.json'}: step {state.step}, by the manifest {manifest.step}")
    return state


def _content(path: Path, manifest: Manifest, name: str, limit: int) -> bytes:
    """Return the bytes of a file if its size and SHA-256 are the manifest's, and not more than `limit`."""
    entry = manifest.files[name]
    if entry.size > limit:
        raise Damaged(f"{path / name}: too large by the manifest ({entry.size:,} bytes). Expected: at most {limit:,}")
    data = _read(path / name, limit)
    if len(data) != entry.size:
        raise Damaged(f"{path / name}: has {len(data):,} bytes, and {entry.size:,} by the manifest")
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise Damaged(f"{path / name}: its contents do not match the manifest's SHA-256")
    return data


def _read(path: Path, limit: int) -> bytes:
    try:
        return read_limited(path, limit)
    except UserError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _UNREADABLE_NOW:
            raise  # it may be valid
        raise Damaged(str(error)) from error


def _parse(model: type[M], data: bytes, path: Path) -> M:
    try:
        return model.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise Damaged(f"{path}: {describe_first_error(error)}") from error


def _check_layout(tensors: dict[str, Tensor], layout: dict[str, Tensor], path: Path) -> None:
    """Raise Damaged for tensors that do not fit the network in the config beside them."""
    for key in sorted(tensors.keys() | layout.keys()):
        found, expected = (
            f"{list(side[key].shape)} of {side[key].dtype}" if key in side else "not there"
            for side in (tensors, layout)
        )
        if found != expected:
            raise Damaged(f"{path}: {key[:80]} is {found}; of the network in its config it is {expected}")


def _tensors(data: bytes, path: Path) -> dict[str, Tensor]:
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise Damaged(f"{path}: is no safetensors file ({str(error)[:200]})") from error


def random_states(tensors: dict[str, Tensor], rank: int) -> dict[str, Tensor]:
    """Return the generator states of one rank by device."""
    start = f"random.rank{rank}."
    return {key[len(start) :]: value for key, value in tensors.items() if key.startswith(start)}


def remove(path: Path) -> None:
    """Remove a checkpoint in one step: what a kill leaves of it has no checkpoint's name. Of a link, only the link."""
    with suppress(FileNotFoundError):
        removed = path.rename(path.with_name(f".removed-{path.name}"))
        removed.unlink() if removed.is_symlink() else shutil.rmtree(removed, ignore_errors=True)
