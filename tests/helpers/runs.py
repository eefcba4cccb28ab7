"""What the tests share: the paths, the flags of a short run, and what a run has left."""

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
    """Run a command to its end; `ok` also requires that it succeeds."""

    def __init__(self, call: Callable[[list[str], float], subprocess.CompletedProcess[str]]):
        self.call = call

    def __call__(self, *words: object, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        return self.call([str(word) for word in words], timeout)

    def ok(self, *words: object, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        result = self(*words, timeout=timeout)
        assert result.returncode == 0, result.stdout + result.stderr
        return result


def quick(out: object, *more: object) -> tuple[object, ...]:
    """Six steps on the embedded digits."""
    return ("--preset", "cgan-quick", "--data", "digits", *TINY, "--max-steps", 6, "--out", out, *more)


def has_mnist(part: str = "train") -> bool:
    return (MNIST / "MNIST" / "raw" / f"{part}-images-idx3-ubyte").exists()


def fits(pattern: str, text: str) -> bool:
    """True if the parts of `pattern` between `...` occur in `text`, in this order: words may change between them."""
    at = 0
    for part in pattern.split("..."):
        if (found := text.find(part.strip(), at)) < 0:
            return False
        at = found + len(part.strip())
    return True


def assert_user_error(result: subprocess.CompletedProcess[str], *patterns: str, code: str = "") -> None:
    """Exit code 2, no traceback, and one message that fits all patterns, with the code or its kind if it is given."""
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("distgan: ")]
    assert 1 <= len(lines) <= 4, result.stderr
    assert len(lines) == len(set(lines)), "a message is repeated: " + result.stderr
    for pattern in (*patterns, f"[{code}]" if code else ""):
        assert fits(pattern, result.stderr), f"{pattern!r} does not fit: {result.stderr}"


@contextmanager
def refused(*patterns: str, code: str = "") -> Iterator[None]:
    """A UserError of one line that fits all patterns with its codes behind it, of that code or kind if it is given."""
    with pytest.raises(UserError) as error:
        yield
    text = f"{error.value} {format_codes(error.value)}"
    assert "\n" not in text
    for pattern in (*patterns, f"[{code}]" if code else ""):
        assert fits(pattern, text), f"{pattern!r} does not fit: {text}"


def newest(checkpoints: Path) -> tuple[Path, Checkpoint, list[tuple[Path, str]]]:
    """The newest whole checkpoint of the folder, and the damaged ones before it."""
    found = newest_valid(checkpoints)
    assert found is not None
    return found


def checkpoint(folder: Path) -> tuple[dict[str, torch.Tensor], int]:
    """The newest checkpoint of a run: its tensors and its step."""
    _, last, damaged = newest(folder / "checkpoints")
    assert not damaged
    return last.tensors, last.state.step


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


def running(pid: int) -> int:
    """Return the process that does what this one was started for: another one, where it began warm."""
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    note = Path(words[2] if words[1] == "-IS" else "/nowhere").with_name(str(pid))
    return int(note.read_text()) if note.exists() else pid


def ranks_of(launcher: subprocess.Popen[str]) -> list[int]:
    """The process ids of the ranks that a launcher has started, in their order."""
    children = subprocess.run(["pgrep", "-P", str(running(launcher.pid))], capture_output=True, text=True)
    found = {}
    for pid in map(int, children.stdout.split()):
        with suppress(OSError):
            if "train.py" in Path(f"/proc/{pid}/cmdline").read_text():
                environ = Path(f"/proc/{pid}/environ").read_text().split("\0")
                found[next((e[5:] for e in environ if e.startswith("RANK=")), "0")] = pid
    return [found[rank] for rank in sorted(found)]


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def distance(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The largest relative difference of a network's weights, all of them together."""
    gaps = []
    for name in ("generator.", "discriminator.", "generator_ema."):
        if not (keys := [key for key in ours if key.startswith(name)]):
            continue
        one, other = (torch.cat([t[key].double().flatten() for key in keys]) for t in (ours, theirs))
        gaps.append(float((one - other).norm() / one.norm()))
    return max(gaps)


def checkpoint_names(folder: Path) -> list[str]:
    return [path.name for path in checkpoints_in(folder / "checkpoints")]


def end_strays(folder: Path) -> None:
    """Processes in that folder have moments to end; those that do not are killed, and an error says which."""
    end = time.monotonic() + 5
    while strays := [process for process in psutil.process_iter(["cwd"]) if process.info["cwd"] == str(folder)]:
        if time.monotonic() > end:
            for process in strays:
                process.kill()
            raise AssertionError(f"left behind: {strays}")
        time.sleep(0.1)
