"""The order of the images is torch's own DistributedSampler's, and every rank gets its share of it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from distgan.batches import Batches, per_rank_size, scale, steps_in_epoch
from distgan.config import DataConfig
from distgan.data import Dataset
from distgan.errors import UserError

CPU = torch.device("cpu")


def numbered(num: int) -> Dataset:
    """Images that carry their own index: the first two pixels are its bytes."""
    images = torch.zeros(num, 28, 28, dtype=torch.uint8)
    images[:, 0, 0], images[:, 0, 1] = torch.arange(num) // 256, torch.arange(num) % 256
    return Dataset("numbered", images, torch.arange(num) % 10, "memory")


def indices(real: torch.Tensor) -> list[int]:
    pixels = real.add(1).mul(127.5).round().long()
    return (pixels[:, 0, 0, 0] * 256 + pixels[:, 0, 0, 1]).tolist()


@settings(max_examples=60, deadline=None)
@given(
    num=st.integers(2, 400),
    size=st.integers(2, 64),
    world_size=st.integers(1, 5),
    drop_last=st.booleans(),
    seed=st.integers(0, 2**31 - 1),
)
def test_order_is_distributed_samplers(
    num: int, size: int, world_size: int, drop_last: bool, seed: int
) -> None:
    """Against torch's sampler in torch's DataLoader, over three epochs and all ranks."""
    try:
        steps = steps_in_epoch(num, size, world_size, drop_last)
    except UserError:
        return
    dataset = numbered(num)
    for rank in range(world_size):
        options = {"num_replicas": world_size, "rank": rank, "seed": seed, "drop_last": drop_last}
        sampler = DistributedSampler(range(num), **options)
        loader = DataLoader(TensorDataset(torch.arange(num)), size, sampler=sampler, drop_last=drop_last)
        batches = Batches(
            dataset, size, drop_last=drop_last, seed=seed, device=CPU, rank=rank, world_size=world_size
        )
        for epoch in range(3):
            sampler.set_epoch(epoch)
            theirs = [batch.tolist() for (batch,) in loader]
            assert len(theirs) == batches.steps_per_epoch == steps
            ours = [next(batches) for _ in range(steps)]
            assert [indices(real) for real, _ in ours] == theirs
            assert [labels.tolist() for _, labels in ours] == [[i % 10 for i in batch] for batch in theirs]


@settings(max_examples=30, deadline=None)
@given(
    num=st.integers(4, 300), size=st.integers(2, 20), world_size=st.integers(2, 4), step=st.integers(0, 60)
)
def test_ranks_together_hold_one_process_batch(num: int, size: int, world_size: int, step: int) -> None:
    """Row i of a global batch is with rank i mod W: what Noise relies on."""
    num -= num % (size * world_size)
    if not num:
        return
    dataset = numbered(num)
    whole = Batches(dataset, size * world_size, drop_last=False, seed=3, device=CPU)
    whole.seek(step)
    together = indices(next(whole).real)
    for rank in range(world_size):
        part = Batches(dataset, size, drop_last=False, seed=3, device=CPU, rank=rank, world_size=world_size)
        part.seek(step)
        assert indices(next(part).real) == together[rank::world_size]


def test_seek_lands_where_walking_does() -> None:
    walked, sought = (Batches(numbered(100), 32, drop_last=False, seed=1, device=CPU) for _ in range(2))
    for step in range(9):
        real, _ = next(walked)
        sought.seek(step)
        assert torch.equal(next(sought).real, real)
        assert len(real) == (4 if step % 4 == 3 else 32), "60,000 = 234 x 256 + 96: the short batch is kept"


def test_mnist_epoch_is_235_steps_of_256() -> None:
    assert steps_in_epoch(60_000, 256, 1, False) == 235
    assert steps_in_epoch(60_000, 256, 1, True) == 234
    assert steps_in_epoch(60_000, 64, 4, False) == 235


def test_scale_spans_minus_one_to_one() -> None:
    pixels = torch.tensor([0, 127, 128, 255], dtype=torch.uint8).view(1, 2, 2)
    assert scale(pixels).flatten().tolist() == pytest.approx([-1, -1 / 255, 1 / 255, 1], abs=1e-6)
    assert scale(pixels).shape == (1, 1, 2, 2)


def test_batch_size_is_global() -> None:
    assert per_rank_size(DataConfig(batch_size=256), 4) == 64
    assert per_rank_size(DataConfig(batch_size=None, per_rank_batch_size=256), 4) == 256


@pytest.mark.parametrize(
    ("batch_size", "world_size", "words"),
    [(256, 3, "--batch-size 256: does not divide by the 3"), (4, 4, "--batch-size 4: leaves 1 image")],
)
def test_uneven_batch_size_is_refused(batch_size: int, world_size: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        per_rank_size(DataConfig(batch_size=batch_size), world_size)


def test_batches_that_can_not_be_trained_on_are_refused() -> None:
    with pytest.raises(UserError, match="--drop-last leaves nothing of 100 images; allowed: at most 100"):
        steps_in_epoch(100, 128, 1, True)
    with pytest.raises(UserError, match="a last batch of 1 image"):
        steps_in_epoch(65, 32, 1, False)
    assert steps_in_epoch(65, 32, 1, True) == 2
