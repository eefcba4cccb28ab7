"""The batch scripts on a real SLURM of two machines: signals, preemption, requeue, lost nodes, mistakes.

Both machines are this one (tests/slurm/), so that a folder is shared without more ado; their GPUs can't compute. The
first tests are in `make test` where there may be a SLURM, all of them in `make test-slurm`.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import Cluster, Job
from helpers.jobs import assert_resumed_where_it_stopped, attempts, script, steps_of
from helpers.runs import BIN, ROOT, checkpoint, fits

pytestmark = pytest.mark.timeout(400)

TRAINING = (
    "--data", "digits", "--width", 0.1, "--batch-size", 64, "--tracker", "none", "--device", "cpu", "--threads", 1,
    "--log-every", 5, "--save-every-steps", 60,
)  # fmt: skip
STEPS_PER_EPOCH = 281


def test_a_job_from_a_folder_with_spaces_and_a_clone_with_spaces(slurm: Cluster, tmp_path: Path) -> None:
    (tmp_path / "my clone").symlink_to(ROOT)
    slurm.folder = tmp_path / "my jobs"
    slurm.folder.mkdir()
    job = slurm.submit(
        "--nodes=2", "--gpus-per-node=0", "--exclusive", "../my clone/slurm/cgan.sh", *TRAINING, "--epochs", 9,
        "--max-steps", 8, SLURM_MEM_PER_NODE="2048",
    )  # fmt: skip
    assert job.end() == "COMPLETED", job.log()
    first, second, third = job.log().splitlines()[:3]
    assert f"cgan-{job.number} #0] 2 nodes (node[1-2]) with 0 GPUs and 16 CPUs each, 2 processes of 16 threads" in first
    assert f"in {tmp_path}/my clone, Python {sys.version.split()[0]} of {sys.prefix}/bin/python" in second
    assert "command: distgan train --threads 16 --resume never --model cgan --data digits" in third
    run = slurm.folder / "runs" / f"cgan-{job.number}"
    assert steps_of(run) == [5, 8]
    assert json.loads((run / "environment.json").read_text())["world_size"] == 2
    assert attempts(run) == [["0", "finished", "step-00000008"]]
    # A job that is done is not run again.
    assert slurm.run("scontrol", "requeue", job.number).returncode == 0
    job.await_log("done already", 60)
    assert job.end() == "COMPLETED"
    assert job.restarts == 1
    assert steps_of(run) == [5, 8]


def test_usr1_on_two_nodes_saves_requeues_and_goes_on_where_it_was(slurm: Cluster, tmp_path: Path) -> None:
    job = slurm.submit("--nodes=2", "--gpus-per-node=1", script("vanilla"), *TRAINING, "--epochs", 1)
    job.await_log("step 5/")
    job.signal("USR1")
    assert job.end(200) == "COMPLETED", job.log()
    assert job.restarts == 1
    assert_resumed_where_it_stopped(job, 1)
    run = tmp_path / "runs" / f"vanilla-{job.number}"
    assert [each[:2] for each in attempts(run)] == [["0", "stopped"], ["1", "finished"]]
    assert "#0] the step ended with 0 " in job.log(), "SLURM took the stop of one task for a failure of all"
    steps = steps_of(run)
    assert steps == sorted(set(steps))
    assert steps[-1] == STEPS_PER_EPOCH
    assert json.loads((run / "environment.json").read_text())["world_size"] == 2


def assert_failed_with(job: Job, line: str) -> None:
    """One line of ours, and no second attempt."""
    assert job.end() == "FAILED", job.log()
    assert "ExitCode=2:0" in job.facts, job.facts
    assert job.restarts == 0
    said = [each for each in job.log().splitlines() if each.startswith("distgan: ")]
    assert len(said) == 1, job.log()
    assert said[0].startswith(f"distgan: {line.partition(' ... ')[0]}")
    assert fits(line, said[0])
    assert "Traceback" not in job.log()


def test_mistakes_end_the_job_with_one_line(slurm: Cluster) -> None:
    cases = [
        ({}, "--epohcs: unknown flag, did you mean --epochs?"),
        ({"DISTGAN_VENV": "/no/where"}, "DISTGAN_VENV: no bin/python on node ... (/no/where)"),
        ({"DISTGAN_SETUP": "/no/setup.sh"}, "DISTGAN_SETUP: not readable on node ... (/no/setup.sh)"),
        (
            {"DISTGAN_GRACE": "soon"},
            "DISTGAN_GRACE: invalid environment variable (soon). Expected: an integer, 1 or more",
        ),
        (
            {"DISTGAN_PROCESSES_PER_NODE": "0"},
            "DISTGAN_PROCESSES_PER_NODE: invalid environment variable (0). Expected: an integer, 1",
        ),
        ({"DISTGAN_RUNS": "/dev/null"}, "DISTGAN_RUNS, --out: not writable (/dev/null/cgan-"),
        (
            {"DISTGAN_CONTAINER": "/usr/bin/env -i"},
            "DISTGAN_CONTAINER: dependencies are missing on node ... (/usr/bin/env -i python3: Python 3. ... torch",
        ),
    ]
    (slurm.folder / "c:d").symlink_to(ROOT)
    colon = slurm.submit("c:d/slurm/cgan.sh", *TRAINING)
    array = slurm.submit("--array=4", script("convergence"), "--preset", "cgan-fast", "--seeds", 3)
    jobs = [slurm.submit(script("cgan"), *TRAINING, "--epohcs", 3, **setting) for setting, _ in cases]
    assert_failed_with(
        array, "--seeds: not supported in an array, where each task has one seed. Expected: sbatch --array=0-4"
    )
    assert_failed_with(colon, f"DISTGAN_ROOT: a colon can't be in PYTHONPATH ({slurm.folder}/c:d)")
    for job, (_, line) in zip(jobs, cases, strict=True):
        assert_failed_with(job, line)


def test_data_that_one_machine_lacks(slurm: Cluster, mnist_dir: Path) -> None:
    (slurm.lab / "local" / "node1" / "data").symlink_to(mnist_dir)  # /local/data, on the first machine alone
    flags = ("--no-download", "--device", "cpu", "--threads", 1)
    job = slurm.submit("--nodes=2", script("cgan"), "--data-dir", "/local/data", *flags)
    assert_failed_with(job, "rank 1: --data-dir: no mnist in /local/data")


def test_slurm_itself_takes_each_script(slurm: Cluster) -> None:
    for name in ("vanilla", "cgan", "bench", "convergence"):
        done = slurm.run("sbatch", "--test-only", script(name))
        assert done.returncode == 0, done.stderr
        assert "to start at" in done.stderr


def test_distgan_slurm_submits_and_tells_what_slurm_rejects(slurm: Cluster, tmp_path: Path) -> None:
    def distgan(*words: object) -> subprocess.CompletedProcess[str]:
        return slurm.run(BIN / "distgan", "slurm", *words, "--model", "cgan", *TRAINING, "--max-steps", 6)

    for words, message in (
        (["--gpus-per-node", 4], "--gpus-per-node=4: rejected by sbatch ("),
        (["--nodes", 3], "--nodes=3: rejected by sbatch ("),
        (["--time", "1:00:00", "--partition", "short"], "--time=1:00:00 --partition=short: rejected by sbatch ("),
        (["--partition", "nowhere"], "--partition=nowhere: rejected by sbatch (invalid partition specified"),
    ):
        done = distgan(*words)
        assert done.returncode == 2, done.stdout
        assert f"distgan: {message}" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    dry = distgan("--nodes", 2, "--gpus-per-node", 1, "--time", "20", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "to start at" in dry.stderr
    assert not slurm.run("squeue", "--noheader").stdout
    done = distgan("--nodes", 2, "--gpus-per-node", 1, "--time", "20", "--job-name", "mine")
    assert done.returncode == 0, done.stderr
    match = re.fullmatch(r"job (\d+): log mine-\1\.out, run runs/mine-\1; squeue --job \1, scancel \1\n", done.stdout)
    assert match, done.stdout
    job = Job(slurm, match[1])
    assert job.end() == "COMPLETED", job.log()
    assert checkpoint(tmp_path / "runs" / f"mine-{job.number}")[1] == 6


# -- what takes longer ----------------------------------------------------------------------
