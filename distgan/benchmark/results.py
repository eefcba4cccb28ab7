"""Results folder of the benchmarks: results.json, with everything needed to repeat them."""

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import psutil
import torch
from pydantic import model_validator

from distgan.benchmark.format_1 import upgrade
from distgan.benchmark.measurement import Facts, Measurement, Record
from distgan.benchmark.ratios import summarise_cells
from distgan.config.registry import ENGINES, PRECISIONS, Registry, names_on_cpu
from distgan.distributed.env import is_launched
from distgan.errors import UserError, WriteErrorPolicy, print_line
from distgan.runs.run_dir import LOCKS
from distgan.utils.child_process import tool_output
from distgan.utils.files import check_format, is_ignorable, not_writable, parse_model, read_json, write_atomic
from distgan.utils.hardware import cpu_name
from distgan.utils.operating_system import count_cores
from distgan.utils.paths import user_path
from distgan.utils.provenance import describe_environment

FORMAT = 2
KINDS = ("throughput", "scaling", "plan", "convergence")
FILE = "results.json"

_MAX_BYTES = 2**26
_RULE = "a results.json of distgan bench"
_STATED = ("device", "python", "versions", "threads", "cuda", "cudnn")
_SMI = ("name", "driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "power.limit")

R = TypeVar("R", bound="Results")


class Results(Record):
    """A results.json. `is_partial`: the benchmark was interrupted, or is running."""

    format: int = FORMAT
    kind: str
    is_partial: bool = False
    facts: Facts
    cells: Sequence[Record]

    def write(self, path: Path) -> None:
        """Write the file atomically, replacing an existing one. Raises ValueError for NaN or infinity."""
        write_atomic(path, f"{json.dumps(self.model_dump(), indent=1, allow_nan=False)}\n".encode())


class SpeedResults(Results):
    """The results.json of bench throughput or bench scaling."""

    kind: Literal["throughput", "scaling"]
    cells: list[Measurement]

    @model_validator(mode="after")
    def _derive(self) -> "SpeedResults":
        ids = [cell.id for cell in self.cells]
        if twice := next((key for key in ids if ids.count(key) > 1), None):
            raise ValueError(f"duplicate cell id {twice}")
        summarise_cells(self.cells, self.facts.roofline)
        return self


class HeldOut(Record):
    """A held-out measurement. `error_percent` is positive if the predicted step is too slow."""

    what: Literal["held out"] = "held out"
    held_out: str
    world_size: int
    batch_size: int
    predicted_step_s: float
    measured_step_s: float
    error_percent: float


class Predicted(Record):
    """A prediction; the name of each predicted field begins with `predicted_`."""

    what: Literal["predicted"] = "predicted"
    mode: Literal["weak", "strong"]
    nodes: int
    per_node: int
    world_size: int
    batch_size: int
    per_rank_batch_size: int
    predicted_step_s: float
    predicted_images_per_s: float
    predicted_s_per_epoch: float
    predicted_efficiency: float
    predicted_all_reduce_s: dict[str, float]
    is_extrapolated: bool


class PlanFacts(Facts):
    """The fitted model. `points`: measured seconds per step by batch size; `measured`: facts of the fitted results."""

    formula: str
    a_s: float
    b_s_per_image: float
    points: dict[int, float]
    all_reduce: str
    model: str
    measured: Facts


class PlanResults(Results):
    """The results.json of bench plan."""

    kind: Literal["plan"]
    facts: PlanFacts
    cells: list[HeldOut | Predicted]


def read(path: Path, *models: type[R], kind: str | None = None) -> R:
    """Read the results of a file, or of its folder, as the one of `models` that accepts their kind, or only of `kind`.

    Raises UserError, which names the file, if it is missing, damaged, of another kind, or of a newer format.
    """
    path = path / FILE if path.is_dir() else path
    if not path.exists():
        raise UserError(f"{path}: not found. Expected: a {FILE} of distgan bench, or its folder", code="no-results")
    content = read_json(path, _MAX_BYTES, only_finite=True)
    if content.get("kind") not in KINDS or "format" not in content:
        raise UserError(f"{path}: no results of distgan bench. Expected: a {FILE} of distgan bench", code="no-results")
    if content["format"] != 1:
        check_format(path, content, FORMAT)
    by_kind = {name: model for model in models for name in get_args(model.model_fields["kind"].annotation)}
    kinds = [kind] if kind else by_kind
    if content["kind"] not in kinds:
        raise UserError(
            f"{path}: results of another benchmark ({content['kind']}). Expected: {', '.join(kinds)}",
            code="wrong-results",
        )
    if content["format"] == 1:
        try:
            content = upgrade(content) | {"format": FORMAT}
        except (KeyError, TypeError, IndexError, AttributeError, ValueError, ZeroDivisionError) as error:
            reason = f"not of format 1 ({type(error).__name__}: {error})"
            raise UserError(f"{path}: is damaged: {reason}. Expected: {_RULE}", code="damaged-file") from error
    return parse_model(by_kind[content["kind"]], content, f"{path}: is damaged", rule=_RULE)


def differing_facts(before: Results, after: Results) -> list[str]:
    """Return what differs between machines and libraries of the two results, and so may explain a ratio."""
    lines = [f"{side} is partial (interrupted)" for side, of in (("A", before), ("B", after)) if of.is_partial]
    for key in _STATED:
        a, b = (getattr(side.facts, key, None) for side in (before, after))
        lines += [f"{key} differs: A {a}, B {b}"] if a != b else []
    return lines


def new_folder(out: str | None, kind: str, *, may_resume: bool = False) -> Path:
    """Create --out, or else bench/<kind>-<number>. Raises UserError if --out is not empty and can't be resumed."""
    try:
        if out is None:
            for number in count(1):
                with suppress(FileExistsError):
                    (folder := Path("bench", f"{kind}-{number}")).mkdir(parents=True)
                    return folder
        (folder := user_path(str(out), "--out")).mkdir(parents=True, exist_ok=True)
        # A bench that was killed early may have left its lock.
        names = sorted(path.name for path in folder.iterdir() if path.name not in LOCKS and not is_ignorable(path.name))
    except OSError as error:
        raise not_writable(error.filename, error) from error
    if names and not (may_resume and FILE in names):
        allowed = "a new folder, or one to resume" if may_resume else "a new folder"
        raise UserError(f"--out: not empty ({out} contains {names[0]}). Expected: {allowed}", code="output-exists")
    return folder


def collect_facts(device: torch.device, **more: object) -> Facts:
    """Return the environment of a benchmark: command, versions, revision, device, cores, load, clocks. Never fails."""
    is_cuda = device.type == "cuda"
    name = Path(sys.argv[0]).name
    program = ["python", "-m", "distgan"] if name == "__main__.py" else [name]
    here = describe_environment() | {
        "command": shlex.join([*program, *sys.argv[1:]]),
        "device": torch.cuda.get_device_name(device) if is_cuda else cpu_name(),
        "device_type": device.type,
        "cores": count_cores(),
        "threads": torch.get_num_threads(),
        "load": psutil.getloadavg()[0],
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "gpus": list_gpus() if is_cuda else [],
    }
    return Facts.model_validate(here | more)


def list_gpus() -> list[dict[str, str]]:
    """Return name, driver, clocks (MHz) and power limit (W) of each GPU by nvidia-smi; [] without it."""
    output = tool_output("nvidia-smi", f"--query-gpu={','.join(_SMI)}", "--format=csv,noheader,nounits") or ""
    return [dict(zip(_SMI, (part.strip() for part in line.split(",")), strict=False)) for line in output.splitlines()]


def say(text: str) -> None:
    """Print a progress line on stderr."""
    print_line(text, error=True)


def publish(results: R, folder: Path, show: Callable[[R], None], draw: Callable[[R, Path], None]) -> None:
    """Print the tables and save the plot. An error of the plot is a warning: results.json is complete without it."""
    show(results)
    picture, policy = folder / f"{results.kind}.png", WriteErrorPolicy(stops=False)
    policy.warn_on_error(lambda: draw(results, picture), f"{picture} is")
    for warning in policy.warnings():
        say(f"warning: {warning}")
    predicted = "predicted results: " * (results.kind == "plan")
    print_line(predicted + ", ".join(map(str, [folder / FILE, *([picture] if picture.exists() else [])])))


def check_not_launched(kind: str) -> None:
    """Raise UserError within a launcher."""
    if is_launched():
        raise UserError(
            f"bench {kind}: started by a launcher, but it launches its processes itself. Expected: no launcher",
            code="launcher-conflict",
        )


def check_runs_here(engines: Sequence[str], precisions: Sequence[str], *, is_cuda: bool) -> None:
    """Raise UserError if an engine or a precision needs a CUDA device, and the benchmark has none."""
    requested: list[tuple[str, str, Registry[Any]]] = [("--engine", value, ENGINES) for value in engines]
    requested += [("--precision", value, PRECISIONS) for value in precisions]
    for flag, value, modes in requested:
        if not is_cuda and modes[value].needs_cuda:
            allowed = ", ".join(names_on_cpu(modes))
            raise UserError(f"{flag}: needs a CUDA device ({value}). Expected on a CPU: {allowed}", code="no-gpu")
