"""What the benchmarks leave: a folder with results.json, which has all that is needed to repeat them."""

import json
import math
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch

from distgan.config.fields import shown
from distgan.config.registry import FAMILIES, ORDERS, PRECISIONS, Registry, names_on_cpu
from distgan.config.renames import with_current_names
from distgan.errors import UserError, WriteErrorPolicy, print_line
from distgan.runs.run_dir import LOCKS, lock
from distgan.training.engines.selection import fallback_notice
from distgan.utils.child_process import tool_output
from distgan.utils.files import check_format, is_ignorable, not_writable, read_json, write_atomic
from distgan.utils.hardware import cpu_name
from distgan.utils.operating_system import cores
from distgan.utils.paths import user_path
from distgan.utils.provenance import describe_environment
from distgan.utils.terminal import TerminalConsole

FORMAT = 1
KINDS = ("throughput", "scaling", "plan", "convergence")
FILE = "results.json"

_MAX_BYTES = 2**26
_SMI = ("name", "driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "power.limit")


class Results(NamedTuple):
    """`kind` is one of KINDS, `facts` say where and how, each of `cells` is one thing that was measured."""

    kind: str
    facts: dict[str, Any]
    cells: list[dict[str, Any]]


def write(path: Path, kind: str, facts: dict[str, Any], cells: Sequence[dict[str, Any]]) -> None:
    """Whole or not at all, over what stood there. A number that JSON has not (NaN) raises ValueError."""
    assert kind in KINDS
    content = {"format": FORMAT, "kind": kind, "facts": facts, "cells": list(cells)}
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    write_atomic(path, text.encode())


def read(path: Path, *kinds: str) -> Results:
    """The results of a file, or of the folder that holds it, of one of `kinds` (none named: of any).

    Raises UserError with one line, which names the file, for one that is missing, damaged, foreign or newer.
    """
    path = path / FILE if path.is_dir() else path
    if not path.exists():
        raise UserError(
            f"{path}: is not there; allowed: a {FILE} of distgan bench, or the folder that holds it", code="not-found"
        )
    content = read_json(path, _MAX_BYTES, only_finite=True)
    if content.get("kind") not in KINDS or "format" not in content:
        raise UserError(f"{path}: holds no results of distgan bench", code="not-found")
    check_format(path, content, FORMAT)
    if kinds and content["kind"] not in kinds:
        raise UserError(
            f"{path}: holds the results of bench {content['kind']}; allowed: of {', '.join(kinds)}", code="bad-data"
        )
    match content:
        case {"facts": dict(facts), "cells": list(cells)} if all(isinstance(cell, dict) for cell in cells):
            cells = [_with_current_id(with_current_names(cell)) for cell in cells]
            return Results(content["kind"], with_current_names(facts), cells)
    raise UserError(f"{path}: is damaged: its facts are no table, or its cells no list of tables", code="bad-data")


def _with_current_id(cell: dict[str, Any]) -> dict[str, Any]:
    """Return a cell whose id, of throughput, has the current names of its precision, order and family."""
    match cell:
        case {"id": str(key), "precision": str(), "order": str()} if len(words := key.split("/")) > 4:
            words[2], words[4] = PRECISIONS.current(words[2]), ORDERS.current(words[4])
            words[5:] = map(FAMILIES.current, words[5:])
            return cell | {"id": "/".join(words)}
    return cell


def new_folder(out: str | None, kind: str) -> Path:
    """Makes --out, or else bench/<kind>-<number>. Raises UserError for one that holds something."""
    try:
        if out is not None:
            folder = user_path(out, "--out")
            if folder.is_dir() and not all(is_ignorable(path.name) for path in folder.iterdir()):
                raise UserError(
                    f"--out {out}: is there already and is not overwritten; allowed: a new folder", code="exists"
                )
            folder.mkdir(parents=True, exist_ok=True)
            return folder
        Path("bench").mkdir(exist_ok=True)
        for number in count(1):
            try:
                (folder := Path("bench", f"{kind}-{number}")).mkdir()
            except FileExistsError:
                continue
            break
        return folder
    except OSError as error:
        raise not_writable(error.filename, error) from error


def facts(device: torch.device) -> dict[str, Any]:
    """What a figure depends on: the command, versions, revision, device, cores, their load, clocks. Never fails."""
    is_cuda = device.type == "cuda"
    name = Path(sys.argv[0]).name
    words = ["python", "-m", "distgan"] if name == "__main__.py" else [name]
    return describe_environment() | {
        "command": shlex.join([*words, *sys.argv[1:]]),
        "device": torch.cuda.get_device_name(device) if is_cuda else cpu_name(),
        "device_type": device.type,
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "load": psutil.getloadavg()[0],
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "gpus": gpus() if is_cuda else [],
    }


def gpus() -> list[dict[str, str]]:
    """Name, driver, clocks (MHz) and power limit (W) of each GPU as nvidia-smi says them; none without it."""
    said = tool_output("nvidia-smi", f"--query-gpu={','.join(_SMI)}", "--format=csv,noheader,nounits") or ""
    return [dict(zip(_SMI, (part.strip() for part in line.split(",")), strict=False)) for line in said.splitlines()]


def summary(values: Sequence[float]) -> dict[str, float]:
    """median, p5 and p95 (numpy's linear interpolation) and `num`, in the unit of the values."""
    assert values
    assert all(math.isfinite(value) for value in values)
    p5, median, p95 = (float(each) for each in np.percentile(values, (5, 50, 95)))
    return {"median": median, "p5": p5, "p95": p95, "num": len(values)}


def say(text: str) -> None:
    """Tell on stderr how a benchmark is getting on."""
    print_line(text, error=True)


def drawn(draw: Callable[[], object], path: Path) -> list[Path]:
    """Return `path` if `draw` writes it. What fails there is a warning: the numbers stand without their picture."""
    policy = WriteErrorPolicy(stops=False)
    policy.illustrate(draw, f"{path} is")
    for warning in policy.warnings():
        say(f"warning: {warning}")
    return [path] if path.exists() else []


def check_runs_on_cpu(flag: str, chosen: Sequence[str], modes: Registry[Any]) -> None:
    """Raise UserError if a precision or an engine among `chosen` needs a CUDA device."""
    for value in chosen:
        if modes[value].needs_cuda:
            allowed = ", ".join(names_on_cpu(modes))
            raise UserError(f"{flag} {value}: needs a CUDA device; allowed on a CPU: {allowed}", code="unavailable")


# -- The folder of a bench that can be resumed: held by one process at a time, and only with the same settings --


@contextmanager
def claimed(out: str | None, kind: str) -> Iterator[Path]:
    """--out, new or with results of that kind, or else bench/<kind>-<number>. Raises UserError for any other."""
    folder = new_folder(None, kind) if out is None else user_path(out, "--out")
    if folder.is_dir() and not (folder / FILE).exists():
        # A bench that was killed in its first moments may have left these.
        names = sorted(path.name for path in folder.iterdir())
        if foreign := [name for name in names if name not in LOCKS and not is_ignorable(name)]:
            raise UserError(
                f"--out {out}: holds {foreign[0]} and no {FILE} of bench {kind}; allowed: a new folder, or one "
                "to resume",
                code="exists",
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = lock(folder, 0.0, f"--out {out}: another bench {kind} is at work in it")
    except OSError as error:
        raise not_writable(error.filename, error) from error
    try:
        yield folder
    finally:
        held.release()


def taken_up(
    folder: Path, read: Callable[[Path], Results], identity: dict[str, Any], out: str | None
) -> list[dict[str, Any]]:
    """The cells of the bench that stands there, none of a new one. Raises UserError where it was begun otherwise."""
    if not (folder / FILE).exists():
        return []
    found = read(folder / FILE)
    if difference := _difference(found.facts.get("identity"), identity, ()):
        path, old, new = difference
        raise UserError(
            f"--out {out}: was begun with {_named(path)} {shown(old)}, now {shown(new)}; allowed: the same, or a new "
            "folder",
            code="mismatch",
        )
    return found.cells


def difference_of(one: Any, other: Any) -> str | None:
    """What another bench has otherwise, as `another --data (mnist, not digits)`; None where nothing is."""
    if found := _difference(one, other, ()):
        path, old, new = found
        return f"another {_named(path)} ({shown(new)}, not {shown(old)})"
    return None


def _named(path: tuple[str, ...]) -> str:
    """A place in a bench's identity: a flag, or the keys that lead there."""
    return f"--{path[-1].replace('_', '-')}" if path[:1] == ("settings",) else ".".join(path)


def _difference(old: Any, new: Any, path: tuple[str, ...]) -> tuple[tuple[str, ...], Any, Any] | None:
    """The first place where two values of JSON differ, and what stands there."""
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        old, new = (dict(enumerate(each)) for each in (old, new))
    if not isinstance(old, dict) or not isinstance(new, dict):
        return None if old == new else (path, old, new)
    for key in [*new, *(key for key in old if key not in new)]:
        if found := _difference(old.get(key), new.get(key), (*path, str(key))):
            return found
    return None


def print_fallbacks(console: TerminalConsole, notices: Iterable[tuple[str, str | None]]) -> None:
    """Print above the tables which cells, by name, ran another engine than requested, and why."""
    for name, notice in notices:
        if notice:
            console.print(f"!! {name}: {notice} !!", style="bold yellow")


def fallback_in(cell: dict[str, Any]) -> str | None:
    """Return the engine that a cell ran in place of the requested one, and why; None where it ran that one."""
    return next(filter(None, (fallback_notice(run.get("engine")) for run in reversed(cell["runs"]))), None)
