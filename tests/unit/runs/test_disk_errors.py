"""Whatever a disk answers to whichever write of a training: a warning on the way, one line at the start and the end."""

import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers.file_events import DISK_ERRORS, before_each_change
from helpers.runs import Capture, MonkeyPatch, checkpoint, expect_user_error
from helpers.small_runs import make_cheap, train_small

from distgan.checkpoint.export import export_weights
from distgan.checkpoint.resume import newest_valid
from distgan.errors import UserError, WriteErrorPolicy, catch_user_error
from distgan.runs.run_dir import read_status
from distgan.training.metrics import MetricLog
from distgan.utils.files import read_metrics


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: MonkeyPatch) -> None:
    make_cheap(monkeypatch)


@contextmanager
def failing_disk(number: int, where: str, is_bad: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Each file, folder or name that is made where the pattern matches its path is rejected with that error."""

    def look(event: str, path: str) -> None:
        if event not in ("os.remove", "os.rmdir") and is_bad() and re.search(where, path):
            raise OSError(number, os.strerror(number), path)

    with before_each_change(look):
        yield


# One of each class that Python makes of them: which numbers are a disk's, the last tests here have.
@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EACCES, errno.EAGAIN, errno.ECONNRESET, errno.ETIMEDOUT], ids=errno.errorcode.get
)
def test_a_disk_that_is_away_for_a_while_costs_no_step(
    tmp_path: Path, monkeypatch: MonkeyPatch, capfd: Capture, number: int
) -> None:
    """Metrics, checkpoints, a sample, the tracker's curves; then the disk is back."""
    run, write, at = tmp_path / "run", MetricLog.write, [0]

    def note_step(self: MetricLog, step: int, **options: object) -> object:
        at[0] = step
        return write(self, step, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(MetricLog, "write", note_step)
    with failing_disk(number, "/run/", lambda: 5 <= at[0] <= 7):
        train_small(run, epochs=2, max_steps=9, log_every=1, save_every_steps=1)
    said = capfd.readouterr().err
    assert "warning: metrics " in said
    for what in ("a sample is", "tensorboard's numbers are"):
        assert f"warning: {what} " in said
    assert "warning: a checkpoint " in said
    assert os.strerror(number) in said
    assert "Traceback" not in said
    assert [line["step"] for line in read_metrics(run / "metrics.jsonl")] == list(range(1, 10))
    assert checkpoint(run)[1] == 9
    assert read_status(run)["state"] == "done"
    assert not list(run.rglob(".*"))


def test_status_json_is_for_people_and_stops_nothing(tmp_path: Path) -> None:
    with failing_disk(errno.ESTALE, "/status.json$"):
        train_small(tmp_path / "run", max_steps=2)
    assert checkpoint(tmp_path / "run")[1] == 2
    assert read_status(tmp_path / "run") == {}


def test_a_leftover_that_can_not_be_removed_stops_nothing(tmp_path: Path) -> None:
    """As a .nfs file, which stays while some process has it open."""
    (tmp_path / "run" / ".removed-step-00000000").mkdir(parents=True)
    for name in (".removed-step-00000000/.nfs000001", ".tmp-0a1b2c3d"):
        (tmp_path / "run" / name).touch()

    def look(event: str, path: str) -> None:
        if event == "os.remove" and path.endswith((".nfs000001", ".tmp-0a1b2c3d")):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)

    with before_each_change(look):
        train_small(tmp_path / "run", max_steps=1)
    assert checkpoint(tmp_path / "run")[1] == 1


def test_an_old_picture_that_stays_stops_nothing(tmp_path: Path, capfd: Capture) -> None:
    """Also with --on-save-error stop, which is about what a run needs: one is deleted, the others are replaced."""
    run = tmp_path / "run"
    train_small(run, epochs=2, max_steps=4, sample_epochs=[1])
    assert (run / "samples" / "epoch-0000-step-0000004.png").is_file()

    def look(event: str, path: str) -> None:
        if event in ("os.remove", "os.rename") and path.endswith((".png", ".gif")):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM), path)

    with before_each_change(look):
        train_small(run, epochs=2, max_steps=8, sample_epochs=[1], log_every=1, on_save_error="stop")
    assert checkpoint(run)[1] == 8
    assert read_status(run)["state"] == "done"
    said = capfd.readouterr().err
    for what in ("an old sample", "a sample is", "timeline.png"):
        assert f"warning: {what}" in said


@pytest.mark.parametrize("name", ["run$", "config.json", "metrics.jsonl", "checkpoints", "environment"])
def test_a_disk_that_is_away_at_the_start_is_one_line(tmp_path: Path, name: str) -> None:
    with failing_disk(errno.ESTALE, name):
        _, mistake = catch_user_error(lambda: train_small(tmp_path / "run", max_steps=1))
    assert mistake is not None
    assert mistake.code == "unwritable"
    assert os.strerror(errno.ESTALE) in str(mistake)
    train_small(tmp_path / "run", max_steps=1)


@pytest.mark.parametrize("number", [errno.ESTALE, errno.ENOSPC, errno.EACCES])
def test_a_disk_that_is_away_from_the_tracker_stops_nothing(tmp_path: Path, capfd: Capture, number: int) -> None:
    with failing_disk(number, "tensorboard"):
        train_small(tmp_path / "run", max_steps=2, log_every=1)
    assert read_status(tmp_path / "run")["state"] == "done"
    said = capfd.readouterr().err
    assert "warning: tensorboard's " in said
    assert os.strerror(number) in said
    assert "Traceback" not in said


def test_a_disk_that_takes_no_weights_is_one_line(tmp_path: Path) -> None:
    train_small(tmp_path / "run", max_steps=1)
    found = newest_valid(tmp_path / "run" / "checkpoints")
    assert found is not None
    path, last, _ = found
    for number in DISK_ERRORS:
        with failing_disk(number, "weights"):
            _, mistake = catch_user_error(lambda: export_weights(tmp_path / "run", path, last.config))
        assert mistake is not None
        assert mistake.kind == "unwritable"
        assert (mistake.code == "disk-full") == (number in (errno.ENOSPC, errno.EDQUOT))
        assert f"generator.safetensors: {os.strerror(number)}" in str(mistake)


@pytest.mark.parametrize("number", DISK_ERRORS, ids=errno.errorcode.get)
def test_an_error_of_a_write_needs_no_name_of_its_file(number: int) -> None:
    """The error of a file that is open already has no name."""
    policy = WriteErrorPolicy(stops=False)
    policy(OSError(number, os.strerror(number)), "a sample is")
    (warning,) = policy.warnings()
    assert os.strerror(number) in warning
    with expect_user_error(os.strerror(number), code="unwritable"):
        WriteErrorPolicy(stops=True)(OSError(number, os.strerror(number)), "a sample is")


def test_an_error_of_a_socket_is_no_file() -> None:
    """A rank that is gone is not a disk that is away."""
    for error in (ConnectionResetError(errno.ECONNRESET, "reset"), TimeoutError(errno.ETIMEDOUT, "timed out")):
        with pytest.raises(OSError, match=r"reset|timed out") as raised:
            catch_user_error(lambda error=error: (_ for _ in ()).throw(error))
        assert not isinstance(raised.value, UserError)
