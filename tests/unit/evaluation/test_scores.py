"""The numbers themselves: against closed forms, against torchmetrics, and whether intervals hold what they promise."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.memory import at_most
from torch import Tensor, nn

from distgan.evaluation.classifiers import NUM_FEATURES
from distgan.evaluation.ensemble import _run_chunks
from distgan.evaluation.schema import Estimate
from distgan.evaluation.scores import (
    FEWEST,
    K,
    Moments,
    density_and_coverage,
    distance,
    estimate_proportion,
    kl_divergence,
    manifold,
    mean,
    measure_fcd,
    moments,
    nearest,
    square_root,
)
from distgan.models.sampling import CHUNK


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normals(n: int, seed: int, shift: float = 0.0, num: int = NUM_FEATURES) -> Tensor:
    return torch.randn(n, num, generator=seeded(seed)).double() + shift


def test_interval_of_a_share_is_wilsons() -> None:
    """Wilson 1927: the shares p for which |k / n - p| is at most z sqrt(p (1 - p) / n)."""
    found, z = estimate_proportion(81, 263), 1.959964
    for end in (found.low, found.high):
        assert abs(81 / 263 - end) == pytest.approx(z * math.sqrt(end * (1 - end) / 263), rel=1e-5)
    assert found.low < 81 / 263 < found.high


@pytest.mark.parametrize(("num", "of"), [(0, 10), (10, 10), (0, 10_000), (10_000, 10_000), (0, 0)])
def test_share_stays_between_0_and_1_and_holds_its_value(num: int, of: int) -> None:
    found = estimate_proportion(num, of)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high > found.low


def test_mean_has_students_interval() -> None:
    found = mean(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    half = 3.182446 * math.sqrt(5 / 3) / 2
    assert found.value == 2.5
    assert found.high - found.value == pytest.approx(half, rel=1e-5)


def test_kl_is_0_of_the_expected_shares_and_log_10_of_one_class() -> None:
    equal, uneven = np.full(10, 0.1), np.array([0.7, 0.2, 0.1])
    assert kl_divergence(np.full(10, 100), equal).value == pytest.approx(0, abs=1e-12)
    assert kl_divergence(np.array([1000] + 9 * [0]), equal).value == pytest.approx(math.log(10))
    assert kl_divergence(np.array([700, 200, 100]), uneven).value == pytest.approx(0, abs=1e-12)
    assert kl_divergence(np.array([0, 0, 9]), uneven).value == pytest.approx(math.log(10))


def test_fcd_of_normals_has_the_closed_form() -> None:
    """Diagonal covariances commute: |m|^2 + sum (s1 - s2)^2."""
    one = Moments(torch.zeros(3).double(), torch.diag(torch.tensor([1.0, 4.0, 9.0])).double())
    other = Moments(torch.tensor([1.0, 0, 2]).double(), torch.diag(torch.tensor([4.0, 4.0, 1.0])).double())
    assert float(distance(one, other, square_root(other.cov))) == pytest.approx(5 + 1 + 0 + 4)


def test_fcd_is_that_of_torchmetrics() -> None:
    """Which calls it FID, takes it of images, and its eigenvalues from a matrix that is not symmetric."""
    fid = pytest.importorskip("torchmetrics.image.fid")

    class Features(nn.Module):
        """The features are the images themselves."""

        num_features = NUM_FEATURES

        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :NUM_FEATURES]

    real, fake = normals(500, 0), normals(400, 1, 0.1) * 1.3
    metric = fid.FrechetInceptionDistance(Features(), input_img_size=(1, 8, 8), normalize=True)
    metric.set_dtype(torch.float64)
    for features, is_real in ((real, True), (fake, False)):
        metric.update(features.view(-1, 1, 8, 8), real=is_real)
    found = measure_fcd(fake, moments(real), num_draws=5)
    assert found is not None
    assert found.value == pytest.approx(float(metric.compute()), rel=1e-6)


def test_weighted_moments_are_those_of_the_repeated_images() -> None:
    features = normals(100, 0)
    counts = torch.from_numpy(np.random.default_rng(0).multinomial(100, np.full(100, 0.01), size=2)).double()
    for row, own in zip(counts, zip(*moments(features, counts), strict=True), strict=True):
        expected = moments(features.repeat_interleave(row.long(), 0))
        assert torch.allclose(own[0], expected.mean)
        assert torch.allclose(own[1], expected.cov)


def test_fcd_needs_more_images_than_features() -> None:
    reference = moments(normals(500, 0))
    assert measure_fcd(normals(FEWEST - 1, 1), reference, num_draws=5) is None
    assert measure_fcd(normals(FEWEST, 1), reference, num_draws=5) is not None


@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_interval_of_fcd_holds_what_other_images_of_the_same_generator_give(shift: float) -> None:
    """Nearly all of 40 generators' intervals hold the mean over many of them, at the baseline too."""
    reference = moments(normals(4000, 0))
    root = square_root(reference.cov)
    n = 400
    expected = np.mean([float(distance(moments(normals(n, 1000 + i, shift)), reference, root)) for i in range(200)])
    found = [measure_fcd(normals(n, i + 1, shift), reference, num_draws=60) for i in range(40)]
    holding = sum(each.low <= expected <= each.high for each in found if each)
    assert holding >= 35
    # And are no wider than they have to be: a tenth of the distance, or so.
    widths = [(each.high - each.low) / expected for each in found if each]
    assert np.median(widths) < 0.4


