"""Whole runs by every launcher."""

import json
from pathlib import Path

from helpers.forkserver import Ranks
from helpers.runs import BIN, SCRIPT, MonkeyPatch, Run, assert_same_run, quick

from distgan.utils.files import read_metrics


def test_every_door_trains_the_same_run(run: Run, tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """distgan train, the script under plain python, accelerate launch and torchrun: the same to the bit."""
    doors = {
        "distgan": (BIN / "distgan", "train"),
        "python": (BIN / "python", SCRIPT),
        "accelerate": (BIN / "accelerate", "launch", "--num_processes", 1, "--mixed_precision", "no", SCRIPT),
        "torchrun": (BIN / "torchrun", "--nproc-per-node", 1, "--standalone", SCRIPT),
    }
    for name, door in doors.items():
        monkeypatch.setenv("COLD_START", "all" if name in ("distgan", "python") else "none")
        run.ok(*door, *quick(name))
        assert_same_run(tmp_path / name, tmp_path / "distgan")
        assert len(list((tmp_path / name / "weights").glob("*.safetensors"))) == 3


def test_two_processes_train_one_run(run: Run, ranks: Ranks, tmp_path: Path) -> None:
    door = (BIN / "torchrun", "--nproc-per-node", 2, "--standalone", SCRIPT)
    result = run.ok(*door, *quick("two"))
    environment = json.loads((tmp_path / "two" / "environment.json").read_text())
    assert environment["world_size"] == 2
    assert [line["step"] for line in read_metrics(tmp_path / "two" / "metrics.jsonl")] == [2, 4, 6]
    assert result.stderr.count("writing to two") == 1, "one process speaks"
    ranks.ok(2, "train", *quick("again"))
    assert_same_run(tmp_path / "two", tmp_path / "again")
