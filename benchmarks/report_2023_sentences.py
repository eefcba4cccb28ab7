"""Judge the sentences of the 2023 report, each at the epoch that it speaks of."""

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np
from report_2023_files import (
    NUM_EPOCHS,
    TITLES,
    SameZ,
    Training,
    epoch_of,
    made_well,
    missing,
    overlap,
    pair_of,
    recognisable_of,
)

from distgan.evaluation.schema import Estimate, Quality
from distgan.evaluation.scores import estimate_proportion
from distgan.reports.report2023 import check_claims

# If a sentence holds, None if that is undecided, and the evidence; None alone where an epoch was not measured.
Judged = tuple[bool | None, str] | None
Judge = Callable[..., Judged]  # of a training and the epochs of the sentence


class Sentence(NamedTuple):
    """A sentence on one epoch or on two; `rule` says how `judge` measures it."""

    name: str
    epochs: tuple[int, ...]
    text: str
    rule: str
    judge: Judge


class Judgement(NamedTuple):
    """A row of a table. `at`: the epochs."""

    network: str
    at: str
    text: str
    rule: str
    verdict: str
    evidence: str


HEAD = ("network", "epoch", "the report", "measured as", "holds", "measured")


def by_quality(holds: Callable[[Quality], bool]) -> Judge:
    """Return the judge of a sentence that an evaluation decides."""

    def judge(training: Training, epoch: int) -> Judged:
        if (quality := training.at(epoch)) is None:
            return None
        agreement = f", read as requested {percent(quality.agreement)}" if quality.agreement else ""
        well = ", ".join(map(str, made_well(quality))) or "none"
        recognisable = f"recognisable {percent(quality.recognisable)}{agreement}; made well: {well}"
        return holds(quality), f"FCD {quality.fcd:.1f}, {recognisable}"

    return judge


def by_same_z(holds: Callable[[SameZ], bool]) -> Judge:
    """Return the judge of a sentence on where the images are bright."""

    def judge(training: Training, epoch: int) -> Judged:
        if (images := training.same_z.get(epoch)) is None:
            return None
        border, away = f"brightness of the outer 4 pixels {percent(images.border)}", f"{images.off_centre:.1f}"
        return holds(images), f"{border}, {away} pixels off the centre"

    return judge


def by_digits(digits: tuple[int, ...], low: float, high: float) -> Judge:
    """Return the judge of digits whose share read as requested lies between `low` and `high`."""

    def judge(training: Training, epoch: int) -> Judged:
        if (quality := training.at(epoch)) is None:
            return None
        shares = {digit: quality.per_digit[digit].agreement or UNKNOWN for digit in digits}
        is_within = all(low <= each.low and each.high <= high for each in shares.values())
        is_beyond = any(each.high < low or high < each.low for each in shares.values())
        evidence = ", ".join(f"{digit} {percent(share)}" for digit, share in shares.items())
        return False if is_beyond else (True if is_within else None), f"read as requested: {evidence}"

    return judge


def compare_fcd(holds: Callable[[Estimate, Estimate], bool | None]) -> Judge:
    """Return the judge of FCD at two epochs."""

    def judge(training: Training, first: int, last: int) -> Judged:
        before, after = training.at(first), training.at(last)
        if before is None or after is None:
            return None
        return holds(before.fcd, after.fcd), f"FCD {before.fcd:.1f}, then {after.fcd:.1f}"

    return judge


def come_first(digits: set[int]) -> Judge:
    """Return the judge of which digits are most often recognisable at an epoch, as many as `digits` has."""

    def judge(training: Training, epoch: int) -> Judged:
        if (quality := training.at(epoch)) is None:
            return None
        counts = recognisable_of(quality)
        order = sorted(range(10), key=lambda digit: -counts[digit])
        named = sorted({*order[: len(digits)], *digits}, key=order.index)
        shares = ", ".join(f"{digit} {percent(estimate_proportion(counts[digit], quality.n))}" for digit in named)
        return set(order[: len(digits)]) == digits, f"of all images, recognisable as {shares}"

    return judge


def turns_into(digit: int, others: set[int]) -> Judge:
    """Return the judge of what the z become that gave a recognisable `digit` at the first of two epochs."""

    def judge(training: Training, first: int, last: int) -> Judged:
        if (counts := training.read_later(digit, first, last)) is None:
            return None
        total = int(counts.sum())
        shares = [percent(estimate_proportion(int(count), total)) for count in counts]
        order = [int(other) for other in np.argsort(-counts[:10], kind="stable") if other != digit][: len(others)]
        kept = f"of {total} z still {digit} {shares[digit]}, not recognisable {shares[10]}"
        return set(order) == others, f"{kept}; most often {', '.join(f'{other} {shares[other]}' for other in order)}"

    return judge


