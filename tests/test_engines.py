"""The engines against the eager one, as far as a CPU can show it: graphs by tape.py, which has their rules."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import Run, assert_user_error, losses, quick
from engine_matrix import RECIPES, STEPS, Training, difference
from tape import Tape, record
from test_zero import needs_deepspeed
from torch import nn

from distgan.checkpoint.resume import newest_valid
from distgan.errors import Tolerance, TrainingFailed
from distgan.training.engines import engine as compiling
from distgan.training.engines import engine as engines
from distgan.training.engines.parity import Parity, measure_parity, untouched
from distgan.training.metrics import MetricLog
from distgan.utils.files import read_metrics


@pytest.fixture(autouse=True)
def _forget_the_precision() -> Iterator[None]:
    """Accelerate keeps that of a process; the tests after these have their own."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(recipe, marks=() if recipe in ("vanilla", "cgan", "r1", "parts") else pytest.mark.slow)
        for recipe in RECIPES
    ],
)
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


def test_untouched_puts_a_rate_back_to_the_bit() -> None:
    """A CPU's own, which is a number of Python's and no float32."""
    run = Training("vanilla")
    for group in run.gan.g.optim.param_groups:
        group["lr"] = 2e-4
    with untouched(run.gan, run.batches):
        run.gan.g.optim.param_groups[0]["lr"] = 1.0
    assert run.gan.g.optim.param_groups[0]["lr"] == 2e-4


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


@pytest.mark.parametrize(("times", "name"), [((2e-3, 1e-3), "graph-compiled"), ((2e-3, 3e-3), "graph")])
def test_a_graph_is_compiled_inside_where_that_is_quicker(
    quick_compiler: None, monkeypatch: pytest.MonkeyPatch, times: tuple[float, float], name: str
) -> None:
    """In a run that is long enough; by a race, whose times are made up here."""
    measured = iter(times)
    monkeypatch.setattr(engines, "_seconds_a_step", lambda *_: next(measured))
    # A tape holds no compiled code: what is recorded here is done again from Python.
    eager, graph = (
        Training("cgan"),
        Training("cgan", "graph", record=lambda work, before: (before(), work())[1] or work),
    )
    graph.total_steps = eager.total_steps = 40_000
    assert torch.allclose(eager.to(20), graph.to(20), atol=1e-4)
    choice = graph.build().choice
    assert choice.name == name
    assert f"; {times[1] * 1e6:.0f} microseconds a step compiled inside, 2000 without" in choice.why
    assert set(choice.start_s) == {"capture", "compile", "check"}
    assert (graph.gan.discriminator.main._compiled_call_impl is None) == (name == "graph")


def test_a_short_run_is_not_compiled_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_seconds_a_step", lambda *_: 1e-3)
    graph = Training("cgan", "graph", record=record)
    graph.total_steps = 59_000
    choice = graph.build().choice
    assert choice.name == "graph"
    assert choice.why.endswith("not compiled inside, for 59 s of steps (1000 microseconds each)")


def test_a_run_that_is_over_captures_nothing() -> None:
    graph = Training("cgan", "graph", record=record)
    graph.total_steps = 0
    assert graph.build().choice.why == "no step is left"


# -- compiled ----------------------------------------------------------------------------------------------


@pytest.fixture
def quick_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced and partitioned as always, but run by torch's own operators: no minutes of a C++ compiler."""
    whole = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **kwargs: whole(self, backend="aot_eager", **kwargs))


@pytest.mark.parametrize(
    "recipe", ["cgan", pytest.param("vanilla", marks=pytest.mark.slow), pytest.param("bf16", marks=pytest.mark.slow)]
)
def test_compiled_networks_take_the_eager_steps(quick_compiler: None, recipe: str) -> None:
    eager, compiled = Training(recipe), Training(recipe, "compile")
    ours, theirs = eager.to(STEPS), compiled.to(STEPS)
    assert compiled.engine is not None
    assert compiled.engine.choice.name == "compile", compiled.engine.choice.why
    assert torch.allclose(ours, theirs, atol=1e-3)
    assert difference(eager.gan.state(), compiled.gan.state()) < 1e-2
    assert not [key for key in compiled.gan.state() if "_orig_mod" in key]


