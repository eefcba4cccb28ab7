"""bench scaling: real processes, what their numbers say together, and what is left where one fails."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import ON_CPU, Capture, MonkeyPatch
from helpers.scaling import cell_of, tiny

from distgan.benchmark import results, scaling
from distgan.benchmark import scaling_report as efficiency
from distgan.benchmark.options import ScalingConfig
from distgan.benchmark.scaling import Point, _cell, points, run, world_sizes
from distgan.benchmark.scaling_worker import Clock, messages
from distgan.config.presets import training_of
from distgan.config.schema import Config, ModelConfig, OptimConfig
from distgan.distributed.runtime import Runtime
from distgan.distributed.sharding import BatchShard
from distgan.distributed.sync_batchnorm import convert_sync_batchnorm
from distgan.errors import CommandFailed, UserError
from distgan.training.gan import build_gan
from distgan.utils.child_process import ChildFailed

CPU = torch.device("cpu")


def test_each_setting_is_measured_once() -> None:
    found = points(tiny(widths=[0.1, 0.2]), [1, 2], 0.1)
    assert found == {
        Point(1, 32, 0.1): ["strong", "batch_size", "width"],
        Point(1, 16, 0.1): ["weak", "batch_size"],
        Point(2, 32, 0.1): ["strong", "weak"],
        Point(1, 64, 0.1): ["batch_size"],
        Point(1, 32, 0.2): ["width"],
    }


def test_a_cell_trains_as_its_preset_does_but_for_what_is_measured() -> None:
    training, point = training_of(["--preset", "cgan-fast"])[0], Point(2, 64, 0.5)
    made = Config.model_validate(_cell(training, ScalingConfig(preset="cgan-fast"), point, [], 1)["config"])
    assert made.optim == training.optim
    assert made.model == training.model.model_copy(update={"width": 0.5})
    assert (made.data.batch_size, made.data.drop_last, made.run.threads) == (64, True, 1)


def made_up(axis: str, seconds: list[list[float]], **more: Any) -> dict[str, Any]:
    """A cell; `seconds` are the repeats of each round."""
    runs = [{"round": turn, "step_s": each} for turn, each in enumerate(seconds)]
    cell = {"world_size": 1, "batch_size": 64, "width": 1.0, "axes": [axis], "flops_per_step": 1e9, "runs": runs}
    return cell | more


def test_efficiency_of_known_seconds() -> None:
    one = made_up("strong", [[1.0, 1.0, 9.0], [2.0]])
    two = made_up("strong", [[0.625], [1.25]], world_size=2)
    weak = [made_up("weak", [[1.0], [2.0]], world_size=2), made_up("weak", [[1.25], [4.0]], world_size=4)]
    efficiency.derive([two, one, *weak])
    assert one["efficiency"]["strong"]["median"] == 1
    # Within a round: a machine that is half as fast in the second is no spread.
    assert two["efficiency"]["strong"] == {"than_processes": 1, "median": 0.8, "p5": 0.8, "p95": 0.8, "num": 2}
    assert weak[1]["efficiency"]["weak"]["median"] == pytest.approx((1 / 1.25 + 2 / 4) / 2)
    assert weak[1]["efficiency"]["weak"]["than_processes"] == 2


def test_cost_that_grows_faster_than_the_work_is_flagged() -> None:
    def grown(cost: list[float], flops: float | None = 2e9) -> dict[str, Any]:
        small = made_up("batch_size", [[1.0]] * 3)
        large = made_up("batch_size", [[each] for each in cost], batch_size=128, flops_per_step=flops)
        efficiency.derive([large, small])
        assert not small["growth"]
        return large["growth"]["batch_size"]

    assert grown([2.1, 2.2, 2.3])["is_faster_than_work"] is True
    assert grown([1.9, 2.2, 2.3])["is_faster_than_work"] is False, "within the interval"
    cost, per_work = ({"median": each, "p5": each, "p95": each, "num": 3} for each in (1.5, 0.75))
    expected = {"from": 64, "work": 2.0, "cost": cost, "cost_per_work": per_work, "is_faster_than_work": False}
    assert grown([1.5, 1.5, 1.5]) == expected
    assert grown([9.0, 9.0, 9.0], flops=None)["is_faster_than_work"] is None, "no formula, no verdict"


def test_a_cell_that_failed_has_no_part_in_it() -> None:
    failed = made_up("strong", [])
    two = made_up("strong", [[1.0]], world_size=2)
    efficiency.derive([failed, two])
    assert not failed["efficiency"]
    assert two["efficiency"]["strong"]["than_processes"] == 2


@pytest.mark.parametrize("family", ["report2023", "dcgan"])
def test_messages_are_those_that_batch_norm_sends(family: Any, monkeypatch: MonkeyPatch) -> None:
    gan = build_gan(ModelConfig(family=family, width=0.1), OptimConfig(), 0, Runtime(ON_CPU))
    expected = messages(gan, "alternating", is_cuda=False)
    sent: list[int] = []
    monkeypatch.setattr("torch.distributed.all_reduce", lambda values: sent.append(4 * values.numel()))
    network = convert_sync_batchnorm(gan.generator, BatchShard(), CPU)
    network(torch.randn(4, *gan.generator.latent_shape), torch.zeros(4, 10)).sum().backward()
    assert sorted(sent) == sorted(expected["batch_norm"])
    assert expected["generator"] == [4 * sum(p.numel() for p in gan.generator.parameters())]
    fresh = messages(gan, "alternating-fresh", is_cuda=False)["batch_norm"]
    assert len(fresh) == len(sent) * 3 // 2, "one more forward pass"


def test_the_slowest_rank_counts() -> None:
    class Two:
        device, world_size = CPU, 2
        mean = staticmethod(lambda values: values)
        all_gather = staticmethod(lambda values: torch.stack([values, torch.tensor([0.0, 7.0])]))

    seconds = Clock(Two(), 2).time(lambda: None)  # type: ignore[arg-type]
    assert 0 < seconds[0] < 1
    assert seconds[1] == 7


def test_a_failing_cell_leaves_the_others(tmp_path: Path, monkeypatch: MonkeyPatch, capsys: Capture) -> None:
    turns: list[int] = []

    def turn(whole: Config, world_size: int, config: ScalingConfig) -> dict[str, Any]:
        if turns:  # what was measured is on the disk before the next turn
            assert len([cell for cell in results.read(tmp_path).cells if cell["runs"] or cell["error"]]) == len(turns)
        turns.append(world_size)
        if whole.data.batch_size == 64:
            raise ChildFailed("out of memory")
        return {
            "step_s": [0.5], "images_per_step": whole.data.batch_size, "all_reduce_s": {}, "num_images": 100,
            "all_reduce_share": None, "peak_memory_gib": 1.0,
            "engine": {"name": "eager", "why": "a test", "is_fallback": whole.data.batch_size == 32},
        }  # fmt: skip

    monkeypatch.setattr(scaling, "_take_turn", turn)
    with pytest.raises(CommandFailed, match="1 of 4 settings failed; the first: out of memory"):
        run(tiny(tmp_path))
    found = results.read(tmp_path, "scaling")
    assert cell_of(found, 1, 64)["error"] == "out of memory"
    assert cell_of(found, 2, 32)["images_per_s"]["median"] == 64
    out = capsys.readouterr().out
    assert "failed: 1 process, 64 images, width 0.1: out of memory" in out
    notices = [line for line in out.splitlines() if line.startswith("!! ")]
    assert [line.endswith("engine eager: a test !!") for line in notices] == [True, True], "of 1 and 2 processes"
    assert out.index(notices[-1]) < out.index("efficiency"), "above the tables"


def test_more_processes_than_there_is_room_for(monkeypatch: MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"--processes: .*\(1024\)"):
        world_sizes(tiny(processes=[1, 1024]), CPU)
    monkeypatch.setattr(scaling, "count_gpus", lambda: 2)
    with pytest.raises(UserError, match="--processes 3: there are 2 GPUs here"):
        world_sizes(tiny(processes=[3]), torch.device("cuda"))
    assert world_sizes(tiny(processes=None), torch.device("cuda")) == [1, 2]
    assert world_sizes(tiny(processes=[2, 1, 2]), CPU) == [1, 2]
    with pytest.raises(UserError, match=r"--batch-size: .*\(2\)"):
        points(tiny(batch_size=2), [1, 4], 0.1)


def test_no_launcher_around_it(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "2")
    with pytest.raises(UserError, match="starts processes of its own"):
        run(tiny(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
