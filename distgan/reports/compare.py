"""`distgan compare`: runs beside each other, in the table of the 2023 report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distgan.reports.comparison import Row, rows_of
from distgan.reports.options import CompareConfig
from distgan.reports.pairwise import Subject, subjects_of
from distgan.reports.quality_view import view_of
from distgan.reports.rendering import write_page
from distgan.reports.report import facts_of, notices_of, samples_of
from distgan.reports.report2023 import not_alike
from distgan.reports.run_data import read_run
from distgan.reports.terminal import show


def compare(places: Sequence[str], out: Path | None, config: CompareConfig) -> None:
    """Shows the table, and writes the page if `out` names one. Raises UserError."""
    subjects = subjects_of([read_run(where, config) for where in places])
    rows = rows_of(subjects)
    notes = notes_on(subjects)
    if out is not None:
        write_page(out, "compare.html", **page_of(subjects, rows, notes))
    show(subjects, rows, [tally_of(rows), *notes])
    if out is not None:
        print(f"report: {out}")


def notes_on(subjects: Sequence[Subject]) -> list[str]:
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


def page_of(subjects: Sequence[Subject], rows: Sequence[Row], notes: Sequence[str]) -> dict[str, Any]:
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
