"""Tests of the metrics: real digits, spoilt in known ways, and what each of them must do to the numbers."""

from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.runs import MNIST, has_mnist
from torch import Tensor

from distgan.config.schema import DataConfig
from distgan.data.base import Dataset, load_dataset
from distgan.evaluation import measure
from distgan.evaluation.ensemble import EnsembleOutput, load_ensemble, read_images
from distgan.evaluation.real_images import RealImages
from distgan.evaluation.reference import Reference, build_reference

ALONE: Any = SimpleNamespace(world_size=1, rank=0, device=torch.device("cpu"))
NUM = 2000

pytestmark = pytest.mark.skipif(not has_mnist("t10k"), reason=f"no MNIST in {MNIST}")


@cache
def real() -> tuple[Reference, Dataset]:
    """The reference of 4,000 test images, and 2,000 others that stand in for what a generator drew."""
    config = DataConfig(dir=str(MNIST))
    train, test = load_dataset(config), load_dataset(config, "test")
    order = torch.randperm(len(test.images), generator=torch.Generator().manual_seed(7))
    known, unseen = order[:4000], order[4000 : 4000 + NUM]
    ensemble = load_ensemble("mnist", torch.device("cpu"))
    part = test._replace(images=test.images[known], labels=test.labels[known])
    images = RealImages(train, part, train, "digit", False, train.fingerprint, part.fingerprint)
    reference = build_reference(ensemble, images, NUM, None, ALONE, num_draws=100)
    return reference, test._replace(images=test.images[unseen], labels=test.labels[unseen])


def judged(images: Tensor, labels: Tensor | None) -> tuple[EnsembleOutput, measure.Overview, list[Any]]:
    reference, _ = real()
    reading = read_images(reference.ensemble, images, ALONE)
    overview = measure.measure_overview(reading, labels, reference)
    return reading, overview, measure.measure_classes(reading, labels, overview, reference)


@cache
def honest() -> tuple[EnsembleOutput, measure.Overview, list[Any]]:
    """The unseen digits under their own labels."""
    _, unseen = real()
    return judged(unseen.images, unseen.labels)


def test_real_against_real_is_at_the_baseline() -> None:
    reference, unseen = real()
    reading, overview, digits = honest()
    baseline = reference.baseline
    assert overview.sample.fcd.low <= baseline.fcd.high
    assert overview.sample.fcd.high >= baseline.fcd.low
    assert overview.sample.fcd.value < 2 * baseline.fcd.value
    assert abs(overview.sample.coverage.value - baseline.coverage.value) < 0.03
    assert abs(overview.sample.density.value - baseline.density.value) < 0.08
    assert overview.agreement.low > 0.99
    assert overview.sample.recognisable.value > 0.97
    assert not overview.alarms
    assert [each.verdict for each in digits] == ["made well"] * 10
    assert not measure.measure_confusions(reading, unseen.labels, reference)


def test_unlabelled_real_digits_are_made_well_too() -> None:
    _, unseen = real()
    _, overview, digits = judged(unseen.images, None)
    assert overview.agreement is None
    assert [each.verdict for each in digits] == ["made well"] * 10
    assert overview.kl.value < 0.01
    assert not overview.alarms


@pytest.mark.parametrize("digit", [1, 6])
def test_alarm_names_a_dropped_digit(digit: int) -> None:
    _, unseen = real()
    kept = unseen.labels != digit
    _, overview, digits = judged(unseen.images[kept], None)
    assert [alarm for alarm in overview.alarms if "missing" in alarm] == overview.alarms
    assert [alarm.partition(":")[0] for alarm in overview.alarms] == [f"digit {digit} is missing"]
    assert [each.digit for each in digits if each.verdict == "missing"] == [digit]
    assert overview.kl.low > honest()[1].kl.high


def test_alarm_names_a_digit_that_was_requested_and_not_made() -> None:
    _, unseen = real()
    images = unseen.images.clone()
    images[unseen.labels == 8] = unseen.images[unseen.labels == 3][0]
    _, overview, digits = judged(images, unseen.labels)
    assert [alarm.partition(":")[0] for alarm in overview.alarms] == ["digit 8 is missing"]
    assert digits[8].verdict == "missing"
    assert [each.verdict for each in digits].count("made well") == 9


def test_matrix_shows_swapped_labels() -> None:
    reference, unseen = real()
    swapped = unseen.labels.clone()
    swapped[unseen.labels == 4], swapped[unseen.labels == 9] = 9, 4
    reading, overview, digits = judged(unseen.images, swapped)
    found = measure.measure_confusions(reading, swapped, reference)
    assert {(each.asked, each.read) for each in found} == {(4, 9), (9, 4)}
    assert all(each.share.low > 0.95 and each.seen_by == 3 for each in found)
    assert overview.agreement.high < 0.85
    assert {each.digit for each in digits if each.verdict == "missing"} == {4, 9}


