"""W processes end where one does: both models, each order, in parts, with batches not divisible by W."""

from pathlib import Path

import pytest
import torch
from helpers.forkserver import Ranks
from helpers.parity import assert_ends_alike, train_matrix, weights_difference
from helpers.parity_matrix import RECIPES, Recipe, train
from helpers.runs import ON_CPU, MonkeyPatch, checkpoint, quick
from safetensors.torch import load_file

from distgan.distributed.runtime import Runtime


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    train_matrix(folder, 1, list(RECIPES))
    return folder


def test_two_processes_end_where_one_does(one_process: Path, tmp_path: Path) -> None:
    train_matrix(tmp_path, 2, list(RECIPES))
    assert_ends_alike(one_process, tmp_path, list(RECIPES))


def test_three_processes_end_where_one_does(one_process: Path, tmp_path: Path) -> None:
    names = list(RECIPES)[::3]
    train_matrix(tmp_path, 3, names)
    assert_ends_alike(one_process, tmp_path, names)


def test_parts_give_the_update_of_the_full_batch(one_process: Path) -> None:
    """`cgan-alternating-3` differs from this in nothing but that it takes its batches in three parts."""
    torch.set_num_threads(1)
    runtime = Runtime(ON_CPU)
    for model in ("vanilla", "cgan"):
        for order in ("simultaneous", "alternating", "alternating-fresh"):
            full = train(Recipe(model=model, order=order, dropout=0.0, steps=10), runtime)
            parts = load_file(one_process / f"{model}-{order}-3.safetensors")
            assert weights_difference(full, parts, set()) < 1e-5, (model, order)
            assert torch.allclose(full["stats"], parts["stats"], rtol=1e-5, atol=1e-6)


GRAPHED = ["cgan-alternating-fresh-1", "cgan-alternating-3", "float64-vanilla"]


def test_two_processes_of_graphs_end_there_too(one_process: Path, tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """By graphs that have an all-reduce of all gradients in them, where the eager engine has DDP; short batches too."""
    monkeypatch.setenv("PARITY_ENGINE", "fake-graph")
    train_matrix(tmp_path, 2, GRAPHED)
    assert_ends_alike(one_process, tmp_path, GRAPHED)


def test_batch_norm_of_its_own_share_is_another_training(ranks: Ranks, trained: Path, tmp_path: Path) -> None:
    """And no divergence of the ranks, whose running statistics are meant to differ then."""
    ranks.ok(2, "train", *quick("own", "--no-sync-batch-norm", "--check-ranks-every", 1))
    (ours, _), (theirs, _) = checkpoint(tmp_path / "own"), checkpoint(trained)
    theirs = {key: theirs[key] for key in theirs if key in ours}
    assert weights_difference(theirs, {key: ours[key] for key in theirs}, set()) > 1e-2
