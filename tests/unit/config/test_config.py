"""Presets and flags: what they resolve to, and the message of each mistake."""

import argparse
import json
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from helpers.runs import MonkeyPatch, expect_user_error
from hypothesis import example, given, settings
from hypothesis import strategies as st

from distgan.config.command_settings import SampleConfig
from distgan.config.fields import allowed
from distgan.config.flags import Parser, add_flags, from_flags, list_flags, read_file
from distgan.config.presets import config_folder, parse_training, preset_path, read_run_config
from distgan.config.registry import DATASETS
from distgan.config.schema import Config
from distgan.errors import UserError
from distgan.runs.run_dir import claim_folder

PRESETS = sorted(path.stem for path in config_folder().glob("*.toml"))


def parse(*argv: str, base: dict[str, object] | None = None) -> Config:
    parser = Parser(prog="distgan train")
    add_flags(parser, Config)
    return from_flags(Config, parser.parse(list(argv)), base)


def toml(folder: Path, text: str) -> dict[str, object]:
    path = folder / "my.toml"
    path.write_text(text)
    return read_file(path, "my.toml")


def test_flag_names_are_unique_and_promised() -> None:
    names = [flag.name for flag in list_flags(Config)]
    assert len(names) == len(set(names))
    promised = "model data data-dir out epochs batch-size seed precision order max-steps"
    assert {f"--{name}" for name in promised.split()} <= set(names)
    promised = "out num classes seed interpolate ema"
    assert {f"--{name}" for name in promised.split()} <= {flag.name for flag in list_flags(SampleConfig)}


@pytest.mark.parametrize("model", [Config, SampleConfig])
def test_help_shows_every_flag_with_its_default(model: type) -> None:
    parser = Parser(prog="distgan")
    add_flags(parser, model)
    text = " ".join(parser.format_help().split())
    for flag in list_flags(model):
        assert flag.name in text
        assert flag.field.description
        assert allowed(flag.field)
    assert text.count("(default: ") == len([*list_flags(model), "--debug"])


IMAGE_PRESETS = {"images-fast": "cgan", "images-fast-unlabelled": "vanilla"}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid(name: str) -> None:
    config = Config.model_validate(read_file(preset_path(name, "--preset"), name))
    assert config.model.name == IMAGE_PRESETS.get(name, name.split("-")[0])
    assert config.run.out is None


def test_seed_presets_are_the_reports() -> None:
    for name, epochs in (("vanilla", [1, 20, 42, 81, 120, 129, 149]), ("cgan", [13, 42, 81, 120, 129, 149])):
        config = Config.model_validate(read_file(preset_path(name, "--preset"), name))
        assert (config.run.epochs, config.data.batch_size, config.data.name) == (150, 256, "mnist")
        assert (config.model.family, config.model.width, config.model.stem) == ("report2023", 1.0, "linear")
        assert (config.optim.loss, config.optim.ema_decay, config.data.drop_last) == ("bce", 0.0, False)
        assert config.run.sample_epochs == epochs
        assert config.model.logit_tail


@pytest.mark.parametrize(("name", "clusters", "epochs"), [("cgan-fast", 25, 10), ("vanilla-fast", 250, 5)])
def test_fast_presets_are_those_that_were_measured(name: str, clusters: int, epochs: int) -> None:
    """A change of a number needs tests/slow/test_fast.py and the figures of docs/convergence.md anew."""
    config = Config.model_validate(read_file(preset_path(name, "--preset"), name))
    model, optim = config.model, config.optim
    assert (model.family, model.clusters, model.latent_dim, model.dropout) == ("clustered", clusters, 64, 0.0)
    assert (optim.loss, optim.order, optim.g_lr, optim.d_lr, optim.lr_schedule) == (
        "r3gan", "alternating", 1e-3, 1e-3, "constant"
    )  # fmt: skip
    assert (optim.beta1, optim.beta2, optim.ema_decay, optim.d_microbatches) == (0.0, 0.99, 0.998, 1)
    assert (config.data.batch_size, config.run.epochs) == (128, epochs)


