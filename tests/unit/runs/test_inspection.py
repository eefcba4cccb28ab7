"""`distgan checkpoint` shows names and settings as they are, complete at every width, and says which run it shows."""

from pathlib import Path

import pytest
from helpers.checkpoints import make
from helpers.runs import Capture, MonkeyPatch, expect_user_error

from distgan.checkpoint.format import Checkpoint, write_checkpoint
from distgan.checkpoint.resume import checkpoints_in
from distgan.errors import CommandFailed
from distgan.runs.inspection import diff, list_checkpoints, verify
from distgan.runs.run_dir import STATUS
from distgan.utils.files import write_json

HOSTILE = "tr[/b]\x1b[2J"


@pytest.fixture(scope="module")
def saved() -> list[Checkpoint]:
    return [make(2), make(3)]


@pytest.fixture
def run(tmp_path: Path, saved: list[Checkpoint]) -> Path:
    """A run with a name that is markup, and with two checkpoints."""
    run = tmp_path / HOSTILE
    (run / "checkpoints").mkdir(parents=True)
    for each in saved:
        write_checkpoint(run / "checkpoints", each)
    return run


def test_names_and_settings_are_shown_as_they_are(run: Path, capsys: Capture, saved: list[Checkpoint]) -> None:
    write_json(run / STATUS, {"state": "failed", "step": 3, "at": "now", "reason": f"{HOSTILE} \x07"})
    list_checkpoints(run)
    verify(run)
    other = saved[1]
    changed = other.config.model_copy(update={"model": other.config.model.model_copy(update={"dropout": 0.4})})
    changed_at, _ = write_checkpoint(run, other._replace(config=changed))
    with pytest.raises(CommandFailed):
        diff(checkpoints_in(run / "checkpoints")[0], changed_at)
    out = capsys.readouterr().out
    assert out.splitlines()[0] == f"{run}:".replace("\x1b", r"\x1b")
    assert out.count(r"tr[/b]\x1b[2J") >= 5
    assert "[model] dropout" in out
    assert not {"\x1b", "\x07"} & set(out)


@pytest.mark.parametrize("columns", [30, 40, 80, 160])
def test_a_narrow_screen_cuts_nothing(run: Path, monkeypatch: MonkeyPatch, capsys: Capture, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    list_checkpoints(run)
    with pytest.raises(CommandFailed):
        diff(run, None)
    out = capsys.readouterr().out
    assert "…" not in out
    for words in ("step-00000002", "step-00000003", "d_loss", "generator.safetensors", "tensors"):
        assert words in out


def test_a_folder_without_checkpoints_is_named(tmp_path: Path) -> None:
    with expect_user_error("[no-checkpoint]"):
        list_checkpoints(tmp_path)
