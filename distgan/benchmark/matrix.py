"""What `distgan bench throughput` measures: the cells of its matrix, the plain loops, and the command of each."""

import sys
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import distgan
from distgan.benchmark.options import ThroughputConfig
from distgan.config.fields import Section
from distgan.config.flags import read_file
from distgan.config.presets import preset_path
from distgan.config.schema import Config
from distgan.data.base import data_folder
from distgan.errors import UserError

PEERS = ("pytorch", "accelerate")
PEERS_FOLDER = Path(distgan.__file__).resolve().parents[1] / "benchmarks" / "peers"

# What the plain loops have in its place: they leave TF32 as torch has it, on in convolutions and off in matmuls.
_PEER_PRECISION = {"no": "no", "tf32": "no", "bf16": "bf16"}

Cell = dict[str, Any]


class Pace(NamedTuple):
    """Steps of a turn: `warmup`, and then `repeats` times `steps` that are timed."""

    warmup: int
    steps: int
    repeats: int


class CellSpec(Section):
    """What a process of throughput_worker.py does: a training, its gate, its pace, and where it is to leave a trace."""

    config: Config
    gate_steps: int
    warmup: int
    steps: int
    repeats: int
    trace: str | None = None


def plan(config: ThroughputConfig) -> list[Cell]:
    """The cells, a model's and batch's after one another, its plain loops last. Raises UserError."""
    axes = (config.models, config.batch_sizes, config.engines, config.precisions, config.orders)
    models, sizes, engines, precisions, orders = (list(dict.fromkeys(axis)) for axis in axes)
    if config.peers:
        _refuse_peers(config)
    cells: list[Cell] = []
    for model, size in product(models, sizes):
        who: list[tuple[Any, ...]] = [("distgan", *each) for each in product(engines, precisions, orders)]
        if config.peers:
            known = dict.fromkeys(_PEER_PRECISION[each] for each in precisions if each in _PEER_PRECISION)
            who += [(peer, None, precision, "reuse") for precision, peer in product(known, PEERS)]
        for contender, engine, precision, order in who:
            cell = {
                "contender": contender,
                "model": model,
                "engine": engine,
                "precision": precision,
                "batch_size": size,
                "order": order,
                "family": config.family,
                "width": config.width,
                "data": config.data,
            }
            cells.append({"id": _id(cell)} | cell | {"status": "waits", "why": None, "runs": []})
    return cells


def _id(cell: Cell) -> str:
    """By which results are compared: what was asked for, not what ran."""
    who = cell["engine"] or f"plain {cell['contender']}"
    words = [cell["model"], who, cell["precision"], str(cell["batch_size"]), cell["order"]]
    words += [cell["family"]] if cell["family"] != "seed" else []
    words += [f"width {cell['width']:g}"] if cell["width"] != 1 else []
    words += [cell["data"]] if cell["data"] != "mnist" else []
    return "/".join(words)


def _refuse_peers(config: ThroughputConfig) -> None:
    """Raises UserError where the plain loops would train something else, or are not there."""
    if not PEERS_FOLDER.is_dir():
        raise UserError(
            "--peers: the plain loops are not installed; allowed: in a checkout, from its root", code="unavailable"
        )
    same = {"family": "seed", "width": 1.0, "data": "mnist"}
    for name, value in same.items():
        if (found := getattr(config, name)) != value:
            raise UserError(f"--{name} {found}: with --peers, whose loops know no other; allowed: {value}")
    if "reuse" not in config.orders:
        raise UserError(f"--order {','.join(config.orders)}: the loops of --peers take reuse; allowed: with reuse")
    folder = _data_folder(config)
    if not (folder / "MNIST" / "raw").is_dir():
        raise UserError(f"--peers: its loops need MNIST in {folder}/MNIST/raw; allowed: --data-dir DIR that has it")


def _data_folder(config: ThroughputConfig) -> Path:
    return data_folder(Config().data.model_copy(update={"dir": config.data_dir}))[0]


def command(cell: Cell, config: ThroughputConfig, device_type: str, pace: Pace, trace: Path | None) -> list[str]:
    """Of the process that takes a turn of a cell, and prints what it found as a last line of JSON."""
    if cell["contender"] == "distgan":
        sections = _training(cell, config, device_type)
        spec = CellSpec(
            config=sections, gate_steps=config.gate_steps, trace=str(trace) if trace else None, **pace._asdict()
        )
        return [sys.executable, "-m", "distgan.benchmark.throughput_worker", spec.model_dump_json(exclude_unset=True)]
    words = f"--model {cell['model']} --precision {cell['precision']} --batch-size {cell['batch_size']} "
    words += f"--warmup {pace.warmup} --steps {pace.steps} --repeats {pace.repeats}"
    script = PEERS_FOLDER / f"{cell['contender']}_loop.py"
    return [sys.executable, str(script), *words.split(), "--data-dir", str(_data_folder(config))]


def _training(cell: Cell, config: ThroughputConfig, device_type: str) -> Config:
    """The preset of the cell's model, changed where the cell says so."""
    path = preset_path(cell["model"], "--model")
    sections = read_file(path, str(path))
    changes: dict[str, dict[str, Any]] = {
        "model": {"family": config.family, "width": config.width},
        "data": {"name": config.data, "dir": config.data_dir, "batch_size": cell["batch_size"]},
        "optim": {"order": cell["order"]},
        "run": {
            "device": device_type,
            "precision": cell["precision"],
            "engine": cell["engine"],
            "threads": config.threads,
            "seed": config.seed,
        },
    }
    return Config.model_validate({name: sections.get(name, {}) | changes[name] for name in changes})
