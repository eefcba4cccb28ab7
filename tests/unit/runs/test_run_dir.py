"""A run's folder: taken up after a kill at any instant, readable and writable by whom the user's umask says."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.file_events import before_each_change, list_contents
from helpers.own_recipes import RECIPES as OWN
from helpers.own_recipes import own_recipe
from helpers.runs import checkpoint, checkpoint_names, expect_user_error, losses
from helpers.small_runs import make_cheap, small_config, train_small

from distgan.benchmark import results
from distgan.benchmark.convergence import lock_output
from distgan.config.command_settings import EvalConfig, SampleConfig
from distgan.config.presets import parse_training
from distgan.config.schema import Config
from distgan.data.base import load_dataset
from distgan.data.image_list import FILE
from distgan.evaluation.inputs import out_folder
from distgan.runs.run_dir import check_unused_folder, read_status
from distgan.runs.sample import sample
from distgan.train import train
from distgan.training import session
from distgan.utils.files import make_folder
from distgan.utils.provenance import Startup


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    make_cheap(monkeypatch)


def killed_at_start(run: Path, train: Callable[[], None]) -> list[Path]:
    """Train, and copy the folder before each change of a file up to the first sample: what a kill then would leave."""
    copies: dict[object, Path] = {}

    def look(event: str, path: str) -> None:
        if run.exists() and not (run / "samples").exists() and (now := list_contents(run)) not in copies:
            copies[now] = Path(shutil.copytree(run, run.with_name(f"killed-{len(copies)}"), symlinks=True))

    with before_each_change(look):
        train()
    return list(copies.values())


def assert_same(one: Path, other: Path) -> None:
    (ours, step), (theirs, their_step) = checkpoint(one), checkpoint(other)
    assert step == their_step
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert losses(one) == losses(other)
    assert checkpoint_names(one) == checkpoint_names(other)
    assert not list(one.rglob(".*"))
    assert read_status(one)["state"] == "done"


def test_a_run_killed_at_any_file_of_its_start_starts_again(tmp_path: Path) -> None:
    """Each file up to the first lines of metrics.jsonl, the first checkpoint among them; then the same command."""
    copies = killed_at_start(tmp_path / "run", lambda: train_small(tmp_path / "run", log_every=1, max_steps=2))
    assert len(copies) > 20
    for copy in copies:
        names = {path.name for path in copy.iterdir()}
        assert "config.json" in names or not {"metrics.jsonl", "checkpoints"} & names, (
            "with --out alone it continues too"
        )
        train_small(copy, log_every=1, max_steps=2)
        assert_same(copy, tmp_path / "run")


@pytest.mark.parametrize("name", OWN)
def test_a_run_on_own_images_killed_at_its_start_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """At every third change of a file."""
    monkeypatch.setattr(session, "load_dataset", load_dataset)
    flags = [*own_recipe(name, tmp_path, 24), "--batch-size", "8", "--max-steps", "2"]

    def train_own(folder: Path) -> None:
        train(parse_training([*flags, "--out", str(folder)])[0], name, Startup())

    copies = killed_at_start(tmp_path / "run", lambda: train_own(tmp_path / "run"))
    assert any((copy / FILE).exists() for copy in copies)
    for copy in copies[::3]:
        train_own(copy)
        assert_same(copy, tmp_path / "run")
        assert (copy / FILE).read_bytes() == (tmp_path / "run" / FILE).read_bytes()


def test_a_branch_killed_at_any_file_of_its_start_starts_again(tmp_path: Path) -> None:
    """Its metrics.jsonl has the lines of the run that it is from before it has a checkpoint."""
    train_small(tmp_path / "source", log_every=1, max_steps=2)
    settings = {"log_every": 1, "max_steps": 3, "resume": str(tmp_path / "source")}
    copies = killed_at_start(tmp_path / "branch", lambda: train_small(tmp_path / "branch", **settings))
    for copy in copies:
        check_unused_folder(str(copy), may_hold_run=True)
    copy = next(c for c in copies if losses(c) and not (c / "checkpoints").exists())
    train_small(copy, **settings)
    assert_same(copy, tmp_path / "branch")


def test_what_an_older_version_left_when_it_was_killed_is_taken_up(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in ("lock", "metrics.jsonl", ".config.json-abcd1234.json"):
        (tmp_path / "run" / name).touch()
    train_small(tmp_path / "run", max_steps=1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "metrics.jsonl").write_text('{"step": 1}\n')
    with expect_user_error("--out", "other", code="not-found"):
        train_small(tmp_path / "other", max_steps=1)


@pytest.mark.parametrize(
    "claim",
    [
        lambda out: check_unused_folder(out, may_hold_run=True),
        lambda out: out_folder("images.npz", EvalConfig(out=out), 100),
        lambda out: results.new_folder(out, "throughput"),
        lambda out: lock_output(out).__enter__(),
    ],
    ids=["train", "eval", "bench", "resumed bench"],
)
def test_what_systems_and_killed_commands_leave_is_no_foreign_file(
    tmp_path: Path, claim: Callable[[str], object]
) -> None:
    (tmp_path / "out").mkdir()
    for name in (
        ".DS_Store",
        "._x",
        ".nfs0000000001",
        "Thumbs.db",
        ".ipynb_checkpoints",
        ".writable",
        ".tmp-0a1b2c3d",
        ".eval.json-abcd1234.json",
        ".results.json-abcd1234.json",
    ):
        (tmp_path / "out" / name).touch()
    claim(str(tmp_path / "out"))
    (tmp_path / "out" / "mine").touch()
    with expect_user_error(f"--out ... {tmp_path}/out"):
        claim(str(tmp_path / "out"))


def test_settings_of_a_run_without_a_checkpoint_bind_nobody(tmp_path: Path) -> None:
    """It was killed, or its disk was full, before there was anything to resume from."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(small_config(tmp_path, seed=5).model_dump_json())
    train_small(tmp_path / "run", seed=6, max_steps=1)
    assert Config.model_validate_json((tmp_path / "run" / "config.json").read_text()).run.seed == 6


