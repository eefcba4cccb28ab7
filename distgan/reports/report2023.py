"""Claims of the 2023 report: its sentences and its comparison table, each checked against the measurements.

No other module knows them: pages and terminal show `claims_of` and `checks_of`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from distgan.evaluation.schema import NOT_REQUESTED, Quality, has_digits
from distgan.reports.comparison_rows import Check, Row
from distgan.reports.number_format import epochs, join, percent
from distgan.reports.pairwise import ComparedRun, Comparison, compare_fcd, compare_speed, describe, orders
from distgan.reports.quality_view import missing_classes, missing_words
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


def claims_of(quality: Quality) -> list[Claim]:
    """Return the claims about a GAN for images without requested labels, else about a C-GAN; [] for other data."""
    if not has_digits(quality.source.data) or len(quality.per_digit) != _CLASSES:
        return []
    claims = _of_gan(quality) if quality.matrix is None else _of_cgan(quality)
    if why := too_few(quality):
        return [Claim(claim.sentence, None, f"{why}; {claim.evidence}") for claim in claims]
    return claims


def too_few(quality: Quality) -> str | None:
    """Return why the images can't decide a claim about all digits, None if they can."""
    if missing := [each.digit for each in quality.per_digit if each.verdict == NOT_REQUESTED]:
        return f"not requested: {join(missing)}"
    if quality.n < _CLASSES * ENOUGH:
        return f"{quality.n} images are too few. Expected: {_CLASSES * ENOUGH} or more"
    return None


def _of_gan(quality: Quality) -> list[Claim]:
    low, *_, high = sorted(quality.per_digit, key=lambda each: each.share.value)
    shares = f"shares from {low.share:.1%} ({low.digit}) to {high.share:.1%} ({high.digit})"
    return [
        _made_well(quality, (0, 1, 2, 3, 4, 5, 7)),
        _not_made(quality, (6, 8, 9)),
        Claim("It does not hold all digits", bool(missing_classes(quality)), f"{missing_words(quality)}; {shares}"),
    ]


def _of_cgan(quality: Quality) -> list[Claim]:
    return [
        _made_well(quality, (0, 1, 3, 8, 9)),
        _confused(quality, 5, 6),
        _confused(quality, 7, 9),
        _worst(quality, (4, 2)),
        Claim("It holds all digits", not missing_classes(quality), missing_words(quality)),
    ]


def _made_well(quality: Quality, digits: tuple[int, ...]) -> Claim:
    well = [each.digit for each in quality.per_digit if each.verdict == "made well"]
    holds = set(digits) <= set(well)
    return Claim(f"{join(digits)} are made well", holds, f"made well here: {join(well) or 'none'}")


def _not_made(quality: Quality, digits: tuple[int, ...]) -> Claim:
    """Check that exactly these digits are missing or made poorly."""
    poor = [each.digit for each in quality.per_digit if each.verdict != "made well"]
    words = ", ".join(f"{each.digit} {each.verdict} ({each.why})" for each in quality.per_digit if each.digit in digits)
    return Claim(f"{join(digits)} are not made, and the others are", set(poor) == set(digits), words)


def _confused(quality: Quality, requested: int, read: int) -> Claim:
    """Check that it is the most frequent confusion of that digit, and more frequent than the judges' own."""
    own = [each for each in quality.confusions if each.asked == requested]
    if not own:
        return Claim(
            f"{requested} is read as {read}",
            False,
            f"no confusion of {requested} beyond the judges' own; {_count(quality, requested, read)} read as {read}",
        )
    found = next((each for each in own if each.read == read), None)
    most = f"most often as {own[0].read}, {own[0].share:.1%}"
    here = f"{found.share:.1%}" if found else f"{_count(quality, requested, read)}, no more than the judges' own"
    return Claim(f"{requested} is read as {read}", own[0].read == read, f"read as {read}: {here}; {most}")


def _worst(quality: Quality, digits: tuple[int, ...]) -> Claim:
    """Check that these digits have the lowest agreement with the requested label."""
    requested = [each for each in quality.per_digit if each.verdict != NOT_REQUESTED]
    order = sorted(requested, key=lambda each: each.agreement.value if each.agreement else 0.0)
    worst = order[: len(digits)]
    words = ", ".join(f"{each.digit} {each.agreement.value:.1%}" if each.agreement else "" for each in worst)
    return Claim(
        f"{join(digits)} are learnt badly, worse than the others",
        {each.digit for each in worst} == set(digits) and all(each.verdict != "made well" for each in worst),
        f"least often read as requested: {words}",
    )


def _count(quality: Quality, requested: int, read: int) -> str:
    assert quality.matrix is not None
    return f"{quality.matrix[requested][read]} of {sum(quality.matrix[requested])}"


# -- Its comparison table --

_STAMPS = f"The {NAME}'s own time stamps contradict its sentence: 21.2 s per epoch for its GAN, 13.6 s for its C-GAN."
_EPOCHS = {"GAN": 60, "C-GAN": 80}

Judged = tuple[bool | None, str]


