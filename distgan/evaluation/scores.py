"""The Frechet distance of two sets of features, taken as normal distributions (Heusel et al. 2017, eq. 6).

On a judge's features it is called `fcd`, the Frechet classifier distance. torchmetrics has it only as a metric
that keeps its sums, with eigenvalues of a matrix that is not symmetric; here it is drawn again for its
interval, and taken per digit. A test holds the two against each other.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from distgan.evaluation.classifiers import NUM_FEATURES
from distgan.evaluation.intervals import redrawn
from distgan.evaluation.schema import Estimate

# A covariance of F features from F images or fewer is singular.
FEWEST = NUM_FEATURES + 1
_DRAWN_TOGETHER = 25


class Moments(NamedTuple):
    """Mean (..., F) and covariance (..., F, F), float64."""

    mean: Tensor
    cov: Tensor


def moments(features: Tensor, counts: Tensor | None = None) -> Moments:
    """Of (N, F); with `counts` (B, N) of B sets in which row n stands counts[b, n] times."""
    features = features.double()
    if counts is None:
        return Moments(features.mean(0), features.T.cov())
    n = len(features)
    mean = counts @ features / n
    second = torch.stack([(features * row[:, None]).T @ features for row in counts])
    return Moments(mean, (second - n * mean[:, :, None] * mean[:, None, :]) / (n - 1))


def square_root(cov: Tensor) -> Tensor:
    """Of a symmetric matrix without negative eigenvalues, but for rounding."""
    values, vectors = torch.linalg.eigh(cov)
    return (vectors * values.clamp(min=0).sqrt().unsqueeze(-2)) @ vectors.mT


def distance(some: Moments, other: Moments, other_root: Tensor) -> Tensor:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), (...,). `other_root` is that of the second's covariance.

    The last trace by the eigenvalues of the symmetric C2^(1/2) C1 C2^(1/2), which are those of C1 C2.
    """
    eigenvalues = torch.linalg.eigvalsh(other_root @ some.cov @ other_root)
    traces = some.cov.diagonal(dim1=-2, dim2=-1).sum(-1) + other.cov.trace()
    between = (some.mean - other.mean).square().sum(-1)
    return (between + traces - 2 * eigenvalues.clamp(min=0).sqrt().sum(-1)).clamp(min=0)


def measure_fcd(features: Tensor, other: Moments, *, num_draws: int, seed: int = 0) -> Estimate | None:
    """The distance of (N, F) from what `other` describes; None of fewer than FEWEST images.

    The interval is for other images of the same generator, with the same real ones.
    """
    n = len(features)
    if n < FEWEST:
        return None
    root = square_root(other.cov)
    value = float(distance(moments(features), other, root))
    rng, draws = np.random.default_rng(seed), []
    for start in range(0, num_draws, _DRAWN_TOGETHER):
        num = min(_DRAWN_TOGETHER, num_draws - start)
        rows = torch.from_numpy(rng.integers(n, size=(num, n)))
        counts = torch.zeros(num, n).double().scatter_add_(1, rows, torch.ones(num, n).double())
        draws.append(distance(moments(features, counts), other, root).numpy())
    return redrawn(value, np.concatenate(draws))
