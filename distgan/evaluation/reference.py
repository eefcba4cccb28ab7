"""Reference of an evaluation: the real test images, and the floor of as many real images."""

from typing import NamedTuple

import torch
from torch import Tensor

from distgan.data.base import Dataset
from distgan.distributed.runtime import Runtime
from distgan.errors import UserError
from distgan.evaluation.ensemble import SURE, ClassifierEnsemble, Reading, read_images
from distgan.evaluation.schema import Estimate, Sample
from distgan.evaluation.scores import (
    FEWEST,
    Manifold,
    Moments,
    confusion_matrix,
    density_and_coverage,
    estimate_proportion,
    manifold,
    mean,
    measure_fcd,
    moments,
)

NUM_DRAWS = 200


class RealSet(NamedTuple):
    """`moments` (None of too few) are of all images, `manifold` of as many as there are generated ones due."""

    moments: Moments | None
    manifold: Manifold


class Reference(NamedTuple):
    """`real` and `digits` describe the test images, all and digit by digit.

    `floor` and `digit_floors` are what training images, as many as generated ones, measure against them. `matrix`
    counts true x read on the test images by the jury, `judge_matrices` by each judge, (J, 10, 10).
    """

    n: int
    ensemble: ClassifierEnsemble
    train: Dataset
    test: Dataset
    real: RealSet
    digits: list[RealSet]
    floor: Sample
    digit_floors: list[Sample]
    matrix: Tensor
    judge_matrices: Tensor
    num_draws: int


def build_reference(
    ensemble: ClassifierEnsemble,
    train: Dataset,
    test: Dataset,
    n: int,
    requested: Tensor | None,
    runtime: Runtime,
    *,
    num_draws: int = NUM_DRAWS,
) -> Reference:
    """Build the reference for `n` generated images with the labels `requested` (n,), or without labels.

    Raises UserError for too few of them, and for real images without some digit. All ranks call it.
    """
    check_enough_images(n)
    for each in (train, test):
        if missing := [digit for digit in range(10) if not (each.labels == digit).any()]:
            raise UserError(
                f"{each.source}: has no image of {missing[0]}. Expected: data with all ten classes", code="bad-dataset"
            )
    # MNIST's test images are not in random order: the second half is harder.
    order = torch.randperm(len(test.images), generator=torch.Generator().manual_seed(0))
    test = test._replace(images=test.images[order], labels=test.labels[order])
    reading = read_images(ensemble, test.images, runtime)
    # As many of each digit as there should be among the generated ones.
    shares = torch.bincount(train.labels, minlength=10) / len(train.labels)
    counts = n * shares if requested is None else torch.bincount(requested, minlength=10)
    due = [max(1, round(float(own or n * share))) for own, share in zip(counts, shares, strict=True)]
    shuffled = torch.randperm(len(train.images), generator=torch.Generator().manual_seed(1))
    chosen = torch.cat([shuffled[train.labels[shuffled] == digit][: due[digit]] for digit in range(10)])
    others, labels = read_images(ensemble, train.images[chosen], runtime), train.labels[chosen]

    real = _real_set(reading.features, n)
    digits = [_real_set(reading.features[test.labels == digit], due[digit]) for digit in range(10)]
    wanted = (counts > 0)[labels]
    floors = [measure_sample(others.of(labels == d), digits[d], num_draws) for d in range(10)]
    floor = measure_sample(others.of(wanted), real, num_draws)
    assert floor is not None
    judges = torch.stack([confusion_matrix(votes, test.labels) for votes in reading.votes.unbind(1)])
    matrix = confusion_matrix(reading.digits, test.labels)
    return Reference(
        n, ensemble, train, test, real, digits, floor, [each for each in floors if each], matrix, judges, num_draws
    )


def check_enough_images(n: int, what: str = "--num") -> None:
    """Raise UserError for fewer images than a covariance of the features needs."""
    if n < FEWEST:
        raise UserError(
            f"{what}: too few for the covariance of {FEWEST - 1} features ({n}). Expected: {FEWEST} images or more",
            code="image-count" if what.startswith("--") else "bad-images",
        )


def measure_sample(reading: Reading, real: RealSet, num_draws: int) -> Sample | None:
    """Measure generated images against real ones; None without images."""
    if not len(reading.features) or not len(real.manifold.radii):
        return None
    density, covered = density_and_coverage(real.manifold, reading.features)
    return Sample(
        recognisable=_proportion(reading.confidence > SURE),
        fcd=None if real.moments is None else measure_fcd(reading.features, real.moments, num_draws=num_draws),
        density=mean(density),
        coverage=_proportion(covered),
    )


def measure_coverage(real: RealSet, features: Tensor) -> Estimate:
    """Return the share of real images with one of these (M, F) in their neighbourhood."""
    return _proportion(density_and_coverage(real.manifold, features)[1])


def _real_set(features: Tensor, num: int) -> RealSet:
    return RealSet(moments(features) if len(features) >= FEWEST else None, manifold(features[:num]))


def _proportion(marks: Tensor) -> Estimate:
    return estimate_proportion(int(marks.sum()), len(marks))
