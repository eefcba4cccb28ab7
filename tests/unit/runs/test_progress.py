"""Progress of a run: bars on a screen, lines in a log, and nothing that ends it."""

import errno
import io
import os
import sys

import pytest
from helpers.runs import Capture, MonkeyPatch
from rich.text import Text

from distgan.runs.progress import ProgressDisplay
from distgan.training.metrics import MetricRecord

RECORD = MetricRecord(6, 0.5, 1.4, 0.7, 0.1, -0.1, 100.0, 1.0, 0.1)


def go(name: str = "") -> None:
    with ProgressDisplay(12, 6, 0, is_main=True) as display:
        display.say(f"writing to {name}")
        display.advance(6)
        display.show(RECORD)
        display.warn([f"{name} is odd"])
        display.show(RECORD._replace(step=12))


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("wish", ["", "FORCE_COLOR", "TTY_INTERACTIVE", "TTY_COMPATIBLE"])
def test_a_log_has_lines_and_no_bar(monkeypatch: MonkeyPatch, capsys: Capture, wish: str) -> None:
    if wish:
        monkeypatch.setenv(wish, "1")
    go()
    text = Text.from_ansi(capsys.readouterr().err).plain
    assert "━" not in text
    assert "\x1b[?25l" not in text
    assert text.count("images/s") == 2


def test_a_screen_has_a_bar(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", screen := Screen())
    monkeypatch.setenv("TERM", "xterm")
    go()
    assert "━" in screen.getvalue()


@pytest.mark.parametrize(("columns", "numbers"), [(40, "d_loss 1.400"), (80, "D 1.400"), (100, "d_loss 1.400")])
def test_no_screen_cuts_the_numbers(monkeypatch: MonkeyPatch, columns: int, numbers: str) -> None:
    """Short words at 80 columns; lines without a bar where even those have no room."""
    monkeypatch.setattr(sys, "stderr", screen := Screen())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    with ProgressDisplay(35250, 235, 0, is_main=True) as display:
        display.advance(20_000)
        display.show(RECORD._replace(step=20_000, images_per_s=12345.0))
    text = Text.from_ansi(screen.getvalue().replace("\r", "\n")).plain
    assert "…" not in text
    for words in ("epoch 86/150", "20,000/35,250", numbers, "12,345", "left"):
        assert words in text
    assert ("━" in text) is (columns >= 80)


def test_names_are_shown_as_they_are(capsys: Capture) -> None:
    go("tr[/b]\x1b[2J")
    assert capsys.readouterr().err.count(r"tr[/b]\x1b[2J") == 2


class Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("is_screen", [False, True])
def test_a_log_on_a_full_disk_ends_nothing(monkeypatch: MonkeyPatch, is_screen: bool) -> None:
    stream = Full()
    monkeypatch.setattr(stream, "isatty", lambda: is_screen)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    go()
