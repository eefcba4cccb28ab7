"""The command that reproduces a run: the arguments of `distgan train` that give its recorded config."""

import json
import shlex
from collections.abc import Iterator
from typing import Any

from distgan.config.fields import setting_info
from distgan.config.flags import list_flags
from distgan.config.presets import config_folder, parse_training
from distgan.config.schema import Config
from distgan.reports.run_data import Run, train_command


def train_words(config: Config, preset: str | None) -> list[str] | None:
    """Return `--preset NAME`, or `--model NAME`, and a flag for each setting that differs from it.

    Parsed by `distgan train` they give `config`, except its folder and settings of a single start (not `is_copied`).
    A run that resumed from another one names it. None if a setting can't be expressed by a flag: one that is unset,
    and that preset and model both set.
    """
    bases = [["--model", config.model.name]]
    if preset and (config_folder() / f"{preset}.toml").is_file():
        bases.insert(0, ["--preset", preset])
    for base_flags in bases:
        base = parse_training(base_flags)[0]
        flags = list(_flags(config, base)) if base.model.name == config.model.name else [None]
        if None not in flags:
            resumed = [] if config.run.resume in ("auto", "never") else [f"--resume={config.run.resume}"]
            return [*base_flags, *(word for word in flags if word), *resumed]
    return None


def _flags(config: Config, base: Config) -> Iterator[str | None]:
    """Yield `--flag=value` for each difference; None for one that no flag can express."""
    for flag in list_flags(Config):
        current, base_value = (_value(of, flag.path) for of in (config, base))
        if current == base_value or not setting_info(flag.field).is_copied:
            continue
        name = flag.name
        if isinstance(current, bool):
            yield name if current else f"--no-{name[2:]}"
        elif isinstance(current, list):
            yield f"{name}={','.join(map(str, current))}"
        elif isinstance(current, dict):
            yield from (f"{name}={key}={json.dumps(value)}" for key, value in current.items())
            if base_value.keys() - current.keys():
                yield None
        elif current is not None:
            yield f"{name}={current}"
        elif not _is_replaced(config, flag.path):
            yield None


def _value(config: Config, path: tuple[str, ...]) -> Any:
    value: Any = config
    for key in path:
        value = getattr(value, key)
    return value


def _is_replaced(config: Config, path: tuple[str, ...]) -> bool:
    """True if the flag of another setting of its section, which is set, unsets this one."""
    return any(
        path[-1] in setting_info(other.field).replaces and _value(config, other.path) is not None
        for other in list_flags(Config)
        if other.path[:-1] == path[:-1]
    )


def reproduce_command(run: Run, *more: str) -> str:
    """Return the command, with `more` flags; by `--config` of the run's file if flags can't express its config."""
    flags = train_words(run.config, run.environment.get(str, "preset"))
    return shlex.join(["distgan", "train", *flags, *more]) if flags else train_command(run, *more)
