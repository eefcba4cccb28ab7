"""The comparison table of the 2023 report, each cell measured: value, interval, command, and what the report says."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from distgan.reports.number_format import epochs, interval, percent, plain, whole
from distgan.reports.options import CompareConfig
from distgan.reports.pairwise import Subject, better, epoch_seconds, faster, subjects_of
from distgan.reports.quality_view import view_of
from distgan.reports.report import facts_of, notices_of, samples_of, write_page
from distgan.reports.report2023 import Verdict, convergence, evaluated, not_alike, reached, too_few
from distgan.reports.run_data import Run, eval_command, read_run, train_command

CHANCE = 0.1
NO_QUALITY = "not measured"
STAMPS = "The 2023 report's own time stamps contradict its sentence: 21.2 s an epoch for its GAN, 13.6 s for its C-GAN."


class Cell(NamedTuple):
    """`value` and `interval` as text; `more` are lines below; `command` measures it again."""

    value: str
    interval: str
    more: list[str]
    command: str
    claim: str  # of the 2023 report, for this kind of network
    verdict: Verdict


class Row(NamedTuple):
    name: str
    meaning: str
    claims: dict[str, str]  # by kind
    cells: list[Cell]
    note: str = ""


def rows_of(subjects: Sequence[Subject]) -> list[Row]:
    table: list[tuple[str, str, tuple[str, str], Callable[[Subject, str, list[Subject]], Cell], str]] = [
        ("target", "what it is for", ("unsupervised tasks", "supervised or semi-supervised tasks"), _target, ""),
        ("input", "what G starts from", ("noise", "noise and a condition"), _input, ""),
        ("image quality", "fcd is a distance to real images", ("usually better", "recognisable but noisier"),
         _image_quality, ""),
        ("training speed", "seconds an epoch by the run's own log, with whatever else the machine did",
         ("usually faster", "slower"), _speed, STAMPS),
        ("epochs to converge", "fcd within 5 % of the run's own best, for good", ("60", "80"), _epochs, ""),
        ("diversity", "digits that are there", ("does not hold all digits", "holds all digits"), _diversity, ""),
    ]  # fmt: skip
    rows = []
    for name, meaning, (of_gan, of_cgan), cell_of, note in table:
        claims = {"GAN": of_gan, "C-GAN": of_cgan}
        cells = []
        for subject in subjects:
            others = [other for other in subjects if other.run.kind != subject.run.kind]
            cells.append(cell_of(subject, claims[subject.run.kind], others))
        rows.append(Row(name, meaning, claims, cells, note))
    return rows


def _needs_eval(run: Run, claim: str) -> Cell:
    verdict = Verdict(None, "its quality was not measured")
    return Cell(NO_QUALITY, "", [], eval_command(run), claim, verdict)


def _target(subject: Subject, claim: str, others: list[Subject]) -> Cell:
    run, quality, size = subject.run, subject.run.quality, subject.size
    if run.kind == "GAN":
        if size is None:
            verdict = Verdict(None, "its weights can't be looked at")
            return Cell(NO_QUALITY, "", [], train_command(run), claim, verdict)
        verdict = (
            Verdict(False, "its weights have inputs for a label")
            if size.takes_labels
            else Verdict(True, "it trains without labels")
        )
        facts = f"G takes {size.z:,} numbers of noise, D the image alone"
        value = "a label enters" if size.takes_labels else "no label enters"
        return Cell(value, "exact", [facts], train_command(run, "--dry-run"), claim, verdict)
    if quality is None or quality.agreement is None:
        return _needs_eval(run, claim)
    found = quality.agreement
    why = f"of the images asked for by label, more are read as asked than by chance ({percent(CHANCE, 0)})"
    verdict = Verdict(True, why)
    if found.high < CHANCE:
        verdict = Verdict(False, "its images follow the label no more than by chance")
    elif found.low <= CHANCE:
        verdict = Verdict(None, f"the interval holds chance ({percent(CHANCE, 0)})")
    more = [f"images read as the digit asked for; by chance {percent(CHANCE, 0)}"]
    return Cell(percent(found.value), interval(found, share=True), more, quality.source.command, claim, verdict)


def _input(subject: Subject, claim: str, others: list[Subject]) -> Cell:
    run, size = subject.run, subject.size
    command = train_command(run, "--dry-run")
    if size is None:
        return Cell(NO_QUALITY, "", [], train_command(run), claim, Verdict(None, "there are no whole weights yet"))
    value = f"{size.z:,} of noise" + (f" and {size.condition} of the label" if size.condition else "")
    more = [f"G {size.g_parameters:,} and D {size.d_parameters:,} parameters, counted in {size.path}"]
    is_so = size.takes_labels == (run.kind == "C-GAN")
    verdict = Verdict(is_so, "as the weights have it" if is_so else "the weights have it otherwise")
    return Cell(value, "exact", more, command, claim, verdict)


def _image_quality(subject: Subject, claim: str, others: list[Subject]) -> Cell:
    run, quality = subject.run, subject.run.quality
    if quality is None:
        return _needs_eval(run, claim)
    more = [
        f"fcd of two sets of real images: {whole(quality.fcd_floor)}",
        f"recognisable: {whole(quality.recognisable, share=True)}",
        f"real images: {whole(quality.real.recognisable, share=True)}",
    ]
    verdict = better(run, quality, others)
    return Cell(f"fcd {plain(quality.fcd.value)}", interval(quality.fcd), more, quality.source.command, claim, verdict)


def _speed(subject: Subject, claim: str, others: list[Subject]) -> Cell:
    run, command = subject.run, train_command(subject.run)
    own = epoch_seconds(run)
    if own is None:
        why = "its log has too few lines, or no number of images"
        return Cell(NO_QUALITY, "", [], command, claim, Verdict(None, why))
    found, num = own
    more = [f"median of {num:,} lines of metrics.jsonl, on {run.fact('device') or 'an unknown device'}"]
    return Cell(f"{plain(found.value)} s", f"{interval(found)} s", more, command, claim, faster(run, found, others))


def _epochs(subject: Subject, claim: str, others: list[Subject]) -> Cell:
    run, command = subject.run, train_command(subject.run, "--eval-every", "1")
    found = convergence(evaluated(run.lines))
    if found is None:
        is_due = bool(run.config.run.eval_every or run.config.run.eval_every_steps)
        why = "it was not evaluated yet" if is_due else "it was trained without --eval-every"
        return Cell(NO_QUALITY, "", [], command, claim, Verdict(None, why))
    verdict = reached(found, int(claim))
    more = [f"{found.num} evaluations up to epoch {epochs(found.last)}; the best at epoch {epochs(found.best)}"]
    if found.is_improving:
        value = f"not before epoch {epochs(found.last)}"
        return Cell(value, "still improving", more, command, claim, verdict)
    if found.epoch is None:
        value = f"not by epoch {epochs(found.last)}"
        return Cell(value, "did not stay within 5 % of its best", more, command, claim, verdict)
    low = epochs(found.low if found.low is not None else found.epoch)
    ends = f"{low} to {epochs(found.high)}" if found.high is not None else f"from {low} on, the latest is open"
    return Cell(f"epoch {epochs(found.epoch)}", ends, more, command, claim, verdict)


def _diversity(subject: Subject, claim: str, others: list[Subject]) -> Cell:
    run, quality = subject.run, subject.run.quality
    if quality is None:
        return _needs_eval(run, claim)
    missing = [str(digit.digit) for digit in quality.per_digit if digit.verdict == "missing"]
    shares = sorted(enumerate(quality.shares), key=lambda each: each[1].value)
    (rarest, low), (commonest, high) = shares[0], shares[-1]
    more = [
        f"share of {rarest}: {whole(low, share=True)}; of {commonest}: {whole(high, share=True)}",
        f"coverage: {whole(quality.coverage)}",
        f"coverage of real images: {whole(quality.real.coverage)}",
    ]
    ends = f"smallest share {interval(low, share=True)}"
    why = "no digit is missing" if not missing else f"missing: {', '.join(missing)}"
    verdict = Verdict((not missing) == (run.kind == "C-GAN"), why)
    if reason := too_few(quality):
        verdict = Verdict(None, reason)
    return Cell(f"{10 - len(missing)} of 10 digits", ends, more, quality.source.command, claim, verdict)


# -- The comparison table on a screen, or as plain lines where none is looking --

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


# -- `distgan compare`: runs beside each other, in the table of the 2023 report --


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
