"""Names that settings take: said once, and open to losses, families and data sets from outside the package."""

import ast
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, get_args

import pytest
import torch
from helpers.made_up_runs import quality_of
from helpers.runs import ROOT, TINY, Run, assert_same_run, assert_user_error, expect_user_error
from torch import Tensor, nn

from distgan.benchmark.options import ConvergenceConfig, ScalingConfig, ThroughputConfig
from distgan.config import registry
from distgan.config.command_settings import DoctorConfig, EvalConfig, SampleConfig
from distgan.config.fields import Section, SettingInfo, help_text, metavar, setting, setting_info
from distgan.config.flags import Parser, add_flags, from_flags, list_flags, parse_settings, read_file, setting_paths
from distgan.config.network_spec import NetworkSpec
from distgan.config.presets import parse_training
from distgan.config.registry import DATASETS, FAMILIES, LOSSES, DataSource, Family, Lazy, Loss, Registry
from distgan.config.schema import Config, DataConfig, ModelConfig, OptimConfig
from distgan.data.base import SOURCES, Dataset
from distgan.evaluation.inputs import record_source
from distgan.evaluation.real_images import RealImages
from distgan.evaluation.schema import Quality
from distgan.reports.options import CompareConfig, PagesConfig, ReportConfig

REGISTRIES = {name: value for name, value in vars(registry).items() if isinstance(value, Registry)}

# -- rules of settings -------------------------------------------------------------------------------------

# What stays as it is, however the code that reads it is written. A new setting belongs into this table.
ON_RESUME = {
    "fixed": "model.name model.family model.clusters model.width model.latent_dim model.stem model.logit_tail "
    "model.images data.name data.image_size data.channels data.background data.flip data.drop_last",
    "confirm": "model.args model.networks_sha256 model.leaky_slope model.dropout optim.loss optim.penalty_weight "
    "optim.order optim.g_lr optim.d_lr "
    "optim.d_microbatches optim.beta1 optim.beta2 optim.lr_schedule optim.ema_decay run.seed run.precision "
    "processes.sync_batch_norm",
    "free": "run.init_from run.init_sha256 model.networks "
    "data.dir data.download data.mirror data.md5 data.skip_broken data.cache_dir data.test data.fingerprint "
    "data.batch_size data.per_rank_batch_size run.epochs "
    "run.engine run.device run.threads run.log_every run.save_every run.save_every_steps run.keep run.keep_best "
    "run.on_save_error run.eval_every run.eval_every_steps run.eval_num run.stop_at run.eval_reference "
    "run.sample_epochs run.tracker processes.num processes.check_ranks_every processes.timeout processes.zero",
    "reset": "run.out run.resume run.trust_networks run.allow_config_change run.max_steps run.time_limit",
}
PER_RANK = (
    "run.init_sha256 model.networks "
    "model.images data.dir data.download data.mirror data.cache_dir data.test data.fingerprint run.out run.time_limit "
    "run.precision run.threads run.stop_at run.eval_reference processes.num"
)
NOT_COPIED = (
    "run.init_sha256 model.networks_sha256 model.images data.fingerprint run.out run.resume run.trust_networks "
    "run.allow_config_change"
)


def dotted(paths: list[tuple[str, ...]]) -> set[str]:
    return {".".join(path) for path in paths}


@pytest.mark.parametrize("rule", get_args(SettingInfo.model_fields["on_resume"].annotation))
def test_every_setting_has_its_rule_on_resume(rule: Literal["fixed", "confirm", "free", "reset"]) -> None:
    assert dotted(setting_paths(Config, "on_resume", rule)) == set(ON_RESUME[rule].split())


def test_what_may_differ_per_rank_and_what_a_copy_leaves_out() -> None:
    assert dotted(setting_paths(Config, "may_differ_per_rank", True)) == set(PER_RANK.split())
    assert dotted(setting_paths(Config, "is_copied", False)) == set(NOT_COPIED.split())


def test_what_shapes_the_results_of_other_commands() -> None:
    shaping = {"num", "seed", "ema", "reference", "data", "test", "judges", "gan_train", "pixel_range"}
    assert dotted(setting_paths(EvalConfig, "on_resume", "confirm")) == shaping
    free = {"out", "timeout", "targets", "join", "seeds", "first_seed"}
    assert dotted(setting_paths(ConvergenceConfig, "on_resume", "free")) == free
    passed_on = [("data",), ("data_dir",), ("device",), ("precision",), ("engine",)]
    assert setting_paths(ConvergenceConfig, "is_passed_on", True) == passed_on
    assert {flag.path for flag in list_flags(ConvergenceConfig)} >= set(passed_on)


