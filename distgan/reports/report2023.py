"""A measurement beside what the 2023 report says: agrees, disagrees, or can't be told, and why."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from distgan.evaluation.schema import Digit, Estimate, Quality
from distgan.reports.number_format import epochs
from distgan.reports.run_data import Run, number


class Claim(NamedTuple):
    """`holds`: None where the measurement can't tell."""

    sentence: str
    holds: bool | None
    evidence: str


# Of fewer images of a digit a verdict says little.
ENOUGH = 30


def claims_of(quality: Quality) -> list[Claim]:
    """Those about a GAN for images that nobody asked a digit of, else those about a C-GAN."""
    claims = _of_gan(quality) if quality.matrix is None else _of_cgan(quality)
    if why := too_few(quality):
        return [Claim(claim.sentence, None, f"{why}; {claim.evidence}") for claim in claims]
    return claims


def too_few(quality: Quality) -> str | None:
    """Why these images can't tell of all digits, if so."""
    if unasked := [each.digit for each in quality.per_digit if each.verdict == "not asked for"]:
        return f"not asked for: {_list(unasked)}"
    if quality.n < 10 * ENOUGH:
        return f"{quality.n} images are too few to tell; {10 * ENOUGH} would do"
    return None


def _of_gan(quality: Quality) -> list[Claim]:
    return [
        _made_well(quality, (0, 1, 2, 3, 4, 5, 7)),
        _not_made(quality, (6, 8, 9)),
        Claim(
            "It does not hold all digits",
            bool(_missing(quality)),
            _missing_words(quality)
            + f"; shares from {_lowest(quality).share:.1%} ({_lowest(quality).digit}) "
            + f"to {_highest(quality).share:.1%} ({_highest(quality).digit})",
        ),
    ]


def _of_cgan(quality: Quality) -> list[Claim]:
    return [
        _made_well(quality, (0, 1, 3, 8, 9)),
        _confused(quality, 5, 6),
        _confused(quality, 7, 9),
        _worst(quality, (4, 2)),
        Claim("It holds all digits", not _missing(quality), _missing_words(quality)),
    ]


def _made_well(quality: Quality, digits: tuple[int, ...]) -> Claim:
    well = [each.digit for each in quality.per_digit if each.verdict == "made well"]
    holds = set(digits) <= set(well)
    return Claim(f"{_list(digits)} are made well", holds, f"made well here: {_list(well) or 'none'}")


def _not_made(quality: Quality, digits: tuple[int, ...]) -> Claim:
    """Not made, or not recognisable: missing or made poorly, each of them, and no other is."""
    poor = [each.digit for each in quality.per_digit if each.verdict != "made well"]
    words = ", ".join(f"{each.digit} {each.verdict} ({each.why})" for each in _of(quality, digits))
    return Claim(f"{_list(digits)} are not made, and the others are", set(poor) == set(digits), words)


def _confused(quality: Quality, asked: int, read: int) -> Claim:
    """Holds where it is the most frequent confusion of that digit, and more frequent than the jury's own."""
    own = [each for each in quality.confusions if each.asked == asked]
    if not own:
        return Claim(
            f"{asked} is read as {read}",
            False,
            f"no confusion of {asked} beyond the judges' own; {_count(quality, asked, read)} read as {read}",
        )
    found = next((each for each in own if each.read == read), None)
    most = f"most often as {own[0].read}, {own[0].share:.1%}"
    here = f"{found.share:.1%}" if found else f"{_count(quality, asked, read)}, no more than the judges' own"
    return Claim(f"{asked} is read as {read}", own[0].read == read, f"read as {read}: {here}; {most}")


def _worst(quality: Quality, digits: tuple[int, ...]) -> Claim:
    """Holds where they are the two that are read as asked least often."""
    order = sorted(quality.per_digit, key=lambda each: each.agreement.value if each.agreement else 0.0)
    worst = order[: len(digits)]
    words = ", ".join(f"{each.digit} {each.agreement.value:.1%}" if each.agreement else "" for each in worst)
    return Claim(
        f"{_list(digits)} are learnt badly, worse than the others",
        {each.digit for each in worst} == set(digits) and all(each.verdict != "made well" for each in worst),
        f"least often read as asked: {words}",
    )


def _missing(quality: Quality) -> list[int]:
    return [each.digit for each in quality.per_digit if each.verdict == "missing"]


def _missing_words(quality: Quality) -> str:
    missing = _missing(quality)
    return f"missing: {_list(missing)}" if missing else "none is missing"


def _lowest(quality: Quality) -> Digit:
    return min(quality.per_digit, key=lambda each: each.share.value)


def _highest(quality: Quality) -> Digit:
    return max(quality.per_digit, key=lambda each: each.share.value)


def _count(quality: Quality, asked: int, read: int) -> str:
    assert quality.matrix is not None
    return f"{quality.matrix[asked][read]} of {sum(quality.matrix[asked])}"


def _of(quality: Quality, digits: tuple[int, ...]) -> list[Digit]:
    return [quality.per_digit[digit] for digit in digits]


def _list(digits: list[int] | tuple[int, ...]) -> str:
    return ", ".join(map(str, digits))