def naive(real: Tensor, fake: Tensor) -> tuple[float, float]:
    """Naeem et al. 2020, equations 4 and 5, as they stand there."""
    balls = [sorted(float((a - b).norm()) for b in real)[K] for a in real]
    inside = [[float((x - y).norm()) <= ball for x, ball in zip(real, balls, strict=True)] for y in fake]
    density = sum(map(sum, inside)) / (K * len(fake))
    covered = sum(any(row[i] for row in inside) for i in range(len(real)))
    return density, covered / len(real)


def test_density_and_coverage_are_the_papers() -> None:
    real, fake = normals(40, 0, num=3), normals(30, 1, 0.5, num=3)
    density, covered = density_and_coverage(manifold(real), fake)
    expected = naive(real, fake)
    assert float(density.mean()) == pytest.approx(expected[0])
    assert float(covered.double().mean()) == pytest.approx(expected[1])
    assert 0 < expected[1] < 1


def test_memory_is_that_of_a_part_of_the_images() -> None:
    real, images = manifold(normals(20, 0)), torch.ones(60_000, 28, 28, dtype=torch.uint8)
    features = torch.ones(200_000, NUM_FEATURES)
    nearest(images[:2000], images[:5])  # the libraries' own memory
    density_and_coverage(real, features[:2000])
    with at_most(60):  # in float: 180 MiB
        assert len(nearest(images, images[:5]).which) == 60_000
    with at_most(60):  # in double: 98 MiB
        assert len(density_and_coverage(real, features)[0]) == 200_000


def test_work_in_chunks_is_joined_in_its_order() -> None:
    runtime: Any = SimpleNamespace(world_size=1, rank=0, device=torch.device("cpu"))
    for num in (1, CHUNK, 4 * CHUNK + 3):
        first, second = _run_chunks(num, runtime, lambda chunk: (torch.full((CHUNK, 2), chunk), torch.arange(CHUNK)))
        assert torch.equal(first, (torch.arange(num) // CHUNK)[:, None].expand(-1, 2))
        assert torch.equal(second, torch.arange(num) % CHUNK)


def test_nearest_is_the_nearest() -> None:
    images = torch.randint(0, 256, (30, 28, 28), generator=seeded(0)).to(torch.uint8)
    moved = images.clone()
    moved[:, 0, 0] ^= 4
    found = nearest(moved, images.flip(0))
    assert torch.equal(found.which, torch.arange(29, -1, -1))
    assert torch.allclose(found.greys, torch.full((30,), 4 / 28), atol=0.05)


def test_estimate_reads_as_words() -> None:
    assert f"{Estimate(value=0.5, low=0.25, high=0.75):.1%}" == "50.0% (25.0% to 75.0%)"
