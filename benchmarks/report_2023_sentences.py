"""The sentences of the 2023 report, each judged at the epoch that it speaks of."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from report_2023_files import NUM_EPOCHS, TITLES, SameZ, Training, made_well, missing, overlap, pair_of, recognisable_of

from distgan.evaluation.schema import Estimate, Quality
from distgan.evaluation.scores import estimate_proportion
from distgan.reports.report2023 import check_claims

Judged = tuple[bool, str] | None  # if a sentence holds, and the evidence; None where an epoch was not measured
Judge = Callable[..., Judged]  # of a training and the epochs of the sentence


class Sentence(NamedTuple):
    """A sentence on one epoch or on two; `rule` says how `judge` measures it."""

    name: str
    epochs: tuple[int, ...]
    text: str
    rule: str
    judge: Judge


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
    """Return the judge of a sentence that the brightness of the images decides."""

    def judge(training: Training, epoch: int) -> Judged:
        if (images := training.same_z.get(epoch)) is None:
            return None
        return holds(
            images
        ), f"brightness of the outer 4 pixels {percent(images.border)}, of the middle {percent(images.middle)}"

    return judge


def stays_equal(training: Training, first: int, last: int) -> Judged:
    before, after = training.at(first), training.at(last)
    if before is None or after is None:
        return None
    return overlap(before.fcd, after.fcd), f"FCD {before.fcd:.1f}, then {after.fcd:.1f}"


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
        order = [int(other) for other in np.argsort(-counts, kind="stable") if other != digit][: len(others)]
        shares = [f"{each} {percent(estimate_proportion(int(counts[each]), total))}" for each in (digit, *order)]
        evidence = f"of {total} z recognisable at both, still {shares[0]}; most often {', '.join(shares[1:])}"
        return set(order) == others, evidence

    return judge


is_noise = by_quality(lambda quality: quality.coverage.high < 0.1)
has_most = by_quality(lambda quality: len(made_well(quality)) >= 6)
NOISE, MOST = "coverage of the real images below 0.1", "at least 6 of 10 digits made well"
TURNS = "the most frequent other digits that the same z are read as"
# An image of MNIST has 0.9 % in its outer 4 pixels: digits are 20 pixels wide and high, and centred by their mass.
CLEAN = 0.02

SENTENCES = (
    Sentence("gan", (1,), "noise", NOISE, is_noise),
    Sentence("gan", (1,), "in the centre", "the middle brighter than the outer 4 pixels",
             by_same_z(lambda images: images.middle.low > images.border.high)),
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
    Sentence("gan", (42, 82), "stable from 42 to 82", "intervals of FCD overlap", stays_equal),
    Sentence("gan", (120,), "most digits", MOST, has_most),
    Sentence("cgan", (1,), "noise", NOISE, is_noise),
    Sentence("cgan", (13,), "a clean background", f"the outer 4 pixels below {CLEAN:.0%} of white",
             by_same_z(lambda images: images.border.high < CLEAN)),
    Sentence("cgan", (13,), "digits form in the middle", "read as the requested digit more often than by chance",
             by_quality(lambda quality: quality.agreement is not None and quality.agreement.low > 0.1)),
    Sentence("cgan", (42,), "a part of the digits", "1 to 9 digits made well",
             by_quality(lambda quality: 0 < len(made_well(quality)) < 10)),
    Sentence("cgan", (82,), "digits clearly by their label", "at least 90 % read as the requested digit",
             by_quality(lambda quality: quality.agreement is not None and quality.agreement.low >= 0.9)),
    Sentence("cgan", (120,), "most labels well", MOST, has_most),
)  # fmt: skip


def verdict(holds: bool | None) -> str:
    return {True: "yes", False: "**no**", None: "undecided"}[holds]


def percent(estimate: Estimate) -> str:
    return f"{estimate.value:.1%} ({estimate.low:.1%} to {estimate.high:.1%})"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows))


def write_sentences(trainings: dict[str, Training]) -> str:
    """Return the table of the report's sentences: those on an epoch, then those on the end."""
    rows: list[tuple[object, ...]] = []
    for each in SENTENCES:
        judged = each.judge(trainings[each.name], *each.epochs) if each.name in trainings else None
        found = (verdict(judged[0]), judged[1]) if judged else ("not reached", "")
        rows.append((TITLES[each.name], " to ".join(map(str, each.epochs)), each.text, each.rule, *found))
    for training in pair_of(trainings):
        for claim in check_claims(training.last):
            found = (verdict(claim.holds), claim.evidence) if training.is_complete else ("not reached", "")
            rows.append((training.title, NUM_EPOCHS, claim.sentence, "as `distgan report`", *found))
    return table(("network", "epoch", "the report", "measured as", "holds", "measured"), rows)
