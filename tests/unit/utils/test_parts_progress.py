"""Remaining time of a command of many parts, on a terminal and elsewhere."""

import os
import pty
import sys
import time
from contextlib import suppress
from itertools import count

import pytest
from helpers.runs import Capture, MonkeyPatch

from distgan.utils.parts_progress import PartsProgress, format_hms


@pytest.fixture(autouse=True)
def _ten_seconds_each_look(monkeypatch: MonkeyPatch) -> None:
    ticks = count(0, 10)
    monkeypatch.setattr(time, "monotonic", lambda: float(next(ticks)))


def test_a_line_for_each_part_with_the_time_left(capsys: Capture) -> None:
    with PartsProgress(3, "turns") as progress:
        progress.finish("one [red]")
        progress.say("between")
        progress.finish("two")
        progress.finish("three")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["one [red]; about 0:20 left", "between", "two; about 0:10 left", "three"]


def _read_all(terminal: int) -> str:
    """Read what was written to a closed terminal; one read may give a part of it only."""
    parts = []
    with os.fdopen(terminal, "rb", buffering=0) as source, suppress(OSError):  # EIO: nothing is left
        while part := source.read(65_536):
            parts.append(part)
    return b"".join(parts).decode()


def test_a_bar_on_a_terminal(monkeypatch: MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        with PartsProgress(2, "turns") as progress:
            progress.finish("one")
    shown = _read_all(ours)
    assert "one" in shown
    assert "1/2" in shown
    assert "about" not in shown


def test_durations() -> None:
    assert [format_hms(seconds) for seconds in (0, 59.6, 61, 3723)] == ["0:00", "1:00", "1:01", "1:02:03"]
