"""The batch scripts on a real SLURM: what takes longer."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import Cluster, Job, wait_until
from helpers.jobs import assert_resumed_where_it_stopped, attempts, script, steps_of
from helpers.runs import Run, assert_same_run, checkpoint

pytestmark = pytest.mark.timeout(400)
TRAINING = (
    "--data", "digits", "--width", 0.1, "--batch-size", 64, "--tracker", "none", "--device", "cpu", "--threads", 1,
    "--log-every", 5, "--save-every-steps", 60,
)  # fmt: skip


def test_three_preemptions_give_the_bits_of_the_unbroken_run(slurm: Cluster, tmp_path: Path, distgan: Run) -> None:
    training = ("--model", "cgan", *TRAINING, "--epochs", 5)
    job = slurm.submit(script("cgan"), *training[2:])
    for times in range(3):
        job.await_log("resuming at step" if times else "step 5/", 90, times or 1)
        slurm.preempt()
        job.await_log(f"#{times}] the step ended with 0")
    assert job.end(240) == "COMPLETED", job.log()
    assert job.restarts == 3
    run = tmp_path / "runs" / f"cgan-{job.number}"
    assert_resumed_where_it_stopped(job, 3)
    distgan.ok("train", *training, "--out", "plain")
    assert_same_run(tmp_path / "plain", run)


def test_two_nodes_preempted_give_the_bits_of_two_processes(slurm: Cluster, tmp_path: Path, distgan: Run) -> None:
    training = ("--model", "cgan", *TRAINING, "--epochs", 1)
    job = slurm.submit("--nodes=2", "--partition=grace", script("cgan"), *training[2:])
    job.await_log("step 5/")
    slurm.preempt()  # USR1 at once, as the cluster is configured to send a job's own signal, and 30 s for it
    assert job.end(240) == "COMPLETED", job.log()
    assert job.restarts == 1
    assert_resumed_where_it_stopped(job, 1)
    distgan.ok("train", *training, "--processes", 2, "--out", "plain")
    assert_same_run(tmp_path / "plain", tmp_path / "runs" / f"cgan-{job.number}")


def test_time_limit_comes_as_usr1_and_the_job_goes_on(slurm: Cluster, tmp_path: Path) -> None:
    job = slurm.submit(
        "--time=1", "--signal=B:USR1@30", script("cgan"), *TRAINING, "--epochs", 200, "--max-steps", 6000
    )
    job.await_log("USR1, ", 90)
    job.await_log("resuming at step", 60)
    assert_resumed_where_it_stopped(job, 1)
    assert job.restarts == 1
    run = tmp_path / "runs" / f"cgan-{job.number}"
    job.owner.run("scancel", job.number)
    assert job.end() == "CANCELLED"
    assert attempts(run)[0][1] == "stopped"
    steps = steps_of(run)
    assert steps == sorted(set(steps))


def test_without_a_signal_the_run_itself_stops_before_the_limit(slurm: Cluster, tmp_path: Path) -> None:
    job = slurm.submit("--time=1", "--signal=B:USR1@0", script("cgan"), *TRAINING, "--epochs", 200)
    job.await_log("stopped before the end of SLURM's job", 90)
    job.await_log("resuming at step", 60)
    assert job.restarts == 1
    assert attempts(tmp_path / "runs" / f"cgan-{job.number}")[0][:2] == ["0", "stopped"]


def test_scancel_saves_and_the_job_does_not_come_back(slurm: Cluster, tmp_path: Path) -> None:
    job = slurm.submit("--nodes=2", script("cgan"), *TRAINING, "--epochs", 9)
    job.await_log("step 5/")
    slurm.run("scancel", job.number)
    assert job.end() == "CANCELLED", job.log()
    assert job.restarts == 0
    run = tmp_path / "runs" / f"cgan-{job.number}"
    step = int(re.findall(r"stopped by SIGTERM at step ([\d,]+)", job.log())[0].replace(",", ""))
    assert checkpoint(run)[1] == step
    assert attempts(run) == [["0", "ended", f"step-{step:08}"]]


def test_scontrol_requeue_by_hand_repeats_no_step(slurm: Cluster) -> None:
    job = slurm.submit(script("cgan"), *TRAINING, "--epochs", 3)
    job.await_log("step 5/")
    assert slurm.run("scontrol", "requeue", job.number).returncode == 0
    job.await_log("resuming at step", 90)
    assert_resumed_where_it_stopped(job, 1)


def test_lost_node_costs_no_step_before_the_checkpoint(slurm: Cluster, tmp_path: Path, distgan: Run) -> None:
    training = ("--model", "cgan", *TRAINING, "--epochs", 2)
    job = slurm.submit("--nodes=2", script("cgan"), *training[2:])
    run = tmp_path / "runs" / f"cgan-{job.number}"
    wait_until(lambda: (run / "checkpoints" / "step-00000060").exists(), 90, job.log)
    before = steps_of(run)[-1]
    slurm.kill_node("node2")
    wait_until(lambda: job.state in ("PENDING", "COMPLETING", "REQUEUED"), 90, job.log)
    slurm.heal()
    job.await_log("resuming at step", 120)
    resumed = int(re.findall(r"resuming at step ([\d,]+)", job.log())[0].replace(",", ""))
    assert resumed >= 60
    assert before - resumed <= 60 + 5
    assert job.end(240) == "COMPLETED", job.log()
    assert steps_of(run) == [step for step in range(1, 563) if step % 5 == 0 or step in (281, 562)]
    distgan.ok("train", *training, "--processes", 2, "--out", "plain")
    assert_same_run(tmp_path / "plain", run)


def kill_rank(slurm: Cluster, job: Job, node: str) -> None:
    """One of the job's training processes, as the kernel does that has no memory left."""
    found = subprocess.run(["ip", "netns", "pids", f"dg{node}"], capture_output=True, text=True, check=True)
    for pid in map(int, found.stdout.split()):
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        if words[1:4] == ["-u", "-m", "distgan"]:
            os.kill(pid, 9)
            return
    raise AssertionError(f"no training on {node}\n{job.log()}")


