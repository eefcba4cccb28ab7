"""What the 2023 report says of its digits, sentence by sentence, and whether a measurement bears it out."""

from typing import NamedTuple

from distgan.evaluation.schema import Digit, Quality


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
