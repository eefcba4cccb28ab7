"""Shared by the tests: paths, flags of short runs, reading runs, and assertions."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import torch
from torch import Tensor

from distgan.checkpoint.format import Checkpoint
from distgan.checkpoint.resume import checkpoints_in, newest_valid
from distgan.config.schema import Config, RunConfig
from distgan.errors import UserError, format_codes
from distgan.utils.files import read_metrics

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
MNIST = Path(os.environ.get("DISTGAN_TEST_MNIST", ROOT.parent / "shared" / "mnist"))
SCRIPT = ROOT / "distgan" / "train.py"
BIN = Path(sys.executable).parent
ON_CPU = Config(run=RunConfig(device="cpu"))
Start = Callable[..., subprocess.Popen[str]]
InjectFault = Callable[[str], None]
MonkeyPatch, Capture = pytest.MonkeyPatch, pytest.CaptureFixture[str]

# Networks that take milliseconds per step.
TINY = (
    *("--family", "dcgan", "--width", "0.1", "--batch-size", "32", "--log-every", "2"),
    *("--tracker", "none", "--threads", "1"),
)


class Run:
    """Run a command and wait for it; `ok` also requires that it succeeds."""

    def __init__(self, call: Callable[[list[str], float], subprocess.CompletedProcess[str]]):
        self.call = call

    def __call__(self, *words: object, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        return self.call([str(word) for word in words], timeout)

    def ok(self, *words: object, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        result = self(*words, timeout=timeout)
        assert result.returncode == 0, result.stdout + result.stderr
        return result


def quick(out: object, *more: object) -> tuple[object, ...]:
    """Return flags for six steps on the embedded digits."""
    return ("--preset", "cgan-quick", "--data", "digits", *TINY, "--max-steps", 6, "--out", out, *more)


def has_mnist(part: str = "train") -> bool:
    return (MNIST / "MNIST" / "raw" / f"{part}-images-idx3-ubyte").exists()


def fits(pattern: str, text: str) -> bool:
    """True if the parts of `pattern` between `...` occur in `text` in this order; other text may change."""
    end = 0
    for part in pattern.split("..."):
        if (start := text.find(part.strip(), end)) < 0:
            return False
        end = start + len(part.strip())
    return True


def assert_user_error(result: subprocess.CompletedProcess[str], *patterns: str, code: str = "") -> None:
    """Assert exit code 2, no traceback, and one message that fits all patterns, with `code` or its kind if given."""
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("distgan: ")]
    assert 1 <= len(lines) <= 4, result.stderr
    assert len(lines) == len(set(lines)), "a message is repeated: " + result.stderr
    for pattern in (*patterns, f"[{code}]" if code else ""):
        assert fits(pattern, result.stderr), f"{pattern!r} does not fit: {result.stderr}"


@contextmanager
def expect_user_error(*patterns: str, code: str = "") -> Iterator[None]:
    """Assert that the block raises a UserError of one line that, with its codes appended, fits all patterns."""
    with pytest.raises(UserError) as error:
        yield
    text = f"{error.value} {format_codes(error.value)}"
    assert "\n" not in text
    for pattern in (*patterns, f"[{code}]" if code else ""):
        assert fits(pattern, text), f"{pattern!r} does not fit: {text}"


def newest(checkpoints: Path) -> tuple[Path, Checkpoint, list[tuple[Path, str]]]:
    """Return the newest valid checkpoint of a folder, and the damaged ones that are newer."""
    result = newest_valid(checkpoints)
    assert result is not None
    return result


def checkpoint(folder: Path) -> tuple[dict[str, torch.Tensor], int]:
    """Return the tensors and the step of a run's newest checkpoint."""
    _, last, damaged = newest(folder / "checkpoints")
    assert not damaged
    return last.tensors, last.state.step


def losses(folder: Path) -> list[tuple[float, ...]]:
    """Return metrics.jsonl without times."""
    keys = ("step", "d_loss", "g_loss", "real_logits", "fake_logits")
    return [tuple(line[key] for key in keys) for line in read_metrics(folder / "metrics.jsonl")]


def assert_same_run(one: Path, other: Path) -> None:
    """Assert that weights, Adam, moving average, random state, metrics and samples are bit-identical."""
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


def running(pid: int) -> int:
    """Return the pid of the process that does the work: a fork of the server, if `pid` is its client."""
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    note = Path(words[2] if words[1] == "-IS" else "/nowhere").with_name(str(pid))
    text = note.read_text() if note.exists() else ""
    return int(text) if text else pid  # it may be written right now


def ranks_of(launcher: subprocess.Popen[str]) -> list[int]:
    """Return the pids of the ranks that a launcher has started, by rank."""
    children = subprocess.run(["pgrep", "-P", str(running(launcher.pid))], capture_output=True, text=True)
    pids = {}
    for pid in map(int, children.stdout.split()):
        with suppress(OSError):
            if "train.py" in Path(f"/proc/{pid}/cmdline").read_text():
                environ = Path(f"/proc/{pid}/environ").read_text().split("\0")
                pids[next((e[5:] for e in environ if e.startswith("RANK=")), "0")] = pid
    return [pids[rank] for rank in sorted(pids)]


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def distance(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Return the largest relative difference of a network's weights, all tensors together."""
    differences = []
    for name in ("generator.", "discriminator.", "generator_ema."):
        if not (keys := [key for key in ours if key.startswith(name)]):
            continue
        one, other = (torch.cat([t[key].double().flatten() for key in keys]) for t in (ours, theirs))
        differences.append(float((one - other).norm() / one.norm()))
    return max(differences)


def checkpoint_names(folder: Path) -> list[str]:
    return [path.name for path in checkpoints_in(folder / "checkpoints")]


def end_strays(folder: Path) -> None:
    """Wait 5 s for processes in `folder` to end; kill those that do not, and fail with their names."""
    end = time.monotonic() + 5
    while strays := [process for process in psutil.process_iter(["cwd"]) if process.info["cwd"] == str(folder)]:
        if time.monotonic() > end:
            for process in strays:
                process.kill()
            raise AssertionError(f"left behind: {strays}")
        time.sleep(0.1)
