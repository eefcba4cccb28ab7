"""Which checkpoint a run is resumed from, whatever has become of its folder: moved, linked, copied, damaged."""

import shutil
from pathlib import Path

import pytest
from helpers.runs import (
    Capture,
    MonkeyPatch,
    Run,
    assert_user_error,
    checkpoint,
    checkpoint_names,
    expect_user_error,
    fits,
    losses,
    quick,
)
from helpers.small_runs import make_cheap, train_small

from distgan.checkpoint.export import load_generator
from distgan.checkpoint.format import read_checkpoint
from distgan.config.command_settings import EvalConfig
from distgan.config.schema import DataConfig
from distgan.data.base import load_dataset
from distgan.evaluation.inputs import load_input
from distgan.utils.files import read_metrics


@pytest.mark.parametrize("text", ["[]", '{"run": 5}', "{", '{"model": {"wdth": 1}}'])
def test_resume_rejects_a_damaged_config(distgan: Run, tmp_path: Path, text: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(text)
    assert_user_error(distgan("train", *quick("run")), "run/config.json")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: MonkeyPatch) -> Path:
    """Two steps, a line and a checkpoint of each."""
    make_cheap(monkeypatch)
    train_steps(tmp_path / "run", 2)
    return tmp_path / "run"


def train_steps(folder: Path, num: int, **settings: object) -> None:
    train_small(
        folder, max_steps=num, log_every=1, save_every_steps=1, keep_best="max:g_loss", tracker="none", **settings
    )


def steps(folder: Path) -> list[int]:
    return [int(line["step"]) for line in read_metrics(folder / "metrics.jsonl")]


# -- moved to another disk ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["big/checkpoints", "big/run-1"])
def test_checkpoints_may_be_a_link_to_another_disk(run: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "big").mkdir()
    (tmp_path / "big" / "metrics.jsonl").write_text('{"step": 1}\n')  # of another run
    (run / "checkpoints").rename(tmp_path / name)
    (run / "checkpoints").symlink_to(tmp_path / name)
    for start in ("run", "run/checkpoints", "run/checkpoints/latest", "run/checkpoints/step-00000002"):
        train_steps(branch := tmp_path / f"branch-{start.replace('/', '-')}", 3, resume=str(tmp_path / start))
        assert steps(branch) == [1, 2, 3]
    train_steps(run, 4)
    assert steps(run) == [1, 2, 3, 4]
    assert (run / "checkpoints").is_symlink()
    assert not list(run.glob("metrics.jsonl.*"))


@pytest.mark.parametrize("resume", ["auto", "step-00000002", "latest"])
def test_a_checkpoint_may_be_a_link_to_another_disk(run: Path, tmp_path: Path, resume: str, distgan: Run) -> None:
    link, moved = run / "checkpoints" / "step-00000002", tmp_path / "big" / "a-checkpoint"
    moved.parent.mkdir()
    link.rename(moved)
    link.symlink_to(moved)
    before = {path.name: path.read_bytes() for path in moved.iterdir()}
    listed = distgan.ok("checkpoint", "ls", run).stdout
    assert [line.split()[0] for line in listed.splitlines() if "latest" in line] == ["step-00000002"]
    train_steps(run, 3, resume=resume if resume == "auto" else str(link.with_name(resume)))
    assert steps(run) == [1, 2, 3]
    assert not list(run.rglob("*.damaged*"))
    assert checkpoint_names(run)[:2] == ["step-00000003", "step-00000002"]
    assert link.is_symlink()
    train_steps(run, 5)  # --keep 2: of a link, the link alone goes
    assert not link.is_symlink()
    assert {path.name: path.read_bytes() for path in moved.iterdir()} == before


def test_a_checkpoint_whose_disk_is_away_is_not_passed_over(run: Path, tmp_path: Path, distgan: Run) -> None:
    link = run / "checkpoints" / "step-00000002"
    link.rename(tmp_path / "away")
    link.symlink_to(tmp_path / "big" / link.name)
    for resume in ("auto", str(run)):
        with expect_user_error(str(link), str(tmp_path / "big"), code="not-found"):
            train_steps(run, 3, resume=resume)
    assert_user_error(distgan("checkpoint", "verify", run), str(link), code="not-found")
    assert link.is_symlink()
    link.unlink()
    link.write_text("/big/step-00000002")  # a link in an archive that has none
    train_steps(run, 3)
    assert steps(run) == [1, 2, 3]
    assert link.with_name("step-00000002.damaged").read_text() == "/big/step-00000002"


