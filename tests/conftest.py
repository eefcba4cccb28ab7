"""What the tests share: the command line in a fresh process, and data to run it on.

Real MNIST is taken from $DISTGAN_TEST_MNIST or ../shared/mnist; where neither is, the end-to-end tests
run on the embedded digits. No test asks any address but this machine's.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import forked
import pytest
import torch

from distgan.checkpoint.resume import newest_valid
from distgan.config.schema import Config, RunConfig
from distgan.utils.files import read_metrics

ROOT = Path(__file__).resolve().parent.parent
MNIST = Path(os.environ.get("DISTGAN_TEST_MNIST", ROOT.parent / "shared" / "mnist"))
SCRIPT = ROOT / "distgan" / "train.py"
BIN = Path(sys.executable).parent

# Networks that take milliseconds a step.
TINY = (
    "--family",
    "small",
    "--width",
    "0.1",
    "--batch-size",
    "32",
    "--log-every",
    "2",
    "--tracker",
    "none",
    "--threads",
    "1",
)


def quick(out: object, *more: object) -> tuple[object, ...]:
    """Six steps on the embedded digits."""
    return ("--preset", "cgan-quick", "--data", "digits", *TINY, "--max-steps", 6, "--out", out, *more)


ON_CPU = Config(run=RunConfig(device="cpu"))

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def _no_user_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A clean environment: no data folder of the user's, no download, and no leftover of a launcher."""
    for name in list(os.environ):
        if name.startswith(("ACCELERATE_", "DISTGAN_DATA")) or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))  # accelerate's default config file lies there
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the tests themselves run side by side


@pytest.fixture
def mnist_dir() -> Path:
    if not (MNIST / "MNIST" / "raw" / "train-images-idx3-ubyte").exists():
        pytest.skip(f"no MNIST in {MNIST}")
    return MNIST


@pytest.fixture
def data_flags() -> tuple[str, ...]:
    """Real MNIST where it is at hand, the embedded digits elsewhere."""
    if (MNIST / "MNIST" / "raw" / "train-images-idx3-ubyte").exists():
        return ("--data", "mnist", "--data-dir", str(MNIST))
    return ("--data", "digits")


def _heed_signals() -> None:
    """nohup, and a shell's background jobs, hand on that they ignore these."""
    for signum in (signal.SIGHUP, signal.SIGINT):
        signal.signal(signum, signal.SIG_DFL)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a command in its own process group; whatever is left of it is killed after the test."""
    processes: list[subprocess.Popen[str]] = []

    def start(*command: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=tmp_path,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=_heed_signals,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def run(start: Callable[..., subprocess.Popen[str]]) -> Run:
    """Runs a command to its end."""

    def run(*command: object, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        process = start(*command)
        out, err = process.communicate(timeout=timeout)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return run


@pytest.fixture
def distgan(tmp_path: Path) -> Run:
    """`distgan ...` as a user calls it, in a process of its own."""

    def distgan(*arguments: object, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        return forked.call([str(word) for word in arguments], tmp_path, timeout)

    return distgan


def assert_user_error(result: subprocess.CompletedProcess[str], *fragments: str) -> None:
    """Exit code 2, no traceback, and one message that has all the fragments."""
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("distgan: ")]
    assert 1 <= len(lines) <= 4, result.stderr
    assert len(lines) == len(set(lines)), "a message is repeated: " + result.stderr
    for fragment in fragments:
        assert fragment in result.stderr, f"{fragment!r} is not in: {result.stderr}"


def checkpoint(folder: Path) -> tuple[dict[str, torch.Tensor], int]:
    """The newest checkpoint of a run: its tensors and its step."""
    found = newest_valid(folder / "checkpoints")
    assert found is not None
    _, newest, damaged = found
    assert not damaged
    return newest.tensors, newest.state.step


def losses(folder: Path) -> list[tuple[float, ...]]:
    """Everything of metrics.jsonl that is not a clock."""
    keys = ("step", "d_loss", "g_loss", "real_logits", "fake_logits")
    return [tuple(line[key] for key in keys) for line in read_metrics(folder / "metrics.jsonl")]


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, Adam, moving average, random state, metrics and samples, all to the bit."""
    (ours, step), (theirs, their_step) = checkpoint(one), checkpoint(other)
    assert step == their_step
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert torch.equal(ours[key], theirs[key]), key
    assert losses(one) == losses(other)
    samples = [{path.name: path.read_bytes() for path in (run / "samples").glob("*")} for run in (one, other)]
    assert samples[0] == samples[1]
    assert (one / "timeline.png").read_bytes() == (other / "timeline.png").read_bytes()


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], timeout_s: float = 60) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "nothing happened in time"
        time.sleep(0.02)


def ranks_of(launcher: subprocess.Popen[str]) -> list[int]:
    """The process ids of the ranks that a launcher has started, in their order."""
    children = subprocess.run(["pgrep", "-P", str(launcher.pid)], capture_output=True, text=True)
    found = {}
    for pid in map(int, children.stdout.split()):
        with suppress(OSError):
            if "train.py" in Path(f"/proc/{pid}/cmdline").read_text():
                environ = Path(f"/proc/{pid}/environ").read_text().split("\0")
                found[next((e[5:] for e in environ if e.startswith("RANK=")), "0")] = pid
    return [found[rank] for rank in sorted(found)]
