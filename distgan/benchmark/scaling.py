"""`distgan bench scaling`: seconds per step over processes, batch sizes and widths, and the all-reduce alone."""

import json
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch

from distgan.benchmark import results
from distgan.benchmark.flops import FORMULA, flops_per_image
from distgan.benchmark.options import ScalingConfig
from distgan.benchmark.results import summary
from distgan.benchmark.scaling_report import (
    BATCH_SIZE,
    PLOT,
    STRONG,
    WEAK,
    WIDTH,
    Cell,
    derive,
    name_of,
    plot,
    print_tables,
)
from distgan.config.presets import preset_words, training_of, with_changes
from distgan.config.registry import ENGINES
from distgan.config.schema import Config
from distgan.data.loader import check_batch_size
from distgan.distributed import env
from distgan.errors import CommandFailed, UserError, print_line
from distgan.utils.child_process import ChildFailed, own_modules, run_child
from distgan.utils.devices import device_named
from distgan.utils.hardware import count_gpus
from distgan.utils.operating_system import cores
from distgan.utils.parts_progress import PartsProgress


class Point(NamedTuple):
    """A setting; `batch_size` is over all processes."""

    world_size: int
    batch_size: int
    width: float


def run(config: ScalingConfig) -> None:
    """Measures, prints tables, and leaves results.json (after each turn) and scaling.png in the results' folder.

    Raises UserError, and CommandFailed at the end where a setting could not be measured.
    """
    if env.is_launched():
        raise UserError(
            "bench scaling: starts processes of its own; allowed: without a launcher around it", code="launch"
        )
    device = device_named(config.device)
    if device.type == "cpu":
        results.check_runs_on_cpu("--engine", [config.engine], ENGINES)
    sizes = world_sizes(config, device)
    threads = config.threads or (max(1, cores() // max(sizes)) if device.type == "cpu" else None)
    training, name = training_of(preset_words("--preset", config.preset))
    width = config.width or training.model.width
    of_preset = {
        "model": name,
        "width": width,
        "family": config.family or training.model.family,
        "order": config.order or training.optim.order,
    }
    cells = [_cell(training, config, point, axes, threads) for point, axes in points(config, sizes, width).items()]
    folder = results.new_folder(config.out, "scaling")
    facts = results.facts(device) | {
        "config": config.model_dump(mode="json") | of_preset,
        "threads": threads,
        "is_oversubscribed": device.type == "cpu" and max(sizes) * (threads or 1) > cores(),
        "note": _note(device, sizes, threads),
        "flop_formula": FORMULA,
    }
    path = folder / results.FILE
    with PartsProgress(config.rounds * len(cells), "turns") as progress:
        for turn, cell in product(range(config.rounds), cells):
            if cell["error"]:
                progress.finish(f"round {turn + 1}/{config.rounds}: {name_of(cell)}: left out")
                continue
            try:
                found = _take_turn(Config.model_validate(cell["config"]), cell["world_size"], config)
                cell["runs"].append({"round": turn} | found)
                said = f"{_images_per_s(cell['runs'][-1:])['median']:,.0f} images/s"
            except ChildFailed as error:
                cell["error"] = str(error)
                said = f"failed: {error}"
            progress.finish(f"round {turn + 1}/{config.rounds}: {name_of(cell)}: {said}")
            _summarise(cells)
            results.write(path, "scaling", facts, cells)
    found_all = results.read(path, "scaling")
    print_tables(found_all)
    pictures = results.drawn(lambda: plot(found_all, folder / PLOT), folder / PLOT)
    print_line(f"results: {', '.join(map(str, [path, *pictures]))}")
    if failed := [cell["error"] for cell in cells if cell["error"]]:
        raise CommandFailed(f"{len(failed)} of {len(cells)} settings failed; the first: {failed[0]}")


def points(config: ScalingConfig, sizes: list[int], width: float) -> dict[Point, list[str]]:
    """Each setting to measure, once, and the axes that it is on. Raises UserError for a batch that is too small."""
    check_batch_size(config.batch_size, max(2, *sizes))
    found: dict[Point, list[str]] = {}

    def add(axis: str, *point: Any) -> None:
        axes = found.setdefault(Point(*point), [])
        if axis not in axes:
            axes.append(axis)

    for size in sizes:
        add(STRONG, size, config.batch_size, width)
        add(WEAK, size, size * config.per_rank_batch_size, width)
    for batch_size in sorted(set(config.batch_sizes)):
        add(BATCH_SIZE, 1, batch_size, width)
    for each in sorted(set(config.widths or [])):
        add(WIDTH, 1, config.batch_size, each)
    return found


def world_sizes(config: ScalingConfig, device: torch.device) -> list[int]:
    """The numbers of processes. Raises UserError for more than there are GPUs for, or memory."""
    here = count_gpus() if device.type == "cuda" else cores()
    if config.processes is None:
        return [2**exponent for exponent in range(here.bit_length())]
    sizes = sorted(set(config.processes))
    if device.type == "cuda" and sizes[-1] > here:
        raise UserError(
            f"--processes {sizes[-1]}: there are {here} GPUs here; allowed: at most {here}", code="unavailable"
        )
    env.check_memory(sizes[-1])
    return sizes


def _note(device: torch.device, sizes: list[int], threads: int | None) -> str:
    if device.type == "cuda":
        return f"a GPU for each process, of {count_gpus()} here"
    note = f"{threads} CPU thread{'s' * (threads != 1)} a process, on {cores()} cores, which share caches and memory"
    is_more = max(sizes) * (threads or 1) > cores()
    return note + ("; more threads than cores, so the ideal is out of reach" if is_more else "")


def _cell(training: Config, config: ScalingConfig, point: Point, axes: list[str], threads: int | None) -> Cell:
    """`training`: that of the preset, which is changed as `config` and the point say."""
    changes: dict[str, dict[str, Any]] = {
        "model": {"width": point.width} | ({"family": config.family} if config.family else {}),
        "data": {"name": config.data, "dir": config.data_dir, "batch_size": point.batch_size, "drop_last": True},
        "optim": {"order": config.order} if config.order else {},
        "run": {
            "engine": config.engine,
            "precision": config.precision,
            "device": config.device,
            "threads": threads,
            "seed": config.seed,
        },
        "processes": {"timeout": min(config.timeout, 120.0)},
    }
    whole = with_changes(training, changes, f"--preset {config.preset}")
    flops = flops_per_image(whole.model, whole.optim)
    return {
        **point._asdict(),
        "per_rank_batch_size": point.batch_size / point.world_size,
        "axes": axes,
        "flops_per_step": None if flops is None else flops * point.batch_size,
        "config": whole.model_dump(mode="json", exclude_unset=True),
        "error": None,
        "runs": [],
    }


def _take_turn(whole: Config, world_size: int, config: ScalingConfig) -> dict[str, Any]:
    """Fresh processes, which are gone when this returns. Raises ChildFailed."""
    with tempfile.TemporaryDirectory(prefix="distgan-scaling-") as place:
        spec, out = Path(place, "spec.json"), Path(place, "out.json")
        spec.write_text(
            json.dumps(
                {"config": whole.model_dump(mode="json", exclude_unset=True), "out": str(out)}
                | config.model_dump(include={"steps", "warmup", "repeats"})
            )
        )
        door = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world_size)]
        words = [*(door if world_size > 1 else []), "-m", "distgan.benchmark.scaling_worker", str(spec)]
        run_child([sys.executable, *words], timeout_s=config.timeout, env={"OMP_NUM_THREADS": "1"} | own_modules())
        if not out.is_file():
            raise ChildFailed("it has left no result")
        return json.loads(out.read_text())


def _summarise(cells: list[Cell]) -> None:
    for cell in cells:
        if cell["runs"]:
            cell["step_s"] = summary([each for run in cell["runs"] for each in run["step_s"]])
            cell["images_per_s"] = _images_per_s(cell["runs"])
    derive(cells)


def _images_per_s(runs: list[dict[str, Any]]) -> dict[str, float]:
    return summary([run["images_per_step"] / each for run in runs for each in run["step_s"]])
