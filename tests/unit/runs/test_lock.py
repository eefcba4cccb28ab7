"""The lock of a run's folder."""

import errno
import fcntl
import os
import socket
import time
from pathlib import Path

import pytest
from helpers.runs import MonkeyPatch, expect_user_error

from distgan.runs.run_dir import LOCKS, lock

MARKER = LOCKS[1]


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text('{"pid": 7, "host": "here"}')
    held = lock(tmp_path)
    with expect_user_error(f"--out: ... ({tmp_path})", "process 7 on here", code="exists"):
        lock(tmp_path, wait_s=0)
    held.release()
    lock(tmp_path, wait_s=0).release()


@pytest.fixture(params=[errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.EIO, errno.ENOSYS])
def _no_locks(request: pytest.FixtureRequest, monkeypatch: MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.usefixtures("_no_locks")
@pytest.mark.parametrize("left", ["", "lock", MARKER])
def test_a_file_system_without_locks_has_one_holder_at_a_time(tmp_path: Path, left: str) -> None:
    """Also with the lock of a run that was copied there, or with the marker of a process that was killed."""
    if left:
        (tmp_path / left).write_text("" if left == "lock" else f"{2**22 + 1}\n{socket.gethostname()}\n")
    held = lock(tmp_path, wait_s=0.2)
    with expect_user_error(f"--out: ... ({tmp_path})", str(tmp_path / MARKER), code="exists"):
        lock(tmp_path, wait_s=0.1)
    held.release()
    assert os.listdir(tmp_path) == ["lock"], "no marker stays"


@pytest.mark.usefixtures("_no_locks")
def test_the_marker_of_another_machine_is_named_after_a_while(tmp_path: Path) -> None:
    (tmp_path / MARKER).write_text("7\nanother-machine\n")
    (tmp_path / "status.json").write_text('{"pid": 7, "host": "another-machine"}')
    began = time.monotonic()
    with expect_user_error("process 7 on another-machine", str(tmp_path / MARKER), "delete", code="exists"):
        lock(tmp_path, wait_s=0.2)
    assert time.monotonic() - began < 2
    (tmp_path / MARKER).unlink()
    lock(tmp_path, wait_s=0.2).release()


def test_a_folder_that_takes_no_lock_is_reported(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(OSError, match="lock"):
        lock(tmp_path, wait_s=0.2)