def test_weakest_first_default_preset_flag(tmp_path: Path) -> None:
    base = toml(tmp_path, "[optim]\ng_lr = 0.5\n[run]\nepochs = 7\n")
    config = parse("--epochs", "9", base=base)
    assert (config.optim.d_lr, config.optim.g_lr, config.run.epochs) == (2e-4, 0.5, 9)


def test_a_run_goes_on_in_the_precision_that_it_began_with(tmp_path: Path) -> None:
    """Where `auto` comes to another one on this machine as well."""
    words = ["--preset", "cgan-fast", "--out", str(tmp_path)]
    assert parse_training(words)[0].run.precision == "auto"
    for begun in ("fp32", "bf16"):
        (tmp_path / "config.json").write_text(json.dumps({"model": {"name": "cgan"}, "run": {"precision": begun}}))
        assert parse_training(words)[0].run.precision == begun
        assert parse_training([*words, "--precision", "tf32"])[0].run.precision == "tf32"


def test_a_resumed_run_keeps_the_name_of_its_preset(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model": {"name": "cgan"}}))
    assert parse_training(["--out", str(tmp_path)])[1] == tmp_path.name, "what older runs have"
    for content, expected in (({"preset": "cgan-fast"}, "cgan-fast"), ({"preset": 3}, tmp_path.name)):
        (tmp_path / "environment.json").write_text(json.dumps(content))
        assert parse_training(["--out", str(tmp_path)])[1] == expected


def test_the_two_batch_sizes_replace_each_other(tmp_path: Path) -> None:
    base = toml(tmp_path, "[data]\nbatch_size = 64\n")
    assert parse("--per-rank-batch-size", "8", base=base).data.batch_size is None
    base = toml(tmp_path, "[data]\nper_rank_batch_size = 8\n")
    data = parse("--batch-size", "32", base=base).data
    assert (data.batch_size, data.per_rank_batch_size) == (32, None)
    with expect_user_error("--batch-size, --per-rank-batch-size: ... (32, 8) ... [conflicting-settings]"):
        parse("--batch-size", "32", "--per-rank-batch-size", "8")


def test_a_resolved_config_reads_back(tmp_path: Path) -> None:
    config = parse("--model", "cgan", "--per-rank-batch-size", "8", "--sample-epochs", "1,2", "--g-lr", "1e-3")
    path = tmp_path / "config.json"
    path.write_text(config.model_dump_json())
    assert Config.model_validate(read_file(path, "config.json")) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[optim]\ng_lrr = 1", "my.toml: [optim] g_lrr ... g_lr ... beta1 ... [unknown-setting]"),
        ("[optm]\ng_lr = 1", "my.toml: optm ... data, model, optim, processes, run ... [unknown-setting]"),
        ("epochs = 3", "my.toml: epochs ... data, model, optim, processes, run ... [unknown-setting]"),
        ("[run]\nepochs = '5'", "my.toml: [run] epochs ... '5' ... 1 or more ... [bad-value]"),
        ("[run]\nepochs = 2.5", "my.toml: [run] epochs ... 2.5 ... [bad-value]"),
        ("[run]\nepochs = 0", "my.toml: [run] epochs ... 0 ... 1 or more ... [bad-value]"),
        ("[run]\nepochs = true", "my.toml: [run] epochs ... [bad-value]"),
        ("[optim]\ng_lr = nan", "my.toml: [optim] g_lr ... more than 0 ... [bad-value]"),
        ("[optim]\ng_lr = 'fast'", "my.toml: [optim] g_lr ... 'fast' ... [bad-value]"),
        ("[optim]\nbeta1 = 1.0", "my.toml: [optim] beta1 ... 1.0 ... 0 or more ... less than 1 ... [bad-value]"),
        (
            "[data]\nname = 'mnst'",
            f"my.toml: [data] name: ... 'mnst' ... auto, {', '.join(DATASETS)}, or an existing path ... [unknown-name]",
        ),
        ("[data]\ndrop_last = 'no'", "my.toml: [data] drop_last ... 'no' ... [bad-value]"),
        ("[run]\nsample_epochs = [1, -2]", "my.toml: [run] sample_epochs ... -2 ... [bad-value]"),
        ("[run]\nsample_epochs = '1,2'", "my.toml: [run] sample_epochs ... '1,2' ... [bad-value]"),
        ("optim = 1", "my.toml: optim ... 1 ... [optim] and ... [bad-value]"),
        ("[run", "my.toml ... TOML ... ']' ... [bad-config-file]"),
        ("[optim]\ng_lr = 1e39", "my.toml: [optim] g_lr ... 1e+39 ... more than 0 ... [bad-value]"),
        ('[run]\nout = "a\\u0000b"', "my.toml: [run] out ... 'a\\x00b' ... NUL ... [bad-value]"),
        ('[data]\nmirror = "file://a\\u0000b"', "my.toml: [data] mirror ... 'file://a\\x00b' ... [bad-value]"),
        ("[run]\nepochs = 1" + "0" * 400, "my.toml: [run] epochs ... 1000 ... [bad-value]"),
        ("[model]\nname = 'cgan'\nstem = 'noise-map'", "--stem ... noise-map ... [conflicting-settings]"),
    ],
)
def test_mistakes_in_a_file_are_one_line_each(tmp_path: Path, text: str, message: str) -> None:
    with expect_user_error(message):
        toml(tmp_path, text)


