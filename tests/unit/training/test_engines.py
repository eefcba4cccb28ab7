"""The engines against the eager one, as far as a CPU can show it: graphs by fake_cuda_graph.py, with their rules."""

import gc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.engine_matrix import STEPS, Training, assert_graph_takes_eager_steps, largest_difference
from helpers.fake_cuda_graph import FakeCudaGraph, capture
from helpers.runs import MonkeyPatch

from distgan.errors import TrainingFailed, WriteErrorPolicy
from distgan.training.engines import engine as engines
from distgan.training.engines.eager_check import Parity, measure_parity, preserve_state
from distgan.training.engines.graphs import no_garbage_collection
from distgan.training.metrics import MetricLog
from distgan.utils.files import read_metrics


@pytest.mark.parametrize("recipe", ["vanilla", "cgan", "own", "own-noise"])
def test_graphs_take_the_eager_steps(recipe: str) -> None:
    assert_graph_takes_eager_steps(recipe)


def test_a_graph_is_captured_after_a_resume() -> None:
    """From a checkpoint in the middle of an epoch, that an eager run has left, and back to an eager run."""
    straight = Training("cgan")
    expected = straight.to(STEPS)
    first, second, third = Training("cgan"), Training("cgan", "graph", capture=capture), Training("cgan")
    stats = [first.to(13)]
    second.gan.load_state(first.gan.state(), 13, "there")
    stats.append(second.to(31))
    third.gan.load_state(second.gan.state(), 31, "there")
    stats.append(third.to(STEPS))
    assert second.build().selection.name == "graph"
    assert torch.equal(torch.cat(stats), expected)
    assert largest_difference(straight.gan.state(), third.gan.state()) == 0


def test_warm_up_and_check_leave_no_trace() -> None:
    """For a new run and a resumed one."""
    for step in (0, 11):
        graph, eager = Training("cgan", "graph", capture=capture), Training("cgan")
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
    graph = Training("vanilla", "graph", capture=capture)
    graph.to(1)
    taken = []
    for limit in (100, 8, 8, 100, 100, 100):
        stats, num_images = graph.build().advance(limit)
        taken.append((len(stats), num_images))
    # Epochs of 8 complete batches and one of 6 images.
    assert taken == [(5, 40), (1, 8), (1, 8), (1, 6), (5, 40), (1, 8)]
    assert graph.gan.step == graph.batches.step == 15


def rotten(work: Callable[[], None], before: Callable[[], object]) -> Callable[[], None]:
    """A capture whose replays leave something out."""
    replay = capture(work, before)
    graph: FakeCudaGraph = replay.__self__  # type: ignore[attr-defined]
    updates = [call for call in graph.calls if "_fused_adam_" in str(call[0])]
    graph.calls = [call for call in graph.calls if call is not updates[0]]
    return replay


def unrecordable(work: Callable[[], None], before: Callable[[], object]) -> Callable[[], None]:
    raise RuntimeError("operation not permitted when stream is capturing\nsecond line")


@pytest.mark.parametrize(
    ("capturer", "reason"),
    [
        (unrecordable, "RuntimeError: operation not permitted when stream is capturing"),
        (rotten, "its steps differ from eager ones: over 20 steps"),
    ],
)
def test_an_engine_that_fails_gives_way(capturer: Any, reason: str) -> None:
    eager, graph = Training("cgan"), Training("cgan", "graph", capture=capturer)
    assert torch.equal(eager.to(20), graph.to(20)), "what takes its place starts from untouched weights"
    choice = graph.build().selection
    assert (choice.requested, choice.name, choice.is_fallback) == ("graph", "eager", True)
    assert choice.why.startswith("graph was not taken: " + reason)
    assert "second line" not in choice.why
    assert largest_difference(eager.gan.state(), graph.gan.state()) == 0


