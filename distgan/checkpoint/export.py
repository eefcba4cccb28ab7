"""A generator to draw with: of a run, of its `weights/`, of a checkpoint, or of one file."""

from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from distgan.checkpoint.format import MANIFEST, NETWORKS, Checkpoint, foreign_files
from distgan.checkpoint.resume import find_pointers, list_by_step, newest_valid, read_named
from distgan.config.flags import read_file
from distgan.config.schema import Config
from distgan.errors import UserError
from distgan.models.base import build_generator
from distgan.models.given_modules import is_same_generator, with_modules
from distgan.models.network_copies import choose_networks
from distgan.models.user_networks import load_networks
from distgan.training.gan import load_weights, tensors_with_prefix
from distgan.utils.files import read_tensors, write_atomic, write_json
from distgan.utils.paths import user_path


class FoundCheckpoint(NamedTuple):
    """A checkpoint to take weights from, newer ones that are `damaged`, and warnings about the choice."""

    path: Path
    checkpoint: Checkpoint
    damaged: list[tuple[Path, str]]
    warnings: tuple[str, ...] = ()

    def all_warnings(self) -> list[str]:
        return [
            *self.warnings,
            *(f"{reason}; taking {self.path.name}" for _, reason in self.damaged),
            *foreign_files(self.path),
        ]


class CodeTrust(NamedTuple):
    """Code that may be executed for a user's networks: the file `networks` or, with `is_trusted`, a run's copy.

    `given`: the hash of modules that a program passes instead (`models/given_modules.py`).
    """

    networks: str | None = None
    is_trusted: bool = False
    given: str | None = None


NO_CODE = CodeTrust()


class Loaded(NamedTuple):
    """A generator to draw with, and what is known of it."""

    generator: nn.Module
    config: Config
    notice: str | None  # about unusual data
    path: Path
    is_ema: bool | None  # True for the moving average; None where neither the file nor its name says so
    step: int | None  # of the training; None for a file of another program
    warnings: list[str]  # damaged newer checkpoints, unknown files


def export_weights(folder: Path, checkpoint: Path, config: Config) -> None:
    """Write `weights/`: the networks of a checkpoint, readable with safetensors alone, beside the config."""
    weights = folder / "weights"
    weights.mkdir(exist_ok=True)
    for name in NETWORKS:
        source = checkpoint / f"{name}.safetensors"
        if source.exists():
            data = source.read_bytes()
            write_atomic(weights / source.name, lambda file, data=data: file.write(data))  # type: ignore[misc]
    write_json(weights / "config.json", config.model_dump(mode="json"))


def find_weights(where: str, names: list[str]) -> Path | FoundCheckpoint:
    """Return the file of the first of `names` in a weights folder, or the checkpoint that is newer or stands in for it.

    `where` is a run, its `weights/`, a checkpoint, or a file, which is returned as it is. Raises UserError.
    """
    path = user_path(where)
    if (path / MANIFEST).exists() or path in find_pointers(path.parent):
        return FoundCheckpoint(*read_named(path))
    if path.is_dir():
        folder = path / "weights" if (path / "weights").is_dir() else path
        files = [file for name in names if (file := folder / f"{name}.safetensors").exists()]
        if files and path != folder and (newest := _newer_than(files[0], path / "checkpoints")):
            return newest._replace(warnings=(f"{folder}: is of an earlier step than {newest.path}, which is taken",))
        if files:
            return files[0]
        if newest_of_run := newest_valid(path / "checkpoints"):
            return FoundCheckpoint(*newest_of_run)
        raise UserError(
            f"{where}: has no weights/generator.safetensors. Expected: the folder of a run with a checkpoint, its "
            "weights folder, a checkpoint, or a generator's .safetensors file",
            code="no-weights",
        )
    if not path.exists():
        raise UserError(
            f"{where}: does not exist. Expected: a run's folder, its weights folder, a checkpoint, or a .safetensors "
            "file",
            code="no-weights",
        )
    return path


