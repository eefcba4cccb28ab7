"""Full runs by every launcher."""

import json
import sys
from pathlib import Path

import torch
from helpers.forkserver import Ranks
from helpers.runs import BIN, SCRIPT, MonkeyPatch, Run, assert_same_run, checkpoint, quick

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


PROGRAM = """
import os, sys, numpy as np, torch, distgan
from accelerate import Accelerator
data = distgan.Dataset(np.random.default_rng(0).integers(0, 256, (60, 28, 28), np.uint8), np.arange(60) % 3)
settings = dict(family="dcgan", width=0.1, device="cpu", threads=1, epochs=2, batch_size=20, precision="fp32")
config = distgan.Config.from_preset("cgan", **settings, out=sys.argv[1], tracker="none")
result = distgan.train(config, dataset=data)
assert not torch.distributed.is_initialized()
os.write(1, f"{sys.argv[1]} {result.step} {result.metrics['step']}\\n".encode())
mine = Accelerator(cpu=True)  # a group of the program's own, afterwards
try:
    distgan.train(config, dataset=data)
except distgan.errors.UserError as error:
    os.write(1, f"{error.code}\\n".encode())
assert mine.gather(torch.tensor([mine.process_index])).tolist() == list(range(mine.num_processes))
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()  # a gloo group that is left open can abort the process at its exit
"""


def test_a_program_trains_under_a_launcher(run: Run, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    one = run.ok(sys.executable, "program.py", "one")
    two = run.ok(BIN / "torchrun", "--nproc-per-node", 2, "--standalone", "program.py", "two")
    assert one.stdout == "one 6 6\n"
    assert sorted(two.stdout.splitlines()) == ["launcher-conflict"] * 2 + ["two 6 6"] * 2
    ours, theirs = (checkpoint(tmp_path / name)[0] for name in ("one", "two"))
    for key in ours:
        if key.startswith(("generator.", "discriminator.")):
            assert torch.allclose(ours[key], theirs[key], rtol=0, atol=1e-5), key
