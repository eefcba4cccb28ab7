"""The comparison table on a screen, or as plain lines where none is looking."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from distgan.reports.comparison import Cell, Row
from distgan.reports.pairwise import Subject

_AT_ONCE = 3  # runs beside each other: more would leave no room for words
_STYLES = {True: "green", False: "red", None: "yellow"}
_SIGNS = {True: "✓", False: "✗", None: "?"}


def show(
    subjects: Sequence[Subject], rows: Sequence[Row], notes: Sequence[str], console: Console | None = None
) -> None:
    console = console or Console()
    if console.is_terminal:
        _tables(subjects, rows, console)
    else:
        for line in plain_lines(subjects, rows):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    for note in notes:
        console.print(note, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def plain_lines(subjects: Sequence[Subject], rows: Sequence[Row]) -> list[str]:
    """A paragraph for each row, a line for each thing: for a file, or for grep."""
    lines = []
    for row in rows:
        lines.append(f"{row.name} ({row.meaning})")
        for subject, cell in zip(subjects, row.cells, strict=True):
            lines.append(f"  {subject.name} ({subject.run.kind}): {measured(cell)}")
            lines += [f"    {text}" for text in cell.more]
            lines.append(f"    2023 report: {cell.claim}; {cell.verdict.word}: {cell.verdict.why}")
            lines.append(f"    again: {cell.command}")
        lines += [f"  {row.note}"] if row.note else []
        lines.append("")
    return lines


def measured(cell: Cell) -> str:
    return f"{cell.value} ({cell.interval})" if cell.interval else cell.value


def _tables(subjects: Sequence[Subject], rows: Sequence[Row], console: Console) -> None:
    commands: list[str] = []
    for start in range(0, len(subjects), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_lines=True, padding=(0, 1), expand=False)
        table.add_column("", no_wrap=False, min_width=9, max_width=10, style="bold")
        for subject in subjects[some]:
            table.add_column(Text(f"{subject.name} ({subject.run.kind})"), overflow="fold", ratio=1)
        for row in rows:
            table.add_row(Text(row.name), *(_cell(cell, commands) for cell in row.cells[some]))
        console.print(table)
    for number, command in enumerate(commands, 1):
        console.print(Text(f"[{number}] {command}"), highlight=False)
    console.print()
    for row in rows:
        if row.note:
            console.print(Text(row.note), highlight=False)


def _cell(cell: Cell, commands: list[str]) -> Text:
    if cell.command not in commands:
        commands.append(cell.command)
    text = Text()
    text.append(cell.value, "bold")
    if cell.interval:
        text.append(f"\n{cell.interval}")
    text.append(f" [{commands.index(cell.command) + 1}]", "dim")
    for line in cell.more:
        text.append(f"\n{line}", "dim")
    text.append(f"\n2023: {cell.claim}")
    text.append(f"\n{_SIGNS[cell.verdict.agrees]} {cell.verdict.word}", _STYLES[cell.verdict.agrees])
    text.append(f": {cell.verdict.why}")
    return text