@pytest.mark.parametrize("name", ["TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE"])
def test_eager_steps_are_not_called_compiled_ones(monkeypatch: MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    choice = Training("vanilla", "compile").build().selection
    assert (choice.name, choice.is_fallback) == ("eager", True)
    assert f"{name}=1" in choice.why


def test_a_read_of_the_host_is_an_error_in_a_capture(monkeypatch: MonkeyPatch) -> None:
    """The fake graph sees what a GPU would wait for: so the steps that it takes have none."""
    graph = Training("cgan", "graph", capture=capture)
    take = graph.batches.take
    monkeypatch.setattr(graph.batches, "take", lambda own: (float(own.sum()), take(own))[1])
    graph.to(1)
    assert "the host waits for the device" in graph.build().selection.why


def test_an_engine_that_fits_not_is_named(monkeypatch: MonkeyPatch) -> None:
    for attribute, value, reason in (
        ("strategy", "ZeRO 2", "ZeRO 2 wraps the forward and backward passes itself"),
        ("precision", "fp16", "the gradient scaler of fp16 needs the host in each step"),
    ):
        graph = Training("vanilla", "graph", capture=capture)
        monkeypatch.setattr(graph.runtime, attribute, value)
        graph.to(1)
        assert graph.build().selection.why == f"graph was not taken: {reason}"


@pytest.mark.parametrize(
    "breaks",
    [
        lambda run: run.gan.d.module.eval(),  # no dropout
        lambda run: run.gan.d.optim.param_groups[0].update(betas=(0.0, 0.9)),
        lambda run: setattr(run.gan.noise, "begin_forward", lambda: None),  # one noise for all
        lambda run: setattr(run.gan.ema, "update", lambda *_: None),
        lambda run: run.batches.labels.copy_(9 - run.batches.labels),
        lambda run: run.batches.images.copy_(255 - run.batches.images),
    ],
    ids=["dropout", "betas", "noise", "average", "labels", "images"],
)
def test_parity_sees_what_is_different(breaks: Callable[[Training], object]) -> None:
    run = Training("cgan")
    run.to(2)
    advance = run.build().advance

    def other(limit: int) -> Any:
        result = advance(limit)
        if run.gan.step == 3:
            breaks(run)
        return result

    same = measure_parity(run.gan, run.batches, "fp32", advance, advance, 5)
    assert (same.losses, same.weights, same.passed) == (0, 0, True)
    assert not measure_parity(run.gan, run.batches, "fp32", advance, other, 5).passed
    assert run.gan.step == 2


def test_parity_does_not_pass_what_is_no_number() -> None:
    assert not Parity(3, float("nan"), 0.0, (1, 1)).passed
    assert not Parity(3, 0.0, float("nan"), (1, 1)).passed


def test_untouched_puts_a_rate_back_to_the_bit() -> None:
    """A CPU's own, which is a number of Python's and no float32."""
    run = Training("vanilla")
    for group in run.gan.g.optim.param_groups:
        group["lr"] = 2e-4
    with preserve_state(run.gan, run.batches):
        run.gan.g.optim.param_groups[0]["lr"] = 1.0
    assert run.gan.g.optim.param_groups[0]["lr"] == 2e-4


def test_untouched_puts_everything_back_when_steps_fail() -> None:
    run = Training("cgan")
    run.to(3)
    before = run.gan.state()

    def fail() -> None:
        with preserve_state(run.gan, run.batches):
            run.to(4)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert run.gan.step == run.batches.step == 3
    assert largest_difference(before, run.gan.state()) == 0


def test_a_check_that_fails_is_repeated_once_over_more_steps(monkeypatch: MonkeyPatch) -> None:
    """Rounding may turn Adam's very first steps round, which is no reason to train several times slower."""
    steps = []

    def parity(*arguments: Any) -> Parity:
        steps.append(arguments[-1])
        return Parity(steps[-1], 0.0, 0.9 if len(steps) == 1 else 0.0, (1e-3, 0.1))

    monkeypatch.setattr(engines, "measure_parity", parity)
    assert Training("cgan", "graph", capture=capture).build().selection.name == "graph"
    assert steps == [3, 20]


def test_an_older_graph_is_not_freed_during_a_capture() -> None:
    gc.enable()
    with no_garbage_collection():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_a_run_that_is_over_captures_nothing() -> None:
    graph = Training("cgan", "graph", capture=capture)
    graph.total_steps = 0
    assert graph.build().selection.why == "no step is left"


def test_a_compiler_that_computes_something_else_is_found_out(monkeypatch: MonkeyPatch) -> None:
    """As Inductor once did with the strides of transposed convolutions: the reference is not compiled."""

    def miscompile(blocks: list[Any]) -> None:
        for block in blocks:
            block._compiled_call_impl = lambda *inputs, block=block: 0.9 * block.forward(*inputs)

    monkeypatch.setattr(engines, "compile_blocks", miscompile)
    eager, compiled = Training("cgan"), Training("cgan", "compile")
    assert torch.equal(eager.to(10), compiled.to(10))
    assert compiled.build().selection.why.startswith("compile was not taken: its steps differ from eager ones")


def test_lines_of_a_gpu_come_one_late_and_none_is_lost(tmp_path: Path) -> None:
    """The next steps are queued on the device before anybody waits for the last ones."""
    runtime: Any = SimpleNamespace(
        device=SimpleNamespace(type="cuda"), is_main=True, mean=lambda values: values, synchronize=lambda: None,
        track=lambda *_: None, peak_memory_gib=lambda: 0.0,
    )  # fmt: skip
    log = MetricLog(tmp_path, runtime, 10, None, WriteErrorPolicy(stops=False))

    def steps(num: int) -> None:
        log.add(torch.full((num, 4), float(num)), num * 8)

    def written() -> list[tuple[int, float]]:
        return [(line["step"], line["d_loss"]) for line in read_metrics(log.path)]

    steps(3)
    assert log.write(3) is None
    steps(4)
    assert log.write(7) is not None
    assert written() == [(3, 3.0)]
    with log.paused():  # for a sample, say
        assert written() == [(3, 3.0), (7, 4.0)]
    steps(2)
    log.write(9)
    steps(1)
    assert log.read_stats(10) == [[1.0] * 4], "what a checkpoint keeps besides the lines before it"
    assert (log.logged_step, log.num_lines) == (9, 3)
    assert written() == [(3, 3.0), (7, 4.0), (9, 2.0)]
    log.write(10, is_kept=False)
    assert written()[-1] == (10, 1.0)
    assert (log.logged_step, log.num_lines) == (9, 3), "a line that a resume does not keep"
    log.add(torch.full((2, 4), float("nan")), 16)
    log.write(12)
    with pytest.raises(TrainingFailed, match=r"d_loss .* nan .* step 11"):
        log.read_stats(12)
