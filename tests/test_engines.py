"""The engines against the eager one, as far as a CPU can show it: graphs by tape.py, which has their rules."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from engine_matrix import RECIPES, STEPS, Training, difference
from tape import Tape, record
from torch import nn

from distgan import compiling
from distgan.engines import next_due
from distgan.parity import Parity, measure_parity, untouched


@pytest.fixture(autouse=True)
def _forget_the_precision() -> Iterator[None]:
    """Accelerate keeps that of a process; the tests after these have their own."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("recipe", RECIPES)
def test_graphs_take_the_eager_steps(recipe: str) -> None:
    """To the bit over 50 steps and five short last batches, dropout, moving average and schedule included."""
    eager, graph = Training(recipe), Training(recipe, "graph", record=record)
    ours, theirs = eager.to(STEPS), graph.to(STEPS)
    assert graph.engine is not None
    assert graph.engine.choice.name == "graph", graph.engine.choice.why
    assert torch.equal(ours, theirs)
    assert difference(eager.gan.state(), graph.gan.state()) == 0
    assert len({tuple(row) for row in theirs.tolist()}) == STEPS, "no two replays are alike"


def test_a_graph_is_captured_after_a_resume() -> None:
    """From a checkpoint in the middle of an epoch, that an eager run has left, and back to an eager run."""
    straight = Training("cgan")
    expected = straight.to(STEPS)
    first, second, third = Training("cgan"), Training("cgan", "graph", record=record), Training("cgan")
    stats = [first.to(13)]
    second.gan.load_state(first.gan.state(), 13, "there")
    stats.append(second.to(31))
    third.gan.load_state(second.gan.state(), 31, "there")
    stats.append(third.to(STEPS))
    assert second.engine is not None
    assert second.engine.choice.name == "graph"
    assert torch.equal(torch.cat(stats), expected)
    assert difference(straight.gan.state(), third.gan.state()) == 0


def test_warm_up_and_check_leave_no_trace() -> None:
    """Of a run that begins, and of one that goes on."""
    for step in (0, 11):
        graph, eager = Training("cgan", "graph", record=record), Training("cgan")
        if step:
            eager.to(step)
            graph.gan.load_state(eager.gan.state(), step, "there")
        before = graph.gan.state()
        graph.build()
        after = graph.gan.state()
        assert graph.gan.step == step
        for key, value in after.items():
            expected = before.get(key, torch.zeros_like(value))  # Adam's, before its first step
            assert torch.equal(value, expected), key


def test_a_replay_takes_several_steps_but_none_past_the_limit() -> None:
    graph = Training("vanilla", "graph", record=record)
    graph.to(1)
    assert graph.engine is not None
    taken = []
    for limit in (100, 8, 8, 100, 100, 100):
        stats, num_images = graph.engine.advance(limit)
        taken.append((len(stats), num_images))
    # Epochs of 8 whole batches and one of 6 images.
    assert taken == [(5, 40), (1, 8), (1, 8), (1, 6), (5, 40), (1, 8)]
    assert graph.gan.step == graph.batches.step == 15


@pytest.mark.parametrize(
    ("step", "last", "every", "expected"),
    [
        (0, 99, (25, 235), 25),
        (24, 99, (25,), 25),
        (25, 99, (25, 30), 30),
        (90, 99, (25, 0), 99),
        (7, 99, (), 99),
    ],
)
def test_next_due_is_the_first_cadence_after(
    step: int, last: int, every: tuple[int, ...], expected: int
) -> None:
    assert next_due(step, last, *every) == expected


# -- what can't run, or does not take the same steps -------------------------------------------------------


def rotten(work: Callable[[], None], before: Callable[[], object]) -> Callable[[], None]:
    """A capture whose replays leave something out."""
    replay = record(work, before)
    tape: Tape = replay.__self__  # type: ignore[attr-defined]
    updates = [call for call in tape.calls if "_fused_adam_" in str(call[0])]
    tape.calls = [call for call in tape.calls if call is not updates[0]]
    return replay


def unrecordable(work: Callable[[], None], before: Callable[[], object]) -> Callable[[], None]:
    raise RuntimeError("operation not permitted when stream is capturing\nsecond line")


@pytest.mark.parametrize(
    ("recorder", "reason"),
    [
        (unrecordable, "RuntimeError: operation not permitted when stream is capturing"),
        (rotten, "its steps are not the eager ones: over 3 steps"),
    ],
)
def test_an_engine_that_fails_gives_way_with_its_reason(recorder: Any, reason: str) -> None:
    eager, graph = Training("cgan"), Training("cgan", "graph", record=recorder)
    assert torch.equal(eager.to(20), graph.to(20)), "what takes its place starts from untouched weights"
    assert graph.engine is not None
    choice = graph.engine.choice
    assert (choice.asked, choice.name, choice.is_fallback) == ("graph", "eager", True)
    assert choice.why.startswith("graph was not taken: " + reason)
    assert "second line" not in choice.why
    assert difference(eager.gan.state(), graph.gan.state()) == 0


