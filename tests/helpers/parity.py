"""Start parity_matrix.py in one or several processes, and compare the final states."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from helpers import forkserver
from helpers.forkserver import Ranks
from helpers.parity_matrix import RECIPES

ZERO_NAMES = [
    "vanilla-simultaneous-1",
    "cgan-alternating-3",
    "cgan-alternating-fresh-3",
    "odd-batch",
    "odd-batch-accumulate",
]
ZERO_WITHOUT_PENALTY = [name for name in ZERO_NAMES if RECIPES[name].loss == "bce"]

# The last bias of D shifts all logits, so that its gradient is 0 in the Wasserstein and the relativistic loss: only
# rounding, which Adam scales up to full steps.
UNDETERMINED = {
    name: {"discriminator.read_out.bias"} for name, recipe in RECIPES.items() if recipe.loss in ("wgan-gp", "r3gan")
}


def weights_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], excluded: set[str]) -> float:
    """Return the difference of all weights together, relative to their norm."""
    assert one.keys() == other.keys()
    keys = [key for key in one if key.startswith(("generator", "discriminator")) and key not in excluded]
    assert keys
    squared = sum(float((one[key].double() - other[key].double()).square().sum()) for key in keys)
    return (squared / sum(float(one[key].double().square().sum()) for key in keys)) ** 0.5


def limit(name: str) -> float:
    if name.startswith("bf16"):
        return 3e-3
    return 1e-12 if RECIPES[name].dtype == torch.float64 else 1e-5


def train_matrix(folder: Path, num: int, names: list[str], stages: str = "none") -> None:
    """Train the recipes by `num` processes, and save their states in `folder`."""
    folder.mkdir(exist_ok=True)
    words = (folder, num, stages, ",".join(names))
    if num > 1:
        Ranks(folder).ok(num, *words, program="helpers.parity_matrix")
    else:
        result = forkserver.call([str(word) for word in words], folder, 240, "helpers.parity_matrix")
        assert result.returncode == 0, result.stderr


def assert_ends_alike(one: Path, other: Path, names: list[str], factor: float = 1) -> None:
    """Assert that states differ by at most `factor` times the recipe's limit."""
    for name in names:
        ours, theirs = (load_file(folder / f"{name}.safetensors") for folder in (one, other))
        difference = weights_difference(ours, theirs, UNDETERMINED.get(name, set()))
        assert difference < factor * limit(name), f"{name} differs by {difference:.1e}"
