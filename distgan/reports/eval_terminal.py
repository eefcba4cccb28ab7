"""Terminal output of an evaluation: headline, class by class, confusions, claims, files."""

from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from distgan.evaluation.schema import Quality, class_names_of
from distgan.reports.number_format import join
from distgan.reports.quality_view import View, build_view, image_text, real_notes
from distgan.reports.report2023 import NAME, check_claims
from distgan.utils.figures import describe_numbered
from distgan.utils.terminal import TerminalConsole
from distgan.utils.text import truncate

_COLOURS = {"made well": "green", "made poorly": "yellow", "missing": "bold red", "not requested": "dim"}
_NUM_CONFUSIONS = 8
_MOST_LETTERS = 16  # of a class's name in a table


def show(quality: Quality, folder: Path) -> None:
    """Print the results of an evaluation, for 80 columns."""
    console, view = TerminalConsole(), build_view(quality)

    def say(text: str, style: str = "") -> None:
        console.print(text, style=style)

    for notice in quality.notices:
        say(f"!! {notice} !!", "bold yellow")
    say(image_text(quality))
    say(f"against {quality.source.reference}", "dim")
    for sentence in real_notes(quality):
        say(sentence, "dim")
    table = _table("", "here", "95 % interval", "compare with")
    for card in view.cards:
        table.add_row(card.name, card.value, card.interval, card.beside)
    console.print_table(table)
    console.print_table(_classes(view))
    for row in view.classes:
        if row.verdict != "made well":
            say(f"{row.name} {row.verdict}: {row.why}")
    if view.is_conditional:
        for pair, share, real, seen in view.confusions[:_NUM_CONFUSIONS]:
            say(f"{pair}: {share}; real ones {real.partition(' (')[0]}; seen by {seen} judges only")
        if left := len(view.confusions[_NUM_CONFUSIONS:]):
            say(f"and {left} more such pairs")
        if not view.confusions:
            say(f"no two {view.nouns} are confused more often than the judges confuse real ones")
    else:
        for pair, share in view.ambiguities:
            say(f"unsure whether {pair}: {share} of the images")
    for alarm in quality.alarms:
        say(f"alarm: {alarm}", "bold red")
    if claims := check_claims(quality):
        say(f"\nthe sentences of the {NAME}, here:", "bold")
    for claim in claims:
        word = {True: "holds", False: "does not hold", None: "undecided"}[claim.holds]
        say(f"  {claim.sentence}: {word.upper()} ({claim.evidence})")
    say(f"\nfiles in {folder}/: {join(path.name for path in sorted(folder.iterdir()))}")
    if numbered := describe_numbered(class_names_of(quality)):
        say(numbered)


def _table(*names: str, title: str | None = None) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title=title, title_justify="left")
    for name in names:
        is_left = name in ("", "verdict", "compare with")
        table.add_column(name, justify="left" if is_left else "right", no_wrap=name != "compare with")
    return table


def _classes(view: View) -> Table:
    title = f"{view.noun} by {view.noun} (as many real ones)"
    main = "as req." if view.is_conditional else "share"
    has_room = all(len(row.name) <= 3 for row in view.classes)  # at 80 columns, for the intervals beside the names
    table = _table(
        "", main, *(["95 % interval"] if has_room else []), "recogn.", "fcd", "coverage", "verdict", title=title
    )
    for row in view.classes:
        numbers = ["", ""] if row.verdict == "not requested" else [row.main.value, row.main.interval]
        recognisable, *others, _ = row.columns
        columns = [f"{number.value} ({number.real})" if number.real else number.value for number in others]
        verdict = Text(row.verdict.replace("requested", "req."), _COLOURS[row.verdict])
        name = truncate(row.name, _MOST_LETTERS)
        table.add_row(name, *numbers[: 1 + has_room], recognisable.value, *columns, verdict)
    return table
