"""`distgan compare`: a table of several runs, on the terminal and as a page."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from distgan.errors import print_line
from distgan.reports import report2023
from distgan.reports.comparison_rows import Cell, Row, build_rows
from distgan.reports.options import CompareConfig
from distgan.reports.pairwise import ComparedRun, compared_runs, incomparable_reason
from distgan.reports.report import RunPage, write_page
from distgan.reports.report2023 import NAME, add_checks, summarise_agreement
from distgan.reports.run_data import read_run
from distgan.utils.terminal import TerminalConsole

_AT_ONCE = 3  # runs per table: more would leave no room for text
_STYLES = {True: "green", False: "red", None: "yellow"}
_SIGNS = {True: "✓", False: "✗", None: "?"}


def show(
    subjects: Sequence[ComparedRun], rows: Sequence[Row], notes: Sequence[str], console: Console | None = None
) -> None:
    """Print the comparison: tables on a terminal, plain lines otherwise."""
    console = console or TerminalConsole()
    if console.is_terminal:
        _tables(subjects, rows, console)
    else:
        for line in plain_lines(subjects, rows):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    for note in notes:
        console.print(note, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def plain_lines(subjects: Sequence[ComparedRun], rows: Sequence[Row]) -> list[str]:
    """Return a paragraph for each row, for a file or for grep."""
    lines = []
    for row in rows:
        lines.append(f"{row.name} ({row.meaning})")
        for subject, cell in zip(subjects, row.cells, strict=True):
            lines.append(f"  {subject.name} ({subject.run.kind}): {format_measured(cell)}")
            lines += [f"    {text}" for text in cell.more]
            if check := cell.check:
                lines.append(f"    {NAME}: {check.claim}; {check.word}: {check.why}")
            lines.append(f"    again: {cell.command}")
        lines += [f"  {row.note}"] if row.note else []
        lines.append("")
    return lines


def format_measured(cell: Cell) -> str:
    """Return the value of a cell with its interval."""
    return f"{cell.value} ({cell.interval})" if cell.interval else cell.value


def _tables(subjects: Sequence[ComparedRun], rows: Sequence[Row], console: Console) -> None:
    commands: list[str] = []
    for start in range(0, len(subjects), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_lines=True, padding=(0, 1), expand=False)
        table.add_column("", min_width=9, max_width=10, overflow="fold", style="bold")
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
    if check := cell.check:
        text.append(f"\n{NAME.split()[0]}: {check.claim}")
        text.append(f"\n{_SIGNS[check.agrees]} {check.word}", _STYLES[check.agrees])
        text.append(f": {check.why}")
    return text


class Page(NamedTuple):
    """Data of the template compare.html."""

    parts: list[RunPage]
    rows: Sequence[Row]
    notes: Sequence[str]
    tally: str
    claimed_by: str  # the report that makes claims about these runs, "" for none


def compare(places: Sequence[str], out: Path | None, config: CompareConfig) -> None:
    """Show the table, and write the page if `out` names one. Raises UserError."""
    subjects = compared_runs([read_run(where, config) for where in places])
    rows = add_checks(build_rows(subjects), subjects)
    notes, tally = notes_on(subjects), summarise_agreement(rows)
    if out is not None:
        parts = [RunPage(subject.run, subject.name) for subject in subjects]
        write_page(out, "compare.html", Page(parts, rows, notes, tally, NAME if tally else ""))
    show(subjects, rows, [tally, *notes] if tally else notes)
    if out is not None:
        print_line(f"report: {out}")


def notes_on(subjects: Sequence[ComparedRun]) -> list[str]:
    """Return what limits the comparison, a line each."""
    notes = report2023.notes_on(subjects)
    for subject in subjects:
        run = subject.run
        unmeasurable = [f"its quality is not measured: {run.unmeasurable}"] if run.unmeasurable else []
        notes += [f"{subject.name}: {text}" for text in (*RunPage(run).notices, *run.problems, *unmeasurable)]
    measured = [(subject.name, subject.run.quality) for subject in subjects if subject.run.quality]
    for name, quality in measured[1:]:
        first, other = measured[0]
        reason = incomparable_reason(other, quality)
        notes += [f"{first} and {name}: {reason}."] if reason else []
    return list(dict.fromkeys(notes))
