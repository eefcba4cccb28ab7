"""Read what SLURM jobs have written."""

import re
from pathlib import Path

from cluster import Job

from helpers.runs import ROOT, losses


def script(name: str) -> Path:
    return ROOT / "slurm" / f"{name}.sh"


def steps_of(run: Path) -> list[int]:
    return [int(line[0]) for line in losses(run)]


def attempts(run: Path) -> list[list[str]]:
    """Return (restart, outcome, last checkpoint) of each ended attempt."""
    lines = [line.split("\t") for line in run.with_name(f"{run.name}.attempts").read_text().splitlines()]
    return [[line[2], line[3], line[4]] for line in lines if line[3] != "began"]


def assert_resumed_where_it_stopped(job: Job, times: int) -> None:
    stopped = re.findall(r"stopped by \w+ at step ([\d,]+)", job.log())
    assert len(stopped) == times, job.log()
    assert re.findall(r"resuming at step ([\d,]+)", job.log()) == stopped, job.log()
