"""DeepSpeed: every stage on two processes."""

from pathlib import Path

import pytest
from helpers.launchers import needs_deepspeed
from helpers.runs import BIN, Run, assert_same_run, quick


@needs_deepspeed
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_two_processes_go_on_with_the_same_bits(run: Run, tmp_path: Path, stage: int) -> None:
    command = (BIN / "distgan", "train")
    flags = ("--processes", 2, "--zero-stage", stage)
    run.ok(*command, *quick("straight", *flags))
    run.ok(*command, *quick("broken", *flags, "--max-steps", 3))
    run.ok(*command, *quick("broken", *flags))
    assert_same_run(tmp_path / "straight", tmp_path / "broken")