# -- When a run had converged: the first evaluated epoch from which its fcd is and stays within --

SLACK = 1.05


class Evaluated(NamedTuple):
    epoch: float
    fcd: float
    low: float
    high: float


class Convergence(NamedTuple):
    """`epoch` is None of a run that never stays near its best.

    `low` and `high` are the earliest and the latest epoch that the intervals of fcd allow; None where that is never.
    `best` is the epoch of the smallest fcd, `last` that of the last evaluation, after which nothing is known.
    """

    epoch: float | None
    low: float | None
    high: float | None
    best: float
    last: float
    num: int

    @property
    def is_improving(self) -> bool:
        return self.best == self.last


def evaluated(lines: Sequence[dict[str, Any]]) -> list[Evaluated]:
    """The measured fcd by epoch: of the moving average of G where the run has one, as distgan eval takes it."""
    for prefix in ("ema", "raw"):
        found: dict[float, Evaluated] = {}
        for line in lines:
            epoch, fcd = number(line.get("epoch")), number(line.get(f"{prefix}_fcd"))
            if epoch is None or fcd is None:
                continue
            low, high = number(line.get(f"{prefix}_fcd_low")), number(line.get(f"{prefix}_fcd_high"))
            found[epoch] = Evaluated(epoch, fcd, fcd if low is None else low, fcd if high is None else high)
        if found:
            return [found[epoch] for epoch in sorted(found)]
    return []


def convergence(measured: Sequence[Evaluated]) -> Convergence | None:
    """None without an evaluation."""
    if not measured:
        return None
    best = min(measured, key=lambda each: each.fcd)
    limit = SLACK * best.fcd

    def first(values: list[float]) -> float | None:
        found = None
        for each, value in zip(reversed(measured), reversed(values), strict=True):
            if value > limit:
                break
            found = each.epoch
        return found

    return Convergence(
        first([each.fcd for each in measured]),
        first([each.low for each in measured]),
        first([each.high for each in measured]),
        best.epoch,
        measured[-1].epoch,
        len(measured),
    )


# -- A measurement beside what the 2023 report says: agrees, disagrees, or can't be told, and w --

WORDS = {True: "agrees", False: "disagrees", None: "can't be told"}


class Verdict(NamedTuple):
    agrees: bool | None
    why: str

    @property
    def word(self) -> str:
        return WORDS[self.agrees]


def versus(
    own: Estimate,
    others: Sequence[tuple[str, Estimate]],
    *,
    expects_lower: bool,
    thing: str,
    shown: Callable[[Estimate], str],
) -> Verdict:
    """By the intervals of one run against each of the other kind: all as expected, all the other way, or neither."""
    words = {-1: "lies below", 0: "overlaps", 1: "lies above"}
    sides = [(-1 if own.high < other.low else 1 if own.low > other.high else 0) for _, other in others]
    why = "; ".join(
        f"its interval of {thing} {words[side]} that of {name} ({shown(other)})"
        for side, (name, other) in zip(sides, others, strict=True)
    )
    expected = -1 if expects_lower else 1
    if all(side == expected for side in sides):
        return Verdict(True, why)
    return Verdict(False if all(side == -expected for side in sides) else None, why)


def no_partner(run: Run) -> Verdict:
    other = "C-GAN" if run.kind == "GAN" else "GAN"
    return Verdict(None, f"there is no {other} beside it to compare with")


def not_alike(one: Quality, other: Quality) -> str | None:
    """Why two evaluations can't be compared, if so."""
    if one.n != other.n:
        return f"they were measured on {one.n:,} and {other.n:,} images"
    if (one.source.reference, one.source.judged_by) != (other.source.reference, other.source.judged_by):
        return "they were measured against other real images, or by judges of other data"
    if [judge.sha256 for judge in one.judges] != [judge.sha256 for judge in other.judges]:
        return "they were measured by other judges"
    return None


def reached(found: Convergence, claimed: int) -> Verdict:
    """Whether a run converged at the epoch that the 2023 report names."""
    last = epochs(found.last)
    if found.num < 2:
        return Verdict(None, "it was evaluated once only")
    if found.epoch is None:
        if found.last >= claimed:
            return Verdict(False, f"at epoch {last} it was not within 5 % of its best, of epoch {epochs(found.best)}")
        return Verdict(None, f"it left its best again, and ended at epoch {last}, before {claimed}")
    if found.is_improving:
        if found.last > claimed:
            return Verdict(False, f"its last evaluation, of epoch {last}, is its best: not at {claimed}")
        return Verdict(None, f"its last evaluation, of epoch {last}, is its best, and {claimed} is no earlier")
    assert found.low is not None  # no later than `epoch`
    if claimed < found.low:
        return Verdict(False, f"{claimed} is before epoch {epochs(found.low)}, the earliest that its intervals allow")
    if found.high is None:
        return Verdict(None, "the intervals of fcd are wider than 5 %, so that the latest epoch is open")
    if claimed > found.high:
        return Verdict(False, f"{claimed} is after epoch {epochs(found.high)}, the latest that its intervals allow")
    return Verdict(True, f"{claimed} lies between the earliest and the latest epoch that its intervals allow")
