"""bench throughput, scaling and compare: what is measured, what ratios come of it, and that a wrong engine has none."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.measurements import a_round, derived, measured, saved, tiny
from helpers.own_networks import LOSS, none_loaded, write_pair
from helpers.runs import ON_CPU, ROOT, Capture, MonkeyPatch, expect_user_error, fits

from distgan.benchmark import configurations, flops, results, speed, worker
from distgan.benchmark.compare import bootstrap_ratio
from distgan.benchmark.configurations import (
    Point,
    count_images,
    list_points,
    scaling_cells,
    throughput_cells,
    world_sizes,
)
from distgan.benchmark.measurement import RunSpec, Spread, TimedRun, TimingSettings
from distgan.benchmark.options import ScalingConfig, ThroughputConfig
from distgan.benchmark.peers import common
from distgan.benchmark.results import SpeedResults
from distgan.benchmark.tables import print_speeds
from distgan.benchmark.worker import message_sizes, time_on_ranks
from distgan.cli import run_command
from distgan.config.presets import parse_training
from distgan.config.registry import LOSSES
from distgan.config.schema import Config, DataConfig, ModelConfig, OptimConfig, RunConfig
from distgan.distributed.runtime import Runtime
from distgan.distributed.sharding import BatchShard
from distgan.distributed.sync_batchnorm import convert_sync_batchnorm
from distgan.errors import CommandFailed, UserError
from distgan.models import layers
from distgan.models.base import build_generator
from distgan.training import session
from distgan.training.engines.selection import EngineSelection
from distgan.training.gan import build_gan
from distgan.utils.child_process import ChildFailed
from distgan.utils.terminal import TerminalConsole

CPU = torch.device("cpu")
BUILD = "def build_generator(spec, width: int = 24):\n    return Generator(spec, width)\n"
# A generator that takes colour only, and draws numbers in its forward pass too.
ONLY_COLOUR = """\
class Noisy(Generator):
    def forward(self, z, labels):
        return super().forward(z + torch.randn_like(z), labels)


def build_generator(spec, width: int = 24):
    assert spec.channels == 3, "colour only"
    return Noisy(spec, width)