def test_crashes_are_tried_again_three_times_and_no_more(slurm: Cluster, tmp_path: Path) -> None:
    job = slurm.submit("--nodes=2", script("cgan"), *TRAINING, "--epochs", 50, "--timeout", 10)
    run = tmp_path / "runs" / f"cgan-{job.number}"
    for start in range(4):
        job.await_log(f"#{start}] command", 60)
        wait_until(lambda start=start: (run / "checkpoints" / f"step-{60 * (start + 1):08}").exists(), 90, job.log)  # type: ignore[misc]
        kill_rank(slurm, job, "node2")
        job.await_log(f"#{start}] the step ended with ", 60)
    assert job.end() == "FAILED", job.log()
    assert "not requeued: crash 4, more than 3" in job.log()
    assert job.restarts == 3
    assert [each[1] for each in attempts(run)] == ["crashed"] * 4


def test_a_crash_before_the_first_checkpoint_is_not_tried_again(slurm: Cluster, tmp_path: Path) -> None:
    job = slurm.submit("--nodes=2", script("cgan"), *TRAINING, "--epochs", 50, "--save-every-steps", 100000)
    job.await_log("step 5/")
    kill_rank(slurm, job, "node1")
    assert job.end() == "FAILED", job.log()
    assert job.restarts == 0
    assert "not requeued: it failed before its first checkpoint" in job.log()


def test_attempts_that_get_nowhere_come_to_an_end(slurm: Cluster, tmp_path: Path) -> None:
    """A python that never begins, and hears nothing."""
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/bash\n[[ $1 == -c ]] && exec {sys.executable} "$@"\ntrap "" USR1 TERM\nsleep 300\n')
    python.chmod(0o755)
    settings = {"DISTGAN_VENV": str(tmp_path / "venv"), "DISTGAN_MAX_IDLE": "2", "DISTGAN_GRACE": "1"}
    job = slurm.submit(script("cgan"), *TRAINING, **settings)
    for start in range(2):
        job.await_log(f"#{start}] command", 60)
        job.signal("USR1")
    assert job.end() == "FAILED", job.log()
    assert "ExitCode=75:0" in job.facts
    assert job.restarts == 1
    assert "not requeued: the last 2 attempts left no new checkpoint" in job.log()


def test_usr1_during_the_imports_is_sent_again(slurm: Cluster) -> None:
    job = slurm.submit("--nodes=2", script("cgan"), *TRAINING, "--epochs", 3)
    job.await_log("command:")
    job.signal("USR1")
    job.await_log("stopped by SIGUSR1 at step", 60)
    job.await_log("resuming at step", 60)
    assert_resumed_where_it_stopped(job, 1)


def test_what_does_not_save_in_time_is_requeued_from_the_checkpoint_before(slurm: Cluster, tmp_path: Path) -> None:
    job = slurm.submit(script("cgan"), *TRAINING, "--epochs", 3, DISTGAN_GRACE="5")
    run = tmp_path / "runs" / f"cgan-{job.number}"
    wait_until(lambda: (run / "checkpoints" / "step-00000060").exists(), 90, job.log)
    found = subprocess.run(["pgrep", "-f", f"distgan train .*cgan-{job.number}"], capture_output=True, text=True)
    for pid in found.stdout.split():
        os.kill(int(pid), 19)  # SIGSTOP: it hears nothing any more
    job.signal("USR1")
    job.await_log("requeue: nothing was saved within 5 s", 60)
    job.await_log("resuming at step", 90)
    assert job.restarts == 1
    assert attempts(run)[0][:2] == ["0", "stuck"]