@pytest.mark.parametrize("umask", [0o077, 0o002])
def test_all_that_a_run_leaves_has_the_modes_of_the_umask(tmp_path: Path, umask: int) -> None:
    """Modes as of a plain open() and mkdir(): private runs stay private, shared ones can be resumed."""
    before = os.umask(umask)
    try:
        train_small(tmp_path / "run", save_every_steps=1, keep_best="min:d_loss")
        for out in ("a.png", "a.npz", "eval/a.png"):
            make_folder((tmp_path / "run" / out).parent)
            sample(str(tmp_path / "run"), SampleConfig(num=4, out=str(tmp_path / "run" / out)))
    finally:
        os.umask(before)
    found = [tmp_path / "run", *(path for path in (tmp_path / "run").rglob("*") if not path.is_symlink())]
    assert len(found) > 40
    for path in found:
        usual = 0o777 if path.is_dir() else 0o666
        assert oct(path.stat().st_mode & 0o777) == oct(usual & ~umask), path


def test_a_run_that_was_done_keeps_its_files_if_no_step_is_left(tmp_path: Path) -> None:
    """Whatever free settings the command has; what was deleted comes back, and a further step is recorded."""
    run = tmp_path / "run"
    train_small(run, max_steps=2)
    (run / "losses.png").write_bytes(b"a curve")

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    before = files()
    train_small(run, max_steps=1, log_every=5)
    assert files() == before
    (run / "timeline.png").unlink()
    train_small(run, max_steps=1, log_every=5)
    assert files() == before
    train_small(run, max_steps=3)
    changed = {path.name for path, content in files().items() if before.get(path) != content}
    assert {"config.json", "environment.json", "status.json"} <= changed


def test_a_run_killed_at_its_end_is_completed(tmp_path: Path) -> None:
    """Its last checkpoint is there, and its status is `running`."""
    run = tmp_path / "run"
    train_small(run, max_steps=2)
    status = (run / "status.json").read_text()
    (run / "status.json").write_text(status.replace("done", "running"))
    (run / "config.json").write_text("{}")
    train_small(run, max_steps=2)
    assert read_status(run)["state"] == "done"
    assert json.loads((run / "config.json").read_text())["run"]["max_steps"] == 2
