"""What only a GPU can show; `make test-gpu` runs it. With two of them, NCCL as well."""

import sys
from pathlib import Path

import pytest
import torch
from conftest import BIN, Run, quick
from parity_matrix import RECIPES
from safetensors.torch import load_file
from test_launch import accelerate, world_size
from test_parity import SCRIPT, difference, limit
from test_zero import WITHOUT_PENALTY, needs_deepspeed

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
# A GPU's dropout has masks of its own on each rank.
WITHOUT_DROPOUT = [name for name in RECIPES if RECIPES[name].dropout == 0]


@pytest.fixture(autouse=True)
def _on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARITY_DEVICE", "cuda")


def matrix(run: Run, folder: Path, num: int, stages: str, names: list[str]) -> None:
    door = (sys.executable,) if num == 1 else (BIN / "torchrun", "--standalone", "--nproc-per-node", num)
    result = run(*door, SCRIPT, folder, num, stages, ",".join(names))
    assert result.returncode == 0, result.stderr


@needs_deepspeed
def test_zero_stages_end_where_plain_training_does(run: Run, tmp_path: Path) -> None:
    matrix(run, tmp_path, 1, "none,0,1,2,3", WITHOUT_PENALTY)
    for stage in range(4):
        for name in WITHOUT_PENALTY:
            ours = load_file(tmp_path / f"{name}.safetensors")
            theirs = load_file(tmp_path / f"zero{stage}-{name}.safetensors")
            assert difference(ours, theirs, set()) < 1e-4, (stage, name)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two CUDA devices")
def test_two_gpus_end_where_one_does(run: Run, tmp_path: Path) -> None:
    for num in (1, 2):
        (tmp_path / str(num)).mkdir()
        matrix(run, tmp_path / str(num), num, "none", WITHOUT_DROPOUT)
    for name in WITHOUT_DROPOUT:
        ours, theirs = (load_file(tmp_path / str(num) / f"{name}.safetensors") for num in (1, 2))
        assert difference(ours, theirs, set()) < 10 * limit(name), name


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_launch_files_take_the_gpus(run: Run, tmp_path: Path, precision: str) -> None:
    num = min(2, torch.cuda.device_count())
    result = run(*accelerate("multi_gpu" if num == 2 else "one_gpu"), *quick("run", "--precision", precision))
    assert result.returncode == 0, result.stderr
    assert world_size(tmp_path / "run") == num
    assert f"{num} x cuda" in result.stderr
