"""The base that flags override: a preset, a file, or the config of the run to resume."""

import argparse
import os
from contextlib import suppress
from numbers import Number
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

import distgan
from distgan.config.flags import Parser, add_flags, did_you_mean, from_flags, list_flags, read_file, setting_paths
from distgan.config.registry import MODELS
from distgan.config.schema import Config, Origin
from distgan.errors import UserError
from distgan.utils.paths import user_path

M = TypeVar("M", bound=BaseModel)


def load_base(namespace: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Return the settings below the flags, and the name of their preset. Raises UserError."""
    model = getattr(namespace, "model.name", None)
    out = getattr(namespace, "run.out", None)
    resume = getattr(namespace, "run.resume", None)
    if model is not None and model not in MODELS:
        raise UserError(
            f"--model: unknown network ({model}). Expected: {', '.join(MODELS)} (see also --preset)",
            code="unknown-name",
        )
    if resume == "auto" and not out:
        raise UserError(
            "--resume: resumes the run in --out, which is not set (auto). Expected: --out DIR",
            code="conflicting-settings",
        )
    if resume not in (None, "auto", "never") and (begin := getattr(namespace, "run.init_from", None)):
        raise UserError(
            f"--resume, --init-from: both are set ({resume}, {begin}). Expected: --resume to continue that run, or "
            "--init-from for a new one with its weights",
            code="conflicting-settings",
        )
    if namespace.preset and namespace.config:
        raise UserError(
            f"--preset, --config: both are set ({namespace.preset}, {namespace.config}). Expected: one of the two",
            code="conflicting-settings",
        )
    if namespace.preset:
        path, name = preset_path(namespace.preset, "--preset"), namespace.preset
    elif namespace.config:
        path = user_path(namespace.config, "--config")
        # A run's own config is that run's preset again.
        name = _name_of(_run_of(path.parent)) if path.name == "config.json" else path.stem
    elif run_config := _config_to_resume(out, resume):
        base = read_file(run_config, str(run_config))
        _remove(base, setting_paths(Config, "on_resume", "reset"))
        fallback = _name_of(user_path(out)) if out else str(base.get("model", {}).get("name", "run"))
        return base, _preset_of(_run_of(run_config.parent)) or fallback
    elif model:
        path, name = preset_path(model, "--model"), model
    else:
        models = ", ".join(f"--model {name}" for name in MODELS)
        if out and resume == "auto":
            raise UserError(
                f"--out: no run to resume ({out}). Expected: the folder of a run, or {models}, --preset NAME or "
                "--config FILE for a new one",
                code="no-run",
            )
        raise UserError(f"no model given. Expected: {models}, --preset NAME or --config FILE", code="missing-value")
    base = read_file(path, str(path) if namespace.config else f"preset {name} ({path})")
    trained = base.get("model", {}).get("name")
    if model and trained and model != trained:
        raise UserError(
            f"--model: {path} trains {trained} ({model}). Expected: --model {trained}, or no --model",
            code="conflicting-settings",
        )
    if path.suffix == ".json":
        _remove(base, setting_paths(Config, "is_copied", False))
    elif (networks := base.get("model", {}).get("networks")) and networks.endswith(".py"):
        base["model"]["networks"] = str(path.parent / user_path(networks))  # it lies beside the file that names it
    return base, name


def find_base_run(namespace: argparse.Namespace) -> Path | None:
    """Return the folder of the run whose config.json is the base of the flags; None for a preset."""
    if namespace.preset:
        return None
    if namespace.config:
        path = user_path(namespace.config, "--config")
        return path.parent if path.suffix == ".json" else None
    run_config = _config_to_resume(getattr(namespace, "run.out", None), getattr(namespace, "run.resume", None))
    return run_config.parent if run_config else None


def _preset_of(run: Path) -> str:
    """Return the name of the preset that a run was started with, "" if its environment.json does not have it."""
    from distgan.utils.files import read_environment  # torch: not for --help

    preset = read_environment(run).get("preset")
    return preset if isinstance(preset, str) else ""


def _name_of(folder: Path) -> str:
    """Return the name of a run's folder, of `.` and `..` too."""
    return Path(os.path.abspath(folder)).name or "run"


def _run_of(folder: Path) -> Path:
    """Return the folder of the run that `folder`, its `weights/` or one of its `checkpoints/`, is a part of."""
    path = Path(os.path.abspath(folder))
    run = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    is_part = path.parent.name == "checkpoints" or path.name == "weights"
    return run if is_part and (run / "config.json").exists() else folder


def _remove(base: dict[str, Any], paths: list[tuple[str, ...]]) -> None:
    for table, key in paths:
        base.get(table, {}).pop(key, None)


def parse_training(flags: list[str]) -> tuple[Config, str]:
    """Return the config for flags of `distgan train`, and the preset's name.

    Raises UserError, for networks that a run's config.json names and no flag trusts too: what this returns is executed.
    """
    parser = Parser(prog="distgan train")
    for flag in ("--preset", "--config"):
        parser.add_argument(flag)
    add_flags(parser, Config)
    namespace = parser.parse(flags)
    config = config_from(namespace, *load_base(namespace))
    run = config.origin.run
    if run and config.model.networks and "model.networks" not in namespace and not config.run.trust_networks:
        raise UserError(
            f"{run}: its networks are code that would be executed ({config.model.networks}). Expected: a preset .toml "
            "of yours that names the file; or, with distgan train, --trust-networks or --networks FILE",
            code="networks-not-trusted",
        )
    return config, config.origin.preset


def settings_from(model: type[M], settings: dict[str, Any]) -> M:
    """Return the settings of a command other than training by keyword, as of `build_config`. Raises UserError."""
    return from_flags(model, _namespace(model, settings))


def build_config(name: str | os.PathLike[str], settings: dict[str, Any]) -> Config:
    """Return the config of a preset, or of a .toml or .json file, with `settings` by keyword. Raises UserError."""
    namespace = _namespace(Config, settings)
    path = os.fspath(name)
    is_preset = (config_folder() / f"{path}.toml").is_file()
    if not is_preset and (config := Path(path, "config.json")).is_file():  # the folder of a run
        path = str(config)
    flag, value = preset_words("name", path)
    namespace.preset, namespace.config = (value, None) if flag == "--preset" else (None, value)
    return config_from(namespace, *load_base(namespace))


def _namespace(model: type[BaseModel], settings: dict[str, Any]) -> argparse.Namespace:
    """Return settings by keyword, which are the flags' names with underscores, as parsed flags. Raises UserError."""
    flags = {name.replace("-", "_"): flag for flag in list_flags(model) for name in (flag.name[2:], *flag.old_names)}
    namespace = argparse.Namespace()
    for key, value in settings.items():
        if key not in flags:
            raise UserError(
                f"{key}: unknown setting{did_you_mean(key, flags) or '.'} Expected: a flag with underscores, as "
                "batch_size",
                code="unknown-setting",
            )
        if not isinstance(value, str | Number | list | tuple | dict | range | None | os.PathLike):
            advice = ", or dataset=distgan.Dataset(images, labels) of distgan.train" if key == "data" else ""
            raise UserError(
                f"{key}: a {type(value).__name__}. Expected: text, a number, a list or a path{advice}", code="bad-value"
            )
        setattr(namespace, flags[key].dest, os.fspath(value) if isinstance(value, os.PathLike) else value)
    return namespace


def preset_words(flag: str, preset: str) -> list[str]:
    """Return the arguments of `distgan train` for a preset's name or file. Raises UserError for an unknown name."""
    if Path(preset).suffix in (".toml", ".json"):
        return ["--config", preset]
    preset_path(preset, flag)
    return ["--preset", preset]


def with_changes(training: Config, changes: dict[str, dict[str, Any]], name: str) -> Config:
    """Return the `changes`' sections of a preset's config, with these settings replaced.

    Its batch size per rank is dropped. Raises UserError that begins with `name` for settings that do not fit together.
    """
    from distgan.utils.files import parse_model  # torch: not for --help

    sections = training.model_dump(mode="json", exclude_unset=True)
    sections.get("data", {}).pop("per_rank_batch_size", None)
    return parse_model(Config, {key: sections.get(key, {}) | values for key, values in changes.items()}, name)


def config_from(namespace: argparse.Namespace, base: dict[str, Any], preset: str) -> Config:
    """Return the config of the flags over their base, which is that of `preset`. Raises UserError.

    A resumed run keeps the precision that it began with, also where `auto` would choose another one here.
    """
    config = from_flags(Config, namespace, base)
    if config.run.precision == "auto" and (run_config := _config_to_resume(config.run.out, config.run.resume)):
        begun = read_file(run_config, str(run_config)).get("run", {}).get("precision")
        config = config.model_copy(update={"run": config.run.model_copy(update={"precision": begun})})
    return config.with_origin(Origin(preset, find_base_run(namespace), frozenset(vars(namespace))))


def _config_to_resume(out: str | None, resume: str | None) -> Path | None:
    """Return the config.json of the run or checkpoint that the flags name, None without one."""
    is_named = resume not in (None, "auto", "never")
    name = resume if is_named else out
    if name is None or resume == "never":
        return None
    path = user_path(name, "--resume" if is_named else "--out") / "config.json"
    if is_named and not path.is_file():
        raise UserError(
            f"--resume: no config.json there ({resume}). Expected: auto, never, or the folder of a checkpoint or run",
            code="no-run",
        )
    return path if path.is_file() else None


def read_run_config(out: str | None, resume: str) -> Config | None:
    """Return the config of the run or checkpoint that is resumed, None without one that can be read."""
    with suppress(UserError):
        path = _config_to_resume(out, resume)
        return Config.model_validate(read_file(path, str(path))) if path else None
    return None


def config_folder() -> Path:
    """Return the folder of presets: inside an installed wheel, or at the root of a checkout."""
    return shipped_folder("configs", "config/presets_toml")


def shipped_folder(name: str, in_wheel: str) -> Path:
    """Return the folder `name` at the root of a checkout, or what a wheel has of it inside the package."""
    package = Path(distgan.__file__).resolve().parent
    return package / in_wheel if (package / in_wheel).is_dir() else package.parent / name


def preset_path(name: str, flag: str) -> Path:
    """Return the file of a preset. Raises UserError that names `flag` for an unknown name."""
    presets = {path.stem: path for path in sorted(config_folder().glob("*.toml"), key=lambda path: path.stem)}
    if name not in presets:
        raise UserError(
            f"{flag}: unknown preset ({name}){did_you_mean(name, presets) or '.'} Expected: {', '.join(presets)}",
            code="unknown-name",
        )
    return presets[name]
