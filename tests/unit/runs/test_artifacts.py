"""Pictures only illustrate: whatever is wrong with them is a warning, and no name or line of a file breaks them."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.runs import Capture, MonkeyPatch
from helpers.small_runs import make_cheap, train_small
from PIL import Image

from distgan.config.command_settings import EvalConfig
from distgan.errors import WriteErrorPolicy
from distgan.evaluation.inputs import load_input
from distgan.models.base import build_discriminator, build_generator, num_parameters
from distgan.reports.options import ReportConfig
from distgan.reports.report import RunPage
from distgan.reports.run_data import read_run
from distgan.runs import loss_curves
from distgan.runs.artifacts import RunArtifacts
from distgan.runs.loss_curves import save_curves
from distgan.training.engines import engine
from distgan.utils.figures import grid

LINE = {"step": 2, "epoch": 0.5, "d_loss": 1.4, "g_loss": 0.7, "real_logits": 0.1, "fake_logits": -0.1}


@pytest.mark.parametrize("is_strict", [False, True])
@pytest.mark.parametrize("error", [OSError(28, "No space left"), ValueError("no such font"), MemoryError()])
def test_a_picture_that_fails_is_a_warning(error: Exception, is_strict: bool) -> None:
    def draw() -> None:
        raise error

    policy = WriteErrorPolicy(stops=is_strict)
    policy.warn_on_error(draw, "losses.png is")
    (warning,) = policy.warnings()
    assert warning.startswith("losses.png is not written")


def finish(folder: Path, monkeypatch: MonkeyPatch) -> list[str]:
    """The pictures of a run's end; the warnings."""
    run = RunArtifacts.__new__(RunArtifacts)
    run.folder, run.write_errors, run.was_done = folder, WriteErrorPolicy(stops=True), False
    run.runtime = SimpleNamespace(run_on_rank0=lambda call: call())  # type: ignore[assignment]
    run._draw_optional(run._draw_timeline, "timeline.png is")
    run._draw_optional(lambda: save_curves(folder, r"$\nosuch{ on [/b] \x1b[2J", "$^$\nmore"), "losses.png is")
    return run.write_errors.warnings()


def samples(folder: Path, *names: str) -> None:
    (folder / "samples").mkdir()
    for name in names:
        Image.new("RGB", (8, 8)).save(folder / "samples" / f"{name}.png")


def test_the_end_draws_what_can_be_drawn(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    samples(tmp_path, "epoch-0001", "epoch-0002-step-0000009", "mine", "epoch-x", "epoch-1-step")
    lines = [LINE | {"step": 1, "epoch": "one"}, {"step": 2}, LINE, LINE | {"step": 3, "d_loss": None}]
    lines += [LINE | {"step": 4, "g_loss": math.inf}, LINE | {"step": 5, "epoch": 10**400}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert finish(tmp_path, monkeypatch) == []
    assert {"timeline.png", "timeline.gif", "losses.png"} <= {path.name for path in tmp_path.iterdir()}


def test_a_damaged_sample_costs_the_timeline_alone(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    samples(tmp_path, "epoch-0001")
    (tmp_path / "samples" / "epoch-0002.png").write_bytes(b"no picture")
    (tmp_path / "metrics.jsonl").write_text(json.dumps(LINE))
    (warning,) = finish(tmp_path, monkeypatch)
    assert "timeline.png" in warning
    assert "epoch-0002.png" in warning
    assert (tmp_path / "losses.png").exists()


def test_no_backend_of_any_kind_ends_a_run(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps(LINE))
    monkeypatch.setattr(loss_curves, "new_figure", lambda *_: 1 / 0)
    (warning,) = finish(tmp_path, monkeypatch)
    assert "losses.png" in warning
    assert "ZeroDivisionError" in warning


@pytest.mark.parametrize("text", ["two\nlines", "\x1b[2J\udcff\x00", "long " * 10_000, "ü 数", " "])
def test_a_caption_may_be_any_text(text: str) -> None:
    picture = grid(np.zeros((4, 28, 28), dtype=np.uint8), 2, caption=text)
    assert picture.width < 5000


# -- what is reported of the engine ----------------------------------------------------------------------------


def test_an_engine_that_gave_way_is_named_at_the_head_of_every_output(
    tmp_path: Path, monkeypatch: MonkeyPatch, capsys: Capture
) -> None:
    """On the terminal, in environment.json, in an evaluation, and on a page before its contents."""
    make_cheap(monkeypatch)

    def fail(_: object) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(engine, "compile_blocks", fail)
    train_small(tmp_path / "run", engine="compile", tracker="none")
    notice = "engine eager: compile was not taken: RuntimeError: no compiler"
    first, *rest = capsys.readouterr().err.splitlines()
    assert first == f"!! {notice} !!"
    assert not [line for line in rest if line.startswith("engine ")], "said once"
    facts = json.loads((tmp_path / "run" / "environment.json").read_text())["engine"]
    assert (facts["asked"], facts["name"], facts["is_fallback"]) == ("compile", "eager", True)
    for part in ("", "weights/generator_ema.safetensors", "checkpoints/step-00000006"):
        assert notice in load_input(str(tmp_path / "run" / part), EvalConfig()).notices, part
    assert RunPage(read_run(str(tmp_path / "run"), ReportConfig(evaluate=False))).notices[-1] == notice


def test_an_engine_that_was_chosen_is_one_line(tmp_path: Path, monkeypatch: MonkeyPatch, capsys: Capture) -> None:
    make_cheap(monkeypatch)
    train_small(tmp_path / "run", tracker="none")
    lines = capsys.readouterr().err.splitlines()
    assert "engine eager: torch.compile does not pay off on a CPU" in lines[1:]
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    facts = environment["engine"]
    assert (facts["asked"], facts["name"], facts["is_fallback"]) == ("auto", "eager", False)
    # The sizes that pages and comparisons show.
    run = read_run(str(tmp_path / "run"), ReportConfig(evaluate=False))
    sizes = [num_parameters(build(run.config.model)) for build in (build_generator, build_discriminator)]
    assert list(environment["networks"].values()) == [*sizes, [run.config.model.latent_dim]]
    assert load_input(str(tmp_path / "run"), EvalConfig()).notices == []
