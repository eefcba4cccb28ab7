"""Calls of other programs by a run, and their errors."""

from pathlib import Path
from types import ModuleType

import pytest
from accelerate.tracking import TensorBoardTracker
from helpers.runs import ON_CPU, MonkeyPatch, expect_user_error

from distgan.distributed.runtime import Runtime


@pytest.mark.parametrize(
    "error", [ImportError("cannot import name 'x'\nfrom protobuf"), TypeError("descriptors"), AttributeError("numpy")]
)
def test_a_tracker_that_does_not_import_is_named_with_a_way_out(
    tmp_path: Path, monkeypatch: MonkeyPatch, error: Exception
) -> None:
    def start(self: TensorBoardTracker) -> ModuleType:
        raise error

    monkeypatch.setattr(TensorBoardTracker, "start", start)
    with expect_user_error(
        "--tracker ... tensorboard ... [missing-package]",
        str(error).split("\n")[0],
        "--tracker none",
        code="unavailable",
    ):
        Runtime(ON_CPU).start_tracker("tensorboard", str(tmp_path), 0)


def test_a_tracker_that_is_not_installed_is_named_too(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    with expect_user_error("--tracker ... tensorboard ... [missing-package]", "--tracker none", code="unavailable"):
        Runtime(ON_CPU).start_tracker("tensorboard", str(tmp_path), 0)
