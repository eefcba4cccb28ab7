"""A process that fails, hangs or does not fit: it is named, the others end, and nothing is lost."""

import os
import signal
import socket
import subprocess
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from helpers.forkserver import Ranks
from helpers.launchers import TWO, fault
from helpers.runs import (
    BIN,
    SCRIPT,
    InjectFault,
    MonkeyPatch,
    Run,
    Start,
    assert_user_error,
    checkpoint,
    fits,
    free_port,
    losses,
    ranks_of,
    wait_for,
)


@pytest.mark.parametrize(
    ("how", "last_line", "limit_s"),
    [
        ("raise", "distgan: rank 1: ValueError: an injected fault", 3),
        ("kill", "distgan: rank 1 was ended by SIGKILL (often: out of memory)", 3),
        ("exit", "distgan: rank 1 ended with exit code 7 and no error message", 3),
        ("memory", "a higher --d-microbatches, or more --processes", 3),
        ("hang", "distgan: rank 1 is silent for --timeout 5 s", 15),
        ("stop", "distgan: rank 1 is silent for --timeout 5 s", 5 + 2 + 5 + 3),
    ],
)
def test_culprit_has_the_last_word(
    run: Run, tmp_path: Path, inject_fault: InjectFault, how: str, last_line: str, limit_s: float
) -> None:
    inject_fault(f"1,5,{how}")
    # Of three, so that the two that are left tell each other from the one that is gone.
    num = 3 if how == "raise" else 2
    result = run(BIN / "distgan", "train", *fault("run", "--timeout", 5), "--processes", num)
    assert result.returncode == (7 if how == "exit" else 1), result.stderr
    assert last_line in result.stderr.splitlines()[-1], result.stderr
    assert "ChildFailedError" not in result.stderr
    status = (tmp_path / "run" / "status.json").read_text()
    assert '"state": "failed"' in status
    assert '"reason": "rank 1 is ' in status
    # The others were gone in time: the last checkpoint is older than the last process by no more than the limit.
    assert checkpoint(tmp_path / "run")[1] == 4, "the last checkpoint is complete"
    age = time.time() - (tmp_path / "run" / "checkpoints" / "step-00000004").stat().st_mtime
    assert age < limit_s + 6, f"{age:.1f} s"


def test_torchruns_report_ends_with_the_culprits_words(run: Run, inject_fault: InjectFault) -> None:
    inject_fault("1,5,raise")
    result = run(*TWO, *fault("run"))
    assert result.returncode == 1
    root_cause = result.stderr.split("Root Cause")[1]
    assert "rank      : 1" in root_cause
    assert "rank 1: ValueError: an injected fault" in root_cause
    assert "distgan: rank 1 is gone (" in result.stderr, "and what the other one saw"


def test_torchrun_resumes_after_a_restart(run: Run, distgan: Run, tmp_path: Path, inject_fault: InjectFault) -> None:
    """Without --out too: the processes find the folder that the launcher's last ones had."""
    inject_fault("1,5,kill")
    flags = [word for word in fault("x") if word not in ("--out", "x")]
    result = run.ok(BIN / "torchrun", "--nproc-per-node", 2, "--standalone", "--max-restarts", 1, SCRIPT, *flags)
    assert fits("resuming ... step 4 ", result.stderr)
    (folder,) = (tmp_path / "runs").iterdir()
    distgan.ok("train", *fault("unbroken"))
    for ours, theirs in zip(losses(folder), losses(tmp_path / "unbroken"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3), "each step once"


def test_diverging_rank_is_named(run: Run, tmp_path: Path, inject_fault: InjectFault) -> None:
    """Before a checkpoint, whatever the cadence (which tests/unit/training/test_cadence.py has)."""
    inject_fault("1,5,diverge")
    flags = (*fault("run"), "--check-ranks-every", 1000)
    result = run(BIN / "distgan", "train", *flags, "--processes", 2)
    assert result.returncode == 1, result.stderr
    words = "distgan: rank 1: discriminator.features.0.weight differs from rank 0 after step 6"
    assert words in result.stderr.splitlines()[-1]
    assert fits("step 4, ... run", result.stderr)
    assert checkpoint(tmp_path / "run")[1] == 4, "what came after is not saved"


@pytest.mark.parametrize(("rank", "signum"), [(1, signal.SIGKILL), (0, signal.SIGINT)])
def test_a_wait_before_the_first_step_ends(
    ranks: Ranks, tmp_path: Path, inject_fault: InjectFault, rank: int, signum: signal.Signals
) -> None:
    """Rank 0 has its data and waits for rank 1: until that is killed, or Ctrl-C."""
    inject_fault("1,0,load")
    port = free_port()
    both = [ranks.start(each, 2, port, "train", *fault("run", "--timeout", 60)) for each in (0, 1)]
    wait_for((tmp_path / "loading").exists, both[1])
    time.sleep(1)  # for rank 0 to wait
    both[rank].send_signal(signum)
    began = time.monotonic()
    first = ended(both[0])
    assert time.monotonic() - began < 5
    if signum == signal.SIGKILL:
        assert first.returncode == 1
        assert first.stderr.splitlines()[-1] == "distgan: rank 1 is gone"
        assert "Traceback" not in first.stderr
    else:
        assert first.returncode == -signal.SIGINT


def test_ctrl_c_while_processes_start_ends_them_at_once(
    start: Start, tmp_path: Path, inject_fault: InjectFault
) -> None:
    inject_fault("1,0,load")
    process = start(BIN / "distgan", "train", *fault("run"), "--processes", 2)
    wait_for((tmp_path / "loading").exists, process)
    time.sleep(1)  # for rank 0 to wait for the other
    os.killpg(process.pid, signal.SIGINT)
    began = time.monotonic()
    result = ended(process)
    assert time.monotonic() - began < 5
    assert result.returncode == 130
    assert result.stderr.splitlines()[-1] == "distgan: ended by SIGINT, with nothing to save"


def ended(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    out, err = process.communicate(timeout=90)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--g-lr", "0.5"), "rank 1: ... [optim] g_lr ... 0.5 ... rank 0 ... 0.0002 ... [ranks-differ]"),
        (("--precision", "bf16"), "rank 1: ... precision ... bf16 ... rank 0 ... fp32 ... [ranks-differ]"),
    ],
)
def test_another_config_is_found_at_the_start(ranks: Ranks, tmp_path: Path, flags: tuple[str, ...], words: str) -> None:
    port = free_port()
    common = fault("run", "--g-lr", "2e-4", "--timeout", 60)
    both = [ranks.start(rank, 2, port, "train", *common, *(flags if rank else ())) for rank in (0, 1)]
    first, second = (ended(process) for process in both)
    assert_user_error(first, words)
    assert second.returncode == 2
    assert not second.stderr, "said once"
    assert not (tmp_path / "run").exists()


