"""The command that trains a run again, read back as a shell and `distgan train` read it."""

import shlex
from pathlib import Path
from typing import Any

import pytest
from helpers.made_up_runs import make_run, read
from helpers.runs import MonkeyPatch
from hypothesis import given, settings
from hypothesis import strategies as st

from distgan.config.presets import config_folder, parse_training
from distgan.config.schema import Config, ModelConfig
from distgan.reports import reproduce
from distgan.reports.reproduce import reproduce_command, train_words
from distgan.reports.run_data import Facts, eval_command, train_command

PRESETS = sorted(path.stem for path in config_folder().glob("*.toml"))
TEXTS = st.text(min_size=1, max_size=12).filter(lambda text: "\0" not in text and not any(map(str.isspace, text[:1])))
LISTS = st.lists(st.integers(0, 999), max_size=4)


def read_back(command: str) -> Config:
    name, train, *words = shlex.split(command)
    assert (name, train) == ("distgan", "train")
    return parse_training(words)[0]


@settings(max_examples=60, deadline=None)
@given(
    preset=st.sampled_from(PRESETS),
    name=st.sampled_from([*PRESETS, "own", None]),
    run=st.fixed_dictionaries({}, optional={
        "epochs": st.integers(1, 9), "max_steps": st.none() | st.integers(1, 9), "stop_at": st.none() | TEXTS,
        "sample_epochs": LISTS, "seed": st.integers(0, 9), "precision": st.sampled_from(["fp32", "bf16", None, "auto"]),
    }),
    data=st.fixed_dictionaries({}, optional={
        "dir": TEXTS, "download": st.booleans(), "batch_size": st.integers(2, 999), "drop_last": st.booleans(),
    }),
    optim=st.fixed_dictionaries({}, optional={"g_lr": st.floats(1e-9, 1), "ema_decay": st.floats(1e-9, 0.999)}),
)  # fmt: skip
def test_command_gives_the_recorded_settings(preset: str, name: str | None, **sections: dict[str, Any]) -> None:
    values = parse_training(["--preset", preset])[0].model_dump(mode="json")
    config = Config.model_validate({table: own | sections.get(table, {}) for table, own in values.items()})
    words = train_words(config, name)
    assert words is not None
    assert read_back(shlex.join(["distgan", "train", *words])) == config


@pytest.mark.parametrize(
    "changes",
    [
        {"data": {"per_rank_batch_size": 64}},
        {"data": {"dir": "-x $(rm) 'a' \"b\"\n"}},
        {"run": {"sample_epochs": []}},
        {"processes": {"num": 2, "sync_batch_norm": False}},
        {"model": {"name": "vanilla", "stem": "noise-map"}},
        {"model": {"name": "cgan"}, "run": {"keep_best": "min:g_loss", "time_limit": "1h30m"}},
        {
            "model": {"family": "dcgan"},
            "data": {
                "name": "/own/a folder",
                "image_size": 32,
                "channels": 3,
                "background": "white",
                "flip": True,
                "cache_dir": "/a cache",
                "skip_broken": True,
            },
        },
    ],
)
def test_command_says_what_shells_and_flags_find_hard(tmp_path: Path, changes: dict[str, Any]) -> None:
    run = make_run(tmp_path / "run", config=changes)
    assert read_back(reproduce_command(read(run))) == read(run).config


def test_what_belongs_to_one_start_is_not_repeated(tmp_path: Path) -> None:
    """But what a run began with is: the checkpoint of another one."""
    own = {"out": "runs/mine", "resume": "runs/other/checkpoints/step-6", "allow_config_change": True}
    for resume in (own["resume"], "auto", "never"):
        run = make_run(tmp_path / str(resume)[-4:], config={"run": own | {"resume": resume}})
        expected = ["--resume=runs/other/checkpoints/step-6"] if resume == own["resume"] else []
        words = shlex.split(reproduce_command(read(run)))
        assert [word for word in words if word.startswith(("--resume", "--out", "--allow"))] == expected


def test_settings_that_no_flag_can_say_are_those_of_the_file(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """A setting that is unset, and that the preset sets: of another preset's, or of the run's own file."""
    run = read(make_run(tmp_path / "a run", config={"model": {"name": "cgan"}}))
    run = run._replace(environment=Facts({"preset": "cgan-fast"}))  # which sets --clusters
    assert reproduce_command(run).startswith("distgan train --model cgan --sample-epochs=")
    base = Config.model_validate({"model": {"name": "cgan"}, "run": {"threads": 2}})
    monkeypatch.setattr(reproduce, "parse_training", lambda words: (base, "cgan"))
    words = ["distgan", "train", "--config", f"{tmp_path}/a run/config.json"]
    assert shlex.split(reproduce_command(run)) == words
    model = ModelConfig(networks="/a lab/my_gan.py")
    run = run._replace(config=run.config.model_copy(update={"model": model}))
    assert shlex.split(train_command(run, "--dry-run")) == [*words, "--networks", "/a lab/my_gan.py", "--dry-run"]
    assert shlex.split(eval_command(run)) == ["distgan", "eval", run.where, "--networks", "/a lab/my_gan.py"]
