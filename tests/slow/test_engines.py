"""The engines over more recipes, and by the real compiler."""

from pathlib import Path

import pytest
from helpers.engine_matrix import RECIPES, assert_compiled_takes_eager_steps, assert_graph_takes_eager_steps
from helpers.runs import Run, losses, quick


def test_a_compiled_run_is_the_eager_run(distgan: Run, tmp_path: Path) -> None:
    """By the real compiler; and what an eager run has begun continues compiled."""
    flags = ("--family", "report2023", "--dropout", 0.3, "--log-every", 1)
    distgan.ok("train", *quick("eager", *flags))
    distgan.ok("train", *quick("both", *flags), "--max-steps", 3)
    for name in ("compiled", "both"):
        result = distgan.ok("train", *quick(name, *flags, "--engine", "compile"), timeout=500)
        assert "engine compile: as requested" in result.stderr
        for ours, theirs in zip(losses(tmp_path / name), losses(tmp_path / "eager"), strict=True):
            assert ours == pytest.approx(theirs, abs=1e-3)


@pytest.mark.parametrize("recipe", [each for each in RECIPES if each not in ("vanilla", "cgan", "r1", "parts")])
def test_graphs_take_the_eager_steps(recipe: str) -> None:
    assert_graph_takes_eager_steps(recipe)


@pytest.mark.parametrize("recipe", ["vanilla", "bf16", "own"])
def test_compiled_networks_take_the_eager_steps(quick_compiler: None, recipe: str) -> None:
    assert_compiled_takes_eager_steps(recipe)
