"""Calls of trackers by a run, and their errors."""

import json
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from accelerate.state import PartialState
from accelerate.tracking import TensorBoardTracker
from helpers.runs import MonkeyPatch, expect_user_error

from distgan.config.registry import TRACKERS, Tracker
from distgan.config.schema import Config, RunConfig
from distgan.distributed import trackers
from distgan.distributed.trackers import IDS, TrackerRun, Trackers, check_installed
from distgan.errors import WriteErrorPolicy

ON_TENSORBOARD = Config(run=RunConfig(device="cpu"))


class Recorder(TrackerRun):
    """A tracker that keeps what it is given."""

    def __init__(self, folder: Path, run_id: str | None, step: int, settings: dict[str, Any]):
        self.given, self.run_id, self.settings = run_id, run_id or "new", settings
        self.calls: list[tuple[object, ...]] = []

    def log(self, values: dict[str, float], step: int) -> None:
        self.calls.append((step, values))

    def log_image(self, tag: str, image: np.ndarray, path: Path, step: int) -> None:
        self.calls.append((step, tag, path.name))

    def close(self) -> None:
        raise RuntimeError("no connection")


@pytest.fixture
def recorder(monkeypatch: MonkeyPatch) -> Config:
    """A config whose tracker is a Recorder."""
    monkeypatch.setitem(TRACKERS, "recorder", Tracker("of a test", Recorder, "nothing"))
    return Config(run=RunConfig(tracker=["recorder"]))


def start(config: Config, folder: Path, *, last: int = 0, is_resumed: bool = False) -> tuple[Trackers, Any, list[str]]:
    policy = WriteErrorPolicy(stops=False)
    found = Trackers(policy)
    found.start(config, folder, 0, last, is_resumed=is_resumed)
    return found, next(iter(found._runs.values()), None), policy.warnings()


def test_a_resumed_run_continues_the_trackers_run_after_the_steps_that_it_has(recorder: Config, tmp_path: Path) -> None:
    _, run, _ = start(recorder, tmp_path)
    assert run.given is None
    assert json.loads((tmp_path / IDS).read_text()) == {"recorder": "new"}
    resumed, run, _ = start(recorder, tmp_path, last=6, is_resumed=True)
    assert run.given == "new"
    for step in (5, 6, 7):
        resumed.log({"d_loss": 1.0}, step)
        resumed.log_image("grid", np.zeros((1, 1, 3), np.uint8), tmp_path / f"{step}.png", step)
    resumed.log_summary({"raw_fcd": 2.0}, 5)
    assert run.calls == [(7, {"d_loss": 1.0}), (7, "grid", "7.png"), (5, {"final/raw_fcd": 2.0})]


def test_a_tracker_that_is_new_to_a_run_gets_every_step_from_there(recorder: Config, tmp_path: Path) -> None:
    resumed, run, _ = start(recorder, tmp_path, last=6, is_resumed=True)
    resumed.log({"d_loss": 1.0}, 5)
    assert run.calls == [(5, {"d_loss": 1.0})]


def test_damaged_ids_are_a_warning_and_a_new_run(recorder: Config, tmp_path: Path) -> None:
    (tmp_path / IDS).write_text("{")
    _, run, (warning,) = start(recorder, tmp_path, is_resumed=True)
    assert run.given is None
    assert IDS in warning


def test_settings_are_flat_and_an_error_at_the_end_is_ignored(recorder: Config, tmp_path: Path) -> None:
    found, run, _ = start(recorder, tmp_path)
    assert run.settings["run.tracker"] == "recorder"
    assert run.settings["model.images.height"] == 28
    found.close()
    found.log({"d_loss": 1.0}, 1)
    assert run.calls == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ImportError("cannot import name 'x'\nfrom protobuf"), "missing-package"),
        (TypeError("descriptors"), "missing-package"),
        (AttributeError("numpy"), "missing-package"),
        (RuntimeError("Run 'abc' not found"), "tracker-failed"),
    ],
)
def test_a_tracker_that_does_not_start_is_named_with_a_way_out(
    tmp_path: Path, monkeypatch: MonkeyPatch, error: Exception, code: str
) -> None:
    """A resumed run continues without it: nobody may be there to read it."""

    def fail(self: TensorBoardTracker) -> ModuleType:
        raise error

    monkeypatch.setattr(TensorBoardTracker, "start", fail)
    line = str(error).split("\n")[0]
    with expect_user_error(f"--tracker ... tensorboard ... [{code}]", line, "--tracker none", code="unavailable"):
        start(ON_TENSORBOARD, tmp_path)
    _, run, (warning,) = start(ON_TENSORBOARD, tmp_path, is_resumed=True)
    assert run is None
    assert line in warning


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_that_is_not_installed_is_named_with_what_to_install(monkeypatch: MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    with expect_user_error(
        f"--tracker ... {name} ... '{TRACKERS[name].install}' ... [missing-package]",
        "--tracker none",
        code="unavailable",
    ):
        check_installed([name])
    check_installed([])


def test_tensorboard_has_the_settings(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    PartialState(cpu=True)
    found, _, _ = start(ON_TENSORBOARD, tmp_path)
    found.log({"d_loss": 1.0}, 1)
    found.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (text,) = events.Tensors("settings/text_summary")
    assert b"run.seed = 0\n" in text.tensor_proto.string_val[0]


# -- wandb's login, which is looked for without a request to wandb's server --


@pytest.fixture
def wandb_at(monkeypatch: MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """Set up what `import wandb` gives: its settings, with no key, for its own server; and an empty home."""
    settings = SimpleNamespace(api_key=None, base_url="https://api.wandb.ai")
    module: Any = SimpleNamespace(setup=lambda: SimpleNamespace(settings=settings))
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("WANDB_")] + ["NETRC"]:
        monkeypatch.delenv(name, raising=False)
    return settings


def test_wandb_without_a_login_is_found_to_have_none(wandb_at: SimpleNamespace, tmp_path: Path) -> None:
    assert not trackers._has_wandb_login()
    (tmp_path / ".netrc").write_text("machine example.org login me password secret\n")
    assert not trackers._has_wandb_login()
    (tmp_path / ".netrc").write_text("not a netrc")
    assert not trackers._has_wandb_login()


@pytest.mark.parametrize("where", ["WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "settings", ".netrc", "NETRC", "host"])
def test_wandbs_login_is_found_where_wandb_keeps_it(
    wandb_at: SimpleNamespace, tmp_path: Path, monkeypatch: MonkeyPatch, where: str
) -> None:
    host = "api.wandb.ai"
    match where:
        case "settings":
            wandb_at.api_key = "secret"
            path = None
        case ".netrc":
            path = tmp_path / ".netrc"
        case "NETRC":
            path = tmp_path / "mine"
            monkeypatch.setenv("NETRC", str(path))
        case "host":
            wandb_at.base_url, host, path = "https://wandb.example.org:8080", "wandb.example.org", tmp_path / "_netrc"
        case _:
            monkeypatch.setenv(where, "secret")
            path = None
    if path:
        path.write_text(f"machine {host} login user password secret\n")
    assert trackers._has_wandb_login()