def test_a_new_setting_is_safe_and_a_mistyped_rule_is_an_error() -> None:
    class New(Section):
        bare: int = 0
        plain: int = setting(0, "a number")

    for field in New.model_fields.values():
        assert (setting_info(field).on_resume, setting_info(field).may_differ_per_rank) == ("confirm", False)
    with pytest.raises(ValueError, match="on_resume"):
        setting(0, "a number", on_resume="fre")


# Names that flags had. Each is accepted for good.
OLD_FLAGS = {
    EvalConfig: {"--data-dir": ["--reference"]},
    ReportConfig: {"--data-dir": ["--reference"]},
    CompareConfig: {"--data-dir": ["--reference"]},
    Config: {"--eval-data-dir": ["--eval-reference"], "--d-microbatches": ["--accumulate"]},
    ThroughputConfig: {
        "--preset": ["--model", "--models"],
        "--engine": ["--engines"],
        "--precision": ["--precisions"],
        "--batch-size": ["--batch-sizes"],
        "--order": ["--orders"],
    },
    ScalingConfig: {"--preset": ["--model"], "--work-batch-size": ["--batch-sizes"], "--work-width": ["--widths"]},
}
VALUES = {"--preset": "cgan", "--engine": "eager", "--precision": "bf16", "--order": "alternating-fresh"}


@pytest.mark.parametrize("model", OLD_FLAGS)
def test_a_flag_that_has_a_better_name_keeps_the_old_one_as_deprecated(
    monkeypatch: pytest.MonkeyPatch, model: type[Section]
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")  # no wrapped line
    found = {flag.name: [f"--{old}" for old in setting_info(flag.field).old_flags] for flag in list_flags(model)}
    assert {name: old for name, old in found.items() if old} == OLD_FLAGS[model]
    for name, old_names in OLD_FLAGS[model].items():
        for old in old_names:
            parser = Parser(prog="distgan")
            add_flags(parser, model)
            value = VALUES.get(name, "16")
            one, other = (from_flags(model, parser.parse([flag, value])) for flag in (name, old))
            assert one == other != model()
            assert re.search(rf"{name}\b", parser.format_help())
            assert re.search(rf"deprecated: [^)]*{old}\b", parser.format_help())
            assert not re.search(rf"^ *{old}\b", parser.format_help(), re.MULTILINE)
            with expect_user_error(f"{old}: ... [missing-value]"):
                parser.parse([old])


# -- names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REGISTRIES)
def test_built_in_entries_are_there_and_explained(name: str) -> None:
    for key, entry in REGISTRIES[name].items():
        assert entry.describe(), key
        for value in vars(entry).values():
            assert not isinstance(value, Lazy) or callable(value.load()) or value.load() in SOURCES.values(), key


def test_no_list_of_names_stands_elsewhere() -> None:
    """A Literal, tuple, list or set with two names of one registry."""
    known = {"reports/training_curves.py"}  # losses in nats
    for path in (ROOT / "distgan").rglob("*.py"):
        place = str(path.relative_to(ROOT / "distgan"))
        for node in ast.walk(ast.parse(path.read_text())) if place not in known else ():
            if isinstance(node, ast.Tuple | ast.List | ast.Set):
                words = {part.value for part in node.elts if isinstance(part, ast.Constant)}
                for name, names in REGISTRIES.items() if place != "config/registry.py" else ():
                    assert len(words & set(names)) < 2, f"{place}:{node.lineno} repeats {name}"


def test_no_engine_and_no_order_is_known_by_its_name() -> None:
    """A difference between entries is a field of its entry, or its function there: no comparison, no table of names."""
    known = (set(registry.ENGINES) | set(registry.ORDERS)) - {"auto"}
    for path in (ROOT / "distgan").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            parts = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
            parts += node.keys if isinstance(node, ast.Dict) and path.name != "registry.py" else []
            words = {part.value for part in parts if isinstance(part, ast.Constant)}
            assert not words & known, f"{path}:{node.lineno} {words & known}"  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["bce", "auto", "", "Upper", "a,b", "a b", "-x", "a/b", "a--b"])
def test_names_that_a_flag_can_not_carry_are_rejected(name: str) -> None:
    with pytest.raises(ValueError, match="expected: a new name"):
        Registry(LOSSES).register(name, LOSSES["bce"])


