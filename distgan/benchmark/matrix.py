"""What `distgan bench throughput` measures: the cells of its matrix, the plain loops, and the command of each."""

import sys
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from distgan.benchmark.options import ThroughputConfig
from distgan.config.fields import Section
from distgan.config.presets import preset_words, training_of, with_changes
from distgan.config.registry import PLAIN_LOOP_ORDER
from distgan.config.schema import Config
from distgan.data.base import data_folder
from distgan.data.loader import global_batch_size
from distgan.errors import UserError
from distgan.utils.hardware import has_native_bf16, imitates_bf16

PEERS = ("pytorch", "accelerate")

# What the plain loops have in its place: they leave TF32 as torch has it, on in convolutions and off in matmuls.
_PEER_PRECISION = {"fp32": "fp32", "tf32": "fp32", "bf16": "bf16"}

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
    whole_run: bool = True
    trace: str | None = None


def plan(config: ThroughputConfig, *, is_cuda: bool) -> list[Cell]:
    """Return the cells, a preset's and batch's after one another, its plain loops last. Raises UserError."""
    has_bf16 = has_native_bf16(is_cpu=False) if is_cuda else not imitates_bf16()
    precisions = list(dict.fromkeys(config.precisions or ["fp32", *(["bf16"] if has_bf16 else [])]))
    cells: list[Cell] = []
    for preset in dict.fromkeys(config.presets):
        own, name = training_of(preset_words("--preset", preset))
        orders = list(dict.fromkeys(config.orders or [own.optim.order]))
        family, width = config.family or own.model.family, config.width or own.model.width
        if any(cell["model"] == name for cell in cells):
            raise UserError(f"--preset {preset}: has the name of another preset, {name}; allowed: another name")
        more = [family] if family != own.model.family else []
        more += [f"width {width:g}"] if width != own.model.width else []
        more += [config.data] if config.data != "mnist" else []
        if config.peers:
            _check_peers(config, orders)
        for size in dict.fromkeys(config.batch_sizes or [global_batch_size(own.data, 1)]):
            who: list[tuple[Any, ...]] = [
                ("distgan", *each) for each in product(dict.fromkeys(config.engines), precisions, orders)
            ]
            if config.peers:
                known = dict.fromkeys(_PEER_PRECISION[each] for each in precisions if each in _PEER_PRECISION)
                who += [(peer, None, precision, PLAIN_LOOP_ORDER) for precision, peer in product(known, PEERS)]
            for contender, engine, precision, order in who:
                cell = {
                    "contender": contender,
                    "preset": preset,
                    "model": name,
                    "engine": engine,
                    "precision": precision,
                    "batch_size": size,
                    "order": order,
                    "family": family,
                    "width": width,
                    "data": config.data,
                }
                # By which results are compared: what was asked for, not what ran.
                words = [name, engine or f"plain {contender}", precision, str(size), order, *more]
                cells.append({"id": "/".join(words)} | cell | {"status": "waits", "why": None, "runs": []})
    for cell in cells:
        _training(cell, config, "cuda" if is_cuda else "cpu")  # raises for settings that do not fit together
    return cells


def _check_peers(config: ThroughputConfig, orders: list[str]) -> None:
    """Raise UserError where the plain loops would train something else, or lack their data."""
    if config.data != "mnist":
        raise UserError(f"--data {config.data}: with --peers, whose loops know no other; allowed: mnist")
    if PLAIN_LOOP_ORDER not in orders:
        order = PLAIN_LOOP_ORDER
        raise UserError(f"--order {','.join(orders)}: the loops of --peers take {order}; allowed: with {order}")
    folder = data_folder(Config().data.model_copy(update={"dir": config.data_dir}))[0]
    if not (folder / "MNIST" / "raw").is_dir():
        raise UserError(f"--peers: its loops need MNIST in {folder}/MNIST/raw; allowed: --data-dir DIR that has it")


def command(cell: Cell, config: ThroughputConfig, device_type: str, pace: Pace, trace: Path | None) -> list[str]:
    """Return that of the process that takes a turn of a cell, and prints what it found as a last line of JSON."""
    training = _training(cell, config, device_type)
    if cell["contender"] == "distgan":
        spec = CellSpec(
            config=training,
            gate_steps=config.gate_steps,
            whole_run=config.whole_run,
            trace=str(trace) if trace else None,
            **pace._asdict(),
        )
        return [sys.executable, "-m", "distgan.benchmark.throughput_worker", spec.model_dump_json(exclude_unset=True)]
    words = f"--warmup {pace.warmup} --steps {pace.steps} --repeats {pace.repeats}"
    module = f"distgan.benchmark.peers.{cell['contender']}_loop"
    return [sys.executable, "-m", module, training.model_dump_json(exclude_unset=True), *words.split()]


def _training(cell: Cell, config: ThroughputConfig, device_type: str) -> Config:
    """Return the config of the cell's preset, changed where the cell says so."""
    training, _ = training_of(preset_words("--preset", cell["preset"]))
    changes: dict[str, dict[str, Any]] = {
        "model": {"family": cell["family"], "width": cell["width"]},
        "data": {"name": config.data, "dir": config.data_dir, "batch_size": cell["batch_size"]},
        "optim": {"order": cell["order"]},
        "run": {
            "device": device_type,
            "precision": cell["precision"],
            "engine": cell["engine"] or "eager",
            "threads": config.threads,
            "seed": config.seed,
        },
    }
    return with_changes(training, changes, f"--preset {cell['preset']}")
