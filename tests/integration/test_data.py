"""Real MNIST."""

from pathlib import Path

import pytest
import torch
from helpers.runs import expect_user_error

from distgan.config.schema import DataConfig
from distgan.data.base import load_dataset
from distgan.data.clustering import cluster


def test_most_images_of_a_cluster_are_of_one_digit(mnist_dir: Path) -> None:
    """Though no label is looked at. Of 60,000 in 250 clusters 97.4 %; these are fewer, so less alike."""
    data = load_dataset(DataConfig(dir=str(mnist_dir)), may_download=False)
    images, digits = data.images[:6000], data.labels[:6000]
    counts = torch.zeros(250, 10).index_put_((cluster(images, 250), digits), torch.ones(6000), accumulate=True)
    assert counts.max(1).values.sum() / 6000 > 0.95


def test_real_mnist_is_what_torchvision_reads(mnist_dir: Path) -> None:
    torchvision = pytest.importorskip("torchvision.datasets")
    theirs = torchvision.MNIST(mnist_dir, download=False)
    ours = load_dataset(DataConfig(dir=str(mnist_dir)))
    assert ours.name == "mnist"
    assert ours.notice is None
    assert len(ours.images) == 60_000
    assert torch.equal(ours.images, theirs.data)
    assert torch.equal(ours.labels, theirs.targets)
    assert ours.labels[0] == 5


@pytest.mark.parametrize("name", ["fashion-mnist", "kmnist"])
def test_real_mnist_is_rejected_under_the_names_of_its_twins(mnist_dir: Path, name: str) -> None:
    raw = mnist_dir / "MNIST" / "raw"
    with expect_user_error(f"{raw}/train-", "mnist's train-", name, code="checksum-mismatch"):
        load_dataset(DataConfig(name=name, dir=str(raw), md5="accept"))
    with expect_user_error(f"{raw}/t10k-", "mnist's t10k-", name, code="checksum-mismatch"):
        load_dataset(DataConfig(name=name, dir=str(raw)), "test")


def test_real_test_set_is_what_torchvision_reads(mnist_dir: Path) -> None:
    torchvision = pytest.importorskip("torchvision.datasets")
    theirs = torchvision.MNIST(mnist_dir, train=False, download=False)
    ours = load_dataset(DataConfig(dir=str(mnist_dir)), "test")
    assert ours.warning is None
    assert torch.equal(ours.images, theirs.data)
    assert torch.equal(ours.labels, theirs.targets)
