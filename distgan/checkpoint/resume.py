"""Start of a run: new, from its newest valid checkpoint, or from a named one, if the settings allow it."""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from distgan.checkpoint.format import (
    Checkpoint,
    Damaged,
    folder_name,
    foreign_files,
    read_checkpoint,
    read_manifest,
    read_state,
)
from distgan.config.flags import read_file, setting_paths
from distgan.config.registry import IN_MEMORY, is_data_path
from distgan.config.schema import Config
from distgan.data.image_list import FILE, ImageList, first_difference, read_list
from distgan.errors import UserError
from distgan.models.given_modules import GIVEN, changed_modules
from distgan.models.network_copies import changed_lines
from distgan.utils.files import metric_lines, read_limited, set_aside
from distgan.utils.paths import user_path

_COPY = "is a folder, where a run has a link; the run was copied"
_POINTER = "is a file, where a run has a link; the run was copied"
_LINKS = ("latest", "best")
_NAME = r"step-[0-9]{8,12}"
_MAX_POINTER = 4096  # bytes, the longest path of a link


class Identity(NamedTuple):
    """Data and batch sizes, which a resumed run must share besides the config."""

    data: str
    steps_per_epoch: int
    batch_size: int
    images: ImageList | None = None  # a user's own


class Start(NamedTuple):
    """`metrics` is the metrics.jsonl of the run that the checkpoint is from."""

    checkpoint: Checkpoint
    path: Path
    metrics: Path
    is_changed: bool
    warnings: list[str]


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the checkpoints of a run's `checkpoints/`, by their names, the newest first; none is read.

    One may be a link to another disk, also a broken one.
    """
    if not folder.is_dir():
        return []
    paths = [path for path in folder.iterdir() if re.fullmatch(_NAME, path.name)]
    return sorted(paths, key=lambda path: int(path.name[5:]), reverse=True)


def is_in(path: Path, folder: Path) -> bool:
    """True if the checkpoint at `path` is one of those of `folder`, whatever links lead to it."""
    return any(os.path.realpath(checkpoint) == os.path.realpath(path) for checkpoint in checkpoints_in(folder))


def check_link(path: Path) -> None:
    """Raise UserError for a broken link, which is no damage: its disk may not be mounted."""
    if path.is_symlink() and not path.exists():
        raise UserError(
            f"{path}: broken link ({os.path.realpath(path)}). Expected: its disk mounted or, to resume from the "
            "checkpoint before it, the link deleted",
            code="not-found",
        )


def find_copies(folder: Path) -> dict[Path, int | None]:
    """Return the folders `latest` and `best`, and the step of each if it can be read.

    A run has links of these names. A copy of it has folders where links were followed: cp -L, zip, object storage.
    They are not updated while the run continues.
    """
    copies: dict[Path, int | None] = {}
    for path in (folder / name for name in _LINKS):
        if path.is_dir() and not path.is_symlink():
            copies[path] = None
            with suppress(Damaged):
                copies[path] = read_manifest(path).step
    return copies


def find_pointers(folder: Path) -> dict[Path, Path]:
    """Return the files `latest` and `best`, each with the checkpoint that its text names, which may be missing.

    A copy of a run has them where links become text: zip, git on Windows, object storage. Like copied folders, they are
    not updated while the run continues.
    """
    pointers: dict[Path, Path] = {}
    for path in (folder / name for name in _LINKS):
        if path.is_file() and not path.is_symlink():
            with suppress(UserError):
                text = read_limited(path, _MAX_POINTER).decode(errors="replace").strip()
                if match := re.fullmatch(rf"(?:.*[/\\])?({_NAME})", text):
                    pointers[path] = folder / match[1]
    return pointers


def list_by_step(folder: Path) -> list[tuple[int, Path]]:
    """Return the checkpoints of a run, the newest first: each by its name, and after it a copy of the same step."""
    by_step = [(int(path.name[5:]), path) for path in checkpoints_in(folder)]
    by_step += [(step, path) for path, step in find_copies(folder).items() if step is not None]
    return sorted(by_step, key=lambda pair: -pair[0])


def rename_copied_links(folder: Path, warn: Callable[[str], None]) -> None:
    """Rename the folders `latest` and `best` of a copied run to make room for the links; nothing is deleted."""
    for path, step in find_copies(folder).items():
        target = None if step is None else folder / folder_name(step)
        is_missing = target is not None and not target.exists()
        new = path.rename(target) if target is not None and is_missing else set_aside(path, "copy")
        rest = "" if is_missing else ", which nothing uses: it can be deleted"
        warn(f"{path}: {_COPY}; renamed to {new}{rest}")


def newest_valid(folder: Path) -> tuple[Path, Checkpoint, list[tuple[Path, str]]] | None:
    """Return the newest valid checkpoint, and the damage of each newer one; None where there is no checkpoint.

    Raises UserError where there are some and all of them are damaged.
    """
    damaged: list[tuple[Path, str]] = []
    for step, path in list_by_step(folder):
        try:
            checkpoint = read_checkpoint(path)
            if checkpoint.state.step != step:
                raise Damaged(f"{path}: holds step {checkpoint.state.step}, which its name does not say")
            return path, checkpoint, damaged
        except Damaged as error:
            check_link(path)
            if path.exists():  # and not removed by its run just now
                damaged.append((path, str(error)))
    if damaged:
        lines = [reason for _, reason in damaged]
        raise UserError(
            "\n".join([*lines, f"{folder}: no valid checkpoint. Expected: a copy of one there, or a new run (--out)"]),
            code="no-checkpoint",
        )
    return None


def find_start(config: Config, folder: Path, identity: Identity) -> Start | None:
    """Return the checkpoint to resume from, None for a new run. Damaged newer ones are set aside.

    Raises UserError for a checkpoint that is damaged or of another run, with the list of what differs.
    """
    warnings: list[str] = []
    checkpoints = folder / "checkpoints"
    if config.run.resume in ("auto", "never") or _was_begun_by(config.run.resume, folder):
        newest = newest_valid(checkpoints)
        if newest is None:
            if (folder / "weights").exists() or any(metric_lines(folder / "metrics.jsonl")):
                raise UserError(
                    f"{checkpoints}: no checkpoint, but the run in {folder} has taken steps. Expected: a copy of one "
                    "there, or a new run (--out)",
                    code="no-checkpoint",
                )
            if (path := folder / "config.json").exists():
                # Killed before its first checkpoint: any settings may start it, but over no file of another program.
                Config.model_validate(read_file(path, str(path)))
            return None
        path, checkpoint, damaged = newest
        for bad, reason in damaged:
            aside = set_aside(bad, "damaged")
            warnings.append(f"{reason}; resuming from {path.name}, and the damaged one is now {aside}")
        rename_copied_links(checkpoints, warnings.append)
        path = path if path.exists() else checkpoints / folder_name(checkpoint.state.step)
        where = f"the run in {folder}"
    else:
        path, checkpoint, damaged = read_named(user_path(config.run.resume, "--resume"))
        warnings += [f"{reason}; taking {path.name}" for _, reason in damaged]
        others = [other for other in checkpoints_in(checkpoints) if os.path.realpath(other) != os.path.realpath(path)]
        is_newer = any(int(other.name[5:]) > checkpoint.state.step for other in others)
        if others and (is_newer or not is_in(path, checkpoints)):
            raise UserError(
                f"--resume: the run in {folder} has checkpoints already, as {others[0].name} ({config.run.resume}). "
                "Expected: --resume auto, or a new folder (--out)",
                code="resume-mismatch",
            )
        where = str(path)
    warnings += foreign_files(path)
    state = checkpoint.state
    run = folder if is_in(path, checkpoints) else _run_of(path)  # its own may be named by where a link leads
    # Size, colours and classes follow from the data: where that is another one, it is what is named.
    follows = {("model", "images")} if state.data != identity.data else set()
    is_changed = _check_settings(checkpoint.config, config, where, run, follows)
    if state.data != identity.data:
        raise UserError(
            f"{path}: the fingerprint of its data differs ({state.data}, here {identity.data})"
            f"{_differing_images(checkpoint.config, config, run, identity)}. Expected on resume: the same data",
            code="resume-mismatch",
        )
    for what, saved, current in (
        ("its batch over all processes", state.batch_size, identity.batch_size),
        ("its number of steps per epoch", state.steps_per_epoch, identity.steps_per_epoch),
    ):
        if saved != current:
            raise UserError(
                f"{path}: {what} differs ({saved}, here {current}). Expected on resume: the same batch over all "
                "processes",
                code="resume-mismatch",
            )
    epochs = checkpoint.config.run.epochs
    if config.optim.lr_schedule == "linear" and epochs != config.run.epochs:
        warnings.append(
            f"the rates fall to 0 over {config.run.epochs} epochs now, not {epochs}: no longer the same run"
        )
    return Start(checkpoint, path, run / "metrics.jsonl", is_changed, warnings)


def _was_begun_by(resume: str, folder: Path) -> bool:
    """True if the run in `folder` began with this --resume and has a checkpoint since: the same command resumes it."""
    if not checkpoints_in(folder / "checkpoints"):
        return False
    with suppress(UserError, AttributeError):
        return read_file(path := folder / "config.json", str(path)).get("run", {}).get("resume") == resume
    return False


def _run_of(path: Path) -> Path:
    """Return the folder of the run that a checkpoint is from: `checkpoints` in it may be a link to another disk."""
    named = Path(os.path.abspath(path)).parent
    return (named if named.name == "checkpoints" else path.resolve().parent).parent


def read_named(path: Path) -> tuple[Path, Checkpoint, list[tuple[Path, str]]]:
    """Return the checkpoint at `path`, or the newest valid one of the run there, as `newest_valid` does.

    Raises UserError.
    """
    if path in (copies := find_copies(path.parent)) and copies[path] is not None:
        return _resolve_copied_link(path, path, _COPY)
    if target := find_pointers(path.parent).get(path):
        return _resolve_copied_link(path, target, _POINTER)
    if (path / "checkpoints").is_dir():
        path = path / "checkpoints"
    if newest := newest_valid(path):
        return newest
    check_link(path)
    if not path.is_dir() or path.name == "checkpoints":
        raise UserError(
            f"{path}: no checkpoint. Expected: the folder of a checkpoint, or of a run that has one",
            code="no-checkpoint",
        )
    return path, read_checkpoint(path), []


def _resolve_copied_link(link: Path, target: Path, reason: str) -> tuple[Path, Checkpoint, list[tuple[Path, str]]]:
    """Return the checkpoint that a copied link would name now, as read_named does; it named `target` when copied."""
    warnings = [(link, f"{link}: {reason}")]
    if link.name == "best" and target.is_dir():
        keep_best = read_checkpoint(target).config.run.keep_best
        path = find_best([path for _, path in list_by_step(link.parent)], keep_best) or target
        return path, read_checkpoint(path), warnings
    if newest := newest_valid(link.parent):
        return newest[0], newest[1], [*warnings, *newest[2]]
    raise UserError(
        f"{link}: points to {target.name}, which does not exist. Expected: a checkpoint beside it", code="no-checkpoint"
    )


def find_best(paths: list[Path], keep_best: str | None) -> Path | None:
    """Return the checkpoint with the best value of `--keep-best`, the newest of equal ones; None if none has one.

    Raises UserError if one can't be read now, as it may be the best.
    """
    if keep_best is None:
        return None
    order, _, name = keep_best.partition(":")
    values = {}
    for path in paths:
        with suppress(Damaged):
            if name in (metrics := read_state(path).metrics):
                values[path] = metrics[name]
    return (min if order == "min" else max)(values, key=lambda path: values[path]) if values else None


def differences(before: Config, now: Config) -> list[tuple[str, str, object, object]]:
    """Return (table, key, before, now) of each setting that shapes the weights and differs."""
    old, new = before.model_dump(mode="json"), now.model_dump(mode="json")
    shaping = setting_paths(Config, "on_resume", "fixed", "confirm")
    if is_data_path(before.data.name) and is_data_path(now.data.name):
        shaping.remove(("data", "name"))  # moved, or in another form: the fingerprint tells whether it is the same data
    return [(table, key, a, b) for table, key in shaping if (a := old[table][key]) != (b := new[table][key])]


def _differing_images(before: Config, now: Config, run: Path, identity: Identity) -> str:
    """Return how a user's own images differ, as far as the run recorded them: `; 'cat/7.png' was added`."""
    differences = []
    if (old := before.model.images) != (new := now.model.images) and old.describe() != new.describe():
        differences.append(f"images of {old.describe()}, here {new.describe()}")
    if identity.images and (listed := read_list(run / FILE)):
        differences.append(first_difference(listed, identity.images))
    return "".join(f"; {text}" for text in differences if text)