def test_each_mistake_of_a_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        toml(tmp_path, "[run]\nepochs = 0\nfoo = 1\n[optim]\ng_lr = -1\n")
    assert len(str(error.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--epochs", "many"], "--epochs ... 'many' ... 1 or more ... [bad-value]"),
        (["--epochs", "0"], "--epochs ... '0' ... [bad-value]"),
        (["--epochs", "2.5"], "--epochs ... '2.5' ... [bad-value]"),
        (["--epochs"], "--epochs ... 1 or more ... [missing-value]"),
        (["--drop-last=yes"], "--drop-last: takes ... 'yes' ... --drop-last ... --no-drop-last ... [bad-value]"),
        (["--out", ""], "--out ... '' ... [bad-value]"),
        (["--threads", "100000000"], "--threads ... '100000000' ... 1 or more ... at most 1,024 ... [bad-value]"),
        (["--g-lr", "1e39"], "--g-lr ... '1e39' ... more than 0 ... at most 1e+30 ... [bad-value]"),
        (["--d-lr", "1e-50"], "--d-lr ... '1e-50' ... more than 0 ... at most 1e+30 ... 0 ... [bad-value]"),
        (["--penalty-weight", "3.5e38"], "--penalty-weight ... '3.5e38' ... [bad-value]"),
        (["--epochs", "1" + "0" * 400], "--epochs ... '1000 ... [bad-value]"),
        (["--sample-epochs", "1,,2"], "--sample-epochs ... '1,,2' ... 0 ... [bad-value]"),
        (["--sample-epochs", "1,"], "--sample-epochs ... '1,' ... [bad-value]"),
        (["--sample-epochs", ","], "--sample-epochs ... ',' ... [bad-value]"),
        (["--refernce", "x"], "--refernce: unknown flag"),
        (["--epcohs", "3"], "--epcohs: unknown flag, did you mean --epochs?"),
        (["--epcohs=3"], "--epcohs: unknown flag, did you mean --epochs?"),
        (["--epoch", "3"], "--epoch: unknown flag, did you mean --epochs?"),
        (["stray"], "stray ... [unknown-setting]"),
        (["--g-lr", "inf"], "--g-lr ... 'inf' ... more than 0 ... [bad-value]"),
        (["--precision", "bf61"], "--precision ... 'bf61' ... did you mean bf16? ... [unknown-name]"),
        (["--device", "gpu"], "--device ... ('gpu'). Expected: auto, cpu, cuda [bad-value]"),
        (["--device", "cdua"], "--device ... 'cdua' ... did you mean cuda? ... [bad-value]"),
        (["--tracker", "wnadb"], "--tracker ... 'wnadb' ... did you mean wandb? ... [unknown-name]"),
        (["--tracker", "mlflow,wnadb"], "--tracker ... 'wnadb' ... did you mean wandb? ... [unknown-name]"),
        (["--precision", "fp8"], "--precision ... 'fp8' ... auto, fp32, tf32, fp16, bf16 ... [unknown-name]"),
        (
            ["--order", "random"],
            "--order ... 'random' ... simultaneous, alternating, alternating-fresh ... [unknown-name]",
        ),
        (["--model", "dcgan"], "--model ... 'dcgan' ... [unknown-name]"),
        (["--sample-epochs", "1,x"], "--sample-epochs ... 'x' ... 0 ... [bad-value]"),
        (["--seed", "-1"], "--seed ... '-1' ... 0 or more ... [bad-value]"),
        (["--data-mirror", "ftp://x"], "--data-mirror ... 'ftp://x' ... http:// ... [bad-value]"),
        (["--batch-size", "1"], "--batch-size ... '1' ... 2 or more ... [bad-value]"),
        (["--model", "cgan", "--stem", "noise-map"], "--stem ... noise-map ... [conflicting-settings]"),
    ],
)
def test_mistakes_in_flags_are_one_line_each(argv: list[str], message: str) -> None:
    with expect_user_error(message):
        parse(*argv)


