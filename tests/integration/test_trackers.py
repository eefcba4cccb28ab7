"""The real trackers, offline: what they have of a run that was killed and resumed, and whom they contact."""

import importlib.util
import json
import os
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.runs import BIN, TINY, MonkeyPatch, Run
from helpers.tracker_files import READERS

SHORT = ("--preset", "cgan-quick", "--data", "digits", *TINY, "--width", 0.05, "--log-every", 1, "--sample-epochs", 9)
INSTALLED = [name for name in READERS if importlib.util.find_spec(name)]

pytestmark = pytest.mark.skipif(not INSTALLED, reason="no tracker is installed: pip install '.[dev]'")

# Ends with what the process has afterwards that it did not have before.
TRAIN = """
import os, sys, threading, psutil
before, hooks = dict(os.environ), (sys.excepthook, sys.exit)
from distgan.cli import main
code = main(sys.argv[1:])
print("environment", {name for name in {*os.environ, *before} if os.environ.get(name) != before.get(name)} or "same")
print("hooks", "same" if hooks == (sys.excepthook, sys.exit) else "other")
print("children", psutil.Process().children(recursive=True) or "none")
print("threads", [each.name for each in threading.enumerate() if "wandb" in each.name or "Otel" in each.name] or "none")
sys.exit(code)
"""


@pytest.fixture(autouse=True)
def _no_servers(monkeypatch: MonkeyPatch, tmp_path: Path) -> None:
    """An empty home, nothing of a tracker in the environment, and nothing by which one sees that it is tested."""
    for name in list(os.environ):
        if name.startswith(("WANDB_", "MLFLOW_", "TRACKIO_", "HF_TOKEN")) or name in ("CI", "NETRC", "GITHUB_ACTIONS"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))


@pytest.fixture
def proxy(monkeypatch: MonkeyPatch) -> Iterator[list[bytes]]:
    """The first bytes of each connection to another machine, which all go through a proxy that accepts none."""
    requests: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                requests.append(connection.recv(200))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        for each in (name, name.lower()):
            monkeypatch.setenv(each, f"http://127.0.0.1:{listener.getsockname()[1]}")
    yield requests
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def test_trackers_have_each_step_once_in_one_run_and_contact_nobody(
    run: Run, tmp_path: Path, monkeypatch: MonkeyPatch, proxy: list[bytes]
) -> None:
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # MLflow tells nobody of tests
    command = (sys.executable, "-c", TRAIN, "train")
    flags = (*SHORT, "--save-every-steps", 4, "--eval-every-steps", 10, "--eval-num", 65, "--out", "run")
    first = run.ok(*command, *flags, "--tracker", ",".join(INSTALLED), "--max-steps", 7, timeout=500)
    # Killed after step 7, with a checkpoint of step 4.
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000007")
    (tmp_path / "run" / "status.json").unlink()
    second = run.ok(*command, "--out", "run", "--max-steps", 12, "--keep", 3, timeout=500)
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["resumed_from"] == 4
    for result in (first, second):
        assert result.stdout.splitlines()[-4:] == ["environment same", "hooks same", "children none", "threads none"]
        assert "warning" not in result.stderr
        for name in INSTALLED:
            assert sum(name in line for line in result.stderr.splitlines()) == 1, "one line says where it is"
    assert proxy == []

    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    optim = json.loads((tmp_path / "run" / "config.json").read_text())["optim"]
    (judged,) = (line for line in lines if line["step"] == 10)
    for name in INSTALLED:
        found = READERS[name](tmp_path / "run")
        assert set(found.ids) == {json.loads((tmp_path / "run" / "trackers.json").read_text())[name]}
        assert [step for step, _ in found.losses] == list(range(1, 13)), name
        assert [value for _, value in found.losses] == pytest.approx([line["d_loss"] for line in lines])
        assert float(found.settings["optim.d_lr"]) == optim["d_lr"]
        if name != "mlflow":  # which keeps the parameters that a run began with
            assert found.settings["run.keep"] == 3
        assert sorted(found.images) == [7, 12], name
        assert found.summary["final/raw_fcd"] == pytest.approx(judged["raw_fcd"])


def test_several_trackers_and_processes(run: Run, tmp_path: Path) -> None:
    """Rank 0 alone writes."""
    flags = (*SHORT, "--tracker", ",".join(INSTALLED), "--max-steps", 3, "--processes", 2, "--out", "run")
    run.ok(BIN / "distgan", "train", *flags)
    for name in INSTALLED:
        found = READERS[name](tmp_path / "run")
        assert len(found.ids) == 1
        assert [step for step, _ in found.losses] == [1, 2, 3]


def test_a_server_that_is_away_ends_a_new_run_and_no_resumed_one(run: Run, monkeypatch: MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    flags = (*SHORT, "--tracker", "mlflow", "--max-steps", 3, "--out", "run")
    rejected = run(BIN / "distgan", "train", *flags)
    assert rejected.returncode == 2
    assert "[tracker-failed]" in rejected.stderr.splitlines()[-1]
    resumed = run.ok(BIN / "distgan", "train", "--out", "run", "--max-steps", 3)
    assert "warning: --tracker" in resumed.stderr
