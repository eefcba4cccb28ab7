"""The settings of DeepSpeed."""

import importlib.util
from pathlib import Path

import pytest
from helpers.runs import MonkeyPatch, expect_user_error

from distgan.config.schema import Config, OptimConfig, ProcessesConfig
from distgan.distributed import deepspeed as zero_config


def test_without_deepspeed_there_is_a_hint(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with expect_user_error("DeepSpeed ... 'distgan[deepspeed]' ... [missing-package]"):
        zero_config.resolve_config(Config(processes=ProcessesConfig(zero=2)), "fp32", is_cpu=True, has_cuda=False)


@pytest.mark.parametrize(
    ("config", "precision", "has_cuda", "words"),
    [
        ({}, "fp16", False, "--precision ... fp16 ... [conflicting-settings]"),
        ({}, "fp32", True, "--device ... cpu ... [conflicting-settings]"),
        ({"loss": "wgan-gp"}, "fp32", False, "--loss ... wgan-gp ... [conflicting-settings]"),
    ],
)
def test_impossible_combinations(
    monkeypatch: MonkeyPatch, config: dict[str, str], precision: str, has_cuda: bool, words: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    chosen = Config(optim=OptimConfig(**config), processes=ProcessesConfig(zero=3))
    with expect_user_error(words):
        zero_config.resolve_config(chosen, precision, is_cpu=True, has_cuda=has_cuda, has_penalty="loss" in config)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "JSON ... [bad-config-file]"),
        ("[]", "Expected: a JSON object ... [bad-config-file]"),
        ('{"zero_optimization": 2}', "Expected: a JSON object ... [bad-config-file]"),
        ('{"optimizer": {"type": "Adam"}}', "optimizer ... --g-lr ... --d-lr ... [deepspeed-config]"),
        ('{"bf16": {"enabled": true}}', "bf16 ... --precision bf16 ... [deepspeed-config]"),
        ('{"train_batch_size": 64}', "train_batch_size ... --batch-size ... [deepspeed-config]"),
        (
            '{"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}',
            "offload_optimizer ... DeepSpeed's ... [deepspeed-config]",
        ),
        ('{"zero_optimization": {"stage": 4}}', "zero_optimization.stage ... 4 ... 0, 1, 2, 3 ... [deepspeed-config]"),
        ('{"zero_optimization": {"stage": true}}', "zero_optimization.stage ... True ... [deepspeed-config]"),
    ],
)
def test_a_file_that_can_not_be_used_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "my.json").write_text(text)
    with expect_user_error(words):
        zero_config.read_config(str(tmp_path / "my.json"), None)


def test_the_files_stage_yields_to_the_flag(tmp_path: Path) -> None:
    (tmp_path / "my.json").write_text('{"zero_optimization": {"stage": 1, "overlap_comm": false}, "bf16": "auto"}')
    read = zero_config.read_config
    assert read(str(tmp_path / "my.json"), None)["zero_optimization"] == {"stage": 1, "overlap_comm": False}
    assert read(str(tmp_path / "my.json"), 3)["zero_optimization"] == {"stage": 3, "overlap_comm": False}
    assert read(None, None)["zero_optimization"] == {"stage": 2}
    # A relative name of launch/ is found from any folder.
    assert read("launch/deepspeed_zero3.json", None)["zero_optimization"]["stage"] == 3