def test_repeated_image_lowers_coverage_and_not_agreement() -> None:
    """One typical image of each digit, a hundred times over: agreement alone would praise it."""
    _, unseen = real()
    reading, _, _ = honest()
    images = unseen.images.clone()
    for digit in range(10):
        own = (unseen.labels == digit).nonzero().squeeze(1)
        images[own] = unseen.images[own[reading.confidence[own].argmax()]]
    _, overview, digits = judged(images, unseen.labels)
    assert overview.agreement.value == 1
    assert overview.sample.coverage.high < 0.2 * honest()[1].sample.coverage.value
    assert [each.verdict for each in digits] == ["made poorly"] * 10
    assert all("coverage" in each.why for each in digits)
    assert any("collapse" in alarm for alarm in overview.alarms)


def test_fcd_rises_with_every_step_of_noise() -> None:
    _, unseen = real()
    noise = torch.randn(unseen.images.shape, generator=torch.Generator().manual_seed(0))
    distances = [honest()[1].sample.fcd.value]
    for greys in (8, 16, 32, 64, 96):
        images = (unseen.images + greys * noise).round().clamp(0, 255).to(torch.uint8)
        distances.append(judged(images, unseen.labels)[1].sample.fcd.value)
    assert distances == sorted(distances)
    assert distances[-1] > 10 * distances[0]


def test_confusion_that_one_judge_alone_sees_is_the_judges() -> None:
    """The ensemble carries it, but only one of three judges by itself: no confusion of the images."""
    reference, unseen = real()
    reading, _, _ = honest()
    fours = unseen.labels == 4
    probabilities, votes = reading.probabilities.clone(), reading.votes.clone()
    probabilities[fours] = torch.eye(10)[9]
    votes[fours, 0] = 9
    one = EnsembleOutput(probabilities, votes, reading.features)
    assert not measure.measure_confusions(one, unseen.labels, reference)
    votes[fours, 1] = 9
    two = EnsembleOutput(probabilities, votes, reading.features)
    assert [
        (each.asked, each.read, each.seen_by) for each in measure.measure_confusions(two, unseen.labels, reference)
    ] == [(4, 9, 2)]


def test_confusion_needs_more_than_the_judges_own_errors() -> None:
    """As many images of 4 read as 9 as the ensemble takes for one among real ones: nothing to report."""
    reference, unseen = real()
    reading, _, _ = honest()
    fours = (unseen.labels == 4).nonzero().squeeze(1)
    rate = float(reference.matrix[4, 9] / reference.matrix[4].sum())
    own = fours[: round(rate * len(fours)) + 1]
    probabilities, votes = reading.probabilities.clone(), reading.votes.clone()
    probabilities[own], votes[own] = torch.eye(10)[9], 9
    few = EnsembleOutput(probabilities, votes, reading.features)
    assert not measure.measure_confusions(few, unseen.labels, reference)


def test_confusion_that_the_ensemble_does_not_share_is_none() -> None:
    """Two judges of three, each barely: the mean of all has another reading, but for one image."""
    reference, unseen = real()
    reading, _, _ = honest()
    fours = (unseen.labels == 4).nonzero().squeeze(1)
    probabilities, votes = reading.probabilities.clone(), reading.votes.clone()
    votes[fours, :2] = 9
    probabilities[fours[0]] = torch.eye(10)[9]
    some = EnsembleOutput(probabilities, votes, reading.features)
    assert not measure.measure_confusions(some, unseen.labels, reference)


def test_copies_of_training_images_are_seen() -> None:
    reference, unseen = real()
    chosen, trained = torch.arange(100), reference.images.trained_on
    copied = measure.measure_copies(trained.images[chosen], trained.labels[chosen], reference.images)
    assert copied.copies.value == 1
    assert torch.equal(copied.which, chosen)
    assert copied.greys.max() < 0.5
    unseen_ones = measure.measure_copies(unseen.images, unseen.labels, reference.images)
    assert unseen_ones.copies.high < 0.03


def test_ambiguities_are_between_the_digits_that_stand_on_an_image() -> None:
    """Half a 3 over half an 8 in one image."""
    reference, unseen = real()
    threes, eights = (unseen.images[unseen.labels == digit][:150].float() for digit in (3, 8))
    mixed = ((threes + eights) / 2).to(torch.uint8)
    reading = read_images(reference.ensemble, mixed, ALONE)
    assert reading.confidence.mean() < honest()[0].confidence.mean()
    pairs = measure.measure_ambiguities(reading)
    assert (pairs[0].first, pairs[0].second) == (3, 8)
    # What the ensemble is sure of stands between no two digits.
    unsure = 1 - honest()[1].sample.recognisable.value
    assert 0 < sum(pair.share.value for pair in measure.measure_ambiguities(honest()[0])) <= unsure + 1e-9