def test_files_of_a_run_may_be_links_to_another_disk(run: Path, tmp_path: Path) -> None:
    names = ("metrics.jsonl", "config.json", "environment.json", "status.json", "timeline.png")
    for name in names:
        (run / name).rename(tmp_path / name)
        (run / name).symlink_to(tmp_path / name)
    train_steps(run, 3)
    assert steps(run) == [1, 2, 3]
    for name in names:
        assert (run / name).is_symlink(), name
    assert steps(tmp_path) == [1, 2, 3]


def test_a_checkpoint_of_its_own_may_be_named_by_where_its_link_leads(run: Path, tmp_path: Path) -> None:
    (run / "checkpoints").rename(tmp_path / "moved")
    (run / "checkpoints").symlink_to(tmp_path / "moved")
    train_steps(run, 3, resume=str(tmp_path / "moved" / "step-00000002"))
    assert steps(run) == [1, 2, 3]


def test_a_resume_that_lacks_lines_keeps_the_old_file(run: Path, tmp_path: Path, capfd: Capture) -> None:
    """From a checkpoint that was saved elsewhere, say, without the metrics.jsonl of its run."""
    (run / "checkpoints").rename(tmp_path / "saved")
    before = (run / "metrics.jsonl").read_bytes()
    train_steps(run, 3, resume=str(tmp_path / "saved" / "step-00000002"))
    assert (run / "metrics.jsonl.old").read_bytes() == before
    assert "metrics.jsonl.old" in capfd.readouterr().err
    assert steps(run) == [3]


def test_lines_of_steps_that_are_taken_again_are_kept_without_a_word(run: Path, capfd: Capture) -> None:
    """As after a kill, or where newer checkpoints were taken away."""
    shutil.rmtree(run / "checkpoints" / "step-00000002")
    first, second = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 700, "d_lo')
    train_steps(run, 3)
    assert steps(run) == [1, 2, 3]
    assert (run / "metrics.jsonl").read_text().startswith(first)
    assert (run / "metrics.jsonl.old").read_text() == second
    assert "metrics.jsonl.old" not in capfd.readouterr().err


# -- a name that is not UTF-8 ------------------------------------------------------------------------------


def test_a_run_may_have_a_name_that_is_not_utf8(
    run: Path, tmp_path: Path, distgan: Run, monkeypatch: MonkeyPatch
) -> None:
    """As an old archive may give it. What a setting names must be UTF-8, as settings are kept in files."""
    odd = run.rename(tmp_path / "run\udcff")
    (odd / "checkpoints" / "step-00000002" / "foreign").touch()
    (other := tmp_path / "other").mkdir()
    shutil.copytree(odd, other / "run")
    for words in (
        ("sample", odd, "--num", 4, "--out", "a.png"),
        ("sample", odd / "checkpoints" / "latest", "--num", 4, "--out", "a.png"),
        ("report", odd, "--no-eval"),
        ("compare", odd, other / "run", "--no-eval"),
        ("checkpoint", "ls", odd),
        ("checkpoint", "verify", odd),
    ):
        result = distgan.ok(*words)
        assert "no valid" not in result.stdout
        assert "Traceback" not in result.stderr
    for flag in ("--out", "--data-dir", "--resume"):
        words = ("train", *quick("new"), flag, odd)
        assert_user_error(distgan(*words), f"{flag}: ", r"run\udcff", "in UTF-8", code="bad-value")
    monkeypatch.setenv("DISTGAN_DATA", str(odd))
    with expect_user_error("run\udcff ... [no-data]", code="not-found"):
        load_dataset(DataConfig(name="mnist", download=False))
    monkeypatch.chdir(odd)
    train_small(Path("inner"), max_steps=2)
    assert checkpoint(Path("inner"))[1] == 2


# -- copied with its links followed ------------------------------------------------------------------------


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    """A copy whose `latest` and `best` are folders, of step 2, that an older version continued to step 3."""
    copy = Path(shutil.copytree(run, tmp_path / "copied"))
    train_steps(run, 3)
    shutil.copytree(run / "checkpoints" / "step-00000003", copy / "checkpoints" / "step-00000003")
    shutil.copy(run / "metrics.jsonl", copy / "metrics.jsonl")
    assert read_checkpoint(copy / "checkpoints" / "latest").state.step == 2
    assert (copy / "checkpoints" / "best").is_dir()
    return copy


