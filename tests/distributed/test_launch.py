"""The doors for several processes: the files of launch/, `--processes N`, and what accelerate's own config may hold."""

import signal
from pathlib import Path

import pytest
import yaml
from helpers.launchers import accelerate, assert_launch_file_starts, world_size
from helpers.runs import (
    BIN,
    ROOT,
    SCRIPT,
    TINY,
    MonkeyPatch,
    Run,
    Start,
    assert_user_error,
    checkpoint,
    fits,
    free_port,
    losses,
    quick,
    wait_for,
)

from distgan.runs.run_dir import read_status


@pytest.mark.parametrize(("file", "num"), [("multi_gpu", 2), ("one_gpu", 1)])
def test_launch_file_starts(run: Run, tmp_path: Path, file: str, num: int) -> None:
    """cpu.yaml is started below, beside accelerate's own default file."""
    assert_launch_file_starts(run, tmp_path, file, num)


def test_two_machines_train_one_run(start: Start, tmp_path: Path) -> None:
    """Two launchers with a process each meet by c10d, here on one machine."""
    port = free_port()
    both = [
        start(*accelerate("multi_node", "--machine_rank", rank, "--main_process_port", port), *quick("run"))
        for rank in (0, 1)
    ]
    ends = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    assert world_size(tmp_path / "run") == 2
    assert sum(fits("writing ... run", err) for _, err in ends) == 1, "one process speaks"


def test_processes_agree_with_one(
    run: Run, distgan: Run, trained: Path, tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1,1")
    result = run.ok(BIN / "distgan", "train", *quick("three"), "--processes", 3)
    assert world_size(tmp_path / "three") == 3, "of which 32 images are no multiple"
    assert "3 x cpu" in result.stderr
    assert "Traceback" not in result.stderr
    for ours, theirs in zip(losses(tmp_path / "three"), losses(trained), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    # And continues with another number of them.
    result = distgan.ok("train", "--out", "three", "--max-steps", 10, "--processes", 1)
    assert fits("on 1 processes ... 3", result.stderr)
    assert checkpoint(tmp_path / "three")[1] == 10


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_to_the_launcher_of_processes_saves_and_ends(
    start: Start, tmp_path: Path, signum: signal.Signals
) -> None:
    process = start(BIN / "distgan", "train", *quick("run", "--max-steps", 100_000), "--processes", 2)
    wait_for(lambda: (tmp_path / "run" / "metrics.jsonl").exists() and bool(losses(tmp_path / "run")), process)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signum, err
    assert f"distgan: stopped by {signum.name} at step " in err
    assert checkpoint(tmp_path / "run")[1] == read_status(tmp_path / "run")["step"]


def test_a_users_mistake_is_said_once_by_many_processes(run: Run, tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("COLD_START", "all")
    monkeypatch.setenv("LOGLEVEL", "debug")  # by which torch's agent could not be imported
    result = run(BIN / "distgan", "train", *quick("run", "--data-dir", "nowhere", "--data", "mnist", "--no-download"),
                 "--processes", 2)  # fmt: skip
    assert_user_error(result, "nowhere")
    assert not (tmp_path / "run").exists()


def test_a_default_file_for_many_cpus_trains_on_one_and_says_so(run: Run, tmp_path: Path) -> None:
    """accelerate launch starts one process of MULTI_CPU, whatever the number."""
    default = tmp_path / "hf" / "accelerate" / "default_config.yaml"
    default.parent.mkdir(parents=True)
    default.write_text(yaml.safe_dump({
        "compute_environment": "LOCAL_MACHINE", "distributed_type": "MULTI_CPU", "use_cpu": True,
        "num_machines": 1, "num_processes": 2, "machine_rank": 0, "main_process_port": 29577,
        "mixed_precision": "no", "dynamo_config": {"dynamo_backend": "INDUCTOR"},
    }))  # fmt: skip
    result = run.ok(BIN / "accelerate", "launch", SCRIPT, *quick("run"))
    assert world_size(tmp_path / "run") == 1
    assert fits("accelerate launch ... CPU ... distgan train", result.stderr)
    # And a file of ours is not disturbed by it.
    run.ok(*accelerate("cpu"), *quick("two"))
    assert world_size(tmp_path / "two") == 2


def test_too_small_a_batch_is_said_once_by_two_processes(run: Run, data_flags: tuple[str, ...]) -> None:
    result = run(
        BIN / "torchrun", "--nproc-per-node", 2, ROOT / "distgan" / "train.py",
        "--preset", "cgan-quick", *data_flags, *TINY, "--batch-size", "33", "--d-microbatches", "20", "--out", "run",
    )  # fmt: skip
    assert result.returncode != 0
    said = [line for line in result.stderr.splitlines() if line.startswith("distgan: ")]
    assert len(said) == 1
    assert fits("--batch-size: ... --d-microbatches ... (33) ... at least 40 [batch-too-small] [bad-value]", said[0])
