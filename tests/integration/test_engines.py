"""Messages and records of a run about its engine."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.engine_matrix import Training, assert_compiled_takes_eager_steps, assert_graph_takes_eager_steps
from helpers.fake_cuda_graph import capture
from helpers.launchers import needs_deepspeed
from helpers.runs import MonkeyPatch, Run, fits, newest, quick
from torch._dynamo.utils import counters

from distgan.training.engines import engine as engines
from distgan.training.engines.compiling import blocks_of, compile_blocks, num_leaf_modules, uncompiled


def test_a_run_says_which_engine_it_has_and_why(distgan: Run, tmp_path: Path) -> None:
    assert fits("engine eager: ... CPU", distgan("train", *quick("run")).stderr)
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["engine"]["asked"] == "auto"
    assert environment["engine"]["name"] == "eager"
    assert newest(tmp_path / "run" / "checkpoints")[1].state.engine == "eager"


@needs_deepspeed
def test_a_run_says_what_took_the_place_of_its_engine(distgan: Run, tmp_path: Path) -> None:
    result = distgan.ok("train", *quick("run", "--engine", "compile", "--zero-stage", 0))
    assert fits("engine eager: compile ... ZeRO 0", result.stderr)
    engine = json.loads((tmp_path / "run" / "environment.json").read_text())["engine"]
    assert (engine["asked"], engine["name"]) == ("compile", "eager")


@pytest.mark.parametrize(("times", "name"), [((2e-3, 1e-3), "graph-compiled"), ((2e-3, 3e-3), "graph")])
def test_graph_compiled_inside(
    quick_compiler: None, monkeypatch: MonkeyPatch, times: tuple[float, float], name: str
) -> None:
    """In a run that is long enough; by a race, whose times are made up here."""
    measured = dict(zip(("graph", "graph-compiled"), times, strict=True))
    monkeypatch.setattr(engines.EngineBuilder, "time_steps", lambda self, name, advance: measured[name])
    # A fake graph holds no compiled code: what is captured here is done again from Python.
    eager, graph = (
        Training("cgan"),
        Training("cgan", "graph", capture=lambda work, before: (before(), work())[1] or work),
    )
    graph.total_steps = eager.total_steps = 1_000_000
    assert torch.allclose(eager.to(20), graph.to(20), atol=1e-4)
    choice = graph.build().selection
    assert choice.name == name
    assert "2,000 microseconds per step" in choice.why
    assert f"{times[1] * 1e6:,.0f} microseconds" in choice.why
    assert set(choice.start_s) == {"capture", "compile", "check"}
    assert (graph.gan.discriminator.main._compiled_call_impl is None) == (name == "graph")


def test_compiled_networks_take_the_eager_steps(quick_compiler: None) -> None:
    assert_compiled_takes_eager_steps("cgan")


@pytest.mark.parametrize("recipe", ["vanilla", "cgan"])
def test_each_block_is_compiled_as_one(monkeypatch: MonkeyPatch, recipe: str) -> None:
    """As one graph from its first layer to its last: torch 2.11 took apart what it was given as a module."""
    graphs = []

    def backend(module: torch.fx.GraphModule, inputs: object) -> Callable[..., Any]:
        graphs.append(sum(node.op.startswith("call") for node in module.graph.nodes))
        return module.forward

    torch_compile = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, **kwargs: torch_compile(function, **kwargs | {"backend": backend})
    )
    run = Training(recipe)
    compile_blocks(blocks_of(run.gan))
    torch._dynamo.reset()
    counters.clear()
    run.to(1)
    # D's blocks once for its own step and once frozen, with half the rows, for G's.
    num = len(list(run.gan.generator.children())) + 2 * len(list(run.gan.discriminator.children()))
    assert len(graphs) == counters["stats"]["unique_graphs"] == num == 4
    assert not counters["graph_break"]
    smallest = min(num_leaf_modules(block) for block in blocks_of(run.gan))
    assert min(graphs) >= smallest >= 3, graphs


def test_a_second_derivative_is_left_to_the_eager_engine(quick_compiler: None) -> None:
    """torch.compile has none."""
    eager, compiled = Training("r1"), Training("r1", "compile")
    assert torch.equal(eager.to(10), compiled.to(10))
    assert compiled.build().selection.why.startswith("compile was not taken: RuntimeError")


def test_a_second_derivative_is_left_to_graphs(quick_compiler: None) -> None:
    """A failure of the compiler is no reason to do without graphs, several times faster than the eager engine."""
    eager, compiled = Training("r1"), Training("r1", "graph-compiled", capture=capture)
    assert torch.equal(eager.to(10), compiled.to(10))
    choice = compiled.build().selection
    assert (choice.requested, choice.name, choice.is_fallback) == ("graph-compiled", "graph", True)
    assert choice.why.startswith("graph-compiled was not taken: RuntimeError")


def test_the_reference_of_a_compiled_network_is_not_compiled(quick_compiler: None) -> None:
    run = Training("vanilla", "compile")
    run.to(1)
    blocks = [run.gan.generator.main, run.gan.discriminator.main]
    assert all(block._compiled_call_impl is not None for block in blocks)
    with uncompiled(run.gan):
        assert all(block._compiled_call_impl is None for block in blocks)
    assert all(block._compiled_call_impl is not None for block in blocks)


@pytest.mark.parametrize("recipe", ["r1", "parts"])
def test_graphs_take_the_eager_steps(recipe: str) -> None:
    assert_graph_takes_eager_steps(recipe)