def test_no_second_job_writes_in_the_same_folder(slurm: Cluster, tmp_path: Path) -> None:
    first = slurm.submit(script("cgan"), *TRAINING, "--epochs", 50, "--out", "mine")
    first.await_log("step 5/")
    second = slurm.submit("--nodelist=node2", script("cgan"), *TRAINING, "--epochs", 50, "--out=mine")
    assert second.end() == "FAILED"
    assert f"distgan: --out: in use by job {first.number} (mine). Expected: another folder" in second.log()
    same = slurm.submit(script("cgan"), *TRAINING, "--epochs", 50, f"--out={tmp_path}/./mine/")
    assert same.end() == "FAILED"
    assert f"--out: in use by job {first.number} (" in same.log()
    # That others looked does not make the first one done when it stops, nor not the owner when it comes back.
    slurm.run("scancel", "--signal=USR1", first.number)
    first.await_log("resuming at step", 60)
    assert_resumed_where_it_stopped(first, 1)
    slurm.run("scancel", first.number)
    first.end()
    both = [
        slurm.submit(f"--nodelist=node{i}", script("cgan"), *TRAINING, "--epochs", 50, "--max-steps", 10, "--out=ours")
        for i in (1, 2)
    ]
    assert sorted(job.end() for job in both) == ["COMPLETED", "FAILED"], both[0].log() + both[1].log()
    assert steps_of(tmp_path / "ours") == [5, 10]
    # It was stopped, which says nothing of a job that only looks at it.
    dry = slurm.submit(script("cgan"), *TRAINING, "--epochs", 50, "--out", "mine", "--dry-run")
    assert dry.end() == "COMPLETED", dry.log()
    assert dry.restarts == 0
    third = slurm.submit(script("cgan"), *TRAINING, "--epochs", 50, "--max-steps", 10, "--out", "mine")
    assert third.end() == "COMPLETED", third.log()
    # A folder of the job's own name is one of another life of the cluster, whose numbers began anew.
    (tmp_path / "runs").mkdir(exist_ok=True)
    shutil.copytree(tmp_path / "mine", tmp_path / "runs" / f"cgan-{int(third.number) + 1}")
    fourth = slurm.submit(script("cgan"), *TRAINING, "--epochs", 50, "--max-steps", 10)
    assert fourth.end() == "FAILED"
    assert "[output-exists]" in fourth.log()
    record = tmp_path / "runs" / f"cgan-{int(fourth.number) + 1}.attempts"
    record.write_text(f"2020-01-01T00:00:00\t{int(fourth.number) + 1}\t0\tfinished\tstep-00000007\tmoved\n")
    fifth = slurm.submit(script("cgan"), *TRAINING, "--epochs", 50, "--max-steps", 10)
    assert fifth.end() == "FAILED"
    assert f"distgan: DISTGAN_RUNS: the folder has an older job with this job's id ({record}). Expected" in fifth.log()


def test_nothing_of_the_environment_is_needed(slurm: Cluster, tmp_path: Path) -> None:
    """sbatch --export=NONE, from standard input, where SLURM knows no path of the script's."""
    job = slurm.submit(
        f"--export=DISTGAN_VENV={sys.prefix}", script("cgan"), *TRAINING, "--epochs", 1, "--max-steps", 5
    )
    assert job.end() == "COMPLETED", job.log()
    assert checkpoint(tmp_path / "runs" / f"cgan-{job.number}")[1] == 5


