"""Scores of sets of images, with their intervals: shares, confusions, the Frechet distance, nearest neighbours."""

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from distgan.evaluation.classifiers import NUM_FEATURES
from distgan.evaluation.schema import Estimate

LEVEL = 0.95


def estimate_proportion(num: int, total: int) -> Estimate:
    """Return num / total with its interval by Wilson 1927; 0, between 0 and 1, where `total` is 0."""
    if total == 0:
        return Estimate(value=0.0, low=0.0, high=1.0)
    interval = stats.binomtest(num, total).proportion_ci(LEVEL, method="wilson")
    # Its ends may miss 0 and 1 by rounding.
    low, high = min(interval.low, num / total), max(interval.high, num / total)
    return Estimate(value=num / total, low=float(low), high=float(high))


def confusion_matrix(read: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the counts of label x read class, (K, K), of two (N,) of classes."""
    return torch.bincount(num_classes * labels + read, minlength=num_classes**2).view(num_classes, num_classes)


def mean(values: Tensor) -> Estimate:
    """Return the mean of (N,), with Student's interval."""
    n, value = len(values), float(values.double().mean())
    if n < 2:
        return Estimate(value=value, low=value, high=value)
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1) * values.double().std() / np.sqrt(n))
    return Estimate(value=value, low=value - half, high=value + half)


def bootstrap_ci(value: float, draws: np.ndarray) -> Estimate:
    """Return the interval by `draws` of the number from bootstrap samples, centred on its own mean.

    A distance of N images is biased upwards, and that of a bootstrap sample twice as much, so only the spread of the
    draws is used. The interval ends at 0, as these scores are never negative.
    """
    low, high = np.quantile(draws, ((1 - LEVEL) / 2, (1 + LEVEL) / 2)) - draws.mean()
    return Estimate(value=value, low=max(0.0, value + min(low, 0.0)), high=value + max(high, 0.0))


def kl_divergence(counts: np.ndarray, expected: np.ndarray, num_draws: int = 1000, seed: int = 0) -> Estimate:
    """Return the Kullback-Leibler divergence of counts (K,) from the `expected` shares (K,), in nats; 0 if equal."""
    n = int(counts.sum())
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, size=num_draws) / n
    return bootstrap_ci(float(stats.entropy(counts / n, expected)), stats.entropy(drawn, expected[None], axis=1))


# -- The Frechet distance of two sets of features, taken as normal distributions (Heusel et al. 2017, eq. 6) --

# On a judge's features it is called `fcd`, the Frechet classifier distance.
# A covariance of F features from F images or fewer is singular.
FEWEST = NUM_FEATURES + 1
_DRAWN_TOGETHER = 25


class Moments(NamedTuple):
    """Mean (..., F) and covariance (..., F, F), float64."""

    mean: Tensor
    cov: Tensor


def moments(features: Tensor, counts: Tensor | None = None) -> Moments:
    """Return mean and covariance of (N, F); with `counts` (B, N) of B resamples with row n counts[b, n] times."""
    features = features.double()
    if counts is None:
        return Moments(features.mean(0), features.T.cov())
    n = len(features)
    mean = counts @ features / n
    second = torch.stack([(features * row[:, None]).T @ features for row in counts])
    return Moments(mean, (second - n * mean[:, :, None] * mean[:, None, :]) / (n - 1))


def square_root(cov: Tensor) -> Tensor:
    """Return the root of a symmetric matrix without negative eigenvalues, but for rounding."""
    values, vectors = torch.linalg.eigh(cov)
    return (vectors * values.clamp(min=0).sqrt().unsqueeze(-2)) @ vectors.mT


def distance(some: Moments, other: Moments, other_root: Tensor) -> Tensor:
    """Return |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), (...,). `other_root`: root of the second covariance.

    The last trace by the eigenvalues of the symmetric C2^(1/2) C1 C2^(1/2), which are those of C1 C2.
    """
    eigenvalues = torch.linalg.eigvalsh(other_root @ some.cov @ other_root)
    traces = some.cov.diagonal(dim1=-2, dim2=-1).sum(-1) + other.cov.trace()
    between = (some.mean - other.mean).square().sum(-1)
    return (between + traces - 2 * eigenvalues.clamp(min=0).sqrt().sum(-1)).clamp(min=0)


def measure_fcd(features: Tensor, other: Moments, *, num_draws: int, seed: int = 0) -> Estimate | None:
    """Return the distance of (N, F) from what `other` describes; None for fewer than FEWEST images.

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
        counts = torch.empty(num, n).double()
        for count, rows in zip(counts, rng.integers(n, size=(num, n)), strict=True):
            count.copy_(torch.bincount(torch.from_numpy(rows), minlength=n))
        draws.append(distance(moments(features, counts), other, root).numpy())
    return bootstrap_ci(value, np.concatenate(draws))


# -- Nearest neighbours: density and coverage (Naeem et al. 2020), and copies of training images --

K = 5
_ROWS = 1000  # of a table of distances at a time
_MOST_VALUES = 2**26  # pixels of real images at a time, as float32 256 MB


class Manifold(NamedTuple):
    """Real features (N, F), each in a ball that reaches to its K-th nearest neighbour among them, radii (N,)."""

    features: Tensor
    radii: Tensor


def manifold(features: Tensor) -> Manifold:
    """Return the K-nearest-neighbour balls of (N, F); with fewer than K + 1, by the farthest."""
    features = features.double()
    k = min(K + 1, len(features))  # the nearest is the image itself
    radii = [torch.cdist(part, features).kthvalue(k).values for part in features.split(_ROWS)]
    return Manifold(features, torch.cat(radii) if radii else features.new_zeros(0))


def density_and_coverage(real: Manifold, features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the balls around each of (M, F) over K, (M,), and a mask (N,) of the real images that are covered.

    Their means are density and coverage.
    """
    density, covered = torch.zeros(len(features)).double(), torch.zeros(len(real.radii), dtype=torch.bool)
    for start in range(0, len(features), _ROWS):
        rows = slice(start, start + _ROWS)
        inside = torch.cdist(features[rows].double(), real.features) <= real.radii
        density[rows] = inside.sum(1).double() / K
        covered |= inside.any(0)
    return density, covered


class Nearest(NamedTuple):
    """The distance to the nearest other image, in greys of 255 per pixel (root of the mean square), and its number."""

    greys: Tensor
    which: Tensor


def nearest(images: Tensor, others: Tensor) -> Nearest:
    """Return distance and index of the nearest of uint8 (N, ...) to each of (M, ...) of the same shape, both (M,)."""
    size = others[0].numel()
    # Not kept part by part: small tensors between large ones that are freed would keep their memory.
    values, which = torch.full((len(images),), math.inf), torch.zeros(len(images), dtype=torch.long)
    for first in range(0, len(others), max(1, _MOST_VALUES // size)):
        candidates = others[first : first + max(1, _MOST_VALUES // size)].flatten(1).float()
        squares = candidates.square().sum(1)
        for start in range(0, len(images), _ROWS):
            rows = slice(start, start + _ROWS)
            part = images[rows].flatten(1).float()
            table = (squares - 2 * part @ candidates.T) + part.square().sum(1, keepdim=True)
            least, index = table.min(1)
            is_nearer = least < values[rows]
            values[rows] = torch.where(is_nearer, least, values[rows])
            which[rows] = torch.where(is_nearer, index + first, which[rows])
    return Nearest((values.clamp(min=0) / size).sqrt(), which)
