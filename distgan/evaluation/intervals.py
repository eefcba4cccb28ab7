"""95 % intervals, each for what its number is: a share, a mean, or anything that can be drawn again."""

import numpy as np
from scipy import stats
from torch import Tensor

from distgan.evaluation.schema import Estimate

LEVEL = 0.95


def share(num: int, of: int) -> Estimate:
    """`num` of `of` as a share, with its interval by Wilson 1927 (no share at all of nothing: 0 to 1)."""
    if of == 0:
        return Estimate(value=0.0, low=0.0, high=1.0)
    interval = stats.binomtest(num, of).proportion_ci(LEVEL, method="wilson")
    # Its ends may miss 0 and 1 by rounding.
    low, high = min(interval.low, num / of), max(interval.high, num / of)
    return Estimate(value=num / of, low=float(low), high=float(high))


def mean(values: Tensor) -> Estimate:
    """The mean of (N,), with Student's interval."""
    n, value = len(values), float(values.double().mean())
    if n < 2:
        return Estimate(value=value, low=value, high=value)
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1) * values.double().std() / np.sqrt(n))
    return Estimate(value=value, low=value - half, high=value + half)


def redrawn(value: float, draws: np.ndarray) -> Estimate:
    """The interval by `draws` of the number from bootstrap samples, about its own mean instead of theirs.

    A distance of N images is a little too large, and that of a bootstrap sample too large twice over: what is
    taken from the draws is how they spread. Numbers here are none below 0.
    """
    low, high = np.quantile(draws, ((1 - LEVEL) / 2, (1 + LEVEL) / 2)) - draws.mean()
    return Estimate(value=value, low=max(0.0, value + min(low, 0.0)), high=value + max(high, 0.0))


def kl_from_uniform(counts: np.ndarray, num_draws: int = 1000, seed: int = 0) -> Estimate:
    """Kullback-Leibler divergence of counts (K,) from equal ones, in nats; 0: all alike, log K: one alone."""
    n, equal = int(counts.sum()), np.full(len(counts), 1 / len(counts))
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, size=num_draws) / n
    return redrawn(float(stats.entropy(counts / n, equal)), stats.entropy(drawn, equal[None], axis=1))