def test_in_a_container_after_a_setup_of_others(slurm: Cluster, tmp_path: Path) -> None:
    """unshare makes one as container runtimes do: python has no other process in sight, and its own mounts."""
    setup = tmp_path / "site.sh"
    setup.write_text(
        "set -euo pipefail\nIFS=,\nshift $#\ncd /\nkind=module job=7 start=9 root=/opt run=/ seed=1 python=2\n"
        f"echo of the site; false\nexport PATH={sys.prefix}/bin:$PATH\nsleep 4\n"
    )
    container = "unshare --fork --pid --mount-proc"
    site = {"DISTGAN_SETUP": str(setup), "DISTGAN_VENV": "/no/where", "DISTGAN_CONTAINER": container}
    job = slurm.submit("--nodes=2", script("cgan"), *TRAINING, "--epochs", 2, **site)
    job.await_log("of the site")
    job.signal("USR1")  # preempted before it has begun
    job.await_log("#0] requeue: stopped, no checkpoint yet", 30)
    job.await_log("step 5/")
    setup.rename(tmp_path / "gone.sh")  # as on a machine that has a folder less than the others
    job.signal("USR1")
    job.await_log(f"distgan: DISTGAN_SETUP: not readable on node1 ({setup}). Expected: a file that bash", 60)
    (tmp_path / "gone.sh").rename(setup)
    assert job.end(200) == "COMPLETED", job.log()
    assert_resumed_where_it_stopped(job, 1)
    assert f"of {container} python3" in job.log()
    run = tmp_path / "runs" / f"cgan-{job.number}"
    assert json.loads((run / "status.json").read_text())["pid"] < 100, "it was not in there"
    found = [each[1] for each in attempts(run)]
    assert found[:2] == ["stopped"] * 2
    assert found[-1] == "finished"
    assert set(found[2:-1]) == {"crashed"}


def test_an_array_of_seeds_ends_in_one_summary(slurm: Cluster, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(
        '[model]\nname = "cgan"\nfamily = "dcgan"\nwidth = 0.1\n[data]\nname = "digits"\nbatch_size = 64\n'
        "[run]\nepochs = 2\n"
    )
    (tmp_path / "easy.toml").write_text(
        'format = 1\nfrozen = "2026-01-01"\nruns = []\n[protocol]\nnum = 200\nevaluations_per_epoch = 2\nhold = 1\n'
        "[cgan]\nmax_fcd = 1000.0\nmin_agreement = 0.0\nmin_coverage = 0.0\n"
        "[vanilla]\nmax_fcd = 1000.0\nmin_share = 0.0\nmax_share = 1.0\nmin_recognisable = 0.0\nmin_coverage = 0.0\n"
    )
    job = slurm.submit(
        "--array=0-1", "--gpus-per-node=0", script("convergence"), "--preset", "tiny.toml", "--targets", "easy.toml",
        "--threads", 1, "--device", "cpu",
    )  # fmt: skip
    wait_until(
        lambda: "fcd" in "".join(p.read_text() for p in tmp_path.glob("runs/*/seed-1/runs/*/metrics.jsonl")), 120
    )
    assert slurm.run("scancel", "--batch", "--signal=USR1", f"{job.number}_1").returncode == 0
    # The training, but not the script.
    assert slurm.run("scancel", "--signal=USR1", f"{job.number}_0").returncode == 0
    assert job.end(300) == "COMPLETED", job.log()
    together = tmp_path / "runs" / f"convergence-{job.number}"
    content = json.loads((together / "results.json").read_text())
    assert [(cell["seed"], cell["outcome"]) for cell in content["cells"]] == [(0, "converged"), (1, "converged")]
    assert content["facts"]["joined"] == ["seed-0/results.json", "seed-1/results.json"]
    assert (together / "convergence.png").exists()
    for seed in range(2):
        assert [each[:2] for each in attempts(together / f"seed-{seed}")] == [["0", "stopped"], ["1", "finished"]]
    assert job.log().count("no summary in ") == 0
    assert sorted(path.name for path in tmp_path.glob("*.out")) == [
        f"convergence-{job.number}_{seed}.out" for seed in (0, 1)
    ]


def test_a_benchmark_runs_on_one_node(slurm: Cluster, tmp_path: Path) -> None:
    job = slurm.submit(
        "--gpus-per-node=0", script("bench"), "--model", "cgan", "--batch-size", 16, "--engine", "eager",
        "--precision", "fp32", "--steps", 1, "--repeats", 5, "--rounds", 1, "--data", "digits", "--width", 0.1,
    )  # fmt: skip
    assert job.end(200) == "COMPLETED", job.log()
    assert (tmp_path / "runs" / f"bench-{job.number}" / "results.json").exists()
    assert slurm.run("scontrol", "requeue", job.number).returncode == 0
    job.await_log("done already", 60)
    assert job.end() == "COMPLETED"
    assert not (tmp_path / "runs" / f"bench-{job.number}-1").exists()


def test_nothing_is_left_behind(up: Cluster) -> None:
    """Measured on a cluster; the last test, as none of the others has one then."""
    folder = up.lab.with_name("gone")
    subprocess.run([Path(__file__).parent / "slurm" / "down.sh", up.lab], check=True, timeout=90)
    assert not up.lab.exists()
    assert "dgnode" not in subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout
    assert subprocess.run(["ip", "link", "show", "dgbr0"], capture_output=True).returncode
    assert not subprocess.run(["pgrep", "-f", str(up.lab)], capture_output=True).stdout
    assert not folder.exists()