def load_generator(where: str, *, ema: bool, code: CodeTrust = NO_CODE) -> Loaded:
    """Return G of a run, a weights folder, a checkpoint or a file; with `ema` the moving average if it has one.

    A run that has no weights yet gives those of its newest valid checkpoint. Raises UserError for what is
    missing, damaged, non-finite, weights of another network than the config beside them, or without `ema` the average,
    and for a user's own networks that `code` does not allow to execute.
    """
    names = ["generator_ema", "generator"] if ema else ["generator"]
    found = find_weights(where, names)
    if not isinstance(found, Path):
        return _load_from_checkpoint(found, names, code)
    path = found
    if not path.is_file():  # of a pipe a reader would wait for ever
        raise UserError(f"{path}: not a regular file. Expected: a .safetensors file", code="bad-data")
    config_path = path.parent / "config.json"
    config = Config.model_validate(read_file(config_path, str(config_path)))
    tensors, metadata = read_tensors(path)
    step = metadata.get("step", "")
    is_number = step.isdecimal() and len(step) < 16
    is_ema, warnings = _is_ema(path, metadata), []
    if is_ema and not ema:
        raise UserError(
            f"--no-ema: {path} is the moving average. Expected: generator.safetensors, or no --no-ema",
            code="setting-not-applicable",
        )
    if is_ema is None and not ema:
        warnings = [f"--no-ema: {path} does not say whether it is the moving average; it is taken as it is"]
    number = int(step) if is_number else None
    return _build_loaded(tensors, config, metadata.get("notice"), path, is_ema, number, warnings, code)


def _is_ema(path: Path, metadata: dict[str, str]) -> bool | None:
    """True for a moving average, by what the file says, or else by its name or that of the file it links to."""
    names = (metadata.get("network"), path.resolve().stem, path.stem)
    return next((name == "generator_ema" for name in names if name in NETWORKS), None)


def _newer_than(weights: Path, checkpoints: Path) -> FoundCheckpoint | None:
    """Return the newest valid checkpoint if it is newer than the weights: the run was killed or still trains."""
    step = read_tensors(weights)[1].get("step", "")
    steps = [step for step, _ in list_by_step(checkpoints)]
    if not step.isdecimal() or not steps or max(steps) <= int(step):
        return None
    newest = newest_valid(checkpoints)
    return FoundCheckpoint(*newest) if newest and newest[1].state.step > int(step) else None


def _load_from_checkpoint(found: FoundCheckpoint, names: list[str], code: CodeTrust) -> Loaded:
    path, checkpoint = found.path, found.checkpoint
    name = next(name for name in names if tensors_with_prefix(checkpoint.tensors, name))
    tensors = tensors_with_prefix(checkpoint.tensors, name)
    file, state = path / f"{name}.safetensors", checkpoint.state
    is_ema, warnings = name == "generator_ema", found.all_warnings()
    return _build_loaded(tensors, checkpoint.config, state.notice, file, is_ema, state.step, warnings, code)


def _build_loaded(
    tensors: dict[str, Tensor],
    config: Config,
    notice: str | None,
    path: Path,
    is_ema: bool | None,
    step: int | None,
    warnings: list[str],
    code: CodeTrust,
) -> Loaded:
    recorded = config.model.networks_sha256
    if code.given is not None:
        if config.model.networks is None:
            raise UserError(
                f"generator: the weights {path} are of --family {config.model.family}. Expected: no generator",
                code="setting-not-applicable",
            )
        config = with_modules(config, code.given)
        is_same = is_same_generator(code.given, recorded)
    else:
        model = choose_networks(config.model, path.parent, code.networks, is_trusted=code.is_trusted)
        config = load_networks(config.model_copy(update={"model": model}))
        is_same = config.model.networks_sha256 == recorded
    if not is_same:
        warnings = [*warnings, f"{config.model.networks}: is not the code that these weights were trained with"]
    generator = build_generator(config.model)
    load_weights(generator, tensors, str(path))
    return Loaded(generator, config, notice, path, is_ema, step, warnings)
