"""Markers by folder, and the fixtures that start processes; helpers/ has what is no fixture.

Real MNIST is taken from $DISTGAN_TEST_MNIST or ../shared/mnist; where neither is, the end-to-end tests
run on the embedded digits. No test connects to another machine.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from accelerate.state import AcceleratorState
from helpers import forkserver
from helpers.forkserver import Ranks
from helpers.runs import MNIST, ROOT, TESTS, Run, Start, end_strays, has_mnist, quick

torch.set_num_threads(1)  # the tests themselves run side by side

# In the order in which they are run: with several workers, what takes long goes first.
FOLDERS = ("slow", "gpu", "slurm", "distributed", "browser", "integration", "unit")


def pytest_configure(config: pytest.Config) -> None:
    # nohup, and a shell's background jobs, hand on that they are ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    for name in FOLDERS:
        config.addinivalue_line("markers", f"{name}: the tests in a folder tests/**/{name}/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def folders(item: pytest.Item) -> list[str]:
        return [part for part in item.path.relative_to(TESTS).parts if part in FOLDERS]

    for item in items:
        for folder in folders(item):
            item.add_marker(folder)
    items.sort(key=lambda item: (FOLDERS.index(folders(item)[0]), len(folders(item))))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Counts of cuda_stand_in/nodes.py, from any worker."""
    reports = [report for status in ("passed", "failed") for report in terminalreporter.getreports(status)]
    for line in [text for report in reports for name, text in report.user_properties if name == "nodes"]:
        terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def _no_user_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A clean environment: no data folder of the user's, no download, and no leftover of a launcher."""
    for name in list(os.environ):
        if name.startswith(("ACCELERATE_", "DISTGAN_DATA")) or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))  # accelerate's default config file lies there
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the tests themselves run side by side
    monkeypatch.delenv("COLUMNS", raising=False)  # pytest-xdist's


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """In any order of the tests: what holds for nearly all numbers would fail now and then."""
    torch.manual_seed(0)


@pytest.fixture
def mnist_dir() -> Path:
    if not has_mnist():
        pytest.skip(f"no MNIST in {MNIST}")
    return MNIST


@pytest.fixture
def data_flags() -> tuple[str, ...]:
    """Real MNIST where it is at hand, the embedded digits elsewhere."""
    if has_mnist():
        return ("--data", "mnist", "--data-dir", str(MNIST))
    return ("--data", "digits")


def _heed_signals() -> None:
    """nohup, and a shell's background jobs, hand on that they ignore these."""
    for signum in (signal.SIGHUP, signal.SIGINT):
        signal.signal(signum, signal.SIG_DFL)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a command in its own process group, which is killed after the test; nothing else may be left.

    One of ours, and a launcher, begins warm (helpers/forkserver.py), but for where $COLD_START is set.
    """
    processes: list[subprocess.Popen[str]] = []

    def start(*command: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            forkserver.warm(command), cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True, preexec_fn=_heed_signals, env=dict(os.environ),  # and not readline's $COLUMNS
        )  # fmt: skip
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:  # the ranks of a launcher are in other sessions
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    end_strays(tmp_path)


@pytest.fixture
def run(start: Start) -> Run:
    """Any command, in the test's folder."""

    def call(words: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
        process = start(*words)
        out, err = process.communicate(timeout=timeout)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    return Run(call)


@pytest.fixture
def distgan(tmp_path: Path) -> Run:
    """`distgan ...` as a user calls it, in its own process."""
    return Run(lambda words, timeout: forkserver.call(words, tmp_path, timeout))


@pytest.fixture
def ranks(tmp_path: Path) -> Ranks:
    """`distgan ...` in several ranks without a launcher: for what launchers have no part in."""
    return Ranks(tmp_path)


@pytest.fixture(scope="session")
def six_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("six")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(folder / "hf"))
        patch.setenv("OMP_NUM_THREADS", "1")
        Run(lambda words, timeout: forkserver.call(words, folder, timeout)).ok("train", *quick("run"))
    return folder / "run"


@pytest.fixture
def trained(six_steps: Path, tmp_path: Path) -> Path:
    """The folder `run` of a training of six steps."""
    return Path(shutil.copytree(six_steps, tmp_path / "run", symlinks=True))


@pytest.fixture
def inject_fault(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """`rank,step,how` for the processes that the test starts."""

    def inject_fault(plan: str) -> None:
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS / "helpers" / "fault_injection"), str(ROOT)]))
        monkeypatch.setenv("FAULT_INJECTION", plan)

    return inject_fault


@pytest.fixture
def quick_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced and partitioned as always, but run by torch's own operators: no minutes of a C++ compiler."""
    torch_compile = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, **kwargs: torch_compile(function, **kwargs | {"backend": "aot_eager"})
    )


@pytest.fixture(autouse=True)
def _forget_the_precision() -> Iterator[None]:
    """Accelerate keeps one for the process; each test has its own."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