def test_a_read_of_the_host_is_an_error_in_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tape sees what a GPU would wait for: so the steps that it takes have none."""
    graph = Training("cgan", "graph", record=record)
    take = graph.batches.take
    monkeypatch.setattr(graph.batches, "take", lambda own: (float(own.sum()), take(own))[1])
    graph.to(1)
    assert graph.engine is not None
    assert "the host waits for the device" in graph.engine.choice.why


def test_an_engine_that_fits_not_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for attribute, value, reason in (
        ("strategy", "ZeRO 2", "ZeRO 2 takes its own way through the networks"),
        ("precision", "fp16", "the scaler of fp16 decides on the host"),
    ):
        graph = Training("vanilla", "graph", record=record)
        monkeypatch.setattr(graph.runtime, attribute, value)
        graph.to(1)
        assert graph.engine is not None
        assert graph.engine.choice.why == f"graph was not taken: {reason}"


@pytest.mark.parametrize(
    "breaks",
    [
        lambda run: run.gan.d.bare.eval(),  # no dropout
        lambda run: run.gan.d.optim.param_groups[0].update(betas=(0.0, 0.9)),
        lambda run: setattr(run.gan.noise, "next_pass", lambda: None),  # one noise for all
        lambda run: setattr(run.gan.ema, "update", lambda *_: None),
        lambda run: run.batches.labels.copy_(9 - run.batches.labels),
        lambda run: run.batches.images.copy_(255 - run.batches.images),
    ],
    ids=["dropout", "betas", "noise", "average", "labels", "images"],
)
def test_parity_sees_what_is_different(breaks: Callable[[Training], object]) -> None:
    run = Training("cgan")
    run.to(2)
    assert run.engine is not None
    advance = run.engine.advance

    def other(limit: int) -> Any:
        result = advance(limit)
        if run.gan.step == 3:
            breaks(run)
        return result

    same = measure_parity(run.gan, run.batches, "no", advance, advance, 5)
    assert (same.losses, same.weights, same.passed) == (0, 0, True)
    assert not measure_parity(run.gan, run.batches, "no", advance, other, 5).passed
    assert run.gan.step == 2


def test_parity_does_not_pass_what_is_no_number() -> None:
    assert not Parity(3, float("nan"), 0.0, (1, 1)).passed
    assert not Parity(3, 0.0, float("nan"), (1, 1)).passed


def test_untouched_puts_everything_back_when_steps_fail() -> None:
    run = Training("cgan")
    run.to(3)
    before = run.gan.state()
    assert run.engine is not None

    def fail() -> None:
        with untouched(run.gan, run.batches):
            run.to(4)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert run.gan.step == run.batches.step == 3
    assert difference(before, run.gan.state()) == 0


# -- compiled ----------------------------------------------------------------------------------------------


@pytest.fixture
def quick_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced and partitioned as always, but run by torch's own operators: no minutes of a C++ compiler."""
    whole = nn.Module.compile
    monkeypatch.setattr(
        nn.Module, "compile", lambda self, **kwargs: whole(self, backend="aot_eager", **kwargs)
    )


@pytest.mark.parametrize("recipe", ["vanilla", "cgan", "bf16"])
def test_compiled_networks_take_the_eager_steps(quick_compiler: None, recipe: str) -> None:
    eager, compiled = Training(recipe), Training(recipe, "compile")
    ours, theirs = eager.to(STEPS), compiled.to(STEPS)
    assert compiled.engine is not None
    assert compiled.engine.choice.name == "compile", compiled.engine.choice.why
    assert torch.allclose(ours, theirs, atol=1e-3)
    assert difference(eager.gan.state(), compiled.gan.state()) < 1e-2
    assert not [key for key in compiled.gan.state() if "_orig_mod" in key]


def test_a_second_derivative_is_left_to_the_eager_engine(quick_compiler: None) -> None:
    """torch.compile has none."""
    eager, compiled = Training("r1"), Training("r1", "compile")
    assert torch.equal(eager.to(10), compiled.to(10))
    assert compiled.engine is not None
    assert compiled.engine.choice.why.startswith("compile was not taken: RuntimeError")


def test_the_reference_of_a_compiled_network_is_not_compiled(quick_compiler: None) -> None:
    run = Training("vanilla", "compile")
    run.to(1)
    blocks = [run.gan.generator.main, run.gan.discriminator.main]
    assert all(block._compiled_call_impl is not None for block in blocks)
    with compiling.suspended(run.gan):
        assert all(block._compiled_call_impl is None for block in blocks)
    assert all(block._compiled_call_impl is not None for block in blocks)