"""
ROOFLINE = {"matmul_flops": {"fp32": 1e11}, "peak_flops": {"fp32": 1e11}, "copy_bytes_per_s": 1e10, "how": ""}
EAGER = EngineSelection("compile", "eager", "compile was not taken: no compiler", is_fallback=True).describe()


def spec(**run: Any) -> RunSpec:
    config = Config(
        model=ModelConfig(width=0.1), data=DataConfig(name="digits", batch_size=32),
        run=RunConfig(device="cpu", precision="fp32", engine="eager", **run),
    )  # fmt: skip
    return RunSpec(config=config, gate_steps=2, warmup=1, steps=2, repeats=5)


def answering(monkeypatch: MonkeyPatch, answer: Callable[[Config, int], TimedRun]) -> None:
    """Let the processes of a benchmark say what a test wants, by their config and their number."""

    def outcome(words: list[str], config: object, world_size: int) -> dict[str, Any]:
        if "distgan.benchmark.roofline" in words:
            return dict(ROOFLINE)
        return answer(RunSpec.model_validate_json(words[-1]).config, world_size).model_dump()

    monkeypatch.setattr(speed, "_outcome", outcome)


# -- what is measured -----------------------------------------------------------------------


def test_each_combination_is_measured_once() -> None:
    config = ThroughputConfig(
        presets=["cgan", "cgan"], engines=["eager", "compile"], precisions=["fp32", "bf16"], batch_sizes=[64, 32],
        orders=["alternating-fresh", "alternating"], processes=[1, 2],
    )  # fmt: skip
    ids = [cell.id for cell in throughput_cells(config, CPU)]
    assert len(ids) == len(set(ids)) == 32
    assert ids[0] == "cgan/eager/fp32/64/alternating-fresh"
    assert "cgan/eager/fp32/64/alternating-fresh/2 processes" in ids


def test_peers_stand_beside_their_model(tmp_path: Path) -> None:
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    config = ThroughputConfig(peers=True, data_dir=str(tmp_path), precisions=["fp32", "bf16"])
    cells = throughput_cells(config, CPU)
    assert [(cell.model, cell.contender) for cell in cells[:7]] == [
        ("vanilla", "distgan"), ("vanilla", "distgan"), ("vanilla", "pytorch"), ("vanilla", "accelerate"),
        ("vanilla", "pytorch"), ("vanilla", "accelerate"), ("cgan", "distgan"),
    ]  # fmt: skip


def test_any_preset_and_file_is_a_cell_that_trains_as_it_does(tmp_path: Path) -> None:
    own = '[model]\nname = "cgan"\n[data]\nbatch_size = 64\n[optim]\norder = "fresh"\n'  # its name before
    (tmp_path / "mine.toml").write_text(own)
    config = ThroughputConfig(presets=["cgan-fast", "vanilla", str(tmp_path / "mine.toml")], precisions=["fp32"])
    cells = throughput_cells(config, CPU)
    assert [each.id for each in cells] == [
        "cgan-fast/auto/fp32/128/alternating", "vanilla/auto/fp32/256/alternating",
        "mine/auto/fp32/64/alternating-fresh",
    ]  # fmt: skip
    own = parse_training(["--preset", "cgan-fast", "--data", "mnist", "--precision", "fp32", "--device", "cpu"])[0]
    assert Config.model_validate(cells[0].training) == own
    # An axis of the matrix replaces the preset's own.
    more: dict[str, Any] = {"precisions": ["fp32"], "data": "digits"}
    small = ThroughputConfig(presets=["vanilla"], family="small", width=0.5, batch_sizes=[32], **more)
    (cell,) = throughput_cells(small, CPU)
    assert cell.id == "vanilla/auto/fp32/32/alternating/dcgan/width 0.5/digits"
    assert Config.model_validate(cell.training).model.width == 0.5
    # A cell's id tells other networks than the preset's from its own.
    seed = ThroughputConfig(presets=["cgan-quick"], family="seed", precisions=["fp32"])
    assert [each.id for each in throughput_cells(seed, CPU)] == ["cgan-quick/auto/fp32/128/alternating/report2023"]


def test_networks_that_a_run_names_are_not_executed(tmp_path: Path) -> None:
    """A .toml that names them is the user's own; a run may be anyone's."""
    path = write_pair(
        tmp_path, "my_gan.py", ("import torch\n", "import torch\nopen(__file__ + '.executed', 'w').close()\n")
    )
    text = json.dumps({"model": {"name": "cgan", "networks": str(path)}})
    (tmp_path / "config.json").write_text(text)
    (tmp_path / "mine.toml").write_text("[model]\nname = 'cgan'\nnetworks = 'my_gan.py'\n")
    preset = str(tmp_path / "config.json")
    for call in (
        lambda: throughput_cells(ThroughputConfig(presets=[preset]), CPU),
        lambda: scaling_cells(ScalingConfig(preset=preset, processes=[1]), CPU),
    ):
        with expect_user_error(f"{tmp_path}: ... my_gan.py ... [networks-not-trusted]"):
            call()
    assert not (tmp_path / "my_gan.py.executed").exists()
    cells = throughput_cells(ThroughputConfig(presets=[str(tmp_path / "mine.toml")]), CPU)
    assert cells[0].family == "my_gan.py"
    assert (tmp_path / "my_gan.py.executed").exists()


def test_a_files_loss_is_measured_as_it_is_trained_by_plain_loops_too(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    path = write_pair(tmp_path)
    path.write_text(path.read_text() + LOSS.format("wgan-gp"))
    (tmp_path / "mine.toml").write_text("[model]\nname = 'cgan'\nnetworks = 'my_gan.py'\n")
    (cell, *_) = throughput_cells(ThroughputConfig(presets=[str(tmp_path / "mine.toml")], precisions=["fp32"]), CPU)
    assert cell.training["optim"]["loss"] == "own"
    assert cell.flops_per_image is None, "it has a penalty"
    with none_loaded():
        text = configurations.command(cell, TimingSettings(gate_steps=1, warmup=1, steps=1, repeats=1), None)[-1]
        monkeypatch.setattr(sys, "argv", ["", text])
        config = common.read_spec().config
        generator, discriminator = common.build_networks(config)
        real, labels = torch.rand(4, 1, 28, 28), torch.arange(4)
        fake = generator(common.draw_z(4, generator, CPU), labels)
        assert common.d_loss(discriminator, real, fake.detach(), labels, config)[0].isfinite()
        assert common.loss_of(config) is LOSSES["wgan-gp"]


def test_plain_loops_compute_by_torchs_own_layers(monkeypatch: MonkeyPatch) -> None:
    def never(*args: object) -> None:
        raise AssertionError("distgan's form of a layer")

    monkeypatch.setattr(layers, "fourier_convolve", never)
    monkeypatch.setattr(layers, "sub_pixel_kernel", never)
    monkeypatch.setattr(layers, "_mask", never)
    config = Config(model=ModelConfig(name="vanilla", width=0.1))
    generator, discriminator = common.build_networks(config)
    with pytest.raises(AssertionError, match="distgan's form"):
        build_generator(config.model)(torch.randn(32, 100), None)
    assert discriminator(generator(torch.randn(32, 100), None), None).isfinite().all()


def test_each_point_of_scaling_is_measured_once_and_trains_as_its_preset_does() -> None:
    assert list_points(tiny(widths=[0.1, 0.2]), [1, 2], 0.1) == {
        Point(1, 32, 0.1): ["strong", "batch_size", "width"],
        Point(1, 16, 0.1): ["weak", "batch_size"],
        Point(2, 32, 0.1): ["strong", "weak"],
        Point(1, 64, 0.1): ["batch_size"],
        Point(1, 32, 0.2): ["width"],
    }
    training = parse_training(["--preset", "cgan-fast"])[0]
    made = scaling_cells(ScalingConfig(preset="cgan-fast", width=0.5, processes=[2], batch_size=64), CPU)[0]
    config = Config.model_validate(made.training)
    assert config.optim == training.optim
    assert config.model == training.model.model_copy(update={"width": 0.5})
    assert (config.data.batch_size, config.data.drop_last, config.run.threads) == (64, True, 1)
    assert (made.world_size, made.axes) == (2, ["strong"])


def test_what_can_not_be_trained_ends_before_a_folder_is_made(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    def absent(data: DataConfig) -> None:
        raise UserError(f"no-images: {data.dir}")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(configurations, "load_dataset", absent)
    for folder in ("a", "b"):
        Path(folder).mkdir()
        Path(folder, "x.toml").write_text('[model]\nname = "cgan"\n')
    for command in ("throughput", "scaling"):
        with pytest.raises(UserError, match=r"--preset cgan-fast: model: .*clusters"):
            run_command("bench", command, "--preset", "cgan-fast", "--family", "small", "--device", "cpu")
        with expect_user_error("no-images: a"):
            run_command("bench", command, "--preset", "cgan", "--data-dir", "a", "--device", "cpu")
    with expect_user_error("--preset: ... (x, b/x.toml)", code="conflicting-settings"):
        run_command("bench", "throughput", "--preset", "a/x.toml,b/x.toml", "--device", "cpu")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_presets_are_repeated_or_joined_and_precisions_are_what_the_device_has(monkeypatch: MonkeyPatch) -> None:
    planned = []
    monkeypatch.setattr(speed, "throughput_cells", lambda config, _: planned.append(config) or 1 / 0)
    for words in (["--preset", "cgan,vanilla-fast"], ["--preset", "cgan", "--preset", "vanilla-fast"]):
        with pytest.raises(ZeroDivisionError):
            run_command("bench", "throughput", *words, "--device", "cpu")
        assert planned.pop().presets == ["cgan", "vanilla-fast"]
    for emulates, expected in ((True, ["fp32"]), (False, ["fp32", "bf16"])):
        monkeypatch.setattr(configurations, "emulates_bf16", lambda emulates=emulates: emulates)
        cells = throughput_cells(ThroughputConfig(presets=["cgan"]), CPU)
        assert [cell.precision for cell in cells] == expected


def test_an_engine_chooses_for_the_full_run_or_for_what_is_measured(monkeypatch: MonkeyPatch) -> None:
    totals = []
    build = session.build_engine
    monkeypatch.setattr(session, "build_engine", lambda *args: totals.append(args[4]) or build(*args))
    for whole_run in (True, False):
        worker.measure(spec().model_copy(update={"whole_run": whole_run}))
    assert totals[0] > 1000 > totals[1] == 2 + 1 + 2 * 5 + 2 * 3


def test_more_processes_than_there_is_room_for(monkeypatch: MonkeyPatch) -> None:
    with pytest.raises(UserError, match="--processes: a process takes"):
        world_sizes([1, 1024], CPU)
    monkeypatch.setattr(configurations, "count_gpus", lambda: 2)
    with expect_user_error("--processes: ... (3) ... 2", code="unavailable"):
        world_sizes([3], torch.device("cuda"))
    assert world_sizes(None, torch.device("cuda")) == [1, 2]
    assert world_sizes([2, 1, 2], CPU) == [1, 2]
    with pytest.raises(UserError, match="--batch-size: too few"):
        list_points(tiny(batch_size=2), [1, 4], 0.1)


@pytest.mark.parametrize("command", ["throughput", "scaling"])
def test_no_launcher_around_it(command: str, tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "2")
    with expect_user_error(f"bench {command}: ", code="launcher-conflict"):
        run_command("bench", command, "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["throughput", "scaling"])
def test_what_needs_a_gpu_is_an_error_at_once(command: str, tmp_path: Path) -> None:
    words = ["bench", command, "--preset", "cgan", "--device", "cpu", "--out", str(tmp_path / "out")]
    for flag, value in (("--precision", "fp16"), ("--engine", "graph")):
        with expect_user_error(f"{flag}: ... ({value})", code="no-gpu"):
            run_command(*words, flag, value)
    assert not (tmp_path / "out").exists()


# -- ratios ---------------------------------------------------------------------------------


def test_ratios_to_loops_are_taken_within_a_round() -> None:
    cell = measured([1.0] * 5, [2.0] * 5)
    loop = measured([3.0], [6.0], [90.0], id="loop", contender="pytorch", engine=None)
    derived(cell, loop, measured([9.0], id="other", contender="pytorch", engine=None, batch_size=64))
    assert {name: of.model_dump() for name, of in cell.against.items()} == {
        "pytorch fp32": {"median": 3.0, "p5": 3.0, "p95": 3.0, "num": 2, "min": 3.0, "max": 3.0}
    }
    assert not loop.against


def test_a_spread_is_of_all_repeats_and_of_finite_numbers() -> None:
    assert Spread.of([1.0, 2, 3, 4, 5]).model_dump() == {"median": 3.0, "p5": 1.2, "p95": 4.8, "num": 5}
    (cell,) = derived(measured([1.0, 2.0], [3.0, 4.0, 5.0]))
    assert cell.step_s == Spread.of([1.0, 2, 3, 4, 5])
    assert cell.epoch_s.median == 6400 / 32 * 3 == 6400 / cell.images_per_s.median
    for bad in ([], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="finite"):
            Spread.of(bad)


def test_efficiency_of_known_seconds() -> None:
    one = measured([1.0, 1.0, 9.0], [2.0], id="1", axes=["strong"])
    two = measured([0.625], [1.25], id="2", axes=["strong"], world_size=2)
    weak = [measured([1.0], [2.0], id="3", axes=["weak"], world_size=2),
            measured([1.25], [4.0], id="4", axes=["weak"], world_size=4)]  # fmt: skip
    failed = measured(id="5", axes=["strong"], status="error")
    derived(two, one, failed, *weak)
    assert one.efficiency["strong"].median == 1
    # Within a round: a machine that is half as fast in the second is no spread.
    assert two.efficiency["strong"] == Spread(median=0.8, p5=0.8, p95=0.8, num=2)
    assert weak[1].efficiency["weak"].median == pytest.approx((1 / 1.25 + 2 / 4) / 2)
    assert not failed.efficiency


def test_cost_that_grows_faster_than_the_work_is_flagged() -> None:
    def grown(cost: list[float], flops: int | None = 100) -> Any:
        small = measured([1.0], [1.0], [1.0], axes=["batch_size"], batch_size=64, flops_per_image=100)
        large = measured(
            *([each] for each in cost), axes=["batch_size"], id="2", batch_size=128, flops_per_image=flops
        )  # fmt: skip
        derived(large, small)
        assert not small.growth
        return large.growth["batch_size"]

    assert grown([2.1, 2.2, 2.3]).is_faster_than_work is True
    assert grown([1.9, 2.2, 2.3]).is_faster_than_work is False, "within the interval"
    found = grown([1.5, 1.5, 1.5])
    assert (found.since, found.work, found.cost.median, found.cost_per_work.median) == (64, 2.0, 1.5, 0.75)
    assert grown([9.0, 9.0, 9.0], flops=None).is_faster_than_work is None, "no formula, no verdict"


@pytest.mark.parametrize("family", ["seed", "small"])
def test_messages_are_those_that_batch_norm_sends(family: Any, monkeypatch: MonkeyPatch) -> None:
    gan = build_gan(ModelConfig(family=family, width=0.1), OptimConfig(), 0, Runtime(ON_CPU))
    expected = message_sizes(gan, "alternating", is_cuda=False)
    sent: list[int] = []
    monkeypatch.setattr("torch.distributed.all_reduce", lambda values: sent.append(4 * values.numel()))
    network = convert_sync_batchnorm(gan.generator, BatchShard(), CPU)
    network(torch.randn(4, *gan.generator.latent_shape), torch.zeros(4, 10)).sum().backward()
    assert sorted(sent) == sorted(expected["batch_norm"])
    assert expected["generator"] == [4 * sum(p.numel() for p in gan.generator.parameters())]
    fresh = message_sizes(gan, "alternating-fresh", is_cuda=False)["batch_norm"]
    assert len(fresh) == len(sent) * 3 // 2, "one more forward pass"


def test_the_slowest_rank_counts() -> None:
    class Two:
        device, world_size = CPU, 2
        mean = staticmethod(lambda values: values)
        synchronize = staticmethod(lambda: None)
        all_gather = staticmethod(lambda values: torch.stack([values, torch.tensor([0.0, 7.0])]))

    device_s, host_s = time_on_ranks(lambda: None, Two())  # type: ignore[arg-type]
    assert 0 < device_s < 1
    assert host_s == 7


# -- the gate, and what is left where something fails -----------------------------------------


@pytest.mark.parametrize("is_broken", [False, True])
def test_an_engine_that_is_wrong_has_no_speed(monkeypatch: MonkeyPatch, is_broken: bool) -> None:
    build_engine = session.build_engine

    def wrong(gan: Any, *args: Any) -> Any:
        engine = build_engine(gan, *args)
        advance = engine.advance

        def advance_wrongly(limit: int) -> tuple[torch.Tensor, int]:
            found = advance(limit)
            with torch.no_grad():
                for weight in gan.generator.parameters():
                    weight.mul_(1.5)
            return found

        if is_broken:
            engine.reference, engine.advance = advance, advance_wrongly
        return engine

    monkeypatch.setattr(session, "build_engine", wrong)
    found = worker.measure(spec())
    assert found.gate.passed == (not is_broken)
    speeds = (found.repeats, found.warmup_s, found.peak_memory_gib, found.operators_per_step)
    assert [bool(each) for each in speeds] == [not is_broken] * 4


def test_no_rank_measures_where_the_gate_fails_on_another(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(Runtime, "all_gather_object", lambda self, value: [value, False] if value is True else [value])
    found = worker.measure(spec())
    assert not found.gate.passed
    assert not found.repeats


def test_a_failed_gate_prints_no_speed(monkeypatch: MonkeyPatch, capsys: Capture, tmp_path: Path) -> None:
    """In the second round, when there already was one."""
    calls: list[str] = []

    def answer(config: Config, world_size: int) -> TimedRun:
        calls.append(config.optim.order)
        return a_round(*[0.25] * 5, passed=len(calls) < 4 or config.optim.order != "alternating-fresh")

    answering(monkeypatch, answer)
    flags = "--model vanilla --precision no --order reuse,fresh --rounds 3 --device cpu --data digits --out"
    with pytest.raises(CommandFailed, match="1 of 2 cells failed: vanilla/auto/fp32/256/alternating-fresh"):
        run_command("bench", "throughput", *flags.split(), str(tmp_path / "out"))
    good, bad = json.loads((tmp_path / "out" / "results.json").read_text())["cells"]
    assert good["images_per_s"]["median"] == 128
    assert bad["status"] == "gate failed"
    assert not any(bad[key] for key in ("step_s", "images_per_s", "epoch_s", "mfu", "against"))
    assert not [run for run in bad["runs"] if run["repeats"]]
    assert len(calls) == 5  # the third round is the good one's alone
    out = capsys.readouterr().out
    assert fits("vanilla order alternating-fresh: gate failed ... losses ... 5e-01", " ".join(out.split()))
    assert sum("128" in line for line in out.splitlines()) == 1


def test_a_failing_cell_leaves_the_others(tmp_path: Path, monkeypatch: MonkeyPatch, capsys: Capture) -> None:
    turns: list[int] = []

    def answer(config: Config, world_size: int) -> TimedRun:
        if turns:  # what was measured is on the disk before the next turn
            found = results.read(tmp_path, SpeedResults)
            assert found.is_partial
            assert len([cell for cell in found.cells if cell.status != "waits"]) == len(turns)
        turns.append(world_size)
        if config.data.batch_size == 64:
            raise ChildFailed("out of memory")
        engine = {"name": "eager", "why": "a test", "is_fallback": config.data.batch_size == 32}
        return a_round(0.5, images=config.data.batch_size, engine=engine)

    answering(monkeypatch, answer)
    with pytest.raises(CommandFailed, match=r"^1 of 4 .*vanilla/.*/64/.*: .*memory"):
        speed.scaling(tiny(tmp_path))
    found = {(cell.world_size, cell.batch_size): cell for cell in results.read(tmp_path, SpeedResults).cells}
    assert (found[1, 64].status, found[1, 64].why) == ("error", "out of memory")
    assert found[2, 32].images_per_s.median == 64  # type: ignore[union-attr]
    assert not results.read(tmp_path, SpeedResults).is_partial
    out = capsys.readouterr().out
    assert fits("vanilla batch 64 1 process: error: ... memory", out)
    notices = [line for line in out.splitlines() if line.startswith("!! ")]
    assert [line.endswith("engine eager: a test !!") for line in notices] == [True, True], "of 1 and 2 processes"
    assert out.index(notices[-1]) < out.index("efficiency"), "above the tables"


def test_a_fallback_and_a_change_of_engines_stand_above_the_tables(capsys: Capture) -> None:
    cells = derived(measured([1.0], id="a", engine="compile"), measured([1.0], [1.0], id="b", engine="eager"))
    cells[0].runs[0].engine = cells[0].runs[0].engine.model_validate(EAGER)  # type: ignore[union-attr]
    cells[1].runs[0].engine = cells[1].runs[0].engine.model_copy(update={"name": "graph"})  # type: ignore[union-attr]
    found = SpeedResults.model_validate({"kind": "throughput", "facts": {"device": "here"}, "cells": cells})
    print_speeds(found, TerminalConsole(width=120))
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert lines[:2] == [
        "!! vanilla compile: engine eager: compile was not taken: no compiler !!",
        "!! vanilla eager: its rounds ran several engines: graph, eager !!",
    ]
    assert sum("!!" in line for line in lines) == 2
    assert any("graph, eager" in line for line in lines[2:]), "the table says both"


def test_what_was_measured_outlives_ctrl_c_and_says_so(
    monkeypatch: MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    def answer(config: Config, world_size: int) -> TimedRun:
        if config.run.precision == "bf16":
            raise KeyboardInterrupt
        return a_round(*[0.5] * 5)

    answering(monkeypatch, answer)
    words = "--model cgan --device cpu --data digits --precision no,bf16 --out"
    with pytest.raises(KeyboardInterrupt):
        run_command("bench", "throughput", *words.split(), str(tmp_path / "out"))
    found = results.read(tmp_path / "out", SpeedResults)
    assert [cell.status for cell in found.cells] == ["ok", "waits"]
    assert found.is_partial
    assert (tmp_path / "out" / "throughput.png").exists()
    assert "!! PARTIAL" in capsys.readouterr().out


@pytest.mark.parametrize("at", ["roofline", "first turn"])
def test_what_ends_before_the_first_result_leaves_nothing(at: str, monkeypatch: MonkeyPatch, tmp_path: Path) -> None:
    """But a folder that was there."""

    def outcome(words: list[str], *_: object) -> dict[str, Any]:
        if at == "roofline" or "distgan.benchmark.roofline" not in words:
            raise KeyboardInterrupt
        return dict(ROOFLINE)

    monkeypatch.setattr(speed, "_outcome", outcome)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    words = ["bench", "throughput", "--preset", "cgan", "--device", "cpu", "--data", "digits"]
    for more in ([], ["--out", "new"], ["--out", "there"]):
        with pytest.raises(KeyboardInterrupt):
            run_command(*words, *more)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["bench", "there"]


# -- old files -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["throughput", "scaling"])
def test_results_of_format_1_say_what_they_said(kind: str, capsys: Capture) -> None:
    path = ROOT / "tests" / "fixtures" / "bench-of-format-1" / f"{kind}.json"
    old, new = json.loads(path.read_text())["cells"], results.read(path, SpeedResults).cells
    for before, after in zip(old, new, strict=True):
        said = before["step_s"]["median"] if kind == "scaling" else before["step_ms"]["median"] / 1e3
        assert after.step_s.median == pytest.approx(said)
        assert after.mfu == pytest.approx(before.get("mfu"))
        assert after.engines == (["eager"] if after.is_ours else [])
        for key in ("efficiency", "against"):
            ratios = {name.replace(" no", " fp32"): of["median"] for name, of in before.get(key, {}).items()}
            assert {name: of.median for name, of in getattr(after, key).items()} == pytest.approx(ratios)
        costs = {axis: of["cost"]["median"] for axis, of in before.get("growth", {}).items()}
        assert {axis: of.cost.median for axis, of in after.growth.items()} == pytest.approx(costs)
    run_command("bench", "compare", str(path), str(path))
    assert f"1.000 over {len(new)} cells" in capsys.readouterr().out


# -- compare --------------------------------------------------------------------------------


def test_an_interval_holds_the_ratio() -> None:
    """About 95 of 100 intervals of comparisons with a known ratio contain it."""
    draw, inside = np.random.default_rng(5), 0
    for _ in range(100):
        a, b = (draw.normal(mean, 0.01, (1, 40)).tolist() for mean in (1.0, 1.02))
        found = bootstrap_ratio(a, b, draw, 300)
        inside += found.low <= 1.02 <= found.high
    assert 88 <= inside <= 100


def test_an_interval_knows_that_rounds_differ() -> None:
    """Repeats of one round are alike: two rounds with a factor of 2 between them are two numbers, not ten."""
    found = bootstrap_ratio([[1.0] * 5, [2.0] * 5], [[1.0] * 5] * 2, np.random.default_rng(0), 500)
    assert (found.low, found.ratio, found.high) == (0.5, pytest.approx(1 / 1.5), 1.0)


@pytest.mark.parametrize(
    ("factor", "limit", "is_failure"), [(1.2, 1.05, True), (1.2, 1.3, False), (1.2, None, False), (0.8, 1.05, False)]
)
def test_a_regression_ends_in_1_and_noise_does_not(
    tmp_path: Path, factor: float, limit: float | None, is_failure: bool
) -> None:
    times = [[2.0, 2.02, 1.98, 2.0, 2.0], [2.0, 2.04, 1.96, 2.0, 2.0]]
    slower = measured(*([factor * each for each in row] for row in times))
    # A median above the limit does not count while the interval holds 1.
    noisy = measured([1.0, 1.0, 1.2, 2.0, 2.0], id="noise")
    a = saved(tmp_path / "a.json", measured(*times), measured([1.0, 1.0, 1.0, 2.0, 2.0], id="noise"))
    words = [
        "compare",
        a,
        saved(tmp_path / "b.json", slower, noisy),
        *([] if limit is None else ["--fail-above", limit]),
    ]
    if not is_failure:
        run_command("bench", *map(str, words))
        return
    with pytest.raises(CommandFailed, match=r"^vanilla/auto/32: 1\.200 [^\n]*$"):
        run_command("bench", *map(str, words))


def test_compare_says_what_else_differs(tmp_path: Path, capsys: Capture) -> None:
    x, gone, lost, new = (measured([1.0] * 5, id=name) for name in ("x", "gone", "lost", "new"))
    x.runs[0].data = {"name": "mine", "fingerprint": "aaaa"}
    a = saved(tmp_path / "a.json", x, gone, lost)
    x.runs[0].engine = x.runs[0].engine.model_copy(update={"name": "graph"})  # type: ignore[union-attr]
    x.runs[0].data = {"name": "mine", "fingerprint": "bbbb"}
    wrong = measured(id="lost", status="gate failed", why="it is wrong")
    words = ["compare", str(a), str(saved(tmp_path / "b.json", x, new, wrong, device="that one"))]
    run_command("bench", *words)
    out = " ".join(capsys.readouterr().out.split())
    assert "device differs: A this one, B that one" in out
    assert fits("x: engine ... A eager, B graph", out)
    assert fits("x: data ... A aaaa, B bbbb", out)
    assert "gone: only in A" in out
    assert "new: only in B" in out
    assert fits("lost: ... in B: gate failed: ... wrong", out)
    with pytest.raises(CommandFailed, match=r"(?m)^lost: "):
        run_command("bench", *words, "--fail-above", "2")


def test_another_cell_or_command_is_not_compared(tmp_path: Path) -> None:
    a, b = (saved(tmp_path / f"{name}.json", measured([1.0], id=name)) for name in "xy")
    with expect_user_error(f"A, B: ... ({a}, {b})", code="wrong-results"):
        run_command("bench", "compare", str(a), str(b))
    other = saved(tmp_path / "s.json", measured([1.0], id="x"), kind="scaling")
    with expect_user_error(f"{other}: ... (scaling) ... throughput", code="wrong-results"):
        run_command("bench", "compare", str(a), str(other))


# -- mistakes -------------------------------------------------------------------------------

_HEAD = '{"format": 2, "kind": "throughput", "facts": {"device": "x"}'


@pytest.mark.parametrize(
    ("text", "value", "code"),
    [
        ("", "JSON", "damaged-file"),
        ('{"kind": "throughput"}', "", "no-results"),
        ('{"format": 3, "kind": "throughput", "facts": {}, "cells": []}', "(3) ... 2", "unknown-format"),
        ('{"format": 1, "kind": "plan", "facts": {}, "cells": []}', "(plan)", "wrong-results"),
        ('{"format": 2, "kind": "throughput", "facts": [], "cells": []}', "facts", "damaged-file"),
        ('{"format": 1, "kind": "throughput", "facts": {}, "cells": [1]}', "format 1", "damaged-file"),
        ('{"format": 2, "kind": "throughput", "facts": {"x": NaN}, "cells": []}', "NaN", "damaged-file"),
        (_HEAD + ', "cells": [{"step_s": null}]}', "cells.0.id", "damaged-file"),
    ],
)
def test_files_that_are_none_of_ours(text: str, value: str, code: str, tmp_path: Path) -> None:
    bad, good = tmp_path / "bad.json", saved(tmp_path / "good.json", measured([1.0]))
    bad.write_text(text)
    for words in ([bad, good], [good, bad]):
        with expect_user_error(f"{bad} ... {value}", code=code):
            run_command("bench", "compare", *map(str, words))


def test_a_damaged_measurement_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.json", measured([1.0]))
    text = path.read_text()
    path.write_text(text.replace('"seconds": 1.0', '"seconds": 0'))
    with expect_user_error(f"{path} ... cells.0.runs.0.repeats.0: ... 0 ... Expected", code="damaged-file"):
        results.read(path, SpeedResults)
    content = json.loads(text)
    path.write_text(json.dumps(content | {"cells": content["cells"] * 2}))
    with expect_user_error(f"{path} ... vanilla/auto/32", code="damaged-file"):
        results.read(path, SpeedResults)


def test_no_number_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        saved(tmp_path / "x.json", measured([1.0]), load=float("nan"))
    assert not list(tmp_path.iterdir())


def test_own_images_are_counted_before_the_first_cell(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """Their number and the flops, of networks for such images; and one line where there are no such networks."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    np.savez(tmp_path / "own.npz", images=np.zeros((90, 32, 32, 3), np.uint8), labels=np.arange(90) % 3)
    own, mnist = (
        throughput_cells(ThroughputConfig(presets=["cgan-quick"], data=data, precisions=["fp32"]), CPU)[0]
        for data in (str(tmp_path / "own.npz"), "digits")
    )
    count_images([own, mnist])
    assert own.id.endswith("/own.npz")
    assert own.epoch_images == 90
    assert own.flops_per_image > 1.1 * mnist.flops_per_image
    (report,) = throughput_cells(
        ThroughputConfig(presets=["cgan"], data=str(tmp_path / "own.npz"), precisions=["fp32"]), CPU
    )
    with expect_user_error("--family: ... 32 x 32, colour ... (report2023) ... [images-do-not-fit]"):
        count_images([report])
    # Networks of a file that takes colour only, which are built for the data's images alone, and once for both engines.
    networks = write_pair(tmp_path, "colour.py", (BUILD, ONLY_COLOUR))
    preset = tmp_path / "colour.toml"
    preset.write_text(f'[model]\nname = "cgan"\nnetworks = {json.dumps(str(networks))}\n')
    chosen = {"presets": [str(preset)], "data": str(tmp_path / "own.npz"), "precisions": ["fp32"]}
    sizes = [throughput_cells(ThroughputConfig(image_size=size, **chosen), CPU)[0] for size in (None, 16)]
    assert [each.id.rpartition("own.npz")[2] for each in sizes] == ["", "/16 px"]
    cells, built = throughput_cells(ThroughputConfig(engines=["auto", "eager"], **chosen), CPU), []
    monkeypatch.setattr(flops, "build_generator", lambda model: built.append(model) or build_generator(model))
    state = torch.get_rng_state()
    count_images(cells)
    assert cells[0].flops_per_image == cells[1].flops_per_image > 0
    assert len(built) == 1
    assert torch.equal(torch.get_rng_state(), state), "the networks draw numbers"
