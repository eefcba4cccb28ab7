"""Copies of a user's networks in runs, and whose code is executed: a file that was named, or a trusted copy."""

import difflib
import re
from pathlib import Path

from distgan.config.registry import FAMILIES
from distgan.config.schema import Config, ModelConfig
from distgan.errors import UserError
from distgan.models.given_modules import GIVEN
from distgan.models.user_networks import find_file, load_networks, loaded, with_own_loss
from distgan.utils.files import write_atomic

FOLDER = "networks"  # of a run


def choose_networks(model: ModelConfig, near: Path, named: str | None, *, is_trusted: bool) -> ModelConfig:
    """Return the model with the file to execute: the `named` one, or with `is_trusted` the copy of the run.

    It has no hash, so that `load_networks` loads the file. `near`: a folder of the run, or of a part of it. Raises
    UserError where neither may be executed.
    """
    if model.networks is None:
        if named is not None:
            raise UserError(
                f"--networks: these weights are of --family {model.family} ({named}). Expected: no --networks",
                code="setting-not-applicable",
            )
        return model
    if named is not None:
        return model.model_copy(update={"networks": str(find_file(named)), "networks_sha256": None})
    if model.networks == GIVEN:
        raise UserError(
            f"{near}: its networks are modules that a program passed. Expected: the same by generator= and "
            "discriminator= of distgan's functions in Python, or --networks FILE that builds them",
            code="no-networks",
        )
    carried = find_copy(near, model.networks)
    if carried is None:
        raise UserError(
            f"{near}: has no copy of its networks in {FOLDER}/ ({model.networks_name}). Expected: --networks FILE",
            code="no-networks",
        )
    if not is_trusted:
        raise UserError(
            f"{near}: its networks are code that would be executed ({carried}). Expected: --trust-networks, or "
            "--networks FILE for a file of yours",
            code="networks-not-trusted",
        )
    return model.model_copy(update={"networks": str(carried), "networks_sha256": None})


def with_networks(config: Config) -> Config:
    """Return the config with the user's networks loaded, if it names any, and with the loss of their file.

    A file that was named by flag or keyword is trusted, unlike the copy of a run. Raises UserError, also for a setting
    of the families that was named so: `spec` does not have it.
    """
    if config.model.networks is None:
        return config
    check_settings_apply(config)
    origin = config.origin
    named = config.model.networks if origin.run is None or "model.networks" in origin.named else None
    model = choose_networks(config.model, origin.run or Path(), named, is_trusted=config.run.trust_networks)
    config = load_networks(config.model_copy(update={"model": model}))
    return config if "optim.loss" in origin.named else with_own_loss(config)


def check_settings_apply(config: Config, *, are_modules: bool = False) -> None:
    """Raise UserError for a setting of the families that was named by flag or keyword: no user's network gets it.

    `are_modules`: a program passes networks that are built already.
    """
    names = [name for family in FAMILIES.values() for name in family.settings]
    names += ["family", "networks", "args", "width"] if are_modules else []
    for name in dict.fromkeys(names):
        if f"model.{name}" in config.origin.named:
            flag, value = {"args": "model-arg"}.get(name, name.replace("_", "-")), getattr(config.model, name)
            whose = "generator= and discriminator=" if are_modules else f"--networks {config.model.networks_name}"
            advice = "" if are_modules else f"--model-arg {name}={value} for a parameter of its functions, or "
            raise UserError(
                f"--{flag}: {whose} would not get it ({value}). Expected: {advice}no --{flag}",
                code="setting-not-applicable",
            )


def find_copy(near: Path, networks: str) -> Path | None:
    """Return the copy of `networks` in the run that a folder belongs to; None without one."""
    parts = [part for part in re.split(r"[/\\]", networks) if part not in ("", ".", "..")]
    for run in (near, *near.absolute().parents[:2]):
        for num in range(len(parts), 0, -1):  # its full name first
            if (path := run.joinpath(FOLDER, *parts[-num:])).is_file():
                return path.absolute()
    return None


def write_copy(run: Path, model: ModelConfig) -> None:
    """Write the files of the loaded networks into the run's folder; those that are there with these bytes stay."""
    networks = loaded(model)
    for name, data in (networks.files if networks else {}).items():
        path = run / FOLDER / name
        if not path.is_file() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, lambda file, data=data: file.write(data))  # type: ignore[misc]


def changed_lines(run: Path, before: str, model: ModelConfig) -> str:
    """Return how the loaded networks differ from the copy that a run has of `before`; "" if that is not known."""
    networks, found = loaded(model), []
    copy = find_copy(run, before)
    if networks is None or copy is None:
        return ""
    for name, data in networks.files.items():
        path = copy if name == networks.name else run / FOLDER / name
        old = path.read_text(errors="replace").splitlines() if path.is_file() else []
        new = data.decode(errors="replace").splitlines()
        lines = [line for line in difflib.unified_diff(old, new, n=0, lineterm="") if line[:3] not in ("---", "+++")]
        if lines:
            changed = [line for line in lines if not line.startswith("@@")]
            more = f" and {len(changed) - 2} more lines" if len(changed) > 2 else ""
            place = lines[0].split()[2].lstrip("+").partition(",")[0]
            found.append(f"{name}, line {place}: {'; '.join(changed[:2])}{more}")
    return ", ".join(found)
