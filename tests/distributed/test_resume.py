"""Resuming on another number of processes."""

import json
from pathlib import Path

import pytest
import torch
from helpers.forkserver import Ranks
from helpers.launchers import assert_resume_on_other_numbers
from helpers.runs import BIN, ON_CPU, SCRIPT, Run, assert_user_error, checkpoint, distance, expect_user_error, quick

from distgan.checkpoint.format import read_checkpoint
from distgan.distributed.runtime import Runtime


def test_random_states_of_every_rank_come_back(ranks: Ranks, tmp_path: Path) -> None:
    ranks.ok(2, "train", *quick("run"))
    tensors, _ = checkpoint(tmp_path / "run")
    assert {key for key in tensors if key.startswith("random.")} == {"random.rank0.cpu", "random.rank1.cpu"}
    runtime = Runtime(ON_CPU)
    runtime.load_random_states({"cpu": tensors["random.rank0.cpu"]}, "here")
    assert torch.equal(torch.get_rng_state(), tensors["random.rank0.cpu"])
    torch.rand(3)
    assert not torch.equal(torch.get_rng_state(), tensors["random.rank0.cpu"])
    for hostile in (torch.zeros(3, dtype=torch.uint8), torch.zeros(5056), torch.zeros(5056, dtype=torch.uint8)):
        with expect_user_error("here: ... [damaged-checkpoint]"):
            runtime.load_random_states({"cpu": hostile}, "here")


@pytest.mark.parametrize(
    "flags",
    [
        # A batch of 3,000 of 17,970 images: over the end of an epoch, whose last batch is short.
        ("--preset", "cgan-quick", "--batch-size", 3000, "--width", 0.05, "--data", "digits"),
        ("--preset", "cgan", "--loss", "r1", "--order", "simultaneous", "--penalty-weight", 0.1),
    ],
)
def test_one_two_one_process_is_the_unbroken_run(
    distgan: Run, ranks: Ranks, tmp_path: Path, data_flags: tuple[str, ...], flags: tuple[object, ...]
) -> None:
    assert_resume_on_other_numbers(distgan, ranks, tmp_path, (*data_flags, *flags))


def test_resume_rejects_another_batch_over_all_processes(distgan: Run, ranks: Ranks) -> None:
    flags = [*quick("run", "--per-rank-batch-size", 16)]
    del flags[flags.index("--batch-size") : flags.index("--batch-size") + 2]
    ranks.ok(2, "train", *flags)
    assert_user_error(distgan("train", *flags), "batch ... (32, here 16) ... [resume-mismatch]")
    distgan.ok("train", *quick("run"))  # --batch-size 32 is the same batch


def test_resume_keeps_the_launchers_precision(distgan: Run, run: Run, tmp_path: Path) -> None:
    result = run.ok(
        BIN / "accelerate", "launch", "--num_processes", 1, "--mixed_precision", "bf16", SCRIPT, *quick("run")
    )
    assert json.loads((tmp_path / "run" / "config.json").read_text())["run"]["precision"] == "bf16"
    distgan.ok("train", "--out", "run", "--max-steps", 8)
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["precision"] == "bf16"
    result = distgan("train", *quick("run"))
    assert_user_error(result, "[run] precision: ... 'bf16' ('fp32') ... [resume-mismatch]")


def test_two_ranks_begin_with_the_weights_of_another_run(distgan: Run, ranks: Ranks, tmp_path: Path) -> None:
    """As one does, to rounding; the ranks compare theirs before the first checkpoint."""
    distgan.ok("train", *quick("source", "--ema-decay", 0.9))
    flags = ("--init-from", "source", "--ema-decay", 0.9, "--seed", 3, "--dropout", 0, "--max-steps", 1)
    ranks.ok(2, "train", *quick("two", *flags))
    distgan.ok("train", *quick("one", *flags))
    theirs = checkpoint(tmp_path / "source")[0]
    both = [tmp_path / name / "checkpoints" / "step-00000000" for name in ("one", "two")]
    for begun in (read_checkpoint(folder).tensors for folder in both):
        for key, value in theirs.items():
            assert not key.startswith(("generator", "discriminator")) or torch.equal(begun[key], value), key
    assert distance(checkpoint(tmp_path / "one")[0], checkpoint(tmp_path / "two")[0]) < 1e-6
    assert_user_error(
        ranks(2, "train", *quick("x", "--init-from", "nowhere")), "--init-from: ... nowhere: ... [no-weights]"
    )
