"""The numbers of a set of images: what an evaluation finds, and the smaller set of them that training keeps."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from distgan.evaluation.ensemble import SURE, Reading
from distgan.evaluation.reference import Reference, measure_coverage, measure_sample
from distgan.evaluation.schema import Ambiguity, Confusion, Digit, Estimate, JudgeFacts, Sample, Verdict
from distgan.evaluation.scores import confusion_matrix, estimate_proportion, kl_from_uniform, nearest

# Of a digit that is made well: at least this share of its label reads as it, is recognisable, and (of what as many
# real ones cover) is covered. Agreement alone would praise one typical image, a hundred times over.
WELL_READ, WELL_COVERED = 0.95, 0.5
# Without labels a digit has to turn up as often as this; a tenth of the images is expected.
LEAST_SHARE, MOST_SHARE = 0.07, 0.13
# Missing: no more than a tenth of its due, and not for want of images: its interval ends below what is made well.
MISSING = 0.1
# The sample has collapsed where it covers no more than a tenth of what real images cover.
COLLAPSED = 0.1


def verdict_of(agreement: Estimate | None, share: Estimate, sample: Sample | None, real: Sample) -> tuple[Verdict, str]:
    """Return the verdict on one digit and the reason; by `agreement` with labels, by its `share` without."""
    if _is_unasked(agreement):
        return "not asked for", "no image was asked to be it"
    if is_missing(agreement, share) or sample is None:
        return "missing", _how_few(agreement, share)
    faults: list[str] = []
    praise: list[str] = []
    if agreement is not None:
        (praise if agreement.high >= WELL_READ else faults).append(f"{agreement.value:.1%} read as asked")
    else:
        (praise if sample.recognisable.high >= WELL_READ * real.recognisable.value else faults).append(
            f"{sample.recognisable.value:.1%} recognisable (real {real.recognisable.value:.1%})"
        )
        if share.high < LEAST_SHARE:
            faults.append(f"too rare, {share.value:.1%} of all")
        elif share.low > MOST_SHARE:
            faults.append(f"too frequent, {share.value:.1%} of all")
    if sample.coverage.high < WELL_COVERED * real.coverage.value:
        kinds = "few kinds of it" if sample.coverage.value < real.coverage.value / 4 else "not all kinds of it"
        faults.append(f"{kinds}, coverage {sample.coverage.value:.2f} (real {real.coverage.value:.2f})")
    return ("made poorly", "; ".join(faults)) if faults else ("made well", "; ".join(praise))


def is_missing(agreement: Estimate | None, share: Estimate) -> bool:
    """True if the digit is requested and not drawn, or without labels does not turn up."""
    if agreement is not None:
        return agreement.value <= MISSING and agreement.high < WELL_READ and not _is_unasked(agreement)
    return share.value <= MISSING / 10 and share.high < LEAST_SHARE


def _is_unasked(agreement: Estimate | None) -> bool:
    """True if no image was requested: the interval is 0 to 1."""
    return agreement is not None and (agreement.low, agreement.high) == (0.0, 1.0)


def find_alarms(
    missing: Sequence[int],
    agreements: Sequence[Estimate] | None,
    shares: Sequence[Estimate],
    coverage: Estimate,
    real_coverage: Estimate,
) -> list[str]:
    """Return alarms for whoever trains: missing digits, a collapse."""
    alarms = [
        f"digit {digit} is missing: {_how_few(agreements[digit] if agreements else None, shares[digit])}"
        for digit in missing
    ]
    if coverage.high <= COLLAPSED * real_coverage.value:
        alarms.append(
            f"collapse: the samples cover {coverage.value:.1%} of the real images, as many real ones "
            f"{real_coverage.value:.1%}"
        )
    return alarms


def _how_few(agreement: Estimate | None, share: Estimate) -> str:
    if agreement is not None:
        return f"{agreement.value:.1%} of those asked for are read as it"
    return f"{share.value:.2%} of the samples are read as it"


# -- The numbers of a set of images --

_NUM_AMBIGUITIES = 5
_SEEN_BY = 2  # judges, beside the jury, for a confusion to be one


class Overview(NamedTuple):
    """Numbers of a sample; `agreement` of all and `agreements` per digit only with labels."""

    n: int
    sample: Sample
    agreement: Estimate | None
    agreements: list[Estimate] | None
    shares: list[Estimate]
    kl: Estimate
    missing: list[int]
    alarms: list[str]


def measure_overview(reading: Reading, labels: Tensor | None, reference: Reference) -> Overview:
    """Measure N images with requested `labels` (N,), or without labels."""
    read, n = reading.digits, len(reading.digits)
    counts = torch.bincount(read, minlength=10)
    shares = [estimate_proportion(int(count), n) for count in counts]
    agreement, agreements = None, None
    if labels is not None:
        is_right = read == labels
        agreement = estimate_proportion(int(is_right.sum()), n)
        agreements = [
            estimate_proportion(int(is_right[labels == d].sum()), int((labels == d).sum())) for d in range(10)
        ]
    sample = measure_sample(reading, reference.real, reference.num_draws)
    assert sample is not None
    missing = [d for d in range(10) if is_missing(agreements[d] if agreements else None, shares[d])]
    alarms = find_alarms(missing, agreements, shares, sample.coverage, reference.floor.coverage)
    kl = kl_from_uniform(counts.numpy())
    return Overview(n, sample, agreement, agreements, shares, kl, missing, alarms)


def measure_coverages(reading: Reading, labels: Tensor | None, reference: Reference) -> list[Estimate]:
    """Return per digit the coverage of its real images, by the images of that label or, without labels, read as it."""
    owners = reading.digits if labels is None else labels
    return [measure_coverage(real, reading.features[owners == d]) for d, real in enumerate(reference.digits)]


def to_metrics(overview: Overview, prefix: str) -> dict[str, Any]:
    """Return an overview as it stands in a line of metrics.jsonl."""
    values: dict[str, Any] = {}
    estimates = {name: getattr(overview.sample, name) for name in Sample.model_fields}
    for name, number in (estimates | {"agreement": overview.agreement, "kl": overview.kl}).items():
        if number is not None:
            ends = {"": number.value, "_low": number.low, "_high": number.high}
            values |= {
                f"{prefix}_{name}{end}": round(value, 6)  # a measure of all images, and the ends of its 95 % interval
                for end, value in ends.items()
            }
    each = overview.agreements or overview.shares
    return values | {
        f"{prefix}_digits": [round(number.value, 6) for number in each],  # agreement (GAN: share) of each digit
        f"{prefix}_missing": overview.missing,  # digits that are missing
    }


def measure_digits(reading: Reading, labels: Tensor | None, overview: Overview, reference: Reference) -> list[Digit]:
    """Measure per digit the images of that label or, without labels, those read as it."""
    digits, owners = [], reading.digits if labels is None else labels
    for digit in range(10):
        own = owners == digit
        sample = measure_sample(reading.of(own), reference.digits[digit], reference.num_draws)
        real = reference.digit_floors[digit]
        agreement = overview.agreements[digit] if overview.agreements else None
        verdict, why = verdict_of(agreement, overview.shares[digit], sample, real)
        row = reference.matrix[digit]
        digits.append(
            Digit(
                digit=digit,
                n=int(own.sum()),
                agreement=agreement,
                share=overview.shares[digit],
                sample=sample,
                real=real,
                jury=estimate_proportion(int(row[digit]), int(row.sum())),
                verdict=verdict,
                why=why,
            )
        )
    return digits


def measure_confusions(reading: Reading, labels: Tensor, reference: Reference) -> list[Confusion]:
    """Return confusions of the images beyond the judges' own errors, the most frequent first."""
    matrix = confusion_matrix(reading.digits, labels)
    by_judge = [confusion_matrix(votes, labels) for votes in reading.votes.unbind(1)]

    def exceeds(counts: Tensor, own: Tensor, label: int, read: int) -> tuple[bool, Estimate, Estimate]:
        here = estimate_proportion(int(counts[label, read]), int(counts[label].sum()))
        there = estimate_proportion(int(own[label, read]), int(own[label].sum()))
        return here.low > there.high, here, there

    found = []
    for label, read in matrix.nonzero().tolist():
        is_more, here, there = exceeds(matrix, reference.matrix, label, read)
        if is_more and label != read:
            pairs = zip(by_judge, reference.judge_matrices, strict=True)
            seen_by = sum(exceeds(counts, own, label, read)[0] for counts, own in pairs)
            if seen_by >= _SEEN_BY:
                found.append(Confusion(asked=label, read=read, share=here, jury=there, seen_by=seen_by))
    return sorted(found, key=lambda each: -each.share.value)