def checks_of(rows: Sequence[Row], compared: Sequence[ComparedRun]) -> list[Row]:
    """Return the rows with the report's claim about each run's kind, for runs that it applies to."""
    relevant = [each for each in compared if has_digits(each.run.data_name)]
    checked = []
    for row in rows:
        of_kind, judge, note = CLAIMS[row.key]
        cells = []
        for each, cell in zip(compared, row.cells, strict=True):
            if has_digits(each.run.data_name):
                others = [other for other in relevant if other.run.kind != each.run.kind]
                cell = cell._replace(check=Check(of_kind[each.run.kind], *judge(each, others)))
            cells.append(cell)
        checked.append(row._replace(cells=cells, note=note if relevant else ""))
    return checked


def notes_on(compared: Sequence[ComparedRun]) -> list[str]:
    """Return the limits of the comparison with the report, a line each."""
    relevant = [each for each in compared if has_digits(each.run.data_name)]
    kinds = {each.run.kind for each in relevant}
    return [
        f"There is no {kind} among these runs: claims that compare the two are undecided."
        for kind in _EPOCHS
        if relevant and kind not in kinds
    ]


def tally_of(rows: Sequence[Row]) -> str:
    """Return how often measurement and report agree, "" if it does not apply to these runs."""
    found = [cell.check.agrees for row in rows for cell in row.cells if cell.check]
    yes, no, both = found.count(True), found.count(False), len(found)
    words = f"Of {both} cells, {yes} agree with the {NAME}, {no} disagree, {both - yes - no} are undecided."
    return words if found else ""


def _target(own: ComparedRun, others: list[ComparedRun]) -> Judged:
    quality, chance = own.run.quality, 1 / _CLASSES
    if own.run.kind == "GAN":
        return True, "it trains without labels"
    if quality is None or quality.agreement is None:
        return None, "its quality was not measured"
    if quality.agreement.high < chance:
        return False, "agreement with the requested label is not above chance"
    if quality.agreement.low <= chance:
        return None, f"the interval contains chance ({percent(chance, 0)})"
    return True, f"agreement with the requested label is above chance ({percent(chance, 0)})"


def _input(own: ComparedRun, others: list[ComparedRun]) -> Judged:
    return True, "no label input" if own.run.kind == "GAN" else "label input"


def _quality(own: ComparedRun, others: list[ComparedRun]) -> Judged:
    """Check that a GAN is better than each C-GAN, or that a C-GAN is mostly recognisable and each GAN better."""
    quality = own.run.quality
    if quality is None:
        return None, "its quality was not measured"
    if own.run.kind == "C-GAN" and quality.recognisable.high < 0.5:
        return False, "fewer than half of its images are recognisable"
    agrees, why = _order(own, others, compare_fcd)
    if own.run.kind == "C-GAN" and agrees and quality.recognisable.low <= 0.5:
        return None, f"{why}; but it is undecided if most of its images are recognisable"
    return agrees, why


def _speed(own: ComparedRun, others: list[ComparedRun]) -> Judged:
    if own.seconds is None:
        return None, "its speed was not measured"
    return _order(own, others, compare_speed)


def _order(own: ComparedRun, others: list[ComparedRun], compare: Comparison) -> Judged:
    """Check that the intervals of a GAN lie below those of each C-GAN: True if all do, False if all lie above."""
    if not others:
        other = "C-GAN" if own.run.kind == "GAN" else "GAN"
        return None, f"there is no {other} to compare with"
    found = orders(own, others, compare)
    sides = frozenset(each.side for each in found if each.side is not None)
    expected = -1 if own.run.kind == "GAN" else 1
    return {frozenset({expected}): True, frozenset({-expected}): False}.get(sides), "; ".join(describe(found))


def _epochs(own: ComparedRun, others: list[ComparedRun]) -> Judged:
    """Check if a run converged at the epoch that the report names, as far as its evaluations can decide it."""
    claimed, found = _EPOCHS[own.run.kind], own.convergence
    last = epochs(found.last)
    if not found.facts:
        return None, found.why
    if found.at is not None:
        if claimed <= found.before:
            return False, f"not converged at epoch {epochs(found.before)}"
        if claimed > found.held:
            return False, f"converged by epoch {epochs(found.held)}"
        return True, f"converged between epochs {epochs(found.before)} and {epochs(found.held)}"
    if found.is_open or found.last < claimed:
        return None, f"the run ended at epoch {last}"
    return False, f"not converged at epoch {last}"


def _diversity(own: ComparedRun, others: list[ComparedRun]) -> Judged:
    quality = own.run.quality
    if quality is None:
        return None, "its quality was not measured"
    if reason := too_few(quality):
        return None, reason
    return (not missing_classes(quality)) == (own.run.kind == "C-GAN"), missing_words(quality)


# By the key of a row of `comparison_rows`: the claim about each kind, its check, and a note.
CLAIMS: dict[str, tuple[dict[str, str], Callable[[ComparedRun, list[ComparedRun]], Judged], str]] = {
    "labels": ({"GAN": "unsupervised tasks", "C-GAN": "supervised or semi-supervised tasks"}, _target, ""),
    "input": ({"GAN": "noise", "C-GAN": "noise and a condition"}, _input, ""),
    "quality": ({"GAN": "usually better", "C-GAN": "recognisable but noisier"}, _quality, ""),
    "speed": ({"GAN": "usually faster", "C-GAN": "slower"}, _speed, _STAMPS),
    "epochs": ({kind: str(num) for kind, num in _EPOCHS.items()}, _epochs, ""),
    "diversity": ({"GAN": "does not hold all digits", "C-GAN": "holds all digits"}, _diversity, ""),
}