def _check_given_again(before: Config, now: Config, where: str) -> None:
    """Raise UserError where a run of a program's images or modules is resumed without them."""
    is_data_given = before.data.name == IN_MEMORY and not is_data_path(now.data.name)
    if is_data_given or (before.model.networks == GIVEN and now.model.networks != GIVEN):
        what, again = ("images", "dataset=") if is_data_given else ("modules", "generator= and discriminator=")
        raise UserError(
            f"{where} was trained on {what} that a program passed. Expected: the same {what}, by {again} of "
            "distgan.train" + (", or --data PATH of the same images" if is_data_given else ""),
            code="resume-mismatch",
        )


def _check_settings(before: Config, now: Config, where: str, run: Path, follows: set[tuple[str, str]]) -> bool:
    """Raise UserError with a line per setting that may not differ, but for those that follow from other data.

    True if an allowed one differs.
    """
    _check_given_again(before, now, where)
    changes, fixed, mistakes = differences(before, now), setting_paths(Config, "on_resume", "fixed"), []
    for table, key, old, new in changes:
        if (table, key) in follows:
            continue
        is_fixed = (table, key) in fixed
        if is_fixed or not now.run.allow_config_change:
            rule = "the same" if is_fixed else "the same, or --allow-config-change"
            is_code = key == "networks_sha256" and before.model.networks
            lines = changed_lines(run, before.model.networks or "", now.model) if is_code else ""
            if is_code and before.model.networks == now.model.networks == GIVEN:
                lines = f"{changed_modules(str(old), str(new))}: other code or sizes"
            value = f"{new!r}; {lines}" if lines else f"{new!r}"
            mistakes.append(f"[{table}] {key}: {where} has {old!r} ({value}). Expected on resume: {rule}")
    if mistakes:
        raise UserError("\n".join(mistakes), code="resume-mismatch")
    return bool(changes)