# -- entries of another package ----------------------------------------------------------------------------


def squares_d(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    return (real_logits - 1).square().mean() + fake_logits.square().mean()


def squares_g(fake_logits: Tensor, real_logits: Tensor) -> Tensor:
    return (fake_logits - 1).square().mean()


class Generator(nn.Module):
    def __init__(self, spec: NetworkSpec):
        super().__init__()
        self.main = nn.Sequential(nn.Linear(spec.latent_dim, 28 * 28), nn.Tanh(), nn.Unflatten(1, (1, 28, 28)))

    def forward(self, z: Tensor, labels: Tensor | None) -> Tensor:
        return self.main(z)


class Discriminator(nn.Module):
    def __init__(self, spec: NetworkSpec):
        super().__init__()
        self.main = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 1))

    def forward(self, images: Tensor, labels: Tensor | None) -> Tensor:
        return self.main(images)


def stripes(config: DataConfig, split: str) -> Dataset:
    images = (torch.arange(64 * 28 * 28) % 251).to(torch.uint8).view(64, 28, 28)
    return Dataset("stripes", images, torch.arange(64) % 10, "made here")


OURS: tuple[tuple[Registry[Any], str, Any], ...] = (
    (LOSSES, "squares", Loss("least squares", squares_d, squares_g, LOSSES["r1"].penalty, 2.5)),
    (FAMILIES, "mlp", Family("one layer each", Generator, Discriminator, models=("vanilla",))),
    (DATASETS, "stripes", DataSource("grey stripes", stripes)),
)


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for names, name, entry in OURS:
        monkeypatch.setitem(names, name, entry)


@pytest.mark.usefixtures("ours")
@pytest.mark.parametrize(
    "flags", [("--loss", "squares"), ("--family", "mlp"), ("--data", "stripes", "--loss", "squares", "--family", "mlp")]
)
def test_registered_entries_train_resume_and_draw(
    distgan: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]
) -> None:
    def done(*words: object) -> str:
        result = distgan(*words)
        assert result.returncode == 0, result.stderr
        return result.stdout

    recipe = ("train", "--preset", "vanilla-quick", "--data", "digits", *TINY, *flags)
    done(*recipe, "--max-steps", 4, "--out", "straight")
    done(*recipe, "--max-steps", 2, "--out", "broken")
    done("train", "--out", "broken", "--max-steps", 4)
    assert_same_run(tmp_path / "straight", tmp_path / "broken")
    text = (tmp_path / "broken" / "config.json").read_text()
    assert all(f'"{name}"' in text for name in flags[1::2])
    done("sample", "broken", "--num", 4, "--out", "samples.png")
    assert flags[1] in done(*recipe, "--dry-run")
    # The run's config is valid only where the names are known.
    for names, name, _ in OURS:
        monkeypatch.delitem(names, name)
    assert_user_error(distgan("train", "--out", "broken"), f"'{flags[-1]}' ... [unknown-name]")


@pytest.mark.usefixtures("ours")
def test_help_and_mistakes_know_registered_entries(tmp_path: Path) -> None:
    parser = Parser(prog="distgan train")
    add_flags(parser, Config)
    text = " ".join(parser.format_help().split())
    for words in ("squares: least squares, weight 2.5 unless set", "mlp: one layer each", "stripes: grey stripes"):
        assert words in text
    for flag, names in (("--loss", ["own", *LOSSES]), ("--family", FAMILIES), ("--data", ["auto", *DATASETS])):
        path = ", or an existing path" if flag == "--data" else ""
        with expect_user_error(f"{flag}: ... ('nope'). Expected: {', '.join(names)}{path} [unknown-name]"):
            from_flags(Config, parser.parse([flag, "nope"]))
    path = tmp_path / "my.toml"
    path.write_text("[model]\nfamily = 'mlp'\n[optim]\nloss = 'nope'")
    with expect_user_error("my.toml: [optim] loss: ... ('nope') ... bce, ... squares [unknown-name]"):
        read_file(path, "my.toml")
    with expect_user_error("--model: ... --family mlp (cgan) ... vanilla [conflicting-settings]"):
        from_flags(Config, parser.parse(["--model", "cgan", "--family", "mlp"]))


