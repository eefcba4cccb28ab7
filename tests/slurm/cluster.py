"""A SLURM cluster of two machines on this one, for tests: its jobs, their logs, and what can happen to them."""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

HERE = Path(__file__).parent
LOCK = Path("/run/distgan-slurm.lock")
NODES = ("node1", "node2")
_OVER = re.compile(r"JobState=(\w+)")
_ON = {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "SUSPENDED"}


def missing() -> str | None:
    """Return what this machine lacks for one, in words."""
    if os.geteuid():
        return "not root, which namespaces and slurmd need"
    programs = [name for name in ("slurmctld", "slurmd", "sbatch", "munged", "ip") if not shutil.which(name)]
    if programs:
        return f"no {', '.join(programs)} (tests/slurm/install.sh has Debian's)"
    probe = subprocess.run(["unshare", "--net", "--uts", "--mount", "true"], capture_output=True, text=True)
    if probe.returncode:
        return f"no namespaces may be made here ({probe.stderr.strip()})"
    return None


@contextmanager
def cluster(lab: Path) -> Iterator["Cluster | None"]:
    """Start a cluster, and end it after the block. Yield None if another test run has one up.

    A lock tells: it ends with its process. The cluster of a test run that was killed is ended first.
    """
    with LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        if "dgnode1" in subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout:
            subprocess.run([HERE / "down.sh"], timeout=90, check=True)
        try:
            done = subprocess.run([HERE / "up.sh", lab], capture_output=True, text=True, timeout=90)
            assert done.returncode == 0, done.stdout + done.stderr
            yield Cluster(lab)
        finally:
            subprocess.run([HERE / "down.sh", lab], timeout=90, check=False)


class Cluster:
    """Every command runs in `folder`, which a test sets."""

    def __init__(self, lab: Path):
        self.lab = lab
        self.folder = lab
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))
        } | {"SLURM_CONF": str(lab / "etc" / "slurm.conf"), "DISTGAN_VENV": sys.prefix}

    def run(self, *command: object, **environment: str) -> subprocess.CompletedProcess[str]:
        words = [str(word) for word in command]
        variables = self.environment | environment
        return subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=self.folder, env=variables)

    def submit(self, *words: object, **environment: str) -> "Job":
        """sbatch with the words, which are its flags, a script and that one's flags."""
        done = self.run("sbatch", "--parsable", *words, **environment)
        assert done.returncode == 0, done.stderr
        return Job(self, done.stdout.strip())

    def preempt(self, seconds: int = 1) -> None:
        """A job of a partition that goes before all others takes both machines."""
        flags = ("--partition=urgent", "--nodes=2", "--gpus-per-node=2", "--time=1", "--output=/dev/null")
        self.submit(*flags, f"--wrap=sleep {seconds}")

    def kill_node(self, name: str) -> None:
        """As a power cut does."""
        found = subprocess.run(["ip", "netns", "pids", f"dg{name}"], capture_output=True, text=True, check=True)
        for pid in found.stdout.split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def heal(self) -> None:
        subprocess.run([HERE / "up.sh", self.lab], check=True, capture_output=True, timeout=90)

    def quiet(self) -> None:
        """No job is left."""
        self.run("scancel", "--user=root")
        wait_until(lambda: not self.run("squeue", "--noheader").stdout.strip(), 40)


class Job:
    def __init__(self, owner: Cluster, number: str):
        self.owner, self.number = owner, number

    def log(self) -> str:
        """Return what it has written, in all attempts; of an array, in all its tasks."""
        names = (f"*-{self.number}.out", f"*-{self.number}_*.out")
        paths = [path for name in names for path in sorted(self.owner.folder.glob(name))]
        return "".join(path.read_text(errors="replace") for path in paths)

    def await_log(self, text: str, seconds: float = 90, times: int = 1) -> None:
        def is_there() -> bool:
            assert "NODE FAILURE" in text or self.state in _ON or self.log().count(text) >= times, self.log()
            return self.log().count(text) >= times

        wait_until(is_there, seconds, self.log)

    @property
    def facts(self) -> str:
        return self.owner.run("scontrol", "show", "job", self.number).stdout

    @property
    def state(self) -> str:
        return found[1] if (found := _OVER.search(self.facts)) else "UNKNOWN"

    @property
    def restarts(self) -> int:
        return int(re.findall(r"Restarts=(\d+)", self.facts)[0])

    def signal(self, name: str) -> None:
        """As --signal=B:... does: to the script alone."""
        assert self.owner.run("scancel", "--batch", f"--signal={name}", self.number).returncode == 0

    def end(self, seconds: float = 150) -> str:
        """The state in which it ends. One that is requeued passes through others, so an end has to last."""
        end, since = time.monotonic() + seconds, 0.0
        while time.monotonic() < end:
            states = set(_OVER.findall(self.facts))
            if states & _ON:
                since = 0.0
            elif not since:
                since = time.monotonic()
            elif time.monotonic() - since > 1.5:
                return " ".join(sorted(states))
            time.sleep(0.2)
        raise AssertionError(f"job {self.number} does not end:\n{self.log()}\n{self.facts}")


def wait_until(condition: Callable[[], bool], seconds: float, say: Callable[[], str] = str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"nothing happened in {seconds} s\n{say()}"
        time.sleep(0.1)