def test_a_compiler_that_computes_something_else_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Inductor once did with the strides of transposed convolutions: the reference is not compiled."""

    def miscompiled(gan: Any) -> None:
        block = gan.generator.main
        block._compiled_call_impl = lambda *inputs: 0.9 * block.forward(*inputs)

    monkeypatch.setattr(compiling, "start", miscompiled)
    eager, compiled = Training("cgan"), Training("cgan", "compile")
    assert torch.equal(eager.to(10), compiled.to(10))
    assert compiled.build().choice.why.startswith("compile was not taken: its steps are not the eager ones")


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


# -- what a run says and writes ----------------------------------------------------------------------------


def test_graph_is_refused_on_a_cpu(distgan: Run) -> None:
    for engine in ("graph", "graph-compiled"):
        result = distgan("train", *quick("run", "--engine", engine, "--device", "cpu"))
        expected = f"--engine {engine}: CUDA graphs need a CUDA device; allowed on a CPU: auto, eager, compile"
        assert_user_error(result, expected)


def test_a_run_says_which_engine_it_has_and_why(distgan: Run, tmp_path: Path) -> None:
    result = distgan("train", *quick("run"))
    assert "engine eager: on a CPU compiling takes long and gains nothing" in result.stderr
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["engine"]["asked"] == "auto"
    assert environment["engine"]["name"] == "eager"
    found = newest_valid(tmp_path / "run" / "checkpoints")
    assert found is not None
    assert found[1].state.engine == "eager"


@needs_deepspeed
def test_a_run_says_what_took_the_place_of_its_engine(distgan: Run, tmp_path: Path) -> None:
    result = distgan("train", *quick("run", "--engine", "compile", "--zero-stage", 0))
    assert result.returncode == 0, result.stderr
    assert "engine eager: compile was not taken: ZeRO 0 takes its own way through the networks" in result.stderr
    engine = json.loads((tmp_path / "run" / "environment.json").read_text())["engine"]
    assert (engine["asked"], engine["name"]) == ("compile", "eager")


@pytest.mark.slow
def test_a_compiled_run_is_the_eager_run(distgan: Run, tmp_path: Path) -> None:
    """By the real compiler; and what an eager run has begun goes on compiled."""
    flags = ("--family", "seed", "--dropout", 0.3, "--log-every", 1)
    assert distgan("train", *quick("eager", *flags)).returncode == 0
    assert distgan("train", *quick("both", *flags), "--max-steps", 3).returncode == 0
    for name in ("compiled", "both"):
        result = distgan("train", *quick(name, *flags, "--engine", "compile"), timeout=500)
        assert result.returncode == 0, result.stderr
        assert "engine compile: as asked" in result.stderr
        for ours, theirs in zip(losses(tmp_path / name), losses(tmp_path / "eager"), strict=True):
            assert ours == pytest.approx(theirs, abs=1e-3)


def test_lines_of_a_gpu_come_one_late_and_none_is_lost(tmp_path: Path) -> None:
    """The device is told of the next steps before anybody waits for the last ones."""
    runtime: Any = SimpleNamespace(
        device=SimpleNamespace(type="cuda"), is_main=True, mean=lambda values: values, wait=lambda: None,
        track=lambda *_: None, peak_memory_gib=lambda: 0.0,
    )  # fmt: skip
    log = MetricLog(tmp_path, runtime, 10, None, Tolerance(stops=False))

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
    assert log.settle(10) == [[1.0] * 4], "what a checkpoint keeps besides the lines before it"
    assert (log.logged_step, log.num_lines) == (9, 3)
    assert written() == [(3, 3.0), (7, 4.0), (9, 2.0)]
    log.write(10, is_due=False)
    assert written()[-1] == (10, 1.0)
    assert (log.logged_step, log.num_lines) == (9, 3), "a line that a resume does not keep"
    log.add(torch.full((2, 4), float("nan")), 16)
    log.write(12)
    with pytest.raises(TrainingFailed, match="d_loss is nan at step 11"):
        log.settle(12)
