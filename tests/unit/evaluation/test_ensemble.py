"""The judges that are shipped, and those that are not believed."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import MonkeyPatch, Run, assert_user_error, expect_user_error
from safetensors.torch import load_file, save_file

from distgan.evaluation.classifiers import NETWORKS
from distgan.evaluation.ensemble import RECORD, SHIPPED, cache_folder, load_ensemble


def test_shipped_judges_are_small_good_and_unlike_one_another() -> None:
    record = load_ensemble("mnist", torch.device("cpu")).record
    assert [judge.name for judge in record.judges] == list(NETWORKS)
    for judge in record.judges:
        assert (SHIPPED / f"{judge.name}.safetensors").stat().st_size < 10**6
        assert sum(map(sum, judge.matrix)) == 10_000
        assert judge.num_right >= 9_950
    assert len({judge.num_parameters for judge in record.judges}) == 3
    assert len(set(record.recipe.seeds)) == 3


@pytest.fixture
def judges(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SHIPPED, tmp_path / "judges"))


def test_judge_whose_hash_does_not_match_is_rejected(judges: Path) -> None:
    path = judges / "residual.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    found = hashlib.sha256(content).hexdigest()[:16]
    with expect_user_error("residual.safetensors: its SHA-256 is", found, "[checksum-mismatch]", "[checksum-mismatch]"):
        load_ensemble("mnist", torch.device("cpu"), str(judges))


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda record: record.update(format=9), "9 ... 1 ... [unknown-format]"),
        (lambda record: record["judges"].pop(), "wide, plain, residual ... [damaged-file]"),
        (lambda record: record["judges"][0]["matrix"].pop(), "10 x 10 ... [damaged-file]"),
        (lambda record: record["judges"][0].pop("sha256"), "is damaged: judges.0.sha256: is missing"),
        (lambda record: record.update(data=1), "damaged: data ... 1 ... [damaged-file]"),
    ],
)
def test_damaged_record_of_judges(judges: Path, change: Callable[[dict[str, Any]], None], words: str) -> None:
    edit(judges / RECORD, change)
    with expect_user_error(words):
        load_ensemble("mnist", torch.device("cpu"), str(judges))


@pytest.mark.parametrize(
    "change",
    [
        {"read_out.weight": torch.zeros(10, 3)},
        {"read_out.weight": torch.full((10, 64), float("nan"))},
        {"read_out.weight": torch.zeros(10, 64, dtype=torch.int64)},
        {"another": torch.zeros(1)},
    ],
)
def test_weights_that_are_no_judges_are_rejected(judges: Path, change: dict[str, torch.Tensor]) -> None:
    path = judges / "wide.safetensors"
    save_file(load_file(path) | change, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    edit(judges / RECORD, lambda record: record["judges"][0].update(sha256=digest))
    with expect_user_error(str(path), "wide", *change, code="bad-data"):
        load_ensemble("mnist", torch.device("cpu"), str(judges))


def test_judges_of_other_data_that_were_named_are_reported(judges: Path) -> None:
    edit(judges / RECORD, lambda record: record.update(data="kmnist"))
    notice = load_ensemble("mnist", torch.device("cpu"), str(judges)).notice
    assert notice is not None
    assert "kmnist" in notice
    assert load_ensemble("kmnist", torch.device("cpu"), str(judges)).notice is None


def test_judges_of_other_data_are_not_replaced(distgan: Run, judges: Path) -> None:
    before = {path.name: path.read_bytes() for path in judges.iterdir()}
    result = distgan("judge", "train", "--data", "digits", "--out", judges)
    assert_user_error(result, f"--out: ... 'mnist' ... {judges}", code="exists")
    assert {path.name: path.read_bytes() for path in judges.iterdir()} == before


def test_judges_of_other_data_come_from_the_cache(distgan: Run, tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with expect_user_error("kmnist ... --data kmnist ... [no-judges]"):
        load_ensemble("kmnist", torch.device("cpu"))
    assert load_ensemble("digits", torch.device("cpu")).notice == "the judges were trained on MNIST, not on digits"
    shutil.copytree(SHIPPED, cache_folder("kmnist"))
    shutil.copytree(SHIPPED, cache_folder("digits"))
    assert load_ensemble("kmnist", torch.device("cpu")).notice is None
    assert load_ensemble("digits", torch.device("cpu")).notice is None
    assert " train --data mnist" in distgan.ok("judge", "show").stdout
