"""View of an evaluation: headline numbers, tables and heat maps, as text for a page or a terminal."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from distgan.evaluation.schema import NOT_REQUESTED, PLURALS, ClassQuality, Estimate, Quality, class_names_of, noun_of
from distgan.reports.number_format import epochs, format_number, interval, join, percent, with_interval

# Shares of a row at which a cell takes its next colour: high for correct answers, low for errors.
_RIGHT = (0.5, 0.8, 0.9, 0.95, 0.98)
_WRONG = (0.002, 0.005, 0.01, 0.03, 0.1)
_MOST_NUMBERS = 20  # classes of a matrix whose cells have room for numbers

AVERAGE, OWN_WEIGHTS = "the moving average of G's weights", "G's own weights, not averaged"
SIGNS = {"made well": "✓", "made poorly": "△", "missing": "✗", "not requested": "–"}


def class_noun(quality: Quality) -> tuple[str, str]:
    """Return the noun for a class of an evaluation, singular and plural; that of its data where it is not recorded."""
    noun = quality.class_noun or noun_of(quality.source.data, has_labels=True)
    return noun, PLURALS[noun]


def missing_classes(quality: Quality) -> list[str]:
    """Return the names of the classes whose verdict is `missing`."""
    names = class_names_of(quality)
    return [names[row.digit] for row in quality.per_digit if row.verdict == "missing"]


def real_notes(quality: Quality) -> list[str]:
    """Return what limits the numbers by the real images that they are compared with, a sentence each."""
    sentences = []
    if quality.source.is_test_seen and quality.source.weights:
        sentences.append(
            "These images are among those that G was trained on: a network that copies them scores well, which the "
            "share of near copies would show. --test-data gives images that it has not seen."
        )
    if quality.class_noun == "cluster":
        sentences.append(
            f"The data has no labels: {len(quality.shares)} clusters of the real images stand for classes. They show "
            "if all kinds of images occur and how close they are to real ones, not what is on the images."
        )
    return sentences


def missing_text(quality: Quality) -> str:
    """Return the missing classes as text."""
    missing = missing_classes(quality)
    return f"missing: {join(missing)}" if missing else f"no {class_noun(quality)[0]} is missing"


def weight_text(quality: Quality) -> str:
    """Return the weights that drew the images as text; "" for images of a file."""
    if quality.source.weights is None:
        return ""
    return {
        True: f"drawn with {AVERAGE}",
        False: f"drawn with {OWN_WEIGHTS}",
        None: "drawn with weights (not recorded if averaged)",
    }[quality.source.ema]


def image_text(quality: Quality) -> str:
    """Return the images of an evaluation as text: their number, step, epoch and weights."""
    source = quality.source
    step = "" if source.step is None else f" after step {source.step:,}"
    epoch = "" if source.epoch is None else f" (epoch {epochs(source.epoch)})"
    weights = weight_text(quality)
    return f"{quality.n:,} images of {source.weights or source.what}{step}{epoch}{', ' + weights if weights else ''}"


class Card(NamedTuple):
    """A headline number, the same measured on real images or expected by chance, and its meaning."""

    name: str
    value: str
    interval: str
    beside: str
    meaning: str


class HeatCell(NamedTuple):
    """A cell of a heat map."""

    text: str
    tone: str  # of the style sheet
    title: str


class Heat(NamedTuple):
    """A matrix in percent of its rows. `is_small`: cells without numbers."""

    caption: str
    rows_are: str
    names: list[str]
    rows: list[list[HeatCell]]
    totals: list[int]
    is_small: bool


class Bar(NamedTuple):
    """A number as a dot on a line, its interval as a bar, and the expected number, in percent of the line."""

    value: float
    low: float
    high: float
    due: float | None


class Number(NamedTuple):
    """A value, its interval, and the value of real images; each may be empty."""

    value: str
    interval: str = ""
    real: str = ""


class ClassRow(NamedTuple):
    """The results of one class."""

    name: str
    sign: str
    verdict: str
    why: str
    main: Number  # agreement, or the share of a GAN without labels
    bar: Bar
    columns: list[Number]  # recognisable, fcd, coverage, and the judges' accuracy on real images
    n: int


class View(NamedTuple):
    """The texts and numbers of an evaluation."""

    is_conditional: bool
    noun: str
    nouns: str
    cards: list[Card]
    classes: list[ClassRow]
    bar_end: str  # label of the right end of a bar
    bar_due: str  # meaning of the line across a bar, "" for none
    matrices: list[Heat]
    confusions: list[tuple[str, str, str, str]]
    ambiguities: list[tuple[str, str]]
    judges: list[tuple[str, str, str, str]]


def build_view(quality: Quality) -> View:
    """Return the view of an evaluation."""
    is_conditional = quality.agreement is not None
    expected = quality.expected_shares or [1 / len(quality.shares)] * len(quality.shares)
    top = 1.0 if is_conditional else min(1.0, max(2 * max(expected), *(estimate.high for estimate in quality.shares)))
    names = class_names_of(quality)
    matrices = [_heat(f"{quality.n:,} generated images", "requested", names, quality.matrix)] if quality.matrix else []
    num_real = sum(map(sum, quality.jury_matrix))
    caption = f"{num_real:,} real images that the judges have not seen: the judges' own errors"
    matrices.append(_heat(caption, "is", names, quality.jury_matrix))
    noun, nouns = class_noun(quality)
    due = "the share of the real images" if quality.expected_shares else "an equal share"
    share, num = partial(with_interval, share=True), len(quality.judges)
    return View(
        is_conditional,
        noun,
        nouns,
        _cards(quality, noun, nouns),
        [
            _class(row, names, top, None if is_conditional else expected[row.digit])
            for row in sorted(quality.per_digit, key=lambda row: row.digit)
        ],
        percent(top, 0),
        "" if is_conditional else due,
        matrices,
        [
            (
                f"{names[confusion.asked]} read as {names[confusion.read]}",
                share(confusion.share),
                share(confusion.jury),
                f"{confusion.seen_by} of {num}",
            )
            for confusion in quality.confusions
        ],
        [
            (f"{names[ambiguity.first]} or {names[ambiguity.second]}", share(ambiguity.share))
            for ambiguity in quality.ambiguities
        ],
        [
            (judge.name, share(judge.accuracy), share(judge.agreement) if judge.agreement else "", judge.sha256)
            for judge in quality.judges
        ],
    )


def _cards(quality: Quality, noun: str, nouns: str) -> list[Card]:
    real, trained, num = quality.real, quality.gan_train_real, len(quality.shares)
    right = sum(quality.jury_matrix[index][index] for index in range(num)) / max(1, sum(map(sum, quality.jury_matrix)))
    expected = "equal shares"
    if quality.expected_shares:
        expected = "those of the real images" if quality.agreement is None else "the requested ones"
    on_real = f"as many real ones: {with_interval(trained, share=True)}" if trained else ""
    cards: list[tuple[str, Estimate | None, bool, str, str]] = [
        ("read as requested", quality.agreement, True, f"real images: {percent(right)}; by chance: {percent(1 / num)}",
         f"of the images are read as the requested {noun}"),
        ("fcd", quality.fcd, False, f"two sets of real images: {with_interval(quality.fcd_floor)}",
         "distance between generated and real images in a judge's features; lower is better"),
        ("recognisable", quality.recognisable, True, f"real images: {with_interval(real.recognisable, share=True)}",
         f"of the images: the judges are over 90 % sure which {noun} it is"),
        ("coverage", quality.coverage, False, f"real images: {with_interval(real.coverage)}",
         "share of real images with a generated one near them; low if variety is lost"),
        ("density", quality.density, False, f"real images: {with_interval(real.density)}",
         "how closely real images lie around the generated ones"),
        ("GAN-train", quality.gan_train, True, on_real,
         f"of real {nouns} are read correctly by a classifier trained only on generated ones"),
        ("unevenness", quality.kl, False, "0 if they are equal",
         f"divergence of the shares of the {nouns} from {expected}, in nats"),
        ("near copies", quality.copies, True, "real images: 1.0 %",
         "of the images are nearer to a training image than 99 % of other real images are"),
    ]  # fmt: skip
    return [
        Card(
            name,
            percent(estimate.value) if share else format_number(estimate.value),
            interval(estimate, share=share),
            beside,
            text,
        )
        for name, estimate, share, beside, text in cards
        if estimate is not None
    ]


def _class(row: ClassQuality, names: list[str], top: float, expected: float | None) -> ClassRow:
    estimate = row.agreement or row.share
    sample, real = row.sample, row.real
    columns = [Number("too few")] * 3
    if sample is not None:
        columns = [
            _number(sample.recognisable, real.recognisable, share=True),
            _number(sample.fcd, real.fcd) if sample.fcd else Number("too few"),
            _number(sample.coverage, real.coverage),
        ]
    columns.append(_number(row.jury, share=True))
    value, low, high = (
        round(100 * max(0.0, min(1.0, number / top)), 2) for number in (estimate.value, estimate.low, estimate.high)
    )
    bar = Bar(value, low, high, None if expected is None else round(100 * expected / top, 2))
    verdict = "not requested" if row.verdict == NOT_REQUESTED else row.verdict
    main = _number(estimate, share=True)
    return ClassRow(names[row.digit], SIGNS[verdict], verdict, row.why, main, bar, columns, row.n)


def _number(estimate: Estimate, real: Estimate | None = None, *, share: bool = False) -> Number:
    text = percent if share else format_number
    return Number(text(estimate.value), interval(estimate, share=share), text(real.value) if real else "")


def _heat(caption: str, rows_are: str, names: list[str], counts: Sequence[Sequence[int]]) -> Heat:
    rows, is_small = [], len(counts) > _MOST_NUMBERS
    for label, row in enumerate(counts):
        total = sum(row)
        cells = []
        for read, count in enumerate(row):
            share = count / total if total else 0.0
            steps = _RIGHT if label == read else _WRONG
            tone = f"{'hit' if label == read else 'miss'}{sum(share >= step for step in steps)}"
            text = "" if is_small else "0" if not count else f"{100 * share:.1f}" if share < 0.9995 else "100"
            # Most cells of a large matrix are 0, and their titles would be most of the page.
            title = "" if is_small and not count else f"{names[label]} read as {names[read]}: {count:,} of {total:,}"
            cells.append(HeatCell(text, tone, title))
        rows.append(cells)
    return Heat(caption, rows_are, names, rows, [sum(row) for row in counts], is_small)