is_noise = by_quality(lambda quality: quality.coverage.high < 0.1)
has_most = by_quality(lambda quality: len(made_well(quality)) >= 6)
NOISE, MOST = "coverage of the real images below 0.1", "at least 6 of 10 digits made well"
TURNS = "the most frequent other digits that the same z are read as"
# MNIST's training images have 0.9 %: their digits are 20 pixels wide and high, and centred by their mass.
CLEAN = 0.02
CENTRED = 3  # pixels
SURELY = 0.95  # read as requested
UNKNOWN = Estimate(value=0.5, low=0.0, high=1.0)

SENTENCES = (
    Sentence("gan", (1,), "noise", NOISE, is_noise),
    Sentence("gan", (1,), "in the centre", f"centre of mass within {CENTRED} pixels of the middle",
             by_same_z(lambda images: images.off_centre.high < CENTRED)),
    Sentence("gan", (2,), "circles and lines come first, so 0 and 1",
             "the two digits most often recognisable, where a tenth of all is", come_first({0, 1})),
    Sentence("gan", (20,), "first shapes of 0 and 4", "0 and 4 not missing",
             by_quality(lambda quality: not {0, 4} & missing(quality))),
    Sentence("gan", (20, 149), "0 turns into 8 and 9", TURNS, turns_into(0, {8, 9})),
    Sentence("gan", (20, 149), "1 turns into 3 or 7", TURNS, turns_into(1, {3, 7})),
    Sentence("gan", (42,), "2, 3 and 9 appear", "2, 3 and 9 not missing",
             by_quality(lambda quality: not {2, 3, 9} & missing(quality))),
    Sentence("gan", (42,), "smooth 2, 3, 9", "2, 3 and 9 made well",
             by_quality(lambda quality: {2, 3, 9} <= set(made_well(quality)))),
    Sentence("gan", (42, 82), "stable from 42 to 82", "intervals of FCD overlap", compare_fcd(overlap)),
    Sentence("gan", (120,), "most digits", MOST, has_most),
    Sentence("cgan", (1,), "noise", NOISE, is_noise),
    Sentence("cgan", (13,), "a clean background", f"the outer 4 pixels below {CLEAN:.0%} of white",
             by_same_z(lambda images: images.border.high < CLEAN)),
    Sentence("cgan", (13,), "digits form in the middle", "read as the requested digit more often than by chance",
             by_quality(lambda quality: quality.agreement is not None and quality.agreement.low > 0.1)),
    Sentence("cgan", (13,), "they are not yet recognisable", "fewer than half of the images recognisable",
             by_quality(lambda quality: quality.recognisable.high < 0.5)),
    Sentence("cgan", (42,), "a part of the digits", "1 to 9 digits made well",
             by_quality(lambda quality: 0 < len(made_well(quality)) < 10)),
    Sentence("cgan", (82,), "digits clearly by their label", "at least 90 % read as the requested digit",
             by_quality(lambda quality: quality.agreement is not None and quality.agreement.low >= 0.9)),
    Sentence("cgan", (82, 150), "the images improve from 82 on", "a lower FCD",
             compare_fcd(lambda before, after: less(after, before))),
    Sentence("cgan", (120,), "most labels well", MOST, has_most),
    Sentence("cgan", (150,), "5 and 7 are classified well", "at least 90 % read as requested",
             by_digits((5, 7), 0.9, 1.0)),
    Sentence("cgan", (150,), "4 and 2 are recognisable in a part of the images",
             f"read as requested more often than by chance, but under {SURELY:.0%}", by_digits((4, 2), 0.1, SURELY)),
)  # fmt: skip


def verdict(holds: bool | None) -> str:
    return {True: "yes", False: "**no**", None: "undecided"}[holds]


def percent(estimate: Estimate) -> str:
    return f"{estimate.value:.1%} ({estimate.low:.1%} to {estimate.high:.1%})"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows))


def judge_sentences(trainings: dict[str, Training]) -> list[Judgement]:
    """Judge the report's sentences: those on an epoch, then those on the end."""
    rows = []
    for each in SENTENCES:
        judged = each.judge(trainings[each.name], *each.epochs) if each.name in trainings else None
        found = (verdict(judged[0]), judged[1]) if judged else ("not reached", "")
        rows.append(Judgement(TITLES[each.name], " to ".join(map(str, each.epochs)), each.text, each.rule, *found))
    for training in pair_of(trainings):
        for claim in check_claims(training.last):
            found = (verdict(claim.holds), claim.evidence) if training.is_complete else ("not reached", "")
            rows.append(Judgement(training.title, str(NUM_EPOCHS), claim.sentence, "as `distgan report`", *found))
    return rows


