"""bench scaling with real processes."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from helpers.runs import ON_CPU, Capture
from helpers.scaling import cell_of, tiny

from distgan.benchmark import results, scaling
from distgan.benchmark.options import PlanConfig, ScalingConfig
from distgan.benchmark.plan import run as plan
from distgan.benchmark.scaling import run
from distgan.benchmark.scaling_report import all_reduces
from distgan.config.schema import Config, DataConfig
from distgan.utils.child_process import ChildFailed, kill_tree


def test_real_processes_are_measured(tmp_path: Path, capsys: Capture) -> None:
    """In one test, as starting them takes long: what is measured, that it can be repeated, and a plan made of it."""
    measured = tmp_path / "measured"
    run(tiny(measured))
    found = results.read(measured, "scaling")
    assert {"config", "command", "versions", "git", "cores", "threads", "note", "device"} <= found.facts.keys()
    settings = dict(found.facts["config"])
    assert settings.pop("model") == "vanilla"
    assert ScalingConfig.model_validate(settings) == tiny(measured, order="alternating")
    assert len(found.cells) == 4
    for cell in found.cells:
        (turn,) = cell["runs"]
        assert turn["world_size"] == cell["world_size"], "silent duplicates, each alone"
        assert turn["threads"] == found.facts["threads"] == 1
        assert len(turn["step_s"]) == 2
        assert min(turn["step_s"]) > 0
        assert turn["images_per_step"] == cell["batch_size"], "the images of all ranks"
        assert cell["images_per_s"]["num"] == 2
        assert cell["flops_per_step"] > 0
        assert Config.model_validate(cell["config"]).run.threads == 1
        assert turn["engine"]["name"]
    both = cell_of(found, 2, 32)
    assert set(both["axes"]) == {"strong", "weak"}
    (turn,) = both["runs"]
    assert turn["all_reduce_s"].keys() == turn["messages"].keys()
    assert 0 < turn["all_reduce_share"] < 1
    assert all(min(seconds) > 0 for seconds in turn["all_reduce_s"].values())
    assert both["efficiency"]["strong"]["median"] > 0
    assert not cell_of(found, 1, 32)["runs"][0]["all_reduce_s"], "one process has nobody to send to"
    assert all_reduces(found.cells, 2)["generator"][1] == sum(turn["messages"]["generator"])
    assert (measured / "scaling.png").read_bytes().startswith(b"\x89PNG")

    plan(measured, PlanConfig(fabric="ethernet", nodes=2, gpus_per_node=2, out=str(tmp_path / "plan")))
    rows = results.read(tmp_path / "plan", "plan").cells
    held_out = [(row["world_size"], row["batch_size"]) for row in rows if row["what"] == "held out"]
    assert held_out == [(1, 16), (1, 32), (1, 64), (2, 32)]
    assert "predicted" in capsys.readouterr().out


def test_a_turn_that_fails_gives_the_words_of_its_process() -> None:
    whole = Config(data=DataConfig(name="digits", batch_size=20_000, drop_last=True), run=ON_CPU.run)
    with pytest.raises(ChildFailed, match=r"^--batch-size 20000: --drop-last leaves nothing"):
        scaling._take_turn(whole, 1, tiny())


def test_a_turn_that_hangs_is_ended() -> None:
    with pytest.raises(ChildFailed, match="not done after --timeout 1 s"):
        scaling._take_turn(Config(data=DataConfig(name="digits"), run=ON_CPU.run), 1, tiny(timeout=1.0))
    left = [child for child in psutil.Process().children(recursive=True) if child.is_running()]
    assert not [child for child in left if "distgan.benchmark.scaling_worker" in child.cmdline()]


def test_the_processes_of_a_launcher_end_with_it() -> None:
    """torchrun gives each a session of its own, which a signal to its group does not reach."""
    program = "import subprocess as s, time; p = s.Popen(['sleep', '600'], start_new_session=True); "
    launcher = subprocess.Popen(
        [sys.executable, "-c", program + "print(p.pid, flush=True); time.sleep(600)"], stdout=subprocess.PIPE
    )
    assert launcher.stdout is not None
    rank = psutil.Process(int(launcher.stdout.readline()))
    try:
        kill_tree(launcher)
        assert not psutil.wait_procs([rank], timeout=5)[1], "outlives its launcher"
    finally:
        with suppress(psutil.NoSuchProcess):
            rank.kill()
