"""`distgan checkpoint ls|verify|diff`: list, verify and compare checkpoints. Writes nothing."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor

from distgan.checkpoint.format import (
    MANIFEST,
    TENSOR_FILES,
    Checkpoint,
    Damaged,
    foreign_files,
    read_checkpoint,
    read_manifest,
)
from distgan.checkpoint.resume import check_link, find_copies, find_pointers, list_by_step, read_named
from distgan.config.schema import Config
from distgan.errors import CommandFailed, UserError
from distgan.runs.run_dir import read_status
from distgan.training.gan import tensors_with_prefix
from distgan.utils.terminal import TerminalConsole


def list_checkpoints(run: Path) -> None:
    """Print a line per checkpoint of a run, the newest first, damaged ones too."""
    console, checkpoints = TerminalConsole(soft_wrap=True), _find_checkpoints(run)
    console.print(f"{_run_folder(checkpoints[0])}:", style="bold")
    table = Table(box=None)
    for head in ("checkpoint", "epoch", "saved (UTC)", "MiB", "ranks", "d_loss", "g_loss", ""):
        table.add_column(head)
    damaged: list[str] = []
    copies = find_copies(run / "checkpoints") | find_copies(run)
    warnings = [f"{path}: is a folder of step {step}, not a link: the run was copied" for path, step in copies.items()]
    pointers = find_pointers(checkpoints[0].parent)
    warnings += [f"{path}: is a file that names {to.name}, not a link: it was copied" for path, to in pointers.items()]
    for path in checkpoints:
        try:
            manifest, state = read_manifest(path), read_checkpoint(path).state
            size = sum(entry.size for entry in manifest.files.values())
            saved_at = datetime.fromisoformat(manifest.saved_at)
        except (Damaged, ValueError) as error:
            table.add_row(path.name, *[""] * 6, "damaged", style="red")
            damaged.append(str(error))
            continue
        losses = [f"{state.metrics[key]:.3f}" if key in state.metrics else "" for key in ("d_loss", "g_loss")]
        warnings += foreign_files(path)
        marks = [name for name in ("latest", "best") if (path.parent / name).resolve() == path.resolve()]
        if path in copies:
            marks = ["a copy"]
        elif path == checkpoints[0] and path.parent / "latest" in copies | pointers:
            marks.insert(0, "latest")
        table.add_row(
            path.name, f"{state.step / state.steps_per_epoch:.2f}", f"{saved_at:%Y-%m-%d %H:%M:%S}",
            f"{size / 2**20:.1f}", str(state.world_size), *losses, ", ".join(marks),
        )  # fmt: skip
    console.print_table(table)
    for reason in damaged:
        console.print(f"damaged: {reason}", style="red")
    for warning in warnings:
        console.print(f"warning: {warning}", style="yellow")
    if status := read_status(run):
        line = f"the run is {status.get('state')}, step {status.get('step')}, {status.get('at')}"
        console.print(f"{line}{': ' + str(status['reason']) if status.get('reason') else ''}")


def verify(run: Path) -> None:
    """Read every byte of each checkpoint. Raises CommandFailed if one is damaged."""
    console, num_damaged = TerminalConsole(soft_wrap=True), 0
    checkpoints = _find_checkpoints(run)
    for path in checkpoints:
        try:
            read_checkpoint(path)
            console.print(f"{path}: valid")
            for warning in foreign_files(path):
                console.print(f"warning: {warning}", style="yellow")
        except Damaged as error:
            check_link(path)
            if not path.exists():  # its run has just removed it
                continue
            num_damaged += 1
            console.print(f"{path}: damaged: {error}", style="red")
    if num_damaged:
        raise CommandFailed(f"{run}: {num_damaged} of {len(checkpoints)} checkpoints damaged")


def diff(path: Path, other: Path | None) -> None:
    """Print the differences of two checkpoints, or of a run's newest two. Raises CommandFailed if they differ."""
    if other is None:
        checkpoints = [folder for folder in _find_checkpoints(path) if folder.name not in ("latest", "best")]
        if len(checkpoints) < 2:
            message = f"{path}: {len(checkpoints)} checkpoint. Expected: a run with two, or a second folder"
            raise UserError(message, code="no-checkpoint")
        other, path = checkpoints[0], checkpoints[1]
    console = TerminalConsole(soft_wrap=True)
    (old_path, old, _), (new_path, new, _) = read_named(path), read_named(other)
    console.print(f"{old_path} -> {new_path}")
    settings, files = [*_diff_settings(old.config, new.config), *_diff_counters(old, new)], list(_diff_files(old, new))
    if settings:
        table = Table("setting or counter", "before", "after", box=None)
        for row in settings:
            table.add_row(*row)
        console.print_table(table)
    table = Table("file", "tensors that differ", "largest difference", "relative", "where it is largest", box=None)
    for cells in files:
        table.add_row(*cells)
    if files:
        console.print_table(table)
    else:
        console.print("all tensors are bit-identical")
    if settings or files:
        raise CommandFailed(f"{old_path} and {new_path} differ")


