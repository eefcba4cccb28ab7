"""Commands and assertions for runs with several processes."""

import importlib.util
import json
from pathlib import Path

import pytest

from distgan.utils.files import read_metrics
from helpers import forkserver
from helpers.forkserver import Ranks
from helpers.resume_matrix import THIRDS
from helpers.runs import BIN, ROOT, SCRIPT, TINY, Run, assert_same_run, checkpoint, distance, losses, quick

LONG = ("--preset", "cgan-quick", "--data", "digits", *TINY, "--epochs", 1, "--sample-epochs", "9")
TWO = (BIN / "torchrun", "--nproc-per-node", 2, "--standalone", SCRIPT)
ACCELERATE = (BIN / "accelerate", "launch", "--num_processes", 1, SCRIPT)
LAUNCH = ROOT / "launch"
# Variables that accelerate launch sets for a single process.
ACCELERATE_LAUNCH = {
    "ACCELERATE_USE_CPU": "True", "ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "NO",
    "ACCELERATE_DYNAMO_MODE": "default", "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False",
    "ACCELERATE_DYNAMO_USE_DYNAMIC": "False", "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": "False",
}  # fmt: skip


def trains(folder: Path) -> bool:
    return len(read_metrics(folder / "metrics.jsonl")) > 2


needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed: pip install '.[deepspeed]'"
)


def fault(out: object, *more: object) -> tuple[object, ...]:
    return quick(out, "--max-steps", 8, "--save-every-steps", 2, "--timeout", 20, *more)


def accelerate(file: str, *more: object) -> tuple[object, ...]:
    return (BIN / "accelerate", "launch", "--config_file", LAUNCH / f"{file}.yaml", *more, SCRIPT)


def world_size(run: Path) -> int:
    return json.loads((run / "environment.json").read_text())["world_size"]


def assert_launch_file_starts(run: Run, tmp_path: Path, file: str, num: int) -> str:
    """Assert that the launch file starts `num` processes. Return stderr."""
    result = run(*accelerate(file), *quick("run"))
    assert result.returncode == 0, result.stderr
    assert world_size(tmp_path / "run") == num
    assert checkpoint(tmp_path / "run")[1] == 6
    return result.stderr


def assert_resume_on_other_numbers(distgan: Run, ranks: Ranks, tmp_path: Path, flags: tuple[object, ...]) -> None:
    """Assert that a run on one, two and one process ends as one on one process.

    With the 2023 report's learning rates: at 1e-3 a change of 1e-8 grows to 2e-3 in 20 steps (LOG.md).
    """
    common = ("--width", 0.1, "--batch-size", 64, "--log-every", 1, "--threads", 1, "--tracker", "none",
              "--sample-epochs", "9", "--dropout", 0.3, "--g-lr", 2e-4, "--d-lr", 2e-4, *flags)  # fmt: skip
    assert distgan("train", *common, "--max-steps", 9, "--out", "straight").returncode == 0
    assert distgan("train", *common, "--max-steps", 3, "--out", "broken").returncode == 0
    result = ranks.ok(2, "train", *common, "--max-steps", 7, "--out", "broken")
    assert "resuming at step 3 (from broken/checkpoints/step-00000003), on 2 processes instead of 1" in result.stderr
    assert json.loads((tmp_path / "broken" / "environment.json").read_text())["world_size"] == 2
    assert distgan("train", *common, "--max-steps", 9, "--out", "broken").returncode == 0
    (ours, step), (theirs, _) = checkpoint(tmp_path / "broken"), checkpoint(tmp_path / "straight")
    assert step == 9
    assert 0 < distance(ours, theirs) < 1e-5, "equal up to rounding, but trained"
    lines = list(zip(losses(tmp_path / "broken"), losses(tmp_path / "straight"), strict=True))
    assert [ours[0] for ours, _ in lines] == list(range(1, 10))
    for ours_line, theirs_line in lines:
        assert ours_line[1:] == pytest.approx(theirs_line[1:], rel=1e-4, abs=1e-5)


def assert_recipes_resume(folder: Path, third: int) -> None:
    """Assert that a third of the recipes, stopped and resumed in another process, end bit-identically."""
    for part in ("first", "second"):
        result = forkserver.call([part, str(folder), str(third)], folder, 240, "helpers.resume_matrix")
        assert result.returncode == 0, result.stderr
    for name in THIRDS[third]:
        assert_same_run(folder / f"{name}-straight", folder / f"{name}-broken")
    assert len(THIRDS[third]) == (20 if third else 22)
