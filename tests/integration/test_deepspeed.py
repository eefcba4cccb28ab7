"""DeepSpeed on one process."""

import sys
from pathlib import Path

import pytest
import torch
from helpers.launchers import needs_deepspeed
from helpers.runs import MonkeyPatch, Run, assert_user_error, losses, quick
from safetensors.torch import load_file


@needs_deepspeed
def test_bf16_is_that_of_plain_training(distgan: Run, tmp_path: Path) -> None:
    for name, more in (("plain", ()), ("zero", ("--zero-stage", 2))):
        distgan.ok("train", *quick(name, "--precision", "bf16", *more))
    assert losses(tmp_path / "zero") == losses(tmp_path / "plain")
    floats = {w.dtype for w in load_file(tmp_path / "zero" / "weights" / "generator.safetensors").values()}
    assert floats == {torch.float32, torch.int64}


SKIPPED = """
import torch
from distgan.config.schema import Config, ModelConfig, OptimConfig, ProcessesConfig, RunConfig
from distgan.distributed.runtime import Runtime
from distgan.training.gan import build_gan
from distgan.training.step import build_step

runtime = Runtime(Config(run=RunConfig(device="cpu"), processes=ProcessesConfig(zero=2)))
gan = build_gan(ModelConfig(family="dcgan", width=0.1), OptimConfig(), 0, runtime)
step = build_step(gan, OptimConfig(), 0, 9)
step(torch.zeros(8, 1, 28, 28), torch.arange(8), range(8))
before = gan.num_skipped
step(torch.full((8, 1, 28, 28), torch.nan), torch.arange(8), range(8))
print(before, gan.num_skipped > 0, gan.is_finite())
"""


@needs_deepspeed
def test_an_update_that_zero_leaves_out_is_seen(run: Run) -> None:
    """A non-finite gradient: the weights stay finite, so they do not tell."""
    result = run(sys.executable, "-c", SKIPPED)
    assert result.stdout.split() == ["0", "True", "True"], result.stderr


@needs_deepspeed
def test_nothing_of_deepspeed_is_left_or_said(distgan: Run, tmp_path: Path) -> None:
    result = distgan.ok("train", *quick("run", "--zero-stage", 2, "--d-microbatches", 2))
    for word in ("WARNING", "INFO", "RANK", "deepspeed", "Warning"):
        assert word not in result.stdout + result.stderr, result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    assert not list((tmp_path / "run").rglob("*.pt"))


@needs_deepspeed
def test_a_missing_file_is_said_once(distgan: Run, tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", "nowhere.json")
    assert_user_error(distgan("train", *quick("run")), "deepspeed_config_file nowhere.json: ... [not-found]")
    assert not (tmp_path / "run").exists()


@needs_deepspeed
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"zero_optimization": {"stage": 1, "overlap_com": true}}', "overlap_com"),
        ('{"gradient_clipping": "lots"}', "lots"),
        ('{"communication_data_type": "junk"}', "communication_data_type"),
        ('{"comms_logger": 7}', "CommsLoggerConfig"),
    ],
)
def test_invalid_deepspeed_setting_is_one_line(
    distgan: Run, tmp_path: Path, monkeypatch: MonkeyPatch, text: str, words: str
) -> None:
    (tmp_path / "my.json").write_text(text)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", "my.json")
    assert_user_error(distgan("train", *quick("run")), words, code="deepspeed-config")
    assert not (tmp_path / "run").exists()