def test_another_version_is_found_at_the_start(run: Run, tmp_path: Path, inject_fault: InjectFault) -> None:
    inject_fault("1,0,version")
    result = run(BIN / "distgan", "train", *fault("run"), "--processes", 2)
    assert_user_error(result, "rank 1: ... 9.9 (code ... rank 0 ... [ranks-differ]")
    assert not (tmp_path / "run").exists()


def test_other_data_is_found_at_the_start(run: Run, tmp_path: Path, inject_fault: InjectFault) -> None:
    inject_fault("1,0,data")
    result = run(BIN / "distgan", "train", *fault("run"), "--processes", 2)
    assert_user_error(result, "rank 1: ... fingerprint ... rank 0 ... [ranks-differ]")
    assert not (tmp_path / "run").exists()


def test_a_port_in_use_is_named(ranks: Ranks) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = ended(ranks.start(0, 2, port, "train", *fault("run")))
    assert_user_error(result, f"MASTER_PORT: ... (127.0.0.1:{port}) ... [rendezvous-failed]")


def test_a_process_that_does_not_come_is_reported(ranks: Ranks) -> None:
    alone = [ranks.start(rank, 2, free_port(), "train", *fault(f"run-{rank}", "--timeout", 5)) for rank in (0, 1)]
    first, second = (ended(process) for process in alone)
    assert_user_error(first, "1 of 2 ... 127.0.0.1: ... --timeout 5 s ... [rank-missing]")
    assert_user_error(second, "rank 0 ... 127.0.0.1: ... --timeout 5 s ... [rank-missing]")


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ("WORLD_SIZE=abc", "WORLD_SIZE: ... (abc) ... 1 or more [launcher-environment]"),
        ("WORLD_SIZE=2 RANK=x", "RANK: ... (x) ... 0 or more [launcher-environment]"),
        ("WORLD_SIZE=2 RANK=5", "RANK: ... WORLD_SIZE=2 (5) ... 0 to 1 [launcher-environment]"),
        ("WORLD_SIZE=2 RANK=1", "MASTER_ADDR: ... WORLD_SIZE=2 ... [launcher-environment]"),
        ("WORLD_SIZE=2 RANK=1 MASTER_ADDR=127.0.0.1 MASTER_PORT=99999", "MASTER_PORT: ... (99999) ... [launch]"),
    ],
)  # fmt: skip
def test_invalid_environment_is_one_line(distgan: Run, monkeypatch: MonkeyPatch, variables: str, words: str) -> None:
    for name, value in (variable.split("=") for variable in variables.split()):
        monkeypatch.setenv(name, value)
    assert_user_error(distgan("train", *fault("run")), words)


def test_no_rank_outlives_a_launcher_that_is_killed_at_any_instant(
    start: Start, tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    """From the start of the first one on; --timeout is the time after which they would end anyhow."""
    monkeypatch.setenv("COLD_START", "ranks")

    def there() -> list[psutil.Process]:
        return [each for each in psutil.process_iter(["cwd"]) if each.info["cwd"] == str(tmp_path)]

    for after_s in (0.0, 0.02, 0.05, 0.15, 0.5):
        launcher = start(BIN / "distgan", "train", *fault("run", "--timeout", 60), "--processes", 2)
        end = time.monotonic() + 60
        while not ranks_of(launcher):
            assert time.monotonic() < end
        time.sleep(after_s)
        launcher.kill()
        launcher.wait()
        end = time.monotonic() + 15
        while left := there():
            assert time.monotonic() < end, f"{left}, of a launcher that was killed after {after_s} s"
            time.sleep(0.1)


def test_processes_of_a_launcher_that_is_killed_at_the_start_end_and_say_so(
    start: Start, monkeypatch: MonkeyPatch
) -> None:
    monkeypatch.setenv("COLD_START", "ranks")
    process = start(BIN / "distgan", "train", *fault("run"), "--processes", 2)
    wait_for(lambda: len(ranks_of(process)) == 2, process)
    ranks = [psutil.Process(pid) for pid in ranks_of(process)]
    # They have to know whose children they are before that one is gone: known before torch is loaded.
    wait_for(lambda: all("libtorch" in Path(f"/proc/{rank.pid}/maps").read_text() for rank in ranks), process)
    process.kill()
    _, alive = psutil.wait_procs(ranks, timeout=20)
    assert not alive
    _, err = process.communicate()
    assert fits("distgan: ... launcher", err), err
