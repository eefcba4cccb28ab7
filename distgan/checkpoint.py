"""A run's folder: how it is claimed, what it keeps to go on with, and the weights that it leaves."""

from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from distgan.config import Config
from distgan.errors import UserError
from distgan.files import read_tensors, write_json, write_tensors
from distgan.flags import read_file
from distgan.gan import below, load_weights
from distgan.models import build_generator

CHECKPOINT = "checkpoint.safetensors"
NETWORKS = ("generator", "discriminator", "generator_ema")

# What may change when a run goes on: how long, where and how often, but nothing that shapes the weights.
_FREE = {
    "run": {
        *("out", "resume", "epochs", "max_steps", "device", "threads"),
        *("log_every", "save_every", "sample_epochs", "tracker"),
    },
    "data": {"dir", "download", "mirror", "md5"},
}


def claim_folder(out: str | None, preset: str, *, resume: bool) -> Path:
    """Makes the folder of a new run, or takes one to go on with. Raises UserError; never overwrites."""
    try:
        if out is None:
            Path("runs").mkdir(exist_ok=True)
            return next(
                folder
                for folder in (Path("runs", f"{preset}-{number}") for number in count(1))
                if _made(folder)
            )
        refuse_used_folder(out, resume=resume)
        folder = Path(out).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
        return folder
    except OSError as error:
        raise UserError(f"--out {error.filename}: can't be written to ({error.strerror})") from error


def _made(folder: Path) -> bool:
    try:
        folder.mkdir()
    except FileExistsError:  # an older run, or one that starts just now
        return False
    return True


def refuse_used_folder(out: str, *, resume: bool) -> None:
    """Raises UserError for a folder that holds something, unless that is a run to go on with."""
    folder = Path(out).expanduser()
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not resume:
        raise UserError(
            f"--out {out}: is there already and is not overwritten; name a new folder, or go on with the run by "
            "--resume auto"
        )
    if not (folder / "config.json").exists():
        raise UserError(f"--out {out}: holds no run to go on with (no config.json); name a new folder")


def refuse_changes(config: Config, folder: Path) -> None:
    """Raises UserError that lists what differs from the config of the run, but for what may change."""
    path = folder / "config.json"
    old = Config.model_validate(read_file(path, str(path))).model_dump(mode="json")
    new = config.model_dump(mode="json")
    mistakes = []
    for table, settings in new.items():
        for key, value in settings.items():
            before = old[table][key]
            is_free = key in _FREE.get(table, ()) or (table, key, value) == ("data", "name", "auto")
            if value != before and not is_free:
                mistakes.append(
                    f"[{table}] {key}: {value!r}, but the run in {folder} has {before!r}; allowed on resume: the same"
                )
    if mistakes:
        raise UserError("\n".join(mistakes))


def save_checkpoint(folder: Path, tensors: dict[str, Tensor], step: int, identity: dict[str, str]) -> None:
    """Everything that the next step depends on, in one file that is whole or not there."""
    write_tensors(folder / CHECKPOINT, tensors, {"step": str(step)} | identity)


def load_checkpoint(folder: Path, identity: dict[str, str]) -> tuple[dict[str, Tensor], int] | None:
    """The tensors and their step; None where the run has no checkpoint yet.

    `identity` is what must not differ besides the config. Raises UserError.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        tensors, metadata = read_tensors(path)
    except UserError as error:
        raise UserError(
            f"{error}; put a whole copy in its place, or start anew with another --out"
        ) from error
    if not metadata.get("step", "").isdecimal():
        raise UserError(f"{path}: is no checkpoint of a run (its metadata name no step)")
    for key, what in (
        ("data", "the fingerprint of its data"),
        ("steps_per_epoch", "its number of steps an epoch"),
    ):
        if metadata.get(key) != identity[key]:
            raise UserError(
                f"{path}: {what} is {metadata.get(key)}, here it is {identity[key]}; allowed on resume: the same "
                "data and the same batch over all processes"
            )
    return tensors, int(metadata["step"])


def export_weights(
    folder: Path, tensors: dict[str, Tensor], config: Config, metadata: dict[str, str]
) -> None:
    """`weights/`: each network for itself, readable with safetensors alone, beside the config."""
    weights = folder / "weights"
    weights.mkdir(exist_ok=True)
    for name in NETWORKS:
        if own := below(tensors, name):
            write_tensors(weights / f"{name}.safetensors", own, metadata)
    write_json(weights / "config.json", config.model_dump(mode="json"))


class Loaded(NamedTuple):
    generator: nn.Module
    config: Config
    metadata: dict[str, str]
    path: Path


def load_generator(where: str, *, ema: bool) -> Loaded:
    """G of a run folder, a weights folder or a file, the moving average where there is one and `ema`.

    Raises UserError for what is missing, damaged, or weights of another network than the config beside them.
    """
    path = Path(where).expanduser()
    if path.is_dir():
        folder = path / "weights" if (path / "weights").is_dir() else path
        names = ["generator_ema", "generator"] if ema else ["generator"]
        found = [
            folder / f"{name}.safetensors" for name in names if (folder / f"{name}.safetensors").exists()
        ]
        if not found:
            raise UserError(
                f"{where}: has no weights/generator.safetensors; allowed: the folder of a run that was saved, "
                "its weights folder, or a generator's .safetensors file"
            )
        path = found[0]
    elif not path.exists():
        raise UserError(
            f"{where}: is not there; allowed: a run's folder, its weights folder, or a .safetensors file"
        )
    config_path = path.parent / "config.json"
    config = Config.model_validate(read_file(config_path, str(config_path)))
    tensors, metadata = read_tensors(path)
    generator = build_generator(config.model)
    load_weights(generator, tensors, str(path))
    return Loaded(generator, config, metadata, path)


def run_metadata(step: int, data: dict[str, Any]) -> dict[str, str]:
    """What the header of each weights file says about where it comes from."""
    return {"format": "pt", "step": str(step)} | {key: str(value) for key, value in data.items() if value}
