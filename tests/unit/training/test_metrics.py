"""The log of a training: a line that can't be drawn elsewhere is still a line."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.runs import read_metrics

from distgan.errors import WriteErrorPolicy
from distgan.training.metrics import MetricLog


@pytest.mark.parametrize("is_strict", [False, True])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("its thread is gone")])
def test_a_tracker_that_fails_is_a_warning(tmp_path: Path, error: Exception, is_strict: bool) -> None:
    def track(values: dict[str, float], step: int) -> None:
        raise error

    runtime: Any = SimpleNamespace(
        is_main=True, device=torch.device("cpu"), mean=lambda stats: stats, peak_memory_gib=lambda: 0.0, track=track
    )
    policy = WriteErrorPolicy(stops=is_strict)
    log = MetricLog(tmp_path, runtime, 6, None, policy)
    for step in (1, 2):
        log.add(torch.zeros(1, 4), 8)
        log.write(step)
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]
    (warning,) = policy.warnings()
    assert "tracker" in warning
