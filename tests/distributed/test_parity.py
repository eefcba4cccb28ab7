"""W processes end where one does: both models, each order, in parts, with batches that no number of ranks divides."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import BIN, ON_CPU, ROOT, Run, checkpoint, quick
from parity_matrix import RECIPES, Recipe, train
from safetensors.torch import load_file

from distgan.distributed.runtime import Runtime

SCRIPT = ROOT / "tests" / "parity_matrix.py"

# The last bias of D moves both means of its logits alike, so that its gradient in the Wasserstein loss is 0, and in the
# relativistic one: rounding alone, of which Adam makes whole steps.
UNDETERMINED = {
    name: {"discriminator.read_out.bias"} for name, recipe in RECIPES.items() if recipe.loss in ("wgan-gp", "r3gan")
}


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    subprocess.run([sys.executable, SCRIPT, folder, "1", "none", ",".join(RECIPES)], check=True, timeout=240)
    return folder


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], but: set[str]) -> float:
    """Of all weights together, relative to their norm."""
    assert one.keys() == other.keys()
    keys = [key for key in one if key.startswith(("generator", "discriminator")) and key not in but]
    assert keys
    squared = sum(float((one[key].double() - other[key].double()).square().sum()) for key in keys)
    return (squared / sum(float(one[key].double().square().sum()) for key in keys)) ** 0.5


def limit(name: str) -> float:
    if name.startswith("bf16"):
        return 3e-3
    return 1e-12 if RECIPES[name].dtype == torch.float64 else 1e-5


DOORS = {
    2: (BIN / "accelerate", "launch", "--multi_gpu", "--num_processes", 2, "--main_process_port", 0),
    3: (BIN / "torchrun", "--standalone", "--nproc-per-node", 3),
    4: (BIN / "torchrun", "--standalone", "--nproc-per-node", 4),
}


@pytest.mark.parametrize("world_size", [2, 3, pytest.param(4, marks=pytest.mark.slow)])
def test_many_processes_end_where_one_does(run: Run, one_process: Path, tmp_path: Path, world_size: int) -> None:
    """All recipes with two; with three every third one, with four every second."""
    names = list(RECIPES)[:: {2: 1, 3: 3, 4: 2}[world_size]]
    result = run(*DOORS[world_size], SCRIPT, tmp_path, world_size, "none", ",".join(names))
    assert result.returncode == 0, result.stderr
    for name in names:
        ours, theirs = (load_file(folder / f"{name}.safetensors") for folder in (one_process, tmp_path))
        found = difference(ours, theirs, UNDETERMINED.get(name, set()))
        assert found < limit(name), f"{name} with {world_size} processes differs by {found:.1e}"


def test_parts_give_the_update_of_the_whole_batch(one_process: Path) -> None:
    """`cgan-reuse-3` differs from this in nothing but that it takes its batches in three parts."""
    torch.set_num_threads(1)
    runtime = Runtime(ON_CPU)
    for model in ("vanilla", "cgan"):
        for order in ("simultaneous", "reuse", "fresh"):
            whole = train(Recipe(model=model, order=order, dropout=0.0, steps=10), runtime)
            parts = load_file(one_process / f"{model}-{order}-3.safetensors")
            assert difference(whole, parts, set()) < 1e-5, (model, order)
            assert torch.allclose(whole["stats"], parts["stats"], rtol=1e-5, atol=1e-6)


TAPED = ["cgan-fresh-1", "cgan-reuse-3", "float64-vanilla"]


def test_graphs_on_two_processes_end_where_one_eager_does(
    run: Run, one_process: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By tapes that have an all-reduce of all gradients in them, where the eager engine has DDP; short batches too."""
    monkeypatch.setenv("PARITY_ENGINE", "tape")
    door = (BIN / "torchrun", "--standalone", "--nproc-per-node", 2)
    result = run(*door, SCRIPT, tmp_path, 2, "none", ",".join(TAPED))
    assert result.returncode == 0, result.stderr
    for name in TAPED:
        ours, theirs = (load_file(folder / f"{name}.safetensors") for folder in (one_process, tmp_path))
        found = difference(ours, theirs, UNDETERMINED.get(name, set()))
        assert found < limit(name), f"{name} differs by {found:.1e}"


def test_batch_norm_of_its_own_share_is_another_training(run: Run, distgan: Run, tmp_path: Path) -> None:
    """And no divergence of the ranks, whose running statistics are meant to differ then."""
    flags = ("--no-sync-batch-norm", "--check-ranks-every", 1, "--processes", 2)
    result = run(BIN / "distgan", "train", *quick("own", *flags))
    assert result.returncode == 0, result.stderr
    assert distgan("train", *quick("one")).returncode == 0
    (ours, _), (theirs, _) = checkpoint(tmp_path / "own"), checkpoint(tmp_path / "one")
    theirs = {key: theirs[key] for key in theirs if key in ours}
    assert difference(theirs, {key: ours[key] for key in theirs}, set()) > 1e-2
