"""The doors for several processes: the files of launch/, `--processes N`, and what accelerate's own config may hold."""

import json
import signal
import socket
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from conftest import BIN, ROOT, SCRIPT, Run, assert_user_error, checkpoint, losses, quick, wait_for

Start = Callable[..., subprocess.Popen[str]]
LAUNCH = ROOT / "launch"


def accelerate(file: str, *more: object) -> tuple[object, ...]:
    return (BIN / "accelerate", "launch", "--config_file", LAUNCH / f"{file}.yaml", *more, SCRIPT)


def world_size(run: Path) -> int:
    return json.loads((run / "environment.json").read_text())["world_size"]


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        pytest.param("cpu", 2, marks=pytest.mark.slow),  # started below, beside accelerate's own default file
        pytest.param("one_gpu", 1, marks=pytest.mark.slow),
        ("multi_gpu", 2),
    ],
)
def test_launch_file_starts(run: Run, tmp_path: Path, file: str, expected: int) -> None:
    result = run(*accelerate(file), *quick("run"))
    assert result.returncode == 0, result.stderr
    assert world_size(tmp_path / "run") == expected
    assert checkpoint(tmp_path / "run")[1] == 6


def test_two_machines_train_one_run(start: Start, tmp_path: Path) -> None:
    """Two launchers with a process each meet by c10d, here on one machine."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    both = [
        start(*accelerate("multi_node", "--machine_rank", rank, "--main_process_port", port), *quick("run"))
        for rank in (0, 1)
    ]
    ends = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    assert world_size(tmp_path / "run") == 2
    assert sum("writing to run" in err for _, err in ends) == 1, "one process speaks"


def test_every_launch_file_is_told_of_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    files = sorted(path.name for path in LAUNCH.glob("*.yaml"))
    assert {"cpu.yaml", "one_gpu.yaml", "multi_gpu.yaml", "multi_node.yaml"} < set(files)
    for name in files:
        assert f"launch/{name}" in readme, name
        assert yaml.safe_load((LAUNCH / name).read_text())["compute_environment"] == "LOCAL_MACHINE"


# -- --processes -------------------------------------------------------------------------------------------


def test_processes_starts_them_and_they_agree_with_one(run: Run, distgan: Run, tmp_path: Path) -> None:
    result = run(BIN / "distgan", "train", *quick("three"), "--processes", 3)
    assert result.returncode == 0, result.stderr
    assert world_size(tmp_path / "three") == 3, "of which 32 images are no multiple"
    assert "3 x cpu" in result.stderr
    assert "Traceback" not in result.stderr
    assert distgan("train", *quick("one")).returncode == 0
    for ours, theirs in zip(losses(tmp_path / "three"), losses(tmp_path / "one"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    # And goes on with another number of them.
    result = distgan("train", "--out", "three", "--max-steps", 10, "--processes", 1)
    assert result.returncode == 0, result.stderr
    assert "on 1 processes instead of 3" in result.stderr
    assert checkpoint(tmp_path / "three")[1] == 10


@pytest.mark.parametrize("signum", [signal.SIGUSR1, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_to_the_launcher_of_processes_saves_and_ends(
    start: Start, tmp_path: Path, signum: signal.Signals
) -> None:
    process = start(BIN / "distgan", "train", *quick("run", "--max-steps", 100_000), "--processes", 2)
    wait_for(lambda: (tmp_path / "run" / "metrics.jsonl").exists() and bool(losses(tmp_path / "run")), process)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signum, err
    assert f"distgan: stopped by {signum.name} at step " in err
    assert checkpoint(tmp_path / "run")[1] == json.loads((tmp_path / "run" / "status.json").read_text())["step"]


def test_a_users_mistake_is_said_once_by_many_processes(run: Run, tmp_path: Path) -> None:
    result = run(BIN / "distgan", "train", *quick("run", "--data-dir", "nowhere", "--data", "mnist", "--no-download"),
                 "--processes", 2)  # fmt: skip
    assert_user_error(result, "nowhere")
    assert not (tmp_path / "run").exists()


def test_processes_and_a_launcher_that_started_others_are_refused(
    distgan: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    result = distgan("train", *quick("run"), "--processes", 2)
    assert_user_error(result, "--processes 2: this process is one of 1 of a launcher already")


def test_more_processes_than_memory_has_are_refused(distgan: Run, tmp_path: Path) -> None:
    result = distgan("train", *quick("run", "--batch-size", 2048), "--processes", 1024)
    assert_user_error(result, "--processes 1024: a process takes 0.5 GiB and more", "allowed here: at most ")
    assert not (tmp_path / "run").exists()


def test_a_batch_that_is_too_small_for_the_processes_starts_none(distgan: Run, tmp_path: Path) -> None:
    result = distgan("train", *quick("run"), "--processes", 33)
    assert_user_error(result, "--batch-size 32: too few for the processes", "allowed: at least 33")
    assert not (tmp_path / "run").exists()


def test_dry_run_starts_no_processes(distgan: Run) -> None:
    result = distgan("train", *quick("run"), "--processes", 3, "--dry-run")
    assert result.returncode == 0
    assert "processes  3 x cpu (DDP), precision no" in result.stdout
    assert "of 32 images, 10.67 a process" in result.stdout


# -- accelerate's own default file -------------------------------------------------------------------------


def test_settings_of_accelerates_default_file_that_concern_others_are_set_aside(
    distgan: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_MEGATRON_LM", "ACCELERATE_USE_PARALLELISM_CONFIG"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    result = distgan("train", *quick("run"))
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("of accelerate's config is ignored") == 4
    monkeypatch.undo()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert distgan("train", *quick("plain")).returncode == 0
    assert losses(tmp_path / "run") == losses(tmp_path / "plain")


def test_a_default_file_for_many_cpus_trains_on_one_and_says_so(run: Run, tmp_path: Path) -> None:
    """accelerate launch starts one process of MULTI_CPU, whatever the number."""
    default = tmp_path / "hf" / "accelerate" / "default_config.yaml"
    default.parent.mkdir(parents=True)
    default.write_text(yaml.safe_dump({
        "compute_environment": "LOCAL_MACHINE", "distributed_type": "MULTI_CPU", "use_cpu": True,
        "num_machines": 1, "num_processes": 2, "machine_rank": 0, "main_process_port": 29577,
        "mixed_precision": "no", "dynamo_config": {"dynamo_backend": "INDUCTOR"},
    }))  # fmt: skip
    result = run(BIN / "accelerate", "launch", SCRIPT, *quick("run"))
    assert result.returncode == 0, result.stderr
    assert world_size(tmp_path / "run") == 1
    assert "asked for several processes on a CPU and started one" in result.stderr
    # And a file of ours is not disturbed by it.
    result = run(*accelerate("cpu"), *quick("two"))
    assert result.returncode == 0, result.stderr
    assert world_size(tmp_path / "two") == 2


def test_fp16_of_a_default_file_is_refused_on_a_cpu_by_its_name(distgan: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    result = distgan("train", *quick("run"))
    assert_user_error(result, "--mixed_precision fp16 (of the launcher or accelerate's config", "allowed on a CPU: no")
