"""The log of a training: a line that can't be drawn elsewhere is still a line."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.runs import read_metrics

from distgan.distributed.trackers import Trackers
from distgan.errors import WriteErrorPolicy
from distgan.training.metrics import MetricLog, last_evaluation


@pytest.mark.parametrize("is_strict", [False, True])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("its thread is gone")])
def test_a_tracker_that_fails_is_a_warning_and_the_others_go_on(
    tmp_path: Path, error: Exception, is_strict: bool
) -> None:
    def fail(values: dict[str, float], step: int) -> None:
        raise error

    steps: list[int] = []
    runtime: Any = SimpleNamespace(
        is_main=True, device=torch.device("cpu"), mean=lambda stats: stats, peak_memory_gib=lambda: 0.0
    )
    policy = WriteErrorPolicy(stops=is_strict)
    trackers = Trackers(policy)
    trackers._runs = {
        "broken": SimpleNamespace(log=fail),
        "good": SimpleNamespace(log=lambda values, step: steps.append(step)),
    }  # type: ignore[assignment]
    log = MetricLog(tmp_path, runtime, 6, None, policy, trackers)
    for step in (1, 2):
        log.add(torch.zeros(1, 4), 8)
        log.write(step)
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]
    assert steps == [1, 2]
    (warning,) = policy.warnings()
    assert "broken" in warning


def test_the_last_evaluation_has_neither_losses_nor_times(tmp_path: Path) -> None:
    line = {"step": 1, "epoch": 0.5, "d_loss": 1.0, "elapsed_s": 2.0}
    judged = {"eval_n": 65, "eval_s": 1.0, "since_start_s": 9.0, "raw_fcd": 3.5, "raw_coverage_digits": [0.5, 1.0]}
    lines = [line, line | judged | {"step": 2, "raw_fcd": 9.0}, line | judged | {"step": 3}, line | {"step": 4}]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f"{json.dumps(each)}\n" for each in lines))
    assert last_evaluation(path) == {"raw_fcd": 3.5, "raw_coverage_digits/0": 0.5, "raw_coverage_digits/1": 1.0}
    path.write_text(json.dumps(line) + "\n")
    assert last_evaluation(path) == {}, "nothing is invented"
