"""`distgan checkpoint ls|verify|diff`: what a run could be resumed from. Only looks."""

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
from distgan.training.gan import tensors_below
from distgan.utils.terminal import TerminalConsole


def list_checkpoints(where: Path) -> None:
    """Print a line per checkpoint of a run, the newest first, with its damage if any."""
    console, found = TerminalConsole(soft_wrap=True), _found(where)
    console.print(f"{_run_of(found[0])}:", style="bold")
    table = Table(box=None)
    for head in ("checkpoint", "epoch", "saved (UTC)", "MiB", "ranks", "d_loss", "g_loss", ""):
        table.add_column(head)
    damaged: list[str] = []
    copies = find_copies(where / "checkpoints") | find_copies(where)
    warnings = [f"{path}: is a folder of step {step}, not a link: the run was copied" for path, step in copies.items()]
    pointers = find_pointers(found[0].parent)
    warnings += [f"{path}: is a file that names {to.name}, not a link: it was copied" for path, to in pointers.items()]
    for path in found:
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
        elif path == found[0] and path.parent / "latest" in copies | pointers:
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
    if status := read_status(where):
        what = f"the run is {status.get('state')}, step {status.get('step')}, {status.get('at')}"
        console.print(f"{what}{': ' + str(status['reason']) if status.get('reason') else ''}")


def verify(where: Path) -> None:
    """Read every byte of each checkpoint. Raises CommandFailed if one is damaged."""
    console, num_damaged = TerminalConsole(soft_wrap=True), 0
    found = _found(where)
    for path in found:
        try:
            read_checkpoint(path)
            console.print(f"{path}: valid")
            for warning in foreign_files(path):
                console.print(f"warning: {warning}", style="yellow")
        except Damaged as error:
            check_link(path)
            if not path.exists():  # removed by its run just now
                continue
            num_damaged += 1
            console.print(f"{path}: damaged: {error}", style="red")
    if num_damaged:
        raise CommandFailed(f"{where}: {num_damaged} of {len(found)} checkpoints damaged")


def diff(where: Path, other: Path | None) -> None:
    """Print the differences of two checkpoints; of one run, its newest two. Raises CommandFailed if they differ."""
    if other is None:
        found = [path for path in _found(where) if path.name not in ("latest", "best")]
        if len(found) < 2:
            raise UserError(
                f"{where}: {len(found)} checkpoint. Expected: a run with two, or a second folder", code="no-checkpoint"
            )
        other, where = found[0], found[1]
    console = TerminalConsole(soft_wrap=True)
    (one_path, one, _), (two_path, two, _) = read_named(where), read_named(other)
    console.print(f"{one_path} -> {two_path}")
    settings, files = [*_settings(one.config, two.config), *_counters(one, two)], list(_files(one, two))
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
        console.print("all tensors are equal to the bit")
    if settings or files:
        raise CommandFailed(f"{one_path} and {two_path} differ")


def _run_of(checkpoint: Path) -> Path:
    """Return the folder of the run that a checkpoint belongs to, or its own if it stands alone."""
    folder = checkpoint.parent
    return folder.parent if folder.name == "checkpoints" else folder


def _found(where: Path) -> list[Path]:
    """Return the checkpoints of a run, or the one at `where`."""
    if (where / MANIFEST).exists():
        return [where]
    if target := find_pointers(where.parent).get(where):
        return [target]
    found = [path for _, path in list_by_step(where / "checkpoints") or list_by_step(where)]
    if not found:
        raise UserError(f"{where}: no checkpoint. Expected: a run's folder, or a checkpoint's", code="no-checkpoint")
    return found


def _settings(one: Config, two: Config) -> Iterator[tuple[str, str, str]]:
    before, after = one.model_dump(mode="json"), two.model_dump(mode="json")
    for table, settings in before.items():
        for key, value in settings.items():
            if value != after[table][key]:
                yield f"[{table}] {key}", str(value), str(after[table][key])


def _counters(one: Checkpoint, two: Checkpoint) -> Iterator[tuple[str, str, str]]:
    """Return the counters without clocks, which differ between any two runs."""
    clocks = {"elapsed_s", "metrics", "unlogged"}
    before, after = one.state.model_dump(exclude=clocks), two.state.model_dump(exclude=clocks)
    for key, value in before.items():
        if value != after[key]:
            yield key, str(value), str(after[key])


def _files(one: Checkpoint, two: Checkpoint) -> Iterator[tuple[str, ...]]:
    """Return a row per tensor file that is not bit-identical."""
    for name in TENSOR_FILES:
        before, after = tensors_below(one.tensors, name), tensors_below(two.tensors, name)
        keys = sorted(before.keys() | after.keys())
        apart = [key for key in keys if not _equal(before.get(key), after.get(key))]
        if not apart:
            continue
        # Counters and random states differ or not; how far says nothing.
        comparable = [key for key in apart if _is_comparable(before.get(key), after.get(key))]
        row = (f"{name}.safetensors", f"{len(apart)} of {len(keys)}")
        if not comparable:
            yield *row, "", "", ""
            continue
        gaps = {key: (after[key].double() - before[key].double()) for key in comparable}
        worst = max(comparable, key=lambda key: float(gaps[key].abs().max()))
        norm = torch.stack([before[key].double().norm() for key in comparable]).norm().clamp_min(1e-30)
        distance = torch.stack([gap.norm() for gap in gaps.values()]).norm() / norm
        yield *row, f"{gaps[worst].abs().max():.3g}", f"{distance:.3g}", worst


def _is_comparable(one: Tensor | None, two: Tensor | None) -> bool:
    if one is None or two is None or one.shape != two.shape:
        return False
    return one.is_floating_point() and one.ndim > 0


def _equal(one: Tensor | None, two: Tensor | None) -> bool:
    return one is not None and two is not None and one.shape == two.shape and torch.equal(one, two)
