"""What goes into a run's networks and how large they are, as its weights on the disk have it."""

import math
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from distgan.checkpoint.resume import checkpoints_in
from distgan.errors import UserError
from distgan.reports.run_data import Run

_PIXELS, _CLASSES = 28 * 28, 10
# What a network counts and averages, and does not learn.
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


class Size(NamedTuple):
    """`z` and `condition` are the numbers that G takes for an image; `d_condition` those that D takes of a label."""

    z: int
    condition: int
    d_condition: int
    g_parameters: int
    d_parameters: int
    path: Path

    @property
    def takes_labels(self) -> bool:
        return self.condition > 0 or self.d_condition > 0


def size_of(run: Run) -> Size | None:
    """None before the first weights. Raises UserError for files that are damaged."""
    for folder in (run.folder / "weights", *checkpoints_in(run.folder / "checkpoints")):
        files = [folder / f"{name}.safetensors" for name in ("generator", "discriminator")]
        if all(path.is_file() for path in files):
            g, d = (_shapes(path) for path in files)
            z, condition = _inputs(run, g)
            return Size(z, condition, _condition_of_d(d), _learnt(g), _learnt(d), folder)
    return None


def _learnt(shapes: dict[str, list[int]]) -> int:
    return sum(math.prod(shape) for name, shape in shapes.items() if not name.endswith(_BUFFERS))


def _inputs(run: Run, shapes: dict[str, list[int]]) -> tuple[int, int]:
    """z and the condition: what the first layer takes beyond the z of the settings is the condition."""
    stem = shapes.get("stem.0.weight")
    if stem is None:  # z is the map that the first convolution takes
        return shapes.get("main.0.weight", [0])[0] * 7 * 7, 0
    return run.config.model.latent_dim, stem[-1] - run.config.model.latent_dim


def _condition_of_d(shapes: dict[str, list[int]]) -> int:
    """A label joined to the flat image, or one with a layer of its own."""
    if "projection.weight" in shapes:
        return _CLASSES
    first = shapes.get("main.0.weight", [])
    return first[1] - _PIXELS if len(first) == 2 else 0


def _shapes(path: Path) -> dict[str, list[int]]:
    try:
        with safe_open(path, framework="np") as file:
            return {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror or error})") from error
    except SafetensorError as error:
        raise UserError(f"{path}: is no whole safetensors file ({error})") from error
