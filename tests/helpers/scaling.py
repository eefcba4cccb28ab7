"""Settings and results of bench scaling."""

from typing import Any

from distgan.benchmark import results
from distgan.benchmark.options import ScalingConfig


def tiny(out: object = None, **more: Any) -> ScalingConfig:
    """Networks of milliseconds per step on the embedded digits."""
    settings: dict[str, Any] = {
        "family": "dcgan", "width": 0.1, "data": "digits", "device": "cpu", "batch_size": 32,
        "per_rank_batch_size": 16, "batch_sizes": [16, 32, 64], "processes": [1, 2], "steps": 2, "warmup": 1,
        "repeats": 2, "rounds": 1, "threads": 1, "out": None if out is None else str(out),
    }  # fmt: skip
    return ScalingConfig.model_validate(settings | more)


def cell_of(found: results.Results, world_size: int, batch_size: int) -> dict[str, Any]:
    (cell,) = [cell for cell in found.cells if (cell["world_size"], cell["batch_size"]) == (world_size, batch_size)]
    return cell
