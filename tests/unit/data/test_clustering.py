"""Clusters of training images, and a pair of networks that takes them as labels."""

import pytest
import torch
from helpers.runs import ON_CPU, expect_user_error
from torch import Tensor

from distgan.config.schema import ModelConfig, OptimConfig
from distgan.data.base import Dataset
from distgan.data.clustering import _deskew, _edge_features, cluster, cluster_within
from distgan.distributed.runtime import Runtime
from distgan.models.base import build_discriminator, build_generator, generator_labels, num_parameters
from distgan.training.gan import build_gan


def blobs(num: int, each: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """`num` unlike pictures, `each` times with a little noise, in random order; and which one each is."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randint(0, 256, (num, 28, 28), generator=generator)
    owner = (torch.arange(num * each) % num)[torch.randperm(num * each, generator=generator)]
    noise = torch.randint(-8, 9, (num * each, 28, 28), generator=generator)
    return (kinds[owner] + noise).clamp(0, 255).to(torch.uint8), owner


def test_images_that_are_alike_are_of_one_cluster() -> None:
    images, owner = blobs(4, 100)
    found = cluster(images, 40)
    assert found.shape == (400,)
    assert int(found.min()) >= 0
    assert int(found.max()) < 40
    for each in found.unique():
        assert len(owner[found == each].unique()) == 1


def test_centre_is_the_rounded_mean_and_rounds_lower_the_distance() -> None:
    images = torch.randint(0, 256, (500, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    points = _edge_features(_deskew(images)).double()

    def spread(found: Tensor) -> float:
        parts = [points[found == each] for each in found.unique()]
        return sum(float((part - part.mean(0)).square().sum()) for part in parts)

    found = cluster(images, 8)
    means = torch.stack([points[found == each].mean(0) for each in range(8)])
    # With centres rounded to integers few images are nearer to another cluster's mean.
    assert (torch.cdist(points, means).argmin(1) == found).double().mean() > 0.9
    generator = torch.Generator().manual_seed(0)
    assert spread(found) < 0.98 * spread(torch.randint(0, 8, (500,), generator=generator))


def test_leaning_bar_is_put_upright() -> None:
    """By half a pixel a row, each about its own middle; and one that stands is left as it is."""
    rows = torch.arange(4, 24)
    for slope in (0.5, -0.5, 1.0, 0.0):
        image = torch.zeros(1, 28, 28)
        for row in rows:
            column = 14 + slope * (float(row) - 13.5)
            left, part = int(column // 1), column % 1
            image[0, row, left] = 200 * (1 - part)
            image[0, row, left + 1] = 200 * part
        upright = _deskew(image.to(torch.uint8)).double()
        columns = (upright[0] * torch.arange(28)).sum(1)[rows] / upright[0].sum(1)[rows]
        assert (columns - 14).abs().max() < 0.2, slope
        if not slope:
            assert torch.equal(upright, image.to(torch.uint8).double())


def test_no_picture_at_all_has_no_lean_and_no_outline() -> None:
    assert not _edge_features(_deskew(torch.zeros(2, 28, 28, dtype=torch.uint8))).any()
    # All of one grey: an edge to what lies outside, as strong on each side.
    sides = _edge_features(torch.full((1, 28, 28), 255)).view(8, 7, 7).sum((1, 2))
    assert len(sides[:4].unique()) == 1


def test_an_edge_has_a_direction() -> None:
    """A gradient along an axis fills one of eight maps, one along a diagonal another, and one between them two."""
    row, column = torch.meshgrid(torch.arange(28), torch.arange(28), indexing="ij")
    for x, y, expected in ((4, 0, 1), (-4, 0, 1), (0, 4, 1), (0, -4, 1), (3, 3, 1), (3, -3, 1), (4, 2, 2)):
        ramp = (x * (column - 13.5) + y * (row - 13.5)).round() + 128
        maps = _edge_features(ramp.long().unsqueeze(0)).view(8, 7, 7)[:, 3, 3]
        assert int((maps > 0).sum()) == expected, (x, y, maps)


def test_clusters_are_the_same_whatever_the_order_of_sums() -> None:
    """Every sum is one of integers that float32 holds."""
    images, _ = blobs(6, 50)
    labels = cluster(images, 12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distgan.data.clustering._ROWS", 7)
        assert torch.equal(cluster(images, 12), labels)
    before = torch.get_num_threads()
    torch.set_num_threads(1 if before > 1 else 2)
    try:
        assert torch.equal(cluster(images, 12), labels)
    finally:
        torch.set_num_threads(before)
    # The largest sums are of 8 x 7 x 7 products; a cell has at most the root of 6 x 6 pixels' edges, blurred.
    hard = 255 * (torch.rand(500, 28, 28, generator=torch.Generator().manual_seed(4)) < 0.5).long()
    assert float(_edge_features(hard).max()) ** 2 <= 255 * 16 * 9
    assert 255 * 16 * 9 * 8 * 7 * 7 < 2**24
    assert not torch.equal(cluster(images, 12, seed=1), labels)


def test_clusters_of_digits_keep_the_digits_apart() -> None:
    images, owner = blobs(10, 30)
    found = cluster_within(images, owner, 3)
    assert torch.equal(found // 3, owner)
    assert len(found.unique()) > 10


@pytest.mark.parametrize(("name", "clusters"), [("vanilla", 5), ("cgan", 3)])
def test_generator_draws_clusters_as_often_as_the_images_have_them(name: str, clusters: int) -> None:
    model = ModelConfig(name=name, family="clustered", clusters=clusters, width=0.1, latent_dim=16)  # type: ignore
    generator = build_generator(model)
    groups = 10 if name == "cgan" else 1
    counts = torch.randint(0, 50, (groups, clusters), generator=torch.Generator().manual_seed(2))
    counts[:, 1] = 0  # a cluster that no image is of
    generator.cluster_counts.copy_(counts)  # type: ignore[operator, union-attr]
    z, digits = torch.randn(20_000, 16, generator=torch.Generator().manual_seed(3)), torch.arange(20_000) % 10
    labels = generator_labels(generator, z, digits)
    if groups == 10:
        assert torch.equal(labels // clusters, digits)
    drawn = labels.bincount(minlength=groups * clusters).view(groups, clusters)
    assert (drawn[:, 1] == 0).all()
    shares, expected = drawn / drawn.sum(1, keepdim=True), counts / counts.sum(1, keepdim=True)
    assert (shares - expected).abs().max() < 0.05
    # Image i is the same whatever stands beside it, and z itself says nothing of the cluster.
    assert torch.equal(generator_labels(generator, z[5:9], digits[5:9]), labels[5:9])
    assert abs(float(torch.corrcoef(torch.stack([z[:, 0], (labels % clusters).float()]))[0, 1])) < 0.03


def test_other_families_take_the_digits_themselves() -> None:
    generator, digits = build_generator(ModelConfig(name="cgan", family="dcgan", width=0.1)), torch.arange(10)
    assert generator_labels(generator, torch.zeros(10, 100), digits) is digits


@pytest.mark.parametrize("name", ["vanilla", "cgan"])
def test_clustered_pair_is_no_larger_than_the_reports(name: str) -> None:
    own = ModelConfig(name=name, family="clustered", clusters=250 if name == "vanilla" else 25)  # type: ignore
    reports = ModelConfig(name=name)  # type: ignore[arg-type]
    for build in (build_generator, build_discriminator):
        assert num_parameters(build(own)) <= num_parameters(build(reports))


def test_run_with_clusters_of_another_version_is_not_gone_on_with() -> None:
    """Their numbers say nothing of which images they are."""
    model = ModelConfig(name="vanilla", family="clustered", clusters=3, width=0.1, latent_dim=8, dropout=0.0)
    images, owner = blobs(3, 20)
    optim = OptimConfig(loss="r3gan", ema_decay=0.9)
    gan = build_gan(model, optim, 0, Runtime(ON_CPU))
    gan.prepare_labels(Dataset("digits", images, owner, "nowhere"))
    state = gan.state()
    gan.load_state(state, 0, "a checkpoint")
    state["generator.cluster_counts"] = state["generator.cluster_counts"].roll(1) + 1
    with expect_user_error("checkpoint ... [wrong-weights]"):
        gan.load_state(state, 0, "a checkpoint")
