"""The configurations that `bench throughput` and `bench scaling` compare, and the command that measures each."""

import sys
from collections.abc import Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch

from distgan.benchmark.flops import flops_per_image
from distgan.benchmark.measurement import Measurement, RunSpec, TimingSettings
from distgan.benchmark.options import ScalingConfig, SpeedConfig, ThroughputConfig
from distgan.benchmark.ratios import BATCH_SIZE, STRONG, WEAK, WIDTH
from distgan.config.image_spec import ImageSpec
from distgan.config.presets import parse_training, preset_words, with_changes
from distgan.config.registry import PLAIN_LOOP_ORDER
from distgan.config.schema import Config, DataConfig, ModelConfig, OptimConfig
from distgan.data.base import data_folder, load_dataset
from distgan.data.loader import check_batch_size, global_batch_size
from distgan.distributed import env
from distgan.errors import UserError
from distgan.models.base import check_fit
from distgan.models.user_networks import load_networks, with_own_loss
from distgan.utils.hardware import count_gpus, emulates_bf16, has_native_bf16
from distgan.utils.operating_system import count_cores

PEERS = ("pytorch", "accelerate")

# The plain loops' precision for each of ours. They keep torch's TF32 defaults: on in convolutions, off in matmuls.
_PEER_PRECISION = {"fp32": "fp32", "tf32": "fp32", "bf16": "bf16"}


class _Preset:
    """A preset to measure, with the settings that the benchmark overrides."""

    def __init__(self, preset: str, config: SpeedConfig, device_type: str):
        self.preset, self.config, self.device_type = preset, config, device_type
        self.own, self.name = parse_training(preset_words("--preset", preset))
        self.width = config.width or self.own.model.width

    def cell(
        self, contender: str, engine: str | None, precision: str, size: int, order: str, num: int = 1, *,
        width: float | None = None, threads: int | None = None, drop_last: bool | None = None,
    ) -> Measurement:  # fmt: skip
        """Return a cell; `size`: images per step over `num` processes. Raises UserError for conflicting settings."""
        preset_config, config = self.own, self.config
        model: dict[str, Any] = {"width": width or self.width}
        if config.family:
            model |= {"family": config.family, "networks": None, "args": {}}
        changes: dict[str, dict[str, Any]] = {
            "model": model,
            "data": {"name": config.data, "dir": config.data_dir, "batch_size": size}
            | ({} if drop_last is None else {"drop_last": drop_last})
            | ({} if config.image_size is None else {"image_size": config.image_size}),
            "optim": {"order": order},
            "run": {
                "device": self.device_type,
                "precision": precision,
                "engine": engine or "eager",
                "threads": threads,
                "seed": config.seed,
            },
            "processes": {"timeout": min(config.timeout, 120.0)} if num > 1 else {},
        }
        training = with_own_loss(load_networks(with_changes(preset_config, changes, f"--preset {self.preset}")))
        family, width = training.model.networks_name, training.model.width
        # What was requested, not what ran; and the settings that override the preset's.
        parts = [self.name, engine or f"plain {contender}", precision, str(size), order]
        parts += [family] if family != preset_config.model.networks_name else []
        parts += [f"width {width:g}"] if width != preset_config.model.width else []
        parts += [Path(config.data).name] if config.data != "mnist" else []
        parts += [f"{training.data.image_size} px"] if training.data.image_size != preset_config.data.image_size else []
        parts += [f"{num} processes"] if num > 1 else []
        return Measurement.model_validate({
            "id": "/".join(parts), "contender": contender, "preset": self.preset, "model": self.name, "engine": engine,
            "precision": precision, "batch_size": size, "order": order, "family": family, "width": width,
            "data": config.data, "world_size": num, "training": training.model_dump(mode="json", exclude_unset=True),
        })  # fmt: skip


def throughput_cells(config: ThroughputConfig, device: torch.device) -> list[Measurement]:
    """Return the cells by preset and batch size, the plain loops of each last. Raises UserError."""
    is_cuda = device.type == "cuda"
    has_bf16 = has_native_bf16(is_cpu=False) if is_cuda else not emulates_bf16()
    precisions = _unique(config.precisions or ["fp32", *(["bf16"] if has_bf16 else [])])
    sizes = world_sizes(config.processes, device)
    cells: list[Measurement] = []
    for preset in _unique(config.presets):
        of = _Preset(preset, config, device.type)
        if any(cell.model == of.name for cell in cells):
            raise UserError(
                f"--preset: two presets have the same name ({of.name}, {preset}). Expected: different names",
                code="conflicting-settings",
            )
        orders = _unique(config.orders or [of.own.optim.order])
        if config.peers:
            _check_peers(config, orders)
        for size in _unique(config.batch_sizes or [global_batch_size(of.own.data, 1)]):
            check_batch_size(size, max(sizes))
            cells += [
                of.cell("distgan", engine, precision, size, order, num, threads=config.threads)
                for num, engine, precision, order in product(sizes, _unique(config.engines), precisions, orders)
            ]
            known = _unique([_PEER_PRECISION[precision] for precision in precisions if precision in _PEER_PRECISION])
            cells += [
                of.cell(peer, None, precision, size, PLAIN_LOOP_ORDER, threads=config.threads)
                for precision, peer in product(known, PEERS if config.peers else ())
            ]
    return cells


