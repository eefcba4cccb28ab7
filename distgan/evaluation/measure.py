"""Measurements of a set of images: those of an evaluation, and the fewer that training records."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from distgan.evaluation.ensemble import SURE, EnsembleOutput
from distgan.evaluation.real_images import RealImages
from distgan.evaluation.reference import WELL_READ, Reference, measure_coverage, measure_sample
from distgan.evaluation.schema import Ambiguity, ClassQuality, Confusion, Estimate, ImageMetrics, JudgeFacts, Verdict
from distgan.evaluation.scores import confusion_matrix, estimate_proportion, kl_divergence, nearest
from distgan.utils.text import one_line

# A class is made well if at least WELL_READ of the images requested as it are read as it, or as many as of real ones
# (without labels: are recognisable), and its coverage is at least WELL_COVERED of that of as many real images.
# Agreement alone would praise one typical image, a hundred times over.
WELL_COVERED = 0.5
# Without labels a class has to turn up as often as this, relative to its share of the real images.
LEAST_SHARE, MOST_SHARE = 0.7, 1.3
# A class is missing if its share is at most a tenth of the expected one, less where real images are read worse than
# WELL_READ, and the upper end of its interval is below the limit for "made well", so that few images alone do not
# make it missing.
MISSING = 0.1
# The sample has collapsed where it covers no more than a tenth of what real images cover.
COLLAPSED = 0.1


def judge_class(
    agreement: Estimate | None,
    share: Estimate,
    sample: ImageMetrics | None,
    real: ImageMetrics,
    *,
    expected: float,
    well_read: float = WELL_READ,
) -> tuple[Verdict, str]:
    """Return the verdict on one class and the reason; by `agreement` with labels, by its `share` without.

    `expected`: its share of the real images. `well_read`: the least agreement of a class that is made well.
    """
    if _is_not_requested(agreement):
        return "not asked for", "no image was requested as it"
    if is_missing(agreement, share, expected, well_read) or sample is None:
        return "missing", _how_few(agreement, share)
    faults: list[str] = []
    praise: list[str] = []
    if agreement is not None:
        (praise if agreement.high >= well_read else faults).append(f"{agreement.value:.1%} read as requested")
    else:
        (praise if sample.recognisable.high >= WELL_READ * real.recognisable.value else faults).append(
            f"{sample.recognisable.value:.1%} recognisable (real {real.recognisable.value:.1%})"
        )
        if share.high < LEAST_SHARE * expected:
            faults.append(f"too rare, {share.value:.1%} of all (real {expected:.1%})")
        elif share.low > MOST_SHARE * expected:
            faults.append(f"too frequent, {share.value:.1%} of all (real {expected:.1%})")
    if sample.coverage.high < WELL_COVERED * real.coverage.value:
        kinds = "few kinds of it" if sample.coverage.value < real.coverage.value / 4 else "not all kinds of it"
        faults.append(f"{kinds}, coverage {sample.coverage.value:.2f} (real {real.coverage.value:.2f})")
    return ("made poorly", "; ".join(faults)) if faults else ("made well", "; ".join(praise))


def is_missing(agreement: Estimate | None, share: Estimate, expected: float, well_read: float = WELL_READ) -> bool:
    """True if the class is requested but hardly drawn or, without labels, hardly occurs."""
    if agreement is not None:
        is_rare = agreement.value <= MISSING * (well_read / WELL_READ)
        return is_rare and agreement.high < well_read and not _is_not_requested(agreement)
    return share.value <= MISSING * expected and share.high < LEAST_SHARE * expected


def _is_not_requested(agreement: Estimate | None) -> bool:
    """True if no image was requested: the interval is 0 to 1."""
    return agreement is not None and (agreement.low, agreement.high) == (0.0, 1.0)


def find_alarms(missing: dict[str, str], coverage: Estimate, real_coverage: Estimate) -> list[str]:
    """Return alarms for whoever trains: `missing` classes, each with how few there are, and a collapse."""
    alarms = [f"{one_line(name)} is missing: {why}" for name, why in missing.items()]
    if coverage.high <= COLLAPSED * real_coverage.value:
        alarms.append(
            f"collapse: the samples cover {coverage.value:.1%} of the real images, as many real ones "
            f"{real_coverage.value:.1%}"
        )
    return alarms


def _how_few(agreement: Estimate | None, share: Estimate) -> str:
    if agreement is not None:
        return f"{agreement.value:.1%} of the images requested as it are read as it"
    return f"{share.value:.2%} of the samples are read as it"


_NUM_AMBIGUITIES = 5
_SEEN_BY = 2  # judges that find it by themselves, beside the ensemble, for a confusion to count


class Overview(NamedTuple):
    """Numbers of a sample; `agreement` of all and `agreements` per class only with labels."""

    n: int
    sample: ImageMetrics
    agreement: Estimate | None
    agreements: list[Estimate] | None
    shares: list[Estimate]
    kl: Estimate
    missing: list[int]
    alarms: list[str]


def measure_overview(reading: EnsembleOutput, labels: Tensor | None, reference: Reference) -> Overview:
    """Measure N images with requested `labels` (N,), or without labels."""
    read, n, num_classes = reading.classes, len(reading.classes), len(reference.classes)
    counts = torch.bincount(read, minlength=num_classes)
    shares = [estimate_proportion(int(count), n) for count in counts]
    agreement, agreements = None, None
    if labels is not None:
        is_right = read == labels
        agreement = estimate_proportion(int(is_right.sum()), n)
        agreements = [
            estimate_proportion(int(is_right[labels == label].sum()), int((labels == label).sum()))
            for label in range(num_classes)
        ]
    sample = measure_sample(reading, reference.test, reference.num_draws)
    assert sample is not None
    numbers = list(zip(_of_each(agreements, num_classes), shares, reference.shares, reference.well_read, strict=True))
    missing = [label for label, of_class in enumerate(numbers) if is_missing(*of_class)]
    noun, names = reference.images.class_noun, reference.images.spec.class_names
    reasons = {f"{noun} {names[label]}": _how_few(*numbers[label][:2]) for label in missing}
    alarms = find_alarms(reasons, sample.coverage, reference.baseline.coverage)
    kl = kl_divergence(counts.numpy(), reference.shares)
    return Overview(n, sample, agreement, agreements, shares, kl, missing, alarms)


def _of_each(agreements: list[Estimate] | None, num_classes: int) -> Sequence[Estimate | None]:
    return agreements or [None] * num_classes


def measure_coverages(reading: EnsembleOutput, labels: Tensor | None, reference: Reference) -> list[Estimate]:
    """Return per class the coverage of its real images, by the images of that label or, without labels, read as it."""
    owners = reading.classes if labels is None else labels
    return [measure_coverage(real, reading.features[owners == label]) for label, real in enumerate(reference.classes)]


def to_metrics(overview: Overview, prefix: str) -> dict[str, Any]:
    """Return an overview as fields of metrics.jsonl."""
    values: dict[str, Any] = {}
    estimates = {name: getattr(overview.sample, name) for name in ImageMetrics.model_fields}
    for name, number in (estimates | {"agreement": overview.agreement, "kl": overview.kl}).items():
        if number is not None:
            ends = {"": number.value, "_low": number.low, "_high": number.high}
            values |= {
                f"{prefix}_{name}{end}": round(value, 6)  # a measure of all images, and the ends of its 95 % interval
                for end, value in ends.items()
            }
    per_class = overview.agreements or overview.shares
    return values | {
        f"{prefix}_digits": [round(number.value, 6) for number in per_class],  # agreement (GAN: share) of each class
        f"{prefix}_missing": overview.missing,  # classes that are missing
    }


def measure_classes(
    reading: EnsembleOutput, labels: Tensor | None, overview: Overview, reference: Reference
) -> list[ClassQuality]:
    """Measure per class the images of that label or, without labels, those read as it."""
    classes, owners = [], reading.classes if labels is None else labels
    agreements = _of_each(overview.agreements, len(overview.shares))
    for label, (agreement, share) in enumerate(zip(agreements, overview.shares, strict=True)):
        mask = owners == label
        sample = measure_sample(reading.of(mask), reference.classes[label], reference.num_draws)
        real, expected = reference.class_baselines[label], reference.shares[label]
        verdict, why = judge_class(
            agreement, share, sample, real, expected=expected, well_read=reference.well_read[label]
        )
        classes.append(
            ClassQuality(
                digit=label,
                n=int(mask.sum()),
                agreement=agreement,
                share=share,
                sample=sample,
                real=real,
                jury=reference.class_accuracies[label],
                verdict=verdict,
                why=why,
            )
        )
    return classes


def measure_confusions(reading: EnsembleOutput, labels: Tensor, reference: Reference) -> list[Confusion]:
    """Return confusions of the images beyond the judges' own errors, the most frequent first."""
    num_classes = len(reference.classes)
    matrix = confusion_matrix(reading.classes, labels, num_classes)
    by_judge = [confusion_matrix(votes, labels, num_classes) for votes in reading.votes.unbind(1)]

    def exceeds(counts: Tensor, baseline: Tensor, label: int, read: int) -> tuple[bool, Estimate, Estimate]:
        here = estimate_proportion(int(counts[label, read]), int(counts[label].sum()))
        there = estimate_proportion(int(baseline[label, read]), int(baseline[label].sum()))
        return here.low > there.high, here, there

    confusions = []
    for label, read in matrix.nonzero().tolist():
        is_more, here, there = exceeds(matrix, reference.matrix, label, read)
        if is_more and label != read:
            pairs = zip(by_judge, reference.judge_matrices, strict=True)
            seen_by = sum(exceeds(counts, baseline, label, read)[0] for counts, baseline in pairs)
            if seen_by >= _SEEN_BY:
                confusions.append(Confusion(asked=label, read=read, share=here, jury=there, seen_by=seen_by))
    return sorted(confusions, key=lambda confusion: -confusion.share.value)


