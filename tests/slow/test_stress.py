"""A short version of `make stress`: real kills, real damage, and the same counting."""

import json
import sys
from pathlib import Path

import pytest
from helpers.runs import MNIST, ROOT, Run


@pytest.mark.timeout(600)
def test_kills_and_damage_lose_nothing(run: Run, tmp_path: Path) -> None:
    run.ok(
        sys.executable, ROOT / "benchmarks" / "stress.py", "--data-dir", MNIST, "--kills", 6, "--start-kills", 9,
        "--damages", 200, "--commands", 0, "--steps", 0, "--run-steps", 120, "--out", tmp_path / "stress", timeout=580,
    )  # fmt: skip
    (found,) = json.loads((tmp_path / "stress" / "stress.json").read_text())["runs"]
    assert len(found["kills"]) == 6
    for row in found["kills"]:
        assert row["kills"] >= 1
        assert row["equal_runs"] == row["runs"] >= 1, row
        assert row["lost"] == row["damaged"] == 0, row
    assert sum(row["tried"] for row in found["damages"]) >= 200
    for row in found["damages"]:
        assert row["accepted"] == row["tracebacks"] == 0, row
        # With their names swapped both are rejected; else the older one is taken.
        assert row["fell_back"] == (0 if "names" in row["kind"] else row["tried"]), row
    assert "checkpoints lost" in (tmp_path / "stress" / "stress.txt").read_text()
