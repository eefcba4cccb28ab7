"""`distgan compare`: runs beside each other in a table, on a screen and on a page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from distgan.errors import print_line
from distgan.reports.options import CompareConfig
from distgan.reports.pairwise import Cell, ComparedRun, Row, compared_runs, not_alike
from distgan.reports.quality_view import view_of
from distgan.reports.report import facts_of, notices_of, samples_of, write_page
from distgan.reports.report2023 import NAME, rows_of
from distgan.reports.run_data import read_run
from distgan.utils.terminal import TerminalConsole

_AT_ONCE = 3  # runs beside each other: more would leave no room for words
_STYLES = {True: "green", False: "red", None: "yellow"}
_SIGNS = {True: "✓", False: "✗", None: "?"}


def show(
    subjects: Sequence[ComparedRun], rows: Sequence[Row], notes: Sequence[str], console: Console | None = None
) -> None:
    console = console or TerminalConsole()
    if console.is_terminal:
        _tables(subjects, rows, console)
    else:
        for line in plain_lines(subjects, rows):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    for note in notes:
        console.print(note, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def plain_lines(subjects: Sequence[ComparedRun], rows: Sequence[Row]) -> list[str]:
    """A paragraph for each row, a line for each thing: for a file, or for grep."""
    lines = []
    for row in rows:
        lines.append(f"{row.name} ({row.meaning})")
        for subject, cell in zip(subjects, row.cells, strict=True):
            lines.append(f"  {subject.name} ({subject.run.kind}): {measured(cell)}")
            lines += [f"    {text}" for text in cell.more]
            lines.append(f"    {NAME}: {cell.claim}; {cell.verdict.word}: {cell.verdict.why}")
            lines.append(f"    again: {cell.command}")
        lines += [f"  {row.note}"] if row.note else []
        lines.append("")
    return lines


def measured(cell: Cell) -> str:
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
    text.append(f"\n{NAME.split()[0]}: {cell.claim}")
    text.append(f"\n{_SIGNS[cell.verdict.agrees]} {cell.verdict.word}", _STYLES[cell.verdict.agrees])
    text.append(f": {cell.verdict.why}")
    return text


def compare(places: Sequence[str], out: Path | None, config: CompareConfig) -> None:
    """Shows the table, and writes the page if `out` names one. Raises UserError."""
    subjects = compared_runs([read_run(where, config) for where in places])
    rows = rows_of(subjects)
    notes = notes_on(subjects)
    if out is not None:
        write_page(out, "compare.html", **page_of(subjects, rows, notes))
    show(subjects, rows, [tally_of(rows), *notes])
    if out is not None:
        print_line(f"report: {out}")


def notes_on(subjects: Sequence[ComparedRun]) -> list[str]:
    """What limits the comparison, a line each."""
    notes = []
    kinds = {subject.run.kind for subject in subjects}
    for kind in ("GAN", "C-GAN"):
        if kind not in kinds:
            notes.append(f"There is no {kind} among these runs: what compares the two can't be told.")
    for subject in subjects:
        notes += [f"{subject.name}: {text}" for text in (*notices_of(subject.run), *subject.run.problems)]
    first = next((each for each in subjects if each.run.quality), None)
    for subject in subjects:
        if first and first.run.quality and subject.run.quality:
            reason = not_alike(first.run.quality, subject.run.quality)
            notes += [f"{first.name} and {subject.name}: {reason}."] if reason else []
    return list(dict.fromkeys(notes))


def tally_of(rows: Sequence[Row]) -> str:
    """How often measurement and report agree."""
    verdicts = [cell.verdict.agrees for row in rows for cell in row.cells]
    yes, no, both = verdicts.count(True), verdicts.count(False), len(verdicts)
    return f"Of {both} cells, {yes} agree with the report, {no} disagree, and of {both - yes - no} it can't be told."


def page_of(subjects: Sequence[ComparedRun], rows: Sequence[Row], notes: Sequence[str]) -> dict[str, Any]:
    parts = []
    for number, subject in enumerate(subjects, 1):
        frames, _ = samples_of(subject.run)
        quality = subject.run.quality
        parts.append(
            {
                "id": f"run-{number}",
                "name": subject.name,
                "run": subject.run,
                "facts": facts_of(subject.run),
                "frame": frames[-1] if frames else None,
                "quality": quality,
                "view": view_of(quality) if quality else None,
            }
        )
    return {
        "runs_shown": parts,
        "runs": [each.name for each in subjects],
        "rows": rows,
        "notes": notes,
        "tally": tally_of(rows),
    }
