"""The settings of DeepSpeed."""

import importlib.util
from pathlib import Path

import pytest
from helpers.runs import MonkeyPatch, refused

from distgan.config.schema import Config, OptimConfig, ProcessesConfig
from distgan.distributed import deepspeed as zero_config
from distgan.errors import UserError


def test_without_deepspeed_there_is_a_hint(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"DeepSpeed: is not installed; allowed: pip install 'distgan\[deepspeed\]'"):
        zero_config.choose_config(Config(processes=ProcessesConfig(zero=2)), "fp32", is_cpu=True, has_cuda=False)


@pytest.mark.parametrize(
    ("config", "precision", "has_cuda", "words"),
    [
        ({}, "fp16", False, "--precision fp16: its loss scaler does not reach"),
        ({}, "fp32", True, "--device cpu: DeepSpeed takes the GPUs that it sees"),
        ({"loss": "wgan-gp"}, "fp32", False, "--loss wgan-gp: the second derivative of its penalty"),
    ],
)
def test_impossible_combinations(
    monkeypatch: MonkeyPatch, config: dict[str, str], precision: str, has_cuda: bool, words: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    chosen = Config(optim=OptimConfig(**config), processes=ProcessesConfig(zero=3))
    with pytest.raises(UserError, match=words):
        zero_config.choose_config(chosen, precision, is_cpu=True, has_cuda=has_cuda, has_penalty="loss" in config)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "is no table of DeepSpeed's settings"),
        ('{"zero_optimization": 2}', "is no table of DeepSpeed's settings"),
        ('{"optimizer": {"type": "Adam"}}', "optimizer: is set by --g-lr, --d-lr"),
        ('{"bf16": {"enabled": true}}', "bf16: is set by --precision bf16, which is autocast"),
        ('{"train_batch_size": 64}', "train_batch_size: is set by --batch-size; allowed: leave it out"),
        (
            '{"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}',
            "offload_optimizer: needs DeepSpeed's own Adam",
        ),
        ('{"zero_optimization": {"stage": 4}}', "zero_optimization.stage 4: is no ZeRO stage; allowed: 0, 1, 2, 3"),
        ('{"zero_optimization": {"stage": true}}', "zero_optimization.stage True: is no ZeRO stage"),
    ],
)
def test_a_file_that_can_not_be_used_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "my.json").write_text(text)
    with refused(words):
        zero_config.read_config(str(tmp_path / "my.json"), None)


def test_the_files_stage_yields_to_the_flag(tmp_path: Path) -> None:
    (tmp_path / "my.json").write_text('{"zero_optimization": {"stage": 1, "overlap_comm": false}, "bf16": "auto"}')
    read = zero_config.read_config
    assert read(str(tmp_path / "my.json"), None)["zero_optimization"] == {"stage": 1, "overlap_comm": False}
    assert read(str(tmp_path / "my.json"), 3)["zero_optimization"] == {"stage": 3, "overlap_comm": False}
    assert read(None, None)["zero_optimization"] == {"stage": 2}
    # A relative name of launch/ is found from any folder.
    assert read("launch/deepspeed_zero3.json", None)["zero_optimization"]["stage"] == 3