def measure_ambiguities(reading: EnsembleOutput) -> list[Ambiguity]:
    """Return the pairs of classes with the most images that the ensemble is unsure of."""
    unsure, num_classes = reading.probabilities[reading.confidence <= SURE], reading.probabilities.shape[1]
    pairs = unsure.topk(2, dim=1).indices.sort(dim=1).values
    counts = torch.bincount(pairs[:, 0] * num_classes + pairs[:, 1], minlength=num_classes**2)
    order = counts.argsort(descending=True, stable=True)[:_NUM_AMBIGUITIES].tolist()
    n = len(reading.confidence)
    return [
        Ambiguity(first=pair // num_classes, second=pair % num_classes, share=estimate_proportion(int(counts[pair]), n))
        for pair in order
        if counts[pair]
    ]


def measure_judges(reading: EnsembleOutput, labels: Tensor | None, reference: Reference) -> list[JudgeFacts]:
    """Return per judge its accuracy on real test images and its agreement with the labels."""
    num = int(reference.matrix.sum())
    return [
        JudgeFacts(
            name=record.name,
            sha256=record.sha256,
            accuracy=estimate_proportion(int(matrix.diagonal().sum()), num),
            agreement=None if labels is None else estimate_proportion(int((votes == labels).sum()), len(labels)),
        )
        for record, matrix, votes in zip(
            reference.ensemble.record.judges, reference.judge_matrices, reading.votes.unbind(1), strict=True
        )
    ]


class Closest(NamedTuple):
    """Nearest training image of its class per image: distance in greys of 255 per pixel, and index, both (N,).

    `copies` is the share of images nearer to one than 99 % of the real images that were not trained on.
    """

    greys: Tensor
    which: Tensor
    copies: Estimate


def measure_copies(images: Tensor, classes: Tensor, real: RealImages) -> Closest:
    """Return the nearest training images of uint8 (N, H, W) or (N, 3, H, W) with labels `classes` (N,)."""
    greys, which = torch.zeros(len(images)), torch.zeros(len(images), dtype=torch.long)
    is_near = torch.zeros(len(images), dtype=torch.bool)
    for label in classes.unique().tolist():
        mask, rows = classes == label, (real.trained_on.labels == label).nonzero().squeeze(1)
        closest = nearest(images[mask], real.trained_on.images[rows])
        unseen = nearest(real.test.images[real.test.labels == label], real.train.images[real.train.labels == label])
        greys[mask], which[mask] = closest.greys, rows[closest.which]
        is_near[mask] = closest.greys < float(np.quantile(unseen.greys.numpy(), 0.01))
    return Closest(greys, which, estimate_proportion(int(is_near.sum()), len(images)))
