"""Judges: how they are trained, what is said of them, and how a failure ends."""

import shlex
import shutil
import sys
from concurrent.futures import Future, wait
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.runs import Capture, MonkeyPatch, expect_user_error
from torch import nn

from distgan.config.command_settings import JudgeConfig
from distgan.config.flags import Parser, parse_settings
from distgan.config.image_spec import ImageSpec
from distgan.config.schema import Config, DataConfig
from distgan.data.base import Dataset, load_dataset
from distgan.evaluation import classifiers, during_training, train_judges
from distgan.evaluation.during_training import QualityMonitor
from distgan.evaluation.ensemble import RECORD, SHIPPED
from distgan.evaluation.real_images import load_real_images


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def own(tmp_path: Path) -> str:
    """150 images of two classes."""
    images = np.random.default_rng(0).integers(0, 256, (150, 16, 16)).astype(np.uint8)
    np.savez(tmp_path / "own.npz", images=images, labels=np.arange(150) % 2)
    return str(tmp_path / "own.npz")


SPEC = ImageSpec(channels=1, height=8, width=8, num_classes=2, class_names=["a", "b"])


@pytest.mark.parametrize("num", [2, 128, 129, 130, 257])
def test_the_rate_comes_to_its_end(monkeypatch: MonkeyPatch, num: int) -> None:
    made: list[Any] = []

    class Schedule(torch.optim.lr_scheduler.OneCycleLR):
        def __init__(self, *arguments: Any, **options: Any):
            super().__init__(*arguments, **options)
            made.append(self)

    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 2)

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.layer(images.flatten(1)), images

    monkeypatch.setattr(torch.optim.lr_scheduler, "OneCycleLR", Schedule)
    monkeypatch.setitem(classifiers.NETWORKS, "wide", lambda _: Tiny())
    images, labels = torch.zeros(num, 8, 8, dtype=torch.uint8), torch.arange(num) % 2
    classifiers.train_classifier("wide", SPEC, images, labels, epochs=2, seed=0, device=torch.device("cpu"))
    assert made[0].last_epoch == made[0].total_steps


def test_the_recorded_command_gives_the_same_images() -> None:
    data = DataConfig(
        name="./a b", dir="raw", test="./c d", image_size=20, channels=1, background="black", skip_broken=True
    )
    _, config = parse_settings(Parser(), shlex.split(train_judges._data_flags(data)), JudgeConfig)
    assert train_judges._data_config(config) == data


def test_judges_that_are_not_there_are_trained_by_the_images_path(own: str) -> None:
    with expect_user_error(f"--data {own}, ... [no-judges]"):
        train_judges.show_judges(JudgeConfig(data=own))


def test_judges_of_a_folder_are_shown_as_what_they_are(
    own: str, tmp_path: Path, monkeypatch: MonkeyPatch, capsys: Capture
) -> None:
    shutil.copytree(SHIPPED, tmp_path / "judges")
    record = tmp_path / "judges" / RECORD
    record.write_text(record.read_text().replace('"data": "mnist"', '"data": "images-7"'))
    train_judges.show_judges(JudgeConfig(data=own, out=str(tmp_path / "judges")))
    said = capsys.readouterr().out
    assert "!!" not in said
    assert "images-7" in said


def test_one_failed_judge_ends_the_wait(own: str, tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    class Pool:
        def __init__(self, *_: object) -> None:
            self.num = 0

        def __enter__(self) -> "Pool":
            return self

        def __exit__(self, *_: object) -> None: ...

        def submit(self, *arguments: object) -> "Future[object]":
            assert not any(isinstance(each, Dataset) for each in arguments), "lists of names are no business of theirs"
            job: Future[object] = Future()
            self.num += 1
            if self.num == 2:
                job.set_exception(ZeroDivisionError())
            return job

    monkeypatch.setattr(train_judges, "ProcessPoolExecutor", Pool)
    context = SimpleNamespace(Value=lambda *_: SimpleNamespace(value=0))
    monkeypatch.setattr(train_judges, "get_context", lambda _: context)
    rounds = iter(range(3))
    monkeypatch.setattr(train_judges, "wait", lambda jobs, timeout: (next(rounds), wait(jobs, timeout=0))[1])
    config = DataConfig(name=own)
    real = load_real_images(load_dataset(config), config)
    with pytest.raises(ZeroDivisionError):
        train_judges._train_all(real, tmp_path / "out", "--data own", 1, 0, torch.device("cpu"))


def test_a_judge_is_trained_without_a_word(monkeypatch: MonkeyPatch) -> None:
    """Its process has the command's stdout, whose reader may be gone; the command's own lines are `print_line`'s."""
    monkeypatch.setattr(train_judges, "_num_done", SimpleNamespace(get_lock=nullcontext, value=0))
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    images, labels = torch.zeros(4, 8, 8, dtype=torch.uint8), torch.arange(4) % 2
    record, weights = train_judges._train("plain", 0, SPEC, images, labels, images, labels, 1, torch.device("cpu"))
    assert sum(map(sum, record.matrix)) == 4
    assert weights


class Reached(Exception):
    """The end of what a test looks at."""


def monitor(own: str, **run: Any) -> None:
    """Build a QualityMonitor on one rank, until it would train judges, or build the reference."""
    config = Config.model_validate({"data": {"name": own}, "run": run})
    runtime = SimpleNamespace(
        run_on_all_ranks=lambda attempt, **_: attempt(), check_same_on_ranks=lambda *_: None, is_local_main=True
    )
    session: Any = SimpleNamespace(config=config, dataset=load_dataset(config.data), runtime=runtime)
    QualityMonitor(session, SimpleNamespace(born=0.0))  # type: ignore[arg-type]


def test_targets_of_other_images_are_rejected_before_judges_are_trained(own: str, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(during_training, "get_judges", lambda *_: pytest.fail("trained"))
    with expect_user_error("--stop-at: ... (mnist) ... [setting-not-applicable]"):
        monitor(own, stop_at="mnist")
    with expect_user_error("--eval-data-dir: ... (raw) ... own.npz ... --test-data [setting-not-applicable]"):
        monitor(own, eval_reference="raw")


def test_training_compares_no_more_images_than_there_are_real_ones(own: str, monkeypatch: MonkeyPatch) -> None:
    def build_reference(ensemble: object, real: object, num: int, *_: object, **__: object) -> None:
        raise Reached(num)

    hashed: list[int] = []
    monkeypatch.setattr(Dataset, "fingerprint", property(lambda data: hashed.append(len(data.images)) or "0"))
    monkeypatch.setattr(during_training, "get_judges", lambda *_: None)
    monkeypatch.setattr(during_training, "build_reference", build_reference)
    with pytest.raises(Reached) as reached:
        monitor(own, eval_num=1000)
    assert reached.value.args == (75,)
    assert hashed == [75, 75], "seconds, where there are gigabytes of images"
