"""An evaluation as cards, tables and heat maps: the words and numbers that a template lays out."""

from collections.abc import Sequence
from typing import NamedTuple

from distgan.evaluation.schema import Digit, Estimate, Quality
from distgan.reports.number_format import interval, percent, plain, whole

# From which share of a row a cell has its next colour. Right answers: where the work is done; errors: where it begins.
_RIGHT = (0.5, 0.8, 0.9, 0.95, 0.98)
_WRONG = (0.002, 0.005, 0.01, 0.03, 0.1)


class Card(NamedTuple):
    """A headline number: what it is beside, and what it says."""

    name: str
    value: str
    interval: str
    beside: str
    meaning: str


class HeatCell(NamedTuple):
    text: str
    tone: str  # of the style sheet
    title: str


class Heat(NamedTuple):
    """A matrix in percent of its rows."""

    caption: str
    rows_are: str
    rows: list[list[HeatCell]]
    totals: list[int]


class Bar(NamedTuple):
    """A number as a dot on a line, its interval as a bar, in percent of the line."""

    value: float
    low: float
    high: float


class Number(NamedTuple):
    """A value, its interval, and what real images measure; each may be empty."""

    value: str
    interval: str = ""
    real: str = ""


class DigitRow(NamedTuple):
    digit: int
    sign: str
    verdict: str
    why: str
    main: Number  # agreement, or share where no label was asked for
    bar: Bar
    columns: list[Number]
    n: int


class View(NamedTuple):
    is_conditional: bool
    cards: list[Card]
    digits: list[DigitRow]
    bar_end: str  # what the right end of a bar is
    bar_due: float | None  # where a tenth is
    matrices: list[Heat]
    confusions: list[tuple[str, str, str, str]]
    ambiguities: list[tuple[str, str]]
    judges: list[tuple[str, str, str, str]]


def view_of(quality: Quality) -> View:
    is_conditional = quality.agreement is not None
    top = 1.0 if is_conditional else max(0.2, *(share.high for share in quality.shares))
    asked = "asked for" if is_conditional else ""
    matrices = [_heat(f"{quality.n:,} generated images", asked, quality.matrix)] if quality.matrix else []
    num_real = sum(map(sum, quality.jury_matrix))
    matrices.append(_heat(f"{num_real:,} real test images: the jury's own errors", "is", quality.jury_matrix))
    return View(
        is_conditional,
        _cards(quality),
        [_digit(digit, top) for digit in sorted(quality.per_digit, key=lambda each: each.digit)],
        percent(top, 0),
        None if is_conditional else 10 / top,
        matrices,
        [
            (
                f"{each.asked} read as {each.read}",
                whole(each.share, share=True),
                whole(each.jury, share=True),
                f"{each.seen_by} of {len(quality.judges)}",
            )
            for each in quality.confusions
        ],
        [(f"{each.first} or {each.second}", whole(each.share, share=True)) for each in quality.ambiguities],
        [
            (
                judge.name,
                whole(judge.accuracy, share=True),
                whole(judge.agreement, share=True) if judge.agreement else "",
                judge.sha256,
            )
            for judge in quality.judges
        ],
    )


def _cards(quality: Quality) -> list[Card]:
    real, trained = quality.real, quality.gan_train_real
    on_real = f"on as many real ones: {whole(trained, share=True)}" if trained else ""
    found: list[tuple[str, Estimate | None, bool, str, str]] = [
        ("read as asked", quality.agreement, True, "by chance: 10.0 %",
         "of the images are read as the digit that was asked for"),
        ("fcd", quality.fcd, False, f"two sets of real images: {whole(quality.fcd_floor)}",
         "distance between generated and real images, as a judge sees them; the lower the better"),
        ("recognisable", quality.recognisable, True, f"real images: {whole(real.recognisable, share=True)}",
         "of the images: the jury is over 90 % sure which digit it is"),
        ("coverage", quality.coverage, False, f"real images: {whole(real.coverage)}",
         "share of real images with a generated one near them; low where variety is lost"),
        ("density", quality.density, False, f"real images: {whole(real.density)}",
         "how closely real images lie around the generated ones"),
        ("GAN-train", quality.gan_train, True, on_real,
         "of real digits are read right by a classifier that has seen generated ones alone"),
        ("unevenness", quality.kl, False, "all digits alike: 0",
         "how far the shares of the digits are from a tenth each, in nats"),
        ("near copies", quality.copies, True, "real images: 1.0 %",
         "of the images are nearer to a training image than 99 % of unseen real ones are"),
    ]  # fmt: skip
    return [
        Card(name, percent(own.value) if share else plain(own.value), interval(own, share=share), beside, text)
        for name, own, share, beside, text in found
        if own is not None
    ]


def _digit(digit: Digit, top: float) -> DigitRow:
    own = digit.agreement or digit.share
    sample, real = digit.sample, digit.real
    columns = [Number("too few")] * 3
    if sample is not None:
        columns = [
            _number(sample.recognisable, real.recognisable, share=True),
            _number(sample.fcd, real.fcd) if sample.fcd else Number("too few"),
            _number(sample.coverage, real.coverage),
        ]
    columns.append(_number(digit.jury, share=True))
    signs = {"made well": "✓", "made poorly": "△", "missing": "✗", "not asked for": "–"}
    bar = Bar(*(round(100 * max(0.0, min(1.0, each / top)), 2) for each in (own.value, own.low, own.high)))
    return DigitRow(
        digit.digit, signs[digit.verdict], digit.verdict, digit.why, _number(own, share=True), bar, columns, digit.n
    )


def _number(own: Estimate, real: Estimate | None = None, *, share: bool = False) -> Number:
    text = percent if share else plain
    return Number(text(own.value), interval(own, share=share), text(real.value) if real else "")


def _heat(caption: str, rows_are: str, counts: Sequence[Sequence[int]]) -> Heat:
    rows = []
    for asked, row in enumerate(counts):
        total = sum(row)
        cells = []
        for read, count in enumerate(row):
            share = count / total if total else 0.0
            steps = _RIGHT if asked == read else _WRONG
            tone = f"{'hit' if asked == read else 'miss'}{sum(share >= step for step in steps)}"
            text = "0" if not count else f"{100 * share:.1f}" if share < 0.9995 else "100"
            cells.append(HeatCell(text, tone, f"{asked} read as {read}: {count:,} of {total:,}"))
        rows.append(cells)
    return Heat(caption, rows_are, rows, [sum(row) for row in counts])