def test_a_copied_run_goes_on_from_its_newest_step(copied: Path, run: Path, capfd: Capture) -> None:
    for folder in (run, copied):
        train_steps(folder, 4)
        checkpoints = folder / "checkpoints"
        assert (checkpoints / "latest").is_symlink()
        assert read_checkpoint((checkpoints / "latest").resolve()).state.step == 4
    assert checkpoint(copied)[1] == 4
    assert losses(copied) == losses(run)
    assert (copied / "checkpoints" / "best").resolve().name == (run / "checkpoints" / "best").resolve().name
    said = capfd.readouterr().err
    for name in ("latest", "best"):
        assert f"warning: {copied}/checkpoints/{name}: " in said
    assert "latest.copy" in said
    assert (copied / "checkpoints" / "latest.copy").is_dir(), "nothing is deleted"


def test_latest_of_a_copied_run_is_its_newest_step(copied: Path, tmp_path: Path, distgan: Run, capfd: Capture) -> None:
    """To sample, eval and resume from; `best` the best."""
    latest = copied / "checkpoints" / "latest"
    loaded = load_generator(str(latest), ema=True)
    assert loaded.step == 3
    assert loaded.path.parent.name == "step-00000003"
    (warning,) = loaded.warnings
    assert str(latest) in warning
    assert warning in load_input(str(latest), EvalConfig()).notices
    assert f"warning: {warning}" in distgan.ok("sample", latest, "--num", 4, "--out", "a.png").stderr
    capfd.readouterr()
    train_steps(tmp_path / "branch", 4, resume=str(latest))
    said = capfd.readouterr().err
    assert fits("resuming ... step 3 ", said)
    assert f"warning: {latest}: " in said
    best = load_generator(str(copied / "checkpoints" / "best"), ema=True)
    values = {line["step"]: line["g_loss"] for line in read_metrics(copied / "metrics.jsonl")}
    assert best.step == max((2, 3), key=lambda step: values[step])
    assert best.warnings


@pytest.mark.parametrize("text", ["step-00000001", "/run/checkpoints/step-00000001\n", "step-00000009"])
def test_latest_may_be_a_file_with_the_text_of_the_link(
    run: Path, tmp_path: Path, distgan: Run, capfd: Capture, text: str
) -> None:
    """Whatever step it names, the newest counts: the run may have gone on since."""
    checkpoints = run / "checkpoints"
    latest, best = checkpoints / "latest", checkpoints / "best"
    for link in (latest, best):
        best_step = link.resolve().name
        link.unlink()
        link.write_text(text)
    loaded = load_generator(str(latest), ema=True)
    assert loaded.step == 2
    assert f"{latest}: " in loaded.warnings[0]
    if not text.endswith("9"):
        assert load_generator(str(best), ema=True).path.parent.name == best_step
    listed = distgan.ok("checkpoint", "ls", run).stdout
    assert [line.split()[0] for line in listed.splitlines() if line.endswith("latest ")] == ["step-00000002"]
    assert f"warning: {latest}: is a file that names step-0000000" in listed
    if not text.endswith("9"):
        assert "step-00000001: valid" in distgan.ok("checkpoint", "verify", latest).stdout
    capfd.readouterr()
    train_steps(tmp_path / "branch", 3, resume=str(latest))
    said = capfd.readouterr().err
    assert fits("resuming ... step 2 ", said)
    assert f"warning: {latest}: " in said
    train_steps(run, 3)
    assert latest.resolve().name == "step-00000003"
    assert best.is_symlink()


@pytest.mark.parametrize("text", ["", "latest", "\0", "step-1", "../../other"])
def test_another_file_called_latest_is_no_checkpoint(run: Path, distgan: Run, text: str) -> None:
    latest = run / "checkpoints" / "latest"
    latest.unlink()
    latest.write_text(text)
    for words in (("sample", latest), ("checkpoint", "verify", latest), ("train", "--resume", latest, *quick("new"))):
        assert_user_error(distgan(*words), str(latest.parent))


def test_checkpoint_ls_tells_of_a_copied_run(copied: Path, distgan: Run) -> None:
    listed = distgan.ok("checkpoint", "ls", copied).stdout
    (newest,) = (line for line in listed.splitlines() if line.strip().startswith("step-00000003"))
    assert "latest" in newest
    assert f"warning: {copied}/checkpoints/latest: is a folder of step 2" in listed


