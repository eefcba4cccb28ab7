"""Claims of the 2023 report: its sentences and its comparison table, each checked against the measurements.

No other module knows them: pages and terminal show `check_claims` and `add_checks`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from distgan.evaluation.schema import NOT_REQUESTED, Quality, has_digits
from distgan.reports.comparison_rows import Check, Row
from distgan.reports.number_format import epochs, join, percent
from distgan.reports.pairwise import ComparedRun, Comparison, compare_fcd, compare_speed, compare_with_each, describe
from distgan.reports.quality_view import missing_classes, missing_text
from distgan.reports.run_data import Run

NAME = "2023 report"
SENTENCES = f"The sentences of the {NAME}"
CAPTION = "The report judged by eye. The evidence is measured."
_CLASSES = 10


def notice_of(run: Run) -> str | None:
    """Return what limits a comparison of a run with the report, None for nothing."""
    if run.notice or run.data_name == "mnist" or not has_digits(run.data_name):
        return None
    return f"This run was trained on {run.data_name}, not on MNIST, as the {NAME}'s were."


class Claim(NamedTuple):
    """A sentence of the report. `holds`: None if the measurement can't decide it."""

    sentence: str
    holds: bool | None
    evidence: str


# Images per digit below which a verdict is unreliable.
ENOUGH = 30


def check_claims(quality: Quality) -> list[Claim]:
    """Return the claims about a GAN for images without requested labels, else about a C-GAN; [] for other data."""
    if not has_digits(quality.source.data) or len(quality.per_digit) != _CLASSES:
        return []
    claims = _of_gan(quality) if quality.matrix is None else _of_cgan(quality)
    if why := too_few(quality):
        return [Claim(claim.sentence, None, f"{why}; {claim.evidence}") for claim in claims]
    return claims


def too_few(quality: Quality) -> str | None:
    """Return why the images can't decide a claim about all digits, None if they can."""
    if missing := [row.digit for row in quality.per_digit if row.verdict == NOT_REQUESTED]:
        return f"not requested: {join(missing)}"
    if quality.n < _CLASSES * ENOUGH:
        return f"{quality.n} images are too few. Expected: {_CLASSES * ENOUGH} or more"
    return None


def _of_gan(quality: Quality) -> list[Claim]:
    low, *_, high = sorted(quality.per_digit, key=lambda row: row.share.value)
    shares = f"shares from {low.share:.1%} ({low.digit}) to {high.share:.1%} ({high.digit})"
    return [
        _made_well(quality, (0, 1, 2, 3, 4, 5, 7)),
        _not_made(quality, (6, 8, 9)),
        Claim("It does not hold all digits", bool(missing_classes(quality)), f"{missing_text(quality)}; {shares}"),
    ]


def _of_cgan(quality: Quality) -> list[Claim]:
    return [
        _made_well(quality, (0, 1, 3, 8, 9)),
        _confused(quality, 5, 6),
        _confused(quality, 7, 9),
        _worst(quality, (4, 2)),
        Claim("It holds all digits", not missing_classes(quality), missing_text(quality)),
    ]


def _made_well(quality: Quality, digits: tuple[int, ...]) -> Claim:
    well = [row.digit for row in quality.per_digit if row.verdict == "made well"]
    holds = set(digits) <= set(well)
    return Claim(f"{join(digits)} are made well", holds, f"made well here: {join(well) or 'none'}")


def _not_made(quality: Quality, digits: tuple[int, ...]) -> Claim:
    """Check that exactly these digits are missing or made poorly."""
    poor = [row.digit for row in quality.per_digit if row.verdict != "made well"]
    verdicts = ", ".join(f"{row.digit} {row.verdict} ({row.why})" for row in quality.per_digit if row.digit in digits)
    return Claim(f"{join(digits)} are not made, and the others are", set(poor) == set(digits), verdicts)


