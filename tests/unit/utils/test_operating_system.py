"""The lesser forms of what only POSIX has."""

import errno
import os
import signal
from pathlib import Path

import psutil
import pytest
from helpers.runs import MonkeyPatch

from distgan.utils import operating_system
from distgan.utils.files import read_limited


def test_a_link_is_not_followed_where_opening_can_not_reject_it(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"text")
    (tmp_path / "link").symlink_to("file")
    for name in ("O_NOFOLLOW", "O_NONBLOCK"):
        with pytest.raises(OSError, match="link") as error:
            operating_system.open_regular(tmp_path / "link")
        assert error.value.errno == errno.ELOOP
        assert read_limited(tmp_path / "file", 10) == b"text"
        monkeypatch.delattr(os, name)


def test_memory_is_reported_without_the_module_resource(monkeypatch: MonkeyPatch) -> None:
    peak = operating_system.peak_memory_bytes()
    monkeypatch.setattr(operating_system, "resource", None)
    assert 2**20 < operating_system.peak_memory_bytes() <= 1.1 * peak


def test_a_parent_that_is_gone(monkeypatch: MonkeyPatch) -> None:
    assert not operating_system.is_parent_gone(os.getppid())
    assert operating_system.is_parent_gone(os.getppid() + 1)
    monkeypatch.setattr(operating_system.os, "name", "nt")
    monkeypatch.setattr(psutil, "pid_exists", lambda pid: pid == 5)
    assert not operating_system.is_parent_gone(5)
    assert operating_system.is_parent_gone(6)


def test_names_of_signals() -> None:
    assert operating_system.signal_name(signal.SIGTERM) == "SIGTERM"
    assert operating_system.signal_name(1073741510) == "signal 1073741510", "how Windows says Ctrl-C"