def test_latest_alone_is_a_run_to_go_on_with(run: Path, distgan: Run) -> None:
    """All that was copied, say."""
    checkpoints = run / "checkpoints"
    shutil.copytree(checkpoints / "latest", run / "aside")
    shutil.rmtree(checkpoints)
    checkpoints.mkdir()
    (run / "aside").rename(checkpoints / "latest")
    assert "step 2" in distgan.ok("train", "--out", run, "--dry-run").stdout
    assert "latest" in distgan.ok("checkpoint", "ls", run).stdout
    train_steps(run, 3)
    assert steps(run) == [1, 2, 3]
    assert checkpoint_names(run) == ["step-00000003", "step-00000002"]
    assert (checkpoints / "latest").is_symlink()


def test_a_copy_stands_in_for_a_damaged_checkpoint(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    newest = copy / "checkpoints" / "step-00000002"
    (newest / "g_optim.safetensors").write_bytes(b"")
    train_steps(copy, 3)
    assert steps(copy) == [1, 2, 3]
    assert (copy / "checkpoints" / "step-00000002.damaged").is_dir()
    assert read_checkpoint(newest).state.step == 2


# -- foreign files -----------------------------------------------------------------------------------------


def test_a_damaged_checkpoint_is_bad_data(run: Path, distgan: Run) -> None:
    newest = run / "checkpoints" / "step-00000002"
    (newest / "g_optim.safetensors").write_bytes(b"")
    assert_user_error(distgan("sample", newest), "g_optim.safetensors", code="bad-data")


def test_foreign_files_cost_no_checkpoint(run: Path, distgan: Run, capfd: Capture) -> None:
    newest = run / "checkpoints" / "step-00000002"
    (newest / ".DS_Store").touch()
    (run / "checkpoints" / "._step-00000002").touch()
    (run / "samples" / "._epoch-0000.png").write_bytes(b"not a picture")
    (run / "samples" / "a-step-by-step.png").write_bytes(b"mine")
    assert "holds .DS_Store" in distgan.ok("checkpoint", "verify", run).stdout
    assert "holds .DS_Store" in distgan.ok("sample", newest, "--num", 4, "--out", "a.png").stderr
    capfd.readouterr()
    train_steps(run, 3)
    said = capfd.readouterr().err
    assert fits("resuming ... step 2 ", said)
    assert "holds .DS_Store" in said
    assert not list(run.rglob("*.damaged"))
    assert (run / "samples" / "a-step-by-step.png").read_bytes() == b"mine"


# -- equal runs --------------------------------------------------------------------------------------------


def test_weights_of_equal_runs_are_equal_bytes(run: Path, tmp_path: Path) -> None:
    train_steps(tmp_path / "again", 2)
    for path in sorted((run / "weights").glob("*.safetensors")):
        assert path.read_bytes() == (tmp_path / "again" / "weights" / path.name).read_bytes()


def test_samples_stand_at_their_step_in_tensorboard(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    make_cheap(monkeypatch)
    for num in (2, 5, 8):
        train_small(tmp_path / "run", max_steps=num, epochs=2, sample_epochs=[0, 1])
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    (tag,) = events.Tags()["images"]
    assert [event.step for event in events.Images(tag)] == [0, 2, 5, 6, 8]


def test_weights_older_than_the_newest_checkpoint_are_not_drawn_from(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """As a run that was resumed and killed has them."""
    make_cheap(monkeypatch)
    run = tmp_path / "run"
    train_small(run, max_steps=2)
    shutil.copytree(run / "weights", tmp_path / "old")
    assert load_generator(str(run), ema=True)[5:] == (2, [])
    train_small(run, max_steps=4)
    shutil.rmtree(run / "weights")
    (tmp_path / "old").rename(run / "weights")
    step, (warning,) = load_generator(str(run), ema=True)[5:]
    assert step == 4
    assert fits("weights: ... step", warning)


def test_a_run_that_began_from_another_goes_on_by_the_same_command(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """A job that is requeued has the command that it began with."""
    make_cheap(monkeypatch)
    train_small(tmp_path / "first", max_steps=2)
    for steps in (4, 6):
        train_small(tmp_path / "second", max_steps=steps, resume=str(tmp_path / "first"))
    assert checkpoint(tmp_path / "second")[1] == 6
    with expect_user_error("--resume", "[resume-mismatch]", code="mismatch"):
        train_small(tmp_path / "second", max_steps=8, resume=str(tmp_path / "first" / "checkpoints" / "latest"))