def test_unknown_preset_is_rejected() -> None:
    for name in ("cgan-quik", "../configs/cgan", "/etc/passwd"):
        with expect_user_error(f"--preset ... ({name}) ... cgan, cgan-fast, cgan-quick ... [unknown-name]"):
            preset_path(name, "--preset")


def test_missing_and_binary_files_are_rejected(tmp_path: Path) -> None:
    with expect_user_error("my.toml ... [not-found]"):
        read_file(tmp_path / "my.toml", "my.toml")
    (tmp_path / "my.toml").write_bytes(b"\xff\xfe\x00")
    with expect_user_error("my.toml ... TOML ... [bad-config-file]"):
        read_file(tmp_path / "my.toml", "my.toml")
    (tmp_path / "my.json").write_text("[" * 100_000)
    with expect_user_error("my.json ... JSON ... [bad-config-file]"):
        read_file(tmp_path / "my.json", "my.json")


def test_files_of_other_editors_are_read(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_bytes(b"\xef\xbb\xbf[run]\r\nepochs = 3\r\n")
    (tmp_path / "my.json").write_bytes(b'\xef\xbb\xbf{"run": {"epochs": 3}}')
    for name in ("my.toml", "my.json"):
        assert read_file(tmp_path / name, name) == {"run": {"epochs": 3}}


@pytest.mark.parametrize("flag", ["--out", "--resume", "--config"])
def test_the_home_of_nobody_is_rejected(flag: str) -> None:
    with expect_user_error(f"{flag} ~nosuch-user/x: ", code="bad-path"):
        parse_training([*(("--preset", "cgan") if flag == "--out" else ()), flag, "~nosuch-user/x"])
        claim_folder("~nosuch-user/x", "cgan", may_hold_run=True)


@pytest.mark.parametrize("given", ["config.json", "./config.json", "../mine/config.json"])
def test_a_runs_own_config_has_the_runs_name_wherever_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text('{"model": {"name": "cgan"}}')
    monkeypatch.chdir(tmp_path / "mine")
    assert parse_training(["--config", given])[1] == "mine"
    assert parse_training(["--out", "."])[1] == "mine"


@pytest.mark.parametrize("part", ["weights", "checkpoints/step-00000004", "checkpoints/latest"])
def test_the_config_of_a_part_of_a_run_has_the_runs_name(tmp_path: Path, part: str) -> None:
    folder = tmp_path / "mine" / part
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model": {"name": "cgan"}}')
    assert parse_training(["--config", str(folder / "config.json")])[1] == folder.name, "which is a part of nothing"
    (tmp_path / "mine" / "config.json").write_text('{"model": {"name": "cgan"}}')
    assert parse_training(["--config", str(folder / "config.json")])[1] == "mine"
    (tmp_path / "mine" / "environment.json").write_text('{"preset": "cgan-fast"}')
    assert parse_training(["--resume", str(folder)])[1] == "cgan-fast"


@pytest.mark.parametrize(
    ("encoding", "words"), [("utf-8", "in UTF-8"), ("ascii", "in the encoding of the locale, ascii (LC_ALL=C.UTF-8")]
)
def test_text_that_the_locale_can_not_encode_is_named(monkeypatch: MonkeyPatch, encoding: str, words: str) -> None:
    """As a name with ü under LC_ALL=C, and one in Latin-1 under UTF-8."""
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: encoding)
    with expect_user_error("--out ... '\\udcfc.png' ... [bad-value]", words, code="bad-value"):
        parse_training(["--preset", "cgan", "--out", "\udcfc.png"])


