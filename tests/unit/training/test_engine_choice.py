"""Which engine takes the steps: races by a made-up clock, of eager steps, pretended graphs and a pretended compiler."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from helpers.engine_matrix import Training
from helpers.runs import MonkeyPatch
from torch import nn

from distgan.training.engines import engine as engines
from distgan.training.engines import selection
from distgan.training.engines.compiling import num_leaf_modules
from distgan.training.engines.selection import (
    COMPILED_GAIN,
    FIRST_BLOCK_S,
    RACE_S,
    EngineSelection,
    estimate_compile_gain,
    fallback_notice,
    remaining_steps,
)


class Machine:
    """A machine on which everything takes the milliseconds that it is given, by its own clock.

    `eager`, `graph` and `compiled` are those of a step, `layer` those to compile a layer for one shape.
    """

    def __init__(self, monkeypatch: MonkeyPatch, *, eager: float, graph: float, compiled: float = 1, layer: float = 1):
        self.now, self.monkeypatch = 0.0, monkeypatch
        self.eager, self.graph, self.compiled, self.layer = eager, graph, compiled, layer
        self.num_eager, self.is_replay = 0, False
        monkeypatch.setattr(selection, "RACE_STEPS", 10)  # whose steps are real
        monkeypatch.setattr(engines, "compile_blocks", self.compile_blocks)
        monkeypatch.setattr(engines, "start_compiler", lambda _: self.spend(3600e3))  # no price of a block

    def clock(self) -> float:
        return self.now

    def spend(self, milliseconds: float) -> None:
        self.now += milliseconds / 1e3

    def training(self, recipe: str = "cgan", engine: str = "auto", total_steps: int = 1000) -> Training:
        run = Training(recipe, engine, capture=self.record, clock=self.clock)
        step = run.gan.d.step

        def slow_step() -> None:
            if not self.is_replay:
                self.num_eager += 1
                self.spend(self.eager)
            step()

        self.monkeypatch.setattr(run.gan.d, "step", slow_step)
        run.total_steps = total_steps
        self.block = run.gan.generator.main
        return run

    def record(self, work: Any, before: Callable[[], object]) -> Callable[[], object]:
        """Do `work` again for a replay. It is a partial of Graphs._run_steps with the number of steps last."""
        is_compiled = self.block._compiled_call_impl is not None

        def replay() -> None:
            self.spend(work.args[1] * (self.compiled if is_compiled else self.graph))
            self.is_replay = True
            work()
            self.is_replay = False

        before()
        replay()
        return replay

    def compile_blocks(self, blocks: Sequence[nn.Module]) -> None:
        """As the real one does, compile at the first call with a shape; and compute what the block computes."""

        def first(block: nn.Module) -> Callable[..., Any]:
            shapes = set()

            def call(*inputs: Any) -> Any:
                if inputs[0].shape not in shapes:
                    shapes.add(inputs[0].shape)
                    self.spend(self.layer * num_leaf_modules(block))
                return block.forward(*inputs)

            return call

        for block in blocks:
            if block._compiled_call_impl is None:
                block._compiled_call_impl = first(block)


def test_a_race_that_fails_leaves_the_graph_that_was_right(monkeypatch: MonkeyPatch) -> None:
    """As for want of memory beside the first graphs, whose steps were checked and were the fastest."""
    run = Machine(monkeypatch, eager=5, graph=2, layer=20).training(total_steps=15_000)
    time_steps = engines.EngineBuilder.time_steps

    def fail(trial: Any, name: str, advance: Any) -> float:
        if name == "graph-compiled":
            raise selection.EngineUnavailable("CUDA out of memory")
        return time_steps(trial, name, advance)

    monkeypatch.setattr(engines.EngineBuilder, "time_steps", fail)
    choice = run.build().selection
    assert (choice.name, choice.is_fallback) == ("graph", False)
    assert "not compiled inside: CUDA out of memory" in choice.why


@pytest.mark.parametrize(
    ("times", "total_steps", "name", "why"),
    [
        ({"eager": 2, "graph": 5}, 10**6, "eager", "the faster one: 2,000 microseconds per step, graph 5,000"),
        ({"eager": 5, "graph": 2}, 8_000, "graph", "the faster one: 2,000 microseconds per step, eager 5,000 "
         "microseconds; not compiled inside: of 16 s of remaining steps it may save 4 s, and takes about 5 s"),
        # 30 s of steps: half of what the rule requested when it knew no times.
        ({"eager": 5, "graph": 2, "layer": 20}, 15_000, "graph-compiled", "the faster one: 2,000 microseconds per "
         "step, eager 5,000 microseconds, compiled inside 1,000 microseconds"),
        ({"eager": 5, "graph": 2, "layer": 1000}, 15_000, "graph", "not compiled inside: of 30 s of remaining steps it "
         "may save 7.5 s, and takes about 37 s, estimated from its smallest block"),
        ({"eager": 5, "graph": 2, "compiled": 3}, 15_000, "graph", "not compiled inside: no faster, 3,000 "
         "microseconds per step"),
    ],
)  # fmt: skip
def test_auto_takes_what_a_race_shows_to_be_the_fastest(
    monkeypatch: MonkeyPatch, times: dict[str, float], total_steps: int, name: str, why: str
) -> None:
    run = Machine(monkeypatch, **times).training(total_steps=total_steps)
    before = run.gan.state()
    choice = run.build().selection
    assert (choice.requested, choice.name, choice.is_fallback) == ("auto", name, False)
    assert why in choice.why
    assert (run.gan.discriminator.main._compiled_call_impl is not None) == (name == "graph-compiled")
    facts = choice.describe()
    assert facts["step_s"]["eager"] == pytest.approx(times["eager"] / 1e3)
    assert facts["step_s"]["graph"] == pytest.approx(times["graph"] / 1e3)
    assert ("check" in facts) == (name != "eager")
    assert {"capture", "check", "race"} <= set(facts["start_s"])
    assert run.gan.step == 0
    assert all((run.gan.state()[key] == value).all() for key, value in before.items()), "and puts everything back"


@pytest.mark.parametrize("step_ms", [0.2, 5, 40])
def test_a_race_takes_a_second(monkeypatch: MonkeyPatch, step_ms: float) -> None:
    machine = Machine(monkeypatch, eager=step_ms, graph=step_ms)
    monkeypatch.setattr(selection, "RACE_STEPS", 50)
    choice = machine.training().build().selection
    assert choice.start_s["race"] <= RACE_S
    assert machine.num_eager < 100


def test_no_race_on_a_cpu(monkeypatch: MonkeyPatch) -> None:
    machine = Machine(monkeypatch, eager=1, graph=1)
    run = machine.training()
    run.capture = None
    choice = run.build().selection
    assert (choice.name, choice.is_fallback, choice.start_s) == ("eager", False, {})
    assert machine.num_eager == 0


def other_rank(run: Training, monkeypatch: MonkeyPatch, answers: dict[type, Any]) -> None:
    """Let there be a second rank, which says this whenever all gather a value of that type."""

    def all_gather_object(value: Any) -> list[Any]:
        answer = answers.get(type(value), value)
        return [value, answer(value) if callable(answer) else answer]

    monkeypatch.setattr(run.runtime, "all_gather_object", all_gather_object)


@pytest.mark.parametrize(("factor", "name"), [(1.0, "graph"), (3.0, "eager")])
def test_the_slowest_rank_decides_for_all(monkeypatch: MonkeyPatch, factor: float, name: str) -> None:
    """Graphs are twice as fast as eager here; on the other rank they take `factor` times as long as here."""
    run = Machine(monkeypatch, eager=4, graph=2).training()
    other_rank(run, monkeypatch, {float: lambda seconds: seconds * factor if seconds < 3e-3 else seconds})
    choice = run.build().selection
    assert choice.name == name
    assert choice.step_s["graph"] == pytest.approx(2e-3 * factor)


def test_a_rank_that_fails_is_followed_by_all(monkeypatch: MonkeyPatch) -> None:
    run = Machine(monkeypatch, eager=4, graph=2).training()
    other_rank(run, monkeypatch, {type(None): "RuntimeError: out of memory"})
    choice = run.build().selection
    assert (choice.name, choice.is_fallback) == ("eager", True)
    assert choice.why == "graph was not taken: rank 1: RuntimeError: out of memory"


@pytest.mark.parametrize(
    ("attribute", "value"), [("strategy", "ZeRO 2"), ("precision", "fp16")]
)  # fmt: skip
def test_auto_is_no_fallback_where_no_graph_was_requested(monkeypatch: MonkeyPatch, attribute: str, value: str) -> None:
    run = Machine(monkeypatch, eager=4, graph=2).training()
    monkeypatch.setattr(run.runtime, attribute, value)
    choice = run.build().selection
    assert (choice.name, choice.is_fallback) == ("eager", False)
    assert value in choice.why


# -- compiled inside ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps_left", "step_s", "compile_s", "expected", "words"),
    [
        (
            35_250,
            1.3e-3,
            FIRST_BLOCK_S,
            True,
            "of 46 s of remaining steps it may save 11 s, and takes about 5 s",
        ),  # bf16
        (35_250, 1.3e-3, 15.0, False, "of 46 s of remaining steps it may save 11 s, and takes about 15 s"),
        (35_250, 4.0e-3, 15.0, True, "of 141 s of remaining steps it may save 35 s, and takes about 15 s"),  # float32
        (3_525, 1.3e-3, FIRST_BLOCK_S, False, "of 4.6 s of remaining steps it may save 1.1 s, and takes about 5 s"),
        (0, 1.0, 0.0, False, "of 0 s of remaining steps it may save 0 s, and takes about 0 s"),
        (16, 1.0, 16 * COMPILED_GAIN, False, "of 16 s of remaining steps it may save 4 s, and takes about 4 s"),
    ],
)
def test_compiling_pays_where_it_saves_more_than_it_takes(
    steps_left: int, step_s: float, compile_s: float, expected: bool, words: str
) -> None:
    assert estimate_compile_gain(steps_left, step_s, compile_s) == (expected, words)


def test_a_penalty_is_not_compiled_inside(monkeypatch: MonkeyPatch) -> None:
    """Not tried, and not reported as a failure: torch.compile has no second derivative."""
    choice = Machine(monkeypatch, eager=5, graph=2).training("r1", total_steps=10**6).build().selection
    assert (choice.name, choice.is_fallback) == ("graph", False)
    assert choice.why.endswith("not compiled inside: the penalty needs a second derivative, which torch.compile lacks")
    assert "compile" not in choice.start_s


@pytest.mark.parametrize("engine", ["graph-compiled", "graph"])
@pytest.mark.parametrize("fails", ["compiler", "steps"])
def test_compiled_graphs_give_way_to_graphs(monkeypatch: MonkeyPatch, engine: str, fails: str) -> None:
    """Where the compiler fails, and where what it makes computes something else."""

    def broken(blocks: Sequence[nn.Module]) -> None:
        if fails == "compiler":
            raise RuntimeError("no double backward\nsecond line")
        for block in blocks:
            block._compiled_call_impl = lambda *inputs, block=block: 0.9 * block.forward(*inputs)

    run = Machine(monkeypatch, eager=5, graph=2).training(engine=engine, total_steps=10**6)
    monkeypatch.setattr(engines, "compile_blocks", broken)
    choice = run.build().selection
    reason = "RuntimeError: no double backward" if fails == "compiler" else "its steps differ from eager ones"
    assert (choice.requested, choice.name, choice.is_fallback) == (engine, "graph", engine == "graph-compiled")
    prefix = "graph-compiled was not taken: " if choice.is_fallback else "not compiled inside: "
    assert prefix + reason in choice.why
    assert choice.parity is not None
    assert choice.parity.passed, "that of the engine that runs"
    assert run.gan.generator.main._compiled_call_impl is None


# -- what is reported of it ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        (EngineSelection("graph", "eager", "graph was not taken: x", is_fallback=True).describe(),
         "engine eager: graph was not taken: x"),
        (EngineSelection("auto", "graph", "the faster one").describe(), None),
        ({"asked": "graph", "name": "eager", "why": "written by an older version"}, None),
        ({"is_fallback": True, "name": 3}, None),
        (None, None),
        ("eager", None),
    ],
)  # fmt: skip
def test_a_fallback_is_noticed_in_what_a_run_left(described: Any, expected: str | None) -> None:
    assert fallback_notice(described) == expected


@pytest.mark.parametrize(
    ("step_s", "expected"), [(0.0, 50), (1e-4, 50), (8e-3, 50), (0.0125, 30), (0.03, 5), (0.04, 0), (2.0, 0)]
)
def test_steps_of_a_race(step_s: float, expected: int) -> None:
    assert remaining_steps(step_s, 10, 5) == expected
