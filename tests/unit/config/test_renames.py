"""Names that settings and their values had: read from flags, files and records, and never written again."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.runs import ROOT, expect_user_error

from distgan.benchmark import results
from distgan.checkpoint.format import read_checkpoint
from distgan.checkpoint.resume import Identity, differences, find_start
from distgan.config.fields import Section, allowed
from distgan.config.flags import Parser, add_flags, from_flags, list_flags, read_file
from distgan.config.registry import ORDERS, Order, Registry
from distgan.config.renames import with_current_names
from distgan.config.schema import Config

# flag, table and key in files, old spelling, current one
VALUES = [
    ("--family", "model.family", "seed", "report2023"),
    ("--family", "model.family", "small", "dcgan"),
    ("--order", "optim.order", "reuse", "alternating"),
    ("--order", "optim.order", "fresh", "alternating-fresh"),
    ("--precision", "run.precision", "no", "fp32"),
]
FIXTURE = Path(__file__).resolve().parents[2] / "fixtures" / "run-of-format-1"


def of_flags(*words: str) -> Config:
    parser = Parser(prog="distgan train")
    add_flags(parser, Config)
    return from_flags(Config, parser.parse(list(words)))


def settings(config: Config) -> dict[str, Any]:
    return config.model_dump(mode="json")


@pytest.mark.parametrize(("flag", "path", "old", "current"), VALUES)
def test_an_old_value_is_read_as_the_current_one(tmp_path: Path, flag: str, path: str, old: str, current: str) -> None:
    table, key = path.split(".")
    (tmp_path / "my.toml").write_text(f'[{table}]\n{key} = "{old}"\n')
    (tmp_path / "config.json").write_text(json.dumps({table: {key: old}}))
    expected = {table: {key: current}}
    assert settings(of_flags(flag, old))[table][key] == current
    assert read_file(tmp_path / "my.toml", "my.toml") == expected
    assert read_file(tmp_path / "config.json", "config.json") == expected
    assert settings(Config.model_validate_json(json.dumps({table: {key: old}})))[table][key] == current


@pytest.mark.parametrize(("flag", "path", "old", "current"), VALUES)
def test_an_old_value_stands_in_the_help_alone_as_deprecated(flag: str, path: str, old: str, current: str) -> None:
    parser = Parser(prog="distgan train")
    add_flags(parser, Config)
    assert f"(deprecated name: {old})" in " ".join(parser.format_help().split())
    field = next(each.field for each in list_flags(Config) if each.name == flag)
    names = allowed(field).split(", ")
    assert current in names
    assert old not in names
    with expect_user_error(f"{flag}: ... ('nope') ... {current}", code="unknown-name"):
        of_flags(flag, "nope")


def test_the_old_key_of_a_setting_is_read_from_flags_and_files(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text("[optim]\naccumulate = 3\n")
    (tmp_path / "config.json").write_text('{"optim": {"accumulate": 3}}')
    for name in ("my.toml", "config.json"):
        assert read_file(tmp_path / name, name) == {"optim": {"d_microbatches": 3}}
    assert of_flags("--accumulate", "3") == of_flags("--d-microbatches", "3") != Config()
    assert "accumulate" not in settings(of_flags("--accumulate", "3"))["optim"]
    (tmp_path / "my.toml").write_text("[optim]\naccumulate = 3\nd_microbatches = 3\n")
    with expect_user_error("accumulate: ... d_microbatches ... [conflicting-settings]"):
        read_file(tmp_path / "my.toml", "my.toml")


def test_a_resume_compares_current_names() -> None:
    """Config of a run that recorded old ones: the fixture's checkpoint, and each other old value."""
    path = FIXTURE / "checkpoints" / "step-00000006"
    recorded = json.loads((path / "config.json").read_text())
    assert (recorded["model"]["family"], recorded["optim"]["order"], recorded["run"]["precision"]) == (
        "small", "reuse", "no"
    )  # fmt: skip
    checkpoint = read_checkpoint(path)
    state = checkpoint.state
    start = find_start(checkpoint.config, FIXTURE, Identity(state.data, state.steps_per_epoch, state.batch_size))
    assert start is not None
    assert not start.is_changed
    for table, key, old, current in [(*path.split("."), old, current) for _, path, old, current in VALUES]:
        before, now = (Config.model_validate({table: {key: name}}) for name in (old, current))
        assert differences(before, now) == []
    before = Config.model_validate_json('{"optim": {"accumulate": 2}}', strict=True)
    assert differences(before, of_flags("--d-microbatches", "2")) == []
    assert len(differences(before, Config())) == 1


def test_records_are_read_with_current_names() -> None:
    """Records of a benchmark or a run that are no Config, so that old and new ones compare."""
    record = {"config": {"order": "fresh", "optim": {"accumulate": 2}}, "orders": ["reuse", 3], "precision": None}
    assert with_current_names(record) == {
        "config": {"order": "alternating-fresh", "optim": {"d_microbatches": 2}},
        "orders": ["alternating", 3],
        "precision": None,
    }
    of_format_1 = ROOT / "tests" / "fixtures" / "bench-of-format-1" / "throughput.json"
    cell = results.read(of_format_1, results.SpeedResults).cells[0]
    assert cell.id == "cgan/auto/fp32/32/alternating/width 0.1"
    assert (cell.precision, cell.order, cell.family) == ("fp32", "alternating", "report2023")


def test_an_old_name_is_taken() -> None:
    with pytest.raises(ValueError, match="reuse: taken"):
        Registry(ORDERS).register("reuse", Order("mine"))


def test_no_two_settings_of_a_section_share_a_key() -> None:
    def sections(model: type[Section]) -> list[type[Section]]:
        below = [field.annotation for field in model.model_fields.values()]
        return [model, *(each for each in below if isinstance(each, type) and issubclass(each, Section))]

    for model in sections(Config):
        old = [each for flag in list_flags(model) for each in flag.field.json_schema_extra["info"].old_keys]  # type: ignore[index,call-overload]
        assert not set(old) & set(model.model_fields)