def write_sentences(trainings: dict[str, Training]) -> str:
    return table(HEAD, judge_sentences(trainings))


def judge_losses(trainings: dict[str, Training]) -> list[Judgement]:
    """Judge the losses' directions, from the first to the last tenth of the epochs."""
    rows = []
    for training in pair_of(trainings):
        part = max(1, len(training.rows) // 10)
        first, last = training.rows[:part], training.rows[-part:]
        at = f"1 to {last[-1].epoch}"
        for key, text, sign in (("d_loss", "D's loss rises", 1), ("g_loss", "G's loss falls", -1)):
            before, after = (fmean(getattr(row, key) for row in rows) for rows in (first, last))
            evidence = f"{before:.3f} to {after:.3f}"
            rule = "mean of the first tenth of the epochs to that of the last"
            rows.append(Judgement(training.title, at, text, rule, verdict(sign * (after - before) > 0), evidence))
    return rows


def write_losses(trainings: dict[str, Training]) -> str:
    """Return the table of the losses' directions."""
    return table(HEAD, judge_losses(trainings))


def judge_comparison(pair: Sequence[Training], epoch: float) -> list[tuple[str, ...]]:
    """Judge the report's comparison of GAN and C-GAN by their evaluations at an epoch, a row a sentence.

    A training is faster if the middle halves of its seconds per epoch do not overlap. That it converges faster is
    decided if three definitions agree.
    """
    gan, cgan = at = [quality for training in pair if (quality := training.at(epoch))]
    seconds = [training.epoch_quarters for training in pair]
    shared = max(training.best_fcd for training in pair)
    ends = []
    for training in pair:
        epochs = (training.first_at(shared), training.first_near_best, training.first_like_last)
        ends.append([training.minutes_to(end) for end in epochs])
    faster = {less(of_cgan, of_gan) for of_gan, of_cgan in zip(*ends, strict=True)}
    is_recognisable = cgan.recognisable.low > 0.5
    quality = [f"{percent(each.recognisable)}; {each.fcd:.1f}" for each in at]
    return [
        ("the GAN's images are better", verdict(less(gan.fcd, cgan.fcd)), "FCD", *(f"{each.fcd:.1f}" for each in at)),
        ("the C-GAN's are recognisable, but noisier", verdict(is_recognisable and less(gan.fcd, cgan.fcd)),
         "over half recognisable; FCD above the GAN's", *quality),
        ("the GAN trains faster", verdict(seconds[0][2] < seconds[1][0]), "seconds per epoch, median",
         *map(middle_half, seconds)),
        ("the condition can make it converge faster", verdict(faster.pop() if len(faster) == 1 else None),
         f"minutes to FCD {shared:.1f}; near its own best FCD; as often recognised as at the end",
         *("; ".join(f"{minutes:.0f}" for minutes in each) for each in ends)),
        ("the GAN does not hold all digits", verdict(bool(missing(gan))), "missing digits", *map(digits_missing, at)),
        ("the C-GAN holds all digits", verdict(not missing(cgan)), "missing digits", *map(digits_missing, at)),
        ("the C-GAN is more diverse", verdict(less(gan.coverage, cgan.coverage)), "coverage of the real images",
         *(percent(each.coverage) for each in at)),
    ]  # fmt: skip


def write_comparison(trainings: dict[str, Training]) -> str:
    """Return the table of `judge_comparison` at the last epoch at which both networks were evaluated."""
    if len(pair := pair_of(trainings)) < 2:
        return "The GAN was not measured."
    of_both = set.intersection(*({epoch_of(quality) for quality in training.qualities} for training in pair))
    if not of_both:
        return "No epoch was evaluated of both."
    epoch = max(of_both)
    head = ("the report", "holds", "measured as", *(f"{each.title}, epoch {epoch:g}" for each in pair))
    return table(head, judge_comparison(pair, epoch))


def less(one: Estimate, other: Estimate) -> bool | None:
    """Return if `one` is less than `other`, None where their intervals overlap."""
    return None if overlap(one, other) else one.value < other.value


def middle_half(quarters: Sequence[float]) -> str:
    low, middle, high = quarters
    return f"{middle:.0f} ({low:.0f} to {high:.0f})"


def digits_missing(quality: Quality) -> str:
    return ", ".join(map(str, sorted(missing(quality)))) or "none"