def test_help_says_which_flags_take_a_path() -> None:
    """A folder is DIR, a file FILE, either of them PATH, and none of them TEXT."""
    for settings in (Config, SampleConfig, EvalConfig, DoctorConfig, ConvergenceConfig, ThroughputConfig, PagesConfig):
        for flag in list_flags(settings):
            if re.search(r"^(a )?(new )?(folder|file)|path of|--data\b|\.py file|TOML file", help_text(flag.field)):
                assert "TEXT" not in metavar(flag.field), flag.name
    assert metavar(EvalConfig.model_fields["data"]).endswith("|PATH"), "of a setting that may be unset too"


@pytest.mark.usefixtures("ours")
def test_benchmarks_know_registered_entries_that_they_can_run() -> None:
    assert ThroughputConfig(data="stripes").data == "stripes"
    assert ScalingConfig(data="stripes").data == "stripes"
    assert ConvergenceConfig(data="auto").data == "auto"
    unfit = (partial(ThroughputConfig, family="clustered"), partial(ScalingConfig, family="mlp"))
    for build in (*unfit, partial(ScalingConfig, data="auto")):
        with pytest.raises(ValueError, match="unknown_name"):
            build()
    assert OptimConfig(loss="squares").loss == "squares"


def test_a_copy_and_a_resume_take_over_what_their_rules_say(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["--out", str(run), "--resume", "never", "--allow-config-change", "--max-steps", "7", "--time-limit", "1h"]
    config, _ = parse_training(["--model", "cgan", "--epochs", "3", *words])
    run.mkdir()
    (run / "config.json").write_text(config.model_dump_json())
    copied, _ = parse_training(["--config", str(run / "config.json")])
    resumed, _ = parse_training(["--out", str(run)])
    assert (copied.run.out, copied.run.resume, copied.run.allow_config_change) == (None, "auto", False)
    assert (copied.run.epochs, copied.run.max_steps, copied.run.time_limit) == (3, 7, "1h")
    assert (resumed.run.resume, resumed.run.allow_config_change) == ("auto", False)
    assert (resumed.run.epochs, resumed.run.max_steps, resumed.run.time_limit) == (3, None, None)


def test_an_evaluation_names_the_settings_that_shape_it() -> None:
    data = Dataset("x", torch.zeros(2, 28, 28).byte(), torch.zeros(2).long(), "here")
    real = RealImages(data, data, data, "class", False, "f", "f")
    ensemble: Any = SimpleNamespace(record=SimpleNamespace(data="mnist", recipe=SimpleNamespace(train="f")))
    subject: Any = SimpleNamespace(loaded=None, sha256="0" * 64)
    config = EvalConfig(seed=3, ema=False, gan_train=False, data="mnist", device="cpu", out="o", judges="j k")
    command = record_source("a b", subject, config, real, ensemble, is_test_seen=False).command
    assert command == ("distgan eval 'a b' --num 10000 --seed 3 --data mnist --judges 'j k' --no-ema --no-gan-train")
    own = config.model_copy(update={"data": "a b", "image_size": 32, "test": "other"})
    words = "--image-size 32 --num 10000 --seed 3 --data 'a b' --test-data other"

    def command_of(what: Any, settings: EvalConfig) -> str:
        return record_source("run", what, settings, real, ensemble, is_test_seen=False).command

    assert words in command_of(subject, own)
    moved = config.model_copy(update={"reference": "d"})
    assert " --data-dir d " in record_source("run", subject, moved, real, ensemble, is_test_seen=False).command, (
        "by the name that is shown"
    )
    model = ModelConfig(networks="/lab/my_gan.py")
    loaded = SimpleNamespace(path=Path("run/weights/g"), config=Config(model=model), step=None, is_ema=True)
    mine: Any = SimpleNamespace(loaded=loaded, sha256="0" * 64)
    for networks, words in (("my gan.py", "--networks 'my gan.py'"), (None, "--trust-networks")):
        named = config.model_copy(update={"networks": networks, "trust_networks": networks is None})
        assert command_of(mine, named).endswith(f" --no-gan-train {words}")
    source = record_source("run\udcff\x1b", subject, config, real, ensemble, is_test_seen=False)
    assert source.what == r"run\udcff\x1b", "a name that is no text"
    assert source.model_dump_json()
    noted = quality_of(notices=["run\udcff/checkpoints: holds a foreign file"])
    assert Quality.model_validate_json(noted.model_dump_json()).notices == [
        r"run\udcff/checkpoints: holds a foreign file"
    ]
    words = record_source(
        "a", subject, EvalConfig(pixel_range="unit"), real, ensemble, is_test_seen=False
    ).command.split()
    assert parse_settings(Parser(), words[3:], EvalConfig)[1] == EvalConfig(pixel_range="unit"), "its own flag"