def _run_folder(checkpoint: Path) -> Path:
    """Return the folder of a checkpoint's run, or its parent folder if it belongs to none."""
    folder = checkpoint.parent
    return folder.parent if folder.name == "checkpoints" else folder


def _find_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run's folder, or `folder` if it is a checkpoint."""
    if (folder / MANIFEST).exists():
        return [folder]
    if target := find_pointers(folder.parent).get(folder):
        return [target]
    checkpoints = [path for _, path in list_by_step(folder / "checkpoints") or list_by_step(folder)]
    if not checkpoints:
        raise UserError(f"{folder}: no checkpoint. Expected: a run's folder, or a checkpoint's", code="no-checkpoint")
    return checkpoints


def _diff_settings(old: Config, new: Config) -> Iterator[tuple[str, str, str]]:
    before, after = old.model_dump(mode="json"), new.model_dump(mode="json")
    for table, settings in before.items():
        for key, value in settings.items():
            if value != after[table][key]:
                yield f"[{table}] {key}", str(value), str(after[table][key])


def _diff_counters(old: Checkpoint, new: Checkpoint) -> Iterator[tuple[str, str, str]]:
    """Yield the counters that differ; not clocks, which differ between any two runs."""
    clocks = {"elapsed_s", "metrics", "unlogged"}
    before, after = old.state.model_dump(exclude=clocks), new.state.model_dump(exclude=clocks)
    for key, value in before.items():
        if value != after[key]:
            yield key, str(value), str(after[key])


def _diff_files(old: Checkpoint, new: Checkpoint) -> Iterator[tuple[str, ...]]:
    """Yield a table row per tensor file that is not bit-identical."""
    for name in TENSOR_FILES:
        before, after = tensors_with_prefix(old.tensors, name), tensors_with_prefix(new.tensors, name)
        keys = sorted(before.keys() | after.keys())
        changed = [key for key in keys if not _equal(before.get(key), after.get(key))]
        if not changed:
            continue
        # The size of a difference has no meaning for counters and random states.
        comparable = [key for key in changed if _is_comparable(before.get(key), after.get(key))]
        row = (f"{name}.safetensors", f"{len(changed)} of {len(keys)}")
        if not comparable:
            yield *row, "", "", ""
            continue
        deltas = {key: (after[key].double() - before[key].double()) for key in comparable}
        worst = max(comparable, key=lambda key: float(deltas[key].abs().max()))
        norm = torch.stack([before[key].double().norm() for key in comparable]).norm().clamp_min(1e-30)
        distance = torch.stack([delta.norm() for delta in deltas.values()]).norm() / norm
        yield *row, f"{deltas[worst].abs().max():.3g}", f"{distance:.3g}", worst


def _is_comparable(old: Tensor | None, new: Tensor | None) -> bool:
    if old is None or new is None or old.shape != new.shape:
        return False
    return old.is_floating_point() and old.ndim > 0


def _equal(old: Tensor | None, new: Tensor | None) -> bool:
    return old is not None and new is not None and old.shape == new.shape and torch.equal(old, new)