def test_negative_numbers_are_values_not_flags() -> None:
    parser = Parser(prog="x")
    add_flags(parser, Config)
    assert isinstance(parser.parse(["--seed", "3"]), argparse.Namespace)
    with expect_user_error("--d-lr ... '-1' ... [bad-value]"):
        parse("--d-lr", "-1")


# What a file may hold instead of what belongs there. TOML knows no null.
ANY = st.recursive(
    st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(2**63), 0, 1, 3])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["a\x00b", "~nosuch-user/x", "cgan", "mnist", "", "1h", "min:g_loss", "../x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=5,
)
PATHS = [flag.path for flag in list_flags(Config)]
SETTINGS = st.lists(
    st.tuples(st.sampled_from(PATHS) | st.tuples(st.text(max_size=6), st.text(max_size=6)), ANY), max_size=4
)


def as_toml(value: object) -> str:
    """A value on one line."""
    match value:
        case bool():
            return str(value).lower()
        case float():
            return repr(value)
        case str() | int():
            return json.dumps(value)
        case list():
            return f"[{', '.join(map(as_toml, value))}]"
        case dict():
            return f"{{{', '.join(f'{json.dumps(key)} = {as_toml(each)}' for key, each in value.items())}}}"
    raise AssertionError(value)


@settings(max_examples=150, deadline=None)
@given(values=SETTINGS, kind=st.sampled_from(["toml", "json"]), raw=st.none() | st.binary(max_size=30))
@example(values=[(("model", "args"), [False])], kind="toml", raw=None)
def test_any_file_is_a_config_or_a_mistake(
    tmp_path_factory: pytest.TempPathFactory, values: list[tuple[tuple[str, str], object]], kind: str, raw: bytes | None
) -> None:
    tables: dict[str, dict[str, object]] = {"model": {"name": "cgan"}}
    for (table, key), value in values:
        tables.setdefault(table, {})[key] = value
    path = tmp_path_factory.getbasetemp() / f"any.{kind}"
    text = (
        json.dumps(tables)
        if kind == "json"
        else "\n".join(f"{json.dumps(k)} = {as_toml(v)}" for k, v in tables.items())
    )
    path.write_bytes(text.encode("utf-8", "surrogatepass") if raw is None else raw)
    with suppress(UserError):
        config, _ = parse_training(["--config", str(path)])
        assert Config.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("text", "seed"),
    [('{"run": {"seed": 7}}', 7), ('{"run": {"keep_best": "min:ema_fcd"}}', None), ("{", None), ('{"run": 1}', None)],
)
def test_a_config_that_can_not_be_read_is_no_runs(tmp_path: Path, text: str, seed: int | None) -> None:
    (tmp_path / "config.json").write_text(text)
    found = read_run_config(str(tmp_path), "auto")
    assert (found and found.run.seed) == seed
    assert read_run_config(str(tmp_path), "never") is read_run_config(None, "auto") is None
    assert read_run_config(None, str(tmp_path / "nowhere")) is None