def _confused(quality: Quality, requested: int, read: int) -> Claim:
    """Check that it is the most frequent confusion of that digit, and more frequent than the judges' own."""
    confusions = [confusion for confusion in quality.confusions if confusion.asked == requested]
    if not confusions:
        return Claim(
            f"{requested} is read as {read}",
            False,
            f"no confusion of {requested} beyond the judges' own; {_count(quality, requested, read)} read as {read}",
        )
    confusion = next((confusion for confusion in confusions if confusion.read == read), None)
    most = f"most often as {confusions[0].read}, {confusions[0].share:.1%}"
    here = (
        f"{confusion.share:.1%}" if confusion else f"{_count(quality, requested, read)}, no more than the judges' own"
    )
    return Claim(f"{requested} is read as {read}", confusions[0].read == read, f"read as {read}: {here}; {most}")


def _worst(quality: Quality, digits: tuple[int, ...]) -> Claim:
    """Check that these digits have the lowest agreement with the requested label."""
    requested = [row for row in quality.per_digit if row.verdict != NOT_REQUESTED]
    order = sorted(requested, key=lambda row: row.agreement.value if row.agreement else 0.0)
    worst = order[: len(digits)]
    readings = ", ".join(f"{row.digit} {row.agreement.value:.1%}" if row.agreement else "" for row in worst)
    return Claim(
        f"{join(digits)} are learnt badly, worse than the others",
        {row.digit for row in worst} == set(digits) and all(row.verdict != "made well" for row in worst),
        f"least often read as requested: {readings}",
    )


def _count(quality: Quality, requested: int, read: int) -> str:
    assert quality.matrix is not None
    return f"{quality.matrix[requested][read]} of {sum(quality.matrix[requested])}"


_STAMPS = f"The {NAME}'s own time stamps contradict its sentence: 21.2 s per epoch for its GAN, 13.6 s for its C-GAN."
_EPOCHS = {"GAN": 60, "C-GAN": 80}

Judged = tuple[bool | None, str]


def add_checks(rows: Sequence[Row], compared: Sequence[ComparedRun]) -> list[Row]:
    """Return the rows with the report's claim about each run's kind, for runs that it applies to."""
    relevant = [subject for subject in compared if has_digits(subject.run.data_name)]
    checked = []
    for row in rows:
        of_kind, judge, note = CLAIMS[row.key]
        cells = []
        for subject, cell in zip(compared, row.cells, strict=True):
            if has_digits(subject.run.data_name):
                others = [other for other in relevant if other.run.kind != subject.run.kind]
                cell = cell._replace(check=Check(of_kind[subject.run.kind], *judge(subject, others)))
            cells.append(cell)
        checked.append(row._replace(cells=cells, note=note if relevant else ""))
    return checked


def notes_on(compared: Sequence[ComparedRun]) -> list[str]:
    """Return the limits of the comparison with the report, a line each."""
    relevant = [subject for subject in compared if has_digits(subject.run.data_name)]
    kinds = {subject.run.kind for subject in relevant}
    return [
        f"There is no {kind} among these runs: claims that compare the two are undecided."
        for kind in _EPOCHS
        if relevant and kind not in kinds
    ]


def summarise_agreement(rows: Sequence[Row]) -> str:
    """Return how often measurement and report agree, "" if it does not apply to these runs."""
    verdicts = [cell.check.agrees for row in rows for cell in row.cells if cell.check]
    yes, no, both = verdicts.count(True), verdicts.count(False), len(verdicts)
    text = f"Of {both} cells, {yes} agree with the {NAME}, {no} disagree, {both - yes - no} are undecided."
    return text if verdicts else ""


def _target(subject: ComparedRun, others: list[ComparedRun]) -> Judged:
    quality, chance = subject.run.quality, 1 / _CLASSES
    if subject.run.kind == "GAN":
        return True, "it trains without labels"
    if quality is None or quality.agreement is None:
        return None, "its quality was not measured"
    if quality.agreement.high < chance:
        return False, "agreement with the requested label is not above chance"
    if quality.agreement.low <= chance:
        return None, f"the interval contains chance ({percent(chance, 0)})"
    return True, f"agreement with the requested label is above chance ({percent(chance, 0)})"


