"""DeepSpeed: every ZeRO stage ends where plain training does, and leaves and takes the same checkpoints."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.forkserver import Ranks
from helpers.launchers import assert_launch_file_starts, needs_deepspeed
from helpers.parity import ZERO_NAMES, ZERO_WITHOUT_PENALTY, train_matrix, weights_difference
from helpers.runs import Run, assert_same_run, checkpoint, fits, quick
from safetensors.torch import load_file


@pytest.fixture(scope="module", autouse=True)
def _sums_do_not_depend_on_addresses() -> Iterator[None]:
    """MKL takes other kernels for other alignments, and ZeRO's weights lie in the middle of a buffer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MKL_CBWR", "AVX2,STRICT")
        yield


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Result of one process without DeepSpeed ends with."""
    folder = tmp_path_factory.mktemp("plain")
    train_matrix(folder, 1, ZERO_NAMES)
    return folder


@needs_deepspeed
@pytest.mark.parametrize("num", [1, 2])
def test_every_stage_ends_where_plain_training_does(plain: Path, tmp_path: Path, num: int) -> None:
    """One process to the bit, two to rounding: weights, Adam's state, moving average, and the losses of each step."""
    for stages, names in (("0,1,2", ZERO_NAMES[-3:] if num == 2 else ZERO_NAMES), ("3", ZERO_WITHOUT_PENALTY[-2:])):
        train_matrix(tmp_path, num, names, stages)
        for stage in stages.split(","):
            for name in names:
                ours = load_file(plain / f"{name}.safetensors")
                theirs = load_file(tmp_path / f"zero{stage}-{name}.safetensors")
                assert ours.keys() == theirs.keys(), "the same files as elsewhere"
                if num == 1:
                    assert all(torch.equal(ours[key], theirs[key]) for key in ours), (stage, name)
                else:
                    assert weights_difference(ours, theirs, set()) < 1e-5, (stage, name)
                    assert torch.allclose(ours["stats"], theirs["stats"], rtol=1e-5, atol=1e-6), (stage, name)


@needs_deepspeed
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_launch_file_of_a_stage_starts(run: Run, tmp_path: Path, stage: int) -> None:
    said = assert_launch_file_starts(run, tmp_path, f"deepspeed_zero{stage}", 2)
    assert f'"strategy": "ZeRO {stage}"' in (tmp_path / "run" / "environment.json").read_text()
    assert f"2 x cpu in ZeRO {stage}" in said
    assert "G 72,701 and D 3,580 parameters" in said, "all of them, and not this rank's"


@needs_deepspeed
def test_a_stopped_run_goes_on_with_and_without_deepspeed(ranks: Ranks, distgan: Run, tmp_path: Path) -> None:
    """On one process with the same bits; on others, sharded or not, to rounding."""
    rates = ("--g-lr", "2e-4", "--d-lr", "2e-4")
    distgan.ok("train", *quick("plain", *rates))
    for stage in (1, 3):
        distgan.ok("train", *quick("broken", *rates, "--zero-stage", stage, "--max-steps", stage + 2))
    distgan.ok("train", *quick("broken", *rates))
    assert_same_run(tmp_path / "broken", tmp_path / "plain")

    distgan.ok("train", *quick("mixed", *rates, "--max-steps", 2))
    for stage in (3, 2):
        ranks.ok(2, "train", *quick("mixed", *rates, "--zero-stage", stage, "--max-steps", 6 - stage))
    assert fits("on 1 processes ... 2", distgan.ok("train", *quick("mixed", *rates)).stderr)
    (ours, _), (theirs, _) = checkpoint(tmp_path / "mixed"), checkpoint(tmp_path / "plain")
    assert weights_difference(ours, theirs, set()) < 1e-5


# -- what it can't do --------------------------------------------------------------------------------------
