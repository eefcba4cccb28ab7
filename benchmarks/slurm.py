"""Measure the time of a job's start, save and resume, on a SLURM of two machines made of this one (tests/slurm/).

    python benchmarks/slurm.py [--rounds 3]

Prints a table. Needs what the tests of `make test-slurm` need.
"""

import argparse
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "slurm"))

from cluster import Cluster, Job, cluster, missing, wait_until

from distgan.utils.files import read_metrics

ROOT = Path(__file__).resolve().parent.parent
TRAINING = (
    "--data", "digits", "--width", 0.1, "--batch-size", 64, "--tracker", "none", "--device", "cpu", "--threads", 1,
    "--log-every", 1, "--save-every-steps", 50, "--epochs", 100,
)  # fmt: skip


def last_step(run: Path) -> int:
    lines = read_metrics(run / "metrics.jsonl") if (run / "metrics.jsonl").exists() else []
    return int(lines[-1]["step"]) if lines else 0


def since(began: float) -> float:
    return time.monotonic() - began


def one_round(slurm: Cluster) -> dict[str, float]:
    found: dict[str, float] = {}
    began = time.monotonic()
    job = slurm.submit("--nodes=2", ROOT / "slurm" / "cgan.sh", *TRAINING)
    run = slurm.folder / "runs" / f"cgan-{job.number}"
    wait_until(lambda: last_step(run) > 0, 120, job.log)
    found["sbatch to the first step, s"] = since(began)

    began = time.monotonic()
    job.signal("USR1")
    wait_until(lambda: "stopped by SIGUSR1" in job.log(), 60, job.log)
    found["USR1 to the last checkpoint of both nodes, s"] = since(began)
    began = time.monotonic()
    stopped = int(re.findall(r"at step ([\d,]+)", job.log())[-1].replace(",", ""))
    wait_until(lambda: last_step(run) > stopped, 120, job.log)
    found["saved to the first step of the next attempt, s"] = since(began)
    found["steps repeated after USR1"] = stopped - resumed(job)

    reached = last_step(run)
    slurm.preempt()
    wait_until(lambda: job.log().count("stopped by SIG") == 2, 60, job.log)
    stopped = int(re.findall(r"stopped by \w+ at step ([\d,]+)", job.log())[-1].replace(",", ""))
    wait_until(lambda: job.log().count("resuming at step") == 2, 120, job.log)
    found["steps repeated after preemption"] = stopped - resumed(job)
    assert stopped >= reached

    wait_until(lambda: last_step(run) > stopped + 120, 120, job.log)
    reached, began = last_step(run), time.monotonic()
    slurm.kill_node("node2")
    wait_until(lambda: job.state in ("PENDING", "REQUEUED"), 120, job.log)
    found["node killed to requeued by SLURM, s"] = since(began)
    slurm.heal()
    wait_until(lambda: job.log().count("resuming at step") == 3, 120, job.log)
    found["steps repeated after a node was killed (at most 50)"] = reached - resumed(job)
    slurm.quiet()
    return found


def resumed(job: Job) -> int:
    return int(re.findall(r"resuming at step ([\d,]+)", job.log())[-1].replace(",", ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    if why := missing():
        sys.exit(f"no SLURM for this: {why}")
    with tempfile.TemporaryDirectory(prefix="distgan-slurm-") as folder, cluster(Path(folder) / "lab") as slurm:
        slurm.folder = Path(folder)
        found = [one_round(slurm) for _ in range(rounds)]
    for name in found[0]:
        values = [each[name] for each in found]
        print(f"{name:<52} {statistics.median(values):6.1f} ({min(values):.1f} to {max(values):.1f})")


if __name__ == "__main__":
    main()