def _input(subject: ComparedRun, others: list[ComparedRun]) -> Judged:
    return True, "no label input" if subject.run.kind == "GAN" else "label input"


def _quality(subject: ComparedRun, others: list[ComparedRun]) -> Judged:
    """Check that a GAN is better than each C-GAN, or that a C-GAN is mostly recognisable and each GAN better."""
    quality = subject.run.quality
    if quality is None:
        return None, "its quality was not measured"
    if subject.run.kind == "C-GAN" and quality.recognisable.high < 0.5:
        return False, "fewer than half of its images are recognisable"
    agrees, why = _order(subject, others, compare_fcd)
    if subject.run.kind == "C-GAN" and agrees and quality.recognisable.low <= 0.5:
        return None, f"{why}; but it is undecided if most of its images are recognisable"
    return agrees, why


def _speed(subject: ComparedRun, others: list[ComparedRun]) -> Judged:
    if subject.seconds is None:
        return None, "its speed was not measured"
    return _order(subject, others, compare_speed)


def _order(subject: ComparedRun, others: list[ComparedRun], compare: Comparison) -> Judged:
    """Check that the intervals of a GAN lie below those of each C-GAN: True if all do, False if all lie above."""
    if not others:
        other = "C-GAN" if subject.run.kind == "GAN" else "GAN"
        return None, f"there is no {other} to compare with"
    positions = compare_with_each(subject, others, compare)
    sides = frozenset(position.side for position in positions if position.side is not None)
    expected = -1 if subject.run.kind == "GAN" else 1
    return {frozenset({expected}): True, frozenset({-expected}): False}.get(sides), "; ".join(describe(positions))


def _epochs(subject: ComparedRun, others: list[ComparedRun]) -> Judged:
    """Check if a run converged at the epoch that the report names, as far as its evaluations can decide it."""
    claimed, convergence = _EPOCHS[subject.run.kind], subject.convergence
    last = epochs(convergence.last)
    if not convergence.facts:
        return None, convergence.why
    if convergence.at is not None:
        if claimed <= convergence.before:
            return False, f"not converged at epoch {epochs(convergence.before)}"
        if claimed > convergence.held:
            return False, f"converged by epoch {epochs(convergence.held)}"
        return True, f"converged between epochs {epochs(convergence.before)} and {epochs(convergence.held)}"
    if convergence.is_open or convergence.last < claimed:
        return None, f"the run ended at epoch {last}"
    return False, f"not converged at epoch {last}"


def _diversity(subject: ComparedRun, others: list[ComparedRun]) -> Judged:
    quality = subject.run.quality
    if quality is None:
        return None, "its quality was not measured"
    if reason := too_few(quality):
        return None, reason
    return (not missing_classes(quality)) == (subject.run.kind == "C-GAN"), missing_text(quality)


# By the key of a row of `comparison_rows`: the claim about each kind, its check, and a note.
CLAIMS: dict[str, tuple[dict[str, str], Callable[[ComparedRun, list[ComparedRun]], Judged], str]] = {
    "labels": ({"GAN": "unsupervised tasks", "C-GAN": "supervised or semi-supervised tasks"}, _target, ""),
    "input": ({"GAN": "noise", "C-GAN": "noise and a condition"}, _input, ""),
    "quality": ({"GAN": "usually better", "C-GAN": "recognisable but noisier"}, _quality, ""),
    "speed": ({"GAN": "usually faster", "C-GAN": "slower"}, _speed, _STAMPS),
    "epochs": ({kind: str(num) for kind, num in _EPOCHS.items()}, _epochs, ""),
    "diversity": ({"GAN": "does not hold all digits", "C-GAN": "holds all digits"}, _diversity, ""),
}
