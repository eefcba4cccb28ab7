"""Text on a terminal: nothing that a name or a file holds is obeyed, taken for markup, cut, or ends a command."""

import io
import sys

import pytest
from helpers.runs import Capture, MonkeyPatch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich import box
from rich.table import Table
from rich.text import Text

from distgan.errors import print_line, print_message, printable
from distgan.utils.terminal import TerminalConsole

HOSTILE = "tr[/b][red]x :smile: \x1b[2J\x07\r\x9b31m\u202e\udcff\x7f"
SHOWN = r"tr[/b][red]x :smile: \x1b[2J\x07\r\x9b31m\u202e\udcff\x7f"


@pytest.mark.parametrize(
    ("text", "shown"),
    {
        HOSTILE: SHOWN,
        "two\nlines\tand a tab": "two\nlines\tand a tab",
        "ü 数字 é\u0301 \u3000\xa0": "ü 数字 é\u0301 \u3000\xa0",
        "\x00\x85\u2028\ud800": r"\x00\x85\u2028\ud800",
    }.items(),
)
def test_what_a_terminal_would_obey_is_made_visible(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


def test_lines_and_messages_come_out_as_they_are(capsys: Capture) -> None:
    print_line(HOSTILE)
    print_message(f"{HOSTILE}\nsecond")
    out, err = capsys.readouterr()
    assert out == f"{SHOWN}\n"
    assert err == f"distgan: {SHOWN}\ndistgan: second\n"


def test_tables_and_lines_show_text_as_it_is(capsys: Capture) -> None:
    console = TerminalConsole()
    table = Table(f"head {HOSTILE}", title=HOSTILE)
    table.add_row(HOSTILE)
    console.print_table(table)
    console.print(HOSTILE, style="red")
    console.print(Text(HOSTILE))
    out = capsys.readouterr().out
    assert out.count("tr[/b][red]x :smile: ") == 5
    assert not set("\x1b\x07\r\x9b\u202e\udcff\x7f") & set(out)


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


ROWS = [("step-000000012", "0.50", "2026-01-02 03:04:05", "1.5"), ("step-000000024", "1.00", "2026-01-02 03:04:06", "")]
HEADS = ("checkpoint", "predicted efficiency", "saved (UTC)", "MiB a checkpoint")


@pytest.mark.parametrize("columns", [20, 33, 40, 50, 60, 70, 80, 120, 200])
def test_no_table_is_cut(monkeypatch: MonkeyPatch, columns: int) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    table = Table(*HEADS, box=None)
    for row in ROWS:
        table.add_row(*row)
    console = TerminalConsole()
    assert console.width == columns
    console.print_table(table)
    text = Text.from_ansi(screen.getvalue()).plain
    assert "…" not in text
    for word in " ".join([*HEADS, *(cell for row in ROWS for cell in row)]).split():
        assert word in text, (word, text)
    if columns >= 50:
        assert max(map(len, text.splitlines())) <= columns


WORDS = st.lists(st.text("abcdefgh-0123", min_size=1, max_size=12) | st.just("\x1b[2J"), max_size=6).map(" ".join)
TABLES = st.integers(1, 7).flatmap(
    lambda num: st.tuples(st.lists(WORDS, min_size=num, max_size=num), st.lists(st.tuples(*[WORDS] * num), max_size=3))
)


@settings(max_examples=100, deadline=None)
@given(content=TABLES, width=st.integers(20, 120), kept=st.sets(st.integers(0, 6)))
def test_any_table_is_complete_at_any_width(
    content: tuple[list[str], list[tuple[str, ...]]], width: int, kept: set[int]
) -> None:
    heads, rows = content
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, head in enumerate(heads):
        table.add_column(head, no_wrap=number in kept)
    for row in rows:
        table.add_row(*row)
    out = io.StringIO()
    TerminalConsole(file=out, width=width).print_table(table)
    text = out.getvalue()
    assert "…" not in text
    for row in rows:
        for word in " ".join(row).split():
            assert printable(word) in text
    if "─" in text:
        assert max(map(len, text.splitlines())) <= width
        for word in " ".join(heads).split():
            assert printable(word) in text


def test_a_file_has_a_width_of_its_own_and_no_bars(monkeypatch: MonkeyPatch, capsys: Capture) -> None:
    """$FORCE_COLOR requests colours; that makes no terminal of a log."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("COLUMNS", raising=False)
    console = TerminalConsole()
    assert not console.is_screen
    console.print("word " * 100)
    assert capsys.readouterr().out.count("\n") == 1


class Closed(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_reader_that_has_left_ends_nothing(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Closed())
    console = TerminalConsole(stderr=True)
    console.print("one")
    console.print("two")


@pytest.mark.parametrize("columns", ["0", "", "-1", "wide"])
def test_columns_that_are_no_width_silence_nothing(monkeypatch: MonkeyPatch, capsys: Capture, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    TerminalConsole().print("words")
    assert capsys.readouterr().out == "words\n"
