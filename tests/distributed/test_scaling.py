"""bench scaling with real processes."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from helpers.measurements import tiny
from helpers.runs import Capture

from distgan.benchmark import results, speed
from distgan.benchmark.configurations import command, scaling_cells
from distgan.benchmark.measurement import TimingSettings
from distgan.benchmark.options import PlanConfig, ScalingConfig
from distgan.benchmark.plan import run as plan
from distgan.benchmark.results import PlanResults, SpeedResults
from distgan.benchmark.speed import scaling
from distgan.benchmark.tables import all_reduces
from distgan.config.schema import Config
from distgan.utils.child_process import ChildFailed, kill_tree


def test_real_processes_are_measured(tmp_path: Path, capsys: Capture) -> None:
    """In one test, as starting them takes long: what is measured, that it can be repeated, and a plan made of it."""
    folder = tmp_path / "measured"
    scaling(tiny(folder))
    found = results.read(folder, SpeedResults)
    extra = found.facts.model_dump().keys()
    assert {"settings", "command", "versions", "git", "cores", "threads", "note", "device"} <= extra
    assert ScalingConfig.model_validate(found.facts.settings) == tiny(folder)
    cells = {(cell.world_size, cell.batch_size): cell for cell in found.cells}
    assert len(cells) == 4
    for cell in cells.values():
        (turn,) = cell.runs
        runtime = turn.model_dump()["runtime"]
        assert runtime["world_size"] == cell.world_size, "silent duplicates, each alone"
        assert runtime["threads"] == found.facts.threads == 1
        assert len(turn.step_s) == 2
        assert {each.images for each in turn.repeats} == {2 * cell.batch_size}, "the images of all ranks"
        assert turn.gate.passed
        assert cell.images_per_s.num == 2
        assert cell.flops_per_image
        assert Config.model_validate(cell.training).run.threads == 1
        assert cell.engines
    both = cells[2, 32]
    assert set(both.axes) == {"strong", "weak"}
    (turn,) = both.runs
    assert turn.all_reduce_s.keys() == turn.messages_bytes.keys()
    assert 0 < turn.all_reduce_share < 1
    assert all(min(seconds) > 0 for seconds in turn.all_reduce_s.values())
    assert both.efficiency["strong"].median > 0
    assert not cells[1, 32].runs[0].all_reduce_s, "one process has nobody to send to"
    assert all_reduces(found.cells, 2)["generator"][1] == sum(turn.messages_bytes["generator"])
    assert (folder / "scaling.png").read_bytes().startswith(b"\x89PNG")

    plan(folder, PlanConfig(fabric="ethernet", nodes=2, gpus_per_node=2, out=str(tmp_path / "plan")))
    rows = results.read(tmp_path / "plan", PlanResults).cells
    held_out = [(row.world_size, row.batch_size) for row in rows if row.what == "held out"]
    assert held_out == [(1, 16), (1, 32), (1, 64), (2, 32)]
    assert "predicted" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("size", "settings", "why"),
    [(20_000, {}, r"^--batch-size: .*--drop-last .*\(20000\)"), (32, {"timeout": 1.0}, "--timeout 1 s")],
)
def test_a_turn_that_fails_or_hangs_says_why(size: int, settings: dict[str, Any], why: str) -> None:
    config = tiny(processes=[2], batch_size=size, **settings)
    cell = scaling_cells(config, torch.device("cpu"))[0]
    pace = TimingSettings(gate_steps=1, warmup=1, steps=1, repeats=1)
    with pytest.raises(ChildFailed, match=why):
        speed._outcome(command(cell, pace, None), config, 2)
    left = [child for child in psutil.Process().children(recursive=True) if child.is_running()]
    assert not [child for child in left if "distgan.benchmark.worker" in child.cmdline()]


def test_the_processes_of_a_launcher_end_with_it() -> None:
    """torchrun gives each its own session, which a signal to its group does not reach."""
    program = "import subprocess as s, time; p = s.Popen(['sleep', '600'], start_new_session=True); "
    launcher = subprocess.Popen(
        [sys.executable, "-c", program + "print(p.pid, flush=True); time.sleep(600)"], stdout=subprocess.PIPE
    )
    rank = psutil.Process(int(launcher.stdout.readline()))
    try:
        kill_tree(launcher)
        assert not psutil.wait_procs([rank], timeout=5)[1], "outlives its launcher"
    finally:
        launcher.stdout.close()
        with suppress(psutil.NoSuchProcess):
            rank.kill()
