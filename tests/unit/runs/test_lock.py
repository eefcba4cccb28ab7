"""The lock of a run's folder."""

import errno
import fcntl
import os
from pathlib import Path

import pytest
from helpers.runs import MonkeyPatch, refused

from distgan.runs.run_dir import lock


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text('{"pid": 7, "host": "here"}')
    held = lock(tmp_path)
    with refused(f"--out {tmp_path}", "process 7 on here", code="exists"):
        lock(tmp_path, wait_s=0)
    held.release()
    lock(tmp_path, wait_s=0).release()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EIO, errno.ENOSYS])
@pytest.mark.filterwarnings("ignore:flock not supported")
def test_a_file_system_without_locks_is_no_error(tmp_path: Path, monkeypatch: MonkeyPatch, number: int) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    lock(tmp_path, wait_s=0.2).release()


def test_a_folder_that_takes_no_lock_is_told(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(OSError, match="lock"):
        lock(tmp_path, wait_s=0.2)
