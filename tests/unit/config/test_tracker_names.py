"""--tracker takes several names; files of when it took one are read, and written alike."""

import json
from pathlib import Path

import pytest
from helpers.runs import expect_user_error

from distgan.config.flags import read_file
from distgan.config.presets import parse_training
from distgan.config.schema import Config, RunConfig


@pytest.mark.parametrize(
    ("text", "names", "written"),
    [
        ("tensorboard", ["tensorboard"], "tensorboard"),
        ("none", [], "none"),
        ("mlflow", ["mlflow"], "mlflow"),
        ("wandb, tensorboard,wandb", ["wandb", "tensorboard"], ["wandb", "tensorboard"]),
    ],
)
def test_a_flag_is_read_and_written(text: str, names: list[str], written: object) -> None:
    config, _ = parse_training(["--model", "cgan", "--tracker", text])
    assert config.run.tracker == names
    dumped = config.model_dump(mode="json")
    assert dumped["run"]["tracker"] == written
    assert Config.model_validate(dumped, strict=True, context="file").run.tracker == names


@pytest.mark.parametrize("suffix", ["toml", "json"])
@pytest.mark.parametrize(
    ("value", "names"), [("tensorboard", ["tensorboard"]), ("none", []), (["wandb", "mlflow"], ["wandb", "mlflow"])]
)
def test_a_file_has_one_name_or_a_list(tmp_path: Path, suffix: str, value: object, names: list[str]) -> None:
    path = tmp_path / f"config.{suffix}"
    text = json.dumps(value)
    path.write_text(f"[run]\ntracker = {text}\n" if suffix == "toml" else json.dumps({"run": {"tracker": value}}))
    read = read_file(path, path.name)
    assert Config.model_validate(read, strict=True, context="file").run.tracker == names


@pytest.mark.parametrize("text", ["none,wandb", "tensorbord", "wandb,,mlflow", "all"])
def test_what_no_tracker_is_called_is_named(text: str) -> None:
    with expect_user_error("--tracker: ... none, ... tensorboard, wandb, mlflow, trackio"):
        parse_training(["--model", "cgan", "--tracker", text])


def test_a_file_takes_no_names_with_commas(tmp_path: Path) -> None:
    """As for every list."""
    (tmp_path / "c.toml").write_text('[run]\ntracker = "wandb,mlflow"\n')
    with expect_user_error("c.toml: [run] tracker: ... 'wandb,mlflow' ... tensorboard, wandb"):
        read_file(tmp_path / "c.toml", "c.toml")


def test_the_default_is_tensorboard() -> None:
    assert RunConfig().tracker == ["tensorboard"]
