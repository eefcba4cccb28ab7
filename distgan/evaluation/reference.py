"""Reference of an evaluation: the real test images, and the baseline of as many real images."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from distgan.distributed.runtime import Runtime
from distgan.errors import UserError
from distgan.evaluation.ensemble import SURE, ClassifierEnsemble, EnsembleOutput, read_images
from distgan.evaluation.real_images import RealImages
from distgan.evaluation.schema import Estimate, ImageMetrics
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
WELL_READ = 0.95  # the share of images that have to be read as requested, if the ensemble reads as many real ones right


class RealSet(NamedTuple):
    """`moments` (None of too few) are of all images, `manifold` of as many as are generated."""

    moments: Moments | None
    manifold: Manifold


class Reference(NamedTuple):
    """`test` and `classes` describe the test images, all and class by class.

    `baseline` and `class_baselines` are what training images, as many as generated ones, measure against them.
    `shares`: of each class among as many real images, or those requested, (K,). `matrix` counts true x read on the
    test images by the ensemble, `judge_matrices` by each judge, (J, K, K). `class_accuracies`: the ensemble's.
    """

    n: int
    ensemble: ClassifierEnsemble
    images: RealImages
    test: RealSet
    classes: list[RealSet]
    baseline: ImageMetrics
    class_baselines: list[ImageMetrics]
    shares: np.ndarray
    matrix: Tensor
    judge_matrices: Tensor
    num_draws: int
    class_accuracies: list[Estimate]

    @property
    def well_read(self) -> list[float]:
        """Return of each class the least agreement with which it is made well."""
        return [min(WELL_READ, accuracy.value) for accuracy in self.class_accuracies]


def build_reference(
    ensemble: ClassifierEnsemble,
    images: RealImages,
    n: int,
    requested: Tensor | None,
    runtime: Runtime,
    *,
    num_draws: int = NUM_DRAWS,
) -> Reference:
    """Build the reference for `n` generated images with the labels `requested` (n,), or without labels.

    Raises UserError for too few of them. All ranks call it.
    """
    check_enough_images(n)
    train, test, num_classes = images.train, images.test, images.spec.num_classes
    # MNIST's test images are not in random order: the second half is harder.
    order = torch.randperm(len(test.images), generator=torch.Generator().manual_seed(0))
    test = test._replace(images=test.images[order], labels=test.labels[order])
    reading = read_images(ensemble, test.images, runtime)
    # As many of each class as there should be among the generated ones.
    shares = torch.bincount(train.labels, minlength=num_classes) / len(train.labels)
    counts = n * shares if requested is None else torch.bincount(requested, minlength=num_classes)
    due = [max(1, round(float(count or n * share))) for count, share in zip(counts, shares, strict=True)]
    shuffled = torch.randperm(len(train.images), generator=torch.Generator().manual_seed(1))
    chosen = torch.cat([shuffled[train.labels[shuffled] == label][: due[label]] for label in range(num_classes)])
    others, labels = read_images(ensemble, train.images[chosen], runtime), train.labels[chosen]

    real = _real_set(reading.features, n)
    classes = [_real_set(reading.features[test.labels == label], due[label]) for label in range(num_classes)]
    wanted = (counts > 0)[labels]

    def measure_baseline(rows: Tensor, compared: RealSet) -> ImageMetrics:
        baseline = measure_sample(others.of(rows), compared, num_draws)
        assert baseline is not None  # each class has training and test images
        return baseline

    matrix = confusion_matrix(reading.classes, test.labels, num_classes)
    judges = torch.stack([confusion_matrix(votes, test.labels, num_classes) for votes in reading.votes.unbind(1)])
    return Reference(
        n,
        ensemble,
        images,
        real,
        classes,
        measure_baseline(wanted, real),
        [measure_baseline(labels == label, classes[label]) for label in range(num_classes)],
        (counts / counts.sum()).double().numpy(),
        matrix,
        judges,
        num_draws,
        [estimate_proportion(int(row[label]), int(row.sum())) for label, row in enumerate(matrix)],
    )


def check_enough_images(n: int, what: str = "--num") -> None:
    """Raise UserError for fewer images than a covariance of the features needs."""
    if n < FEWEST:
        raise UserError(
            f"{what}: too few for the covariance of {FEWEST - 1} features ({n}). Expected: {FEWEST} images or more",
            code="image-count" if what.startswith("--") else "bad-images",
        )


def measure_sample(reading: EnsembleOutput, real: RealSet, num_draws: int) -> ImageMetrics | None:
    """Measure generated images against real ones; None without images."""
    if not len(reading.features) or not len(real.manifold.radii):
        return None
    density, covered = density_and_coverage(real.manifold, reading.features)
    return ImageMetrics(
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