def _unique(values: Sequence[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _check_peers(config: ThroughputConfig, orders: list[str]) -> None:
    """Raise UserError if the plain loops would train something else, or their data is missing."""
    if config.data != "mnist":
        raise UserError(
            f"--data: not supported with --peers ({config.data}). Expected: mnist", code="conflicting-settings"
        )
    if PLAIN_LOOP_ORDER not in orders:
        raise UserError(
            f"--order: lacks the order of the --peers loops ({','.join(orders)}). Expected: also {PLAIN_LOOP_ORDER}",
            code="conflicting-settings",
        )
    folder = data_folder(Config().data.model_copy(update={"dir": config.data_dir}))[0]
    if not (folder / "MNIST" / "raw").is_dir():
        raise UserError(
            f"--peers: MNIST not found ({folder}/MNIST/raw). Expected: --data-dir DIR that contains MNIST/raw",
            code="no-data",
        )


class Point(NamedTuple):
    """A point of bench scaling; `batch_size` is over all processes."""

    world_size: int
    batch_size: int
    width: float


def scaling_cells(config: ScalingConfig, device: torch.device) -> list[Measurement]:
    """Return the cells of bench scaling. Raises UserError."""
    sizes = world_sizes(config.processes, device)
    threads = config.threads or (max(1, count_cores() // max(sizes)) if device.type == "cpu" else None)
    of = _Preset(config.preset, config, device.type)
    order, cells = config.order or of.own.optim.order, []
    for (num, size, width), axes in list_points(config, sizes, of.width).items():
        # So that all steps are of the same size.
        more: dict[str, Any] = {"width": width, "threads": threads, "drop_last": True}
        cell = of.cell("distgan", config.engine, config.precision, size, order, num, **more)
        cells.append(cell.model_copy(update={"axes": axes}))
    return cells


def list_points(config: ScalingConfig, sizes: list[int], width: float) -> dict[Point, list[str]]:
    """Return each point to measure with the axes that it is on. Raises UserError for a batch that is too small."""
    check_batch_size(config.batch_size, max(2, *sizes))
    axes_by_point: dict[Point, list[str]] = {}

    def add(axis: str, *point: Any) -> None:
        axes = axes_by_point.setdefault(Point(*point), [])
        if axis not in axes:
            axes.append(axis)

    for size in sizes:
        add(STRONG, size, config.batch_size, width)
        add(WEAK, size, size * config.per_rank_batch_size, width)
    for batch_size in sorted(set(config.batch_sizes)):
        add(BATCH_SIZE, 1, batch_size, width)
    for per_rank_width in sorted(set(config.widths or [])):
        add(WIDTH, 1, config.batch_size, per_rank_width)
    return axes_by_point


def world_sizes(processes: list[int] | None, device: torch.device) -> list[int]:
    """Return the numbers of processes. Raises UserError for more than there are GPUs, or than fit into memory."""
    here = count_gpus() if device.type == "cuda" else count_cores()
    if processes is None:
        return [2**exponent for exponent in range(here.bit_length())]
    sizes = sorted(set(processes))
    if device.type == "cuda" and sizes[-1] > here:
        raise UserError(
            f"--processes: more than the GPUs of this machine ({sizes[-1]}). Expected: at most {here}",
            code="unavailable",
        )
    env.check_memory(sizes[-1])
    return sizes


def count_images(cells: list[Measurement]) -> None:
    """Load the data before the first cell, and set `epoch_images` and `flops_per_image`.

    Raises UserError for missing data, and for images that the networks can't be built for.
    """

    @cache
    def measure(data: str) -> tuple[int, ImageSpec]:
        dataset = load_dataset(DataConfig.model_validate_json(data))
        return len(dataset.images), dataset.spec

    @cache
    def count(model: str, optim: str) -> int | None:
        return flops_per_image(ModelConfig.model_validate_json(model), OptimConfig.model_validate_json(optim))

    for cell in cells:
        training = Config.model_validate(cell.training)
        data = training.data
        num, images = measure(data.model_copy(update={"batch_size": 2, "drop_last": False}).model_dump_json())
        model = training.with_images(images).model
        check_fit(model)
        cell.flops_per_image = count(model.model_dump_json(), training.optim.model_dump_json())
        # bench scaling drops the last batch only for steps of one size.
        cell.epoch_images = num - num % cell.batch_size if data.drop_last and not cell.axes else num


def command(cell: Measurement, timing: TimingSettings, trace: Path | None) -> list[str]:
    """Return the command that runs a cell once, and prints the result as a last line of JSON."""
    training = Config.model_validate(cell.training)
    spec = RunSpec(config=training, trace=str(trace) if trace else None, **timing.model_dump())
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(cell.world_size)]
    module = f"distgan.benchmark.{'worker' if cell.is_ours else f'peers.{cell.contender}_loop'}"
    arguments = [*(torchrun if cell.world_size > 1 else []), "-m", module]
    return [sys.executable, *arguments, spec.model_dump_json(exclude_unset=True)]
