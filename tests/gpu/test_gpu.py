"""Tests that only a GPU can run; with two of them, NCCL as well."""

import gc
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.engine_matrix import RECIPES as ENGINE_RECIPES
from helpers.engine_matrix import STEPS, Training, largest_difference
from helpers.launchers import accelerate, needs_deepspeed, world_size
from helpers.parity import ZERO_WITHOUT_PENALTY, assert_ends_alike, train_matrix, weights_difference
from helpers.parity_matrix import RECIPES
from helpers.runs import MonkeyPatch, Run, Start, losses, quick, wait_for
from safetensors.torch import load_file

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
# Losses after 50 steps, and weights: an engine against the eager one in float32, whose kernels may add in another
# order. In bf16 the order of additions is worth a hundredth.
LOSSES = {"fp32": 5e-3, "bf16": 1e-1}
WEIGHTS = {"fp32": 2e-2, "bf16": 2e-1}


@pytest.fixture(autouse=True)
def _on_the_gpu(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("PARITY_DEVICE", "cuda")


@needs_deepspeed
def test_zero_stages_end_where_plain_training_does(run: Run, tmp_path: Path) -> None:
    train_matrix(tmp_path, 1, ZERO_WITHOUT_PENALTY, "none,0,1,2,3")
    for stage in range(4):
        for name in ZERO_WITHOUT_PENALTY:
            ours = load_file(tmp_path / f"{name}.safetensors")
            theirs = load_file(tmp_path / f"zero{stage}-{name}.safetensors")
            assert weights_difference(ours, theirs, set()) < 1e-4, (stage, name)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two CUDA devices")
@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_two_gpus_end_where_one_does(run: Run, tmp_path: Path, engine: str, monkeypatch) -> None:
    """By DDP, and by graphs with NCCL's all-reduce in them."""
    monkeypatch.setenv("PARITY_ENGINE", engine)
    names = [name for name in RECIPES if engine == "eager" or RECIPES[name].batch_size % 2 == 0]
    for num in (1, 2):
        train_matrix(tmp_path / str(num), num, names)
    assert_ends_alike(tmp_path / "1", tmp_path / "2", names, factor=10)


@pytest.mark.parametrize("engine", ["compile", "graph"])
@pytest.mark.parametrize("recipe", ENGINE_RECIPES)
def test_engines_take_the_eager_steps(recipe: str, engine: str) -> None:
    """Over 50 steps with dropout, moving average, schedule and five short last batches."""
    eager, other = Training(recipe, device="cuda"), Training(recipe, engine, device="cuda")
    ours, theirs = eager.to(STEPS), other.to(STEPS)
    if not (engine == "compile" and recipe in ("r1", "wgan-gp", "clustered")):  # second derivatives
        assert other.build().selection.name == engine, other.build().selection.why
    precision = ENGINE_RECIPES[recipe][2]
    assert ((ours - theirs).abs() / (1 + ours.abs())).max() < LOSSES[precision]
    assert largest_difference(eager.gan.state(), other.gan.state()) < WEIGHTS[precision]
    assert len({tuple(row) for row in theirs.tolist()}) == STEPS, "no two replays are alike"


@pytest.mark.parametrize("recipe", ["vanilla", "cgan", "bf16"])
def test_a_graph_of_compiled_networks_takes_the_eager_steps(recipe: str) -> None:
    eager, graph = Training(recipe, device="cuda"), Training(recipe, "graph-compiled", device="cuda")
    ours, theirs = eager.to(STEPS), graph.to(STEPS)
    assert graph.build().selection.name == "graph-compiled", graph.build().selection.why
    assert ((ours - theirs).abs() / (1 + ours.abs())).max() < LOSSES[ENGINE_RECIPES[recipe][2]]


def test_auto_races_eager_and_graph() -> None:
    choice = Training("cgan", "auto", device="cuda").build().selection
    assert choice.step_s.keys() == {"eager", "graph"}
    assert choice.name == min(choice.step_s, key=lambda name: choice.step_s[name])
    assert choice.start_s["race"] < 5, "a second, and the first start of each"


def test_graphs_leave_no_trace_of_their_warm_up() -> None:
    before, graph = Training("cgan", device="cuda"), Training("cgan", "graph", device="cuda")
    graph.build()
    assert graph.gan.step == 0
    expected = before.gan.state()
    for key, value in graph.gan.state().items():
        assert torch.equal(value, expected.get(key, torch.zeros_like(value))), key


def test_a_run_goes_on_with_another_engine() -> None:
    """A graph is captured after the resume, in the middle of an epoch."""
    straight = Training("cgan", device="cuda")
    expected = straight.to(STEPS)
    stats, state, step = [], None, 0
    for engine, end in (("eager", 13), ("graph", 31), ("eager", STEPS)):
        part = Training("cgan", engine, device="cuda")
        if state is not None:
            part.gan.load_state(state, step, "there")
        stats.append(part.to(end))
        state, step = part.gan.state(), end
    assert ((torch.cat(stats) - expected).abs() / (1 + expected.abs())).max() < LOSSES["fp32"]
    assert state is not None
    assert largest_difference(straight.gan.state(), state) < WEIGHTS["fp32"]


def test_steps_of_a_graph_wait_for_nothing() -> None:
    """Nor does logging; over two ends of an epoch."""
    from distgan.utils.devices import AsyncHostCopy

    graph = Training("cgan", "graph", device="cuda")
    graph.to(5)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        stats, copies = graph.to(STEPS, on_device=True), []
        copies.append(AsyncHostCopy(stats))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert copies[0].wait().isfinite().all()


def test_memory_does_not_grow_over_replays() -> None:
    graph = Training("cgan", "graph", device="cuda")
    graph.total_steps = 10_000
    graph.to(100)
    gc.collect()
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    for step in range(200, 2101, 100):
        graph.to(step)
    gc.collect()
    assert (torch.cuda.memory_allocated(), torch.cuda.memory_reserved()) == before


def test_a_signal_stops_a_graphed_run_within_a_second(start: Start, tmp_path: Path) -> None:
    """And it resumes from there, with the numbers of the unbroken run."""
    flags = ("--engine", "graph", "--max-steps", 60_000, "--epochs", 2000)
    process = start(sys.executable, "-m", "distgan", "train", *quick("run"), *flags)
    wait_for(lambda: len(losses(tmp_path / "run")) > 3 if (tmp_path / "run/metrics.jsonl").exists() else False, process)
    requested = time.monotonic()
    process.send_signal(signal.SIGTERM)
    wait_for(lambda: "stopped" in (tmp_path / "run/status.json").read_text(), process)
    assert time.monotonic() - requested < 1
    assert process.wait(30) == 143


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_launch_files_take_the_gpus(run: Run, tmp_path: Path, precision: str) -> None:
    num = min(2, torch.cuda.device_count())
    result = run.ok(*accelerate("multi_gpu" if num == 2 else "one_gpu"), *quick("run", "--precision", precision))
    assert world_size(tmp_path / "run") == num
    assert f"{num} x cuda" in result.stderr