def measure_ambiguities(reading: Reading) -> list[Ambiguity]:
    """Return the pairs of digits with the most images that the ensemble is unsure of."""
    unsure = reading.probabilities[reading.confidence <= SURE]
    pairs = unsure.topk(2, dim=1).indices.sort(dim=1).values
    counts = torch.bincount(pairs[:, 0] * 10 + pairs[:, 1], minlength=100)
    order = counts.argsort(descending=True, stable=True)[:_NUM_AMBIGUITIES].tolist()
    n = len(reading.confidence)
    return [
        Ambiguity(first=pair // 10, second=pair % 10, share=estimate_proportion(int(counts[pair]), n))
        for pair in order
        if counts[pair]
    ]


def measure_judges(reading: Reading, labels: Tensor | None, reference: Reference) -> list[JudgeFacts]:
    """Return per judge its accuracy on real test images and its agreement with the labels."""
    num = int(reference.matrix.sum())
    return [
        JudgeFacts(
            name=record.name,
            sha256=record.sha256,
            accuracy=estimate_proportion(int(own.diagonal().sum()), num),
            agreement=None if labels is None else estimate_proportion(int((votes == labels).sum()), len(labels)),
        )
        for record, own, votes in zip(
            reference.ensemble.record.judges, reference.judge_matrices, reading.votes.unbind(1), strict=True
        )
    ]


class Closest(NamedTuple):
    """Nearest training image of its digit per image: distance in greys of 255 per pixel, and index, both (N,).

    `copies` is the share of images nearer to one than 99 % of the real images that were not trained on.
    """

    greys: Tensor
    which: Tensor
    copies: Estimate


def measure_copies(images: Tensor, digits: Tensor, reference: Reference) -> Closest:
    """Return the nearest training images of (N, 28, 28) uint8 with labels `digits` (N,)."""
    greys, which = torch.zeros(len(images)), torch.zeros(len(images), dtype=torch.long)
    is_near = torch.zeros(len(images), dtype=torch.bool)
    for digit in digits.unique().tolist():
        own, rows = digits == digit, (reference.train.labels == digit).nonzero().squeeze(1)
        trained = reference.train.images[rows]
        found = nearest(images[own], trained)
        unseen = nearest(reference.test.images[reference.test.labels == digit], trained)
        greys[own], which[own] = found.greys, rows[found.which]
        is_near[own] = found.greys < float(np.quantile(unseen.greys.numpy(), 0.01))
    return Closest(greys, which, estimate_proportion(int(is_near.sum()), len(images)))
