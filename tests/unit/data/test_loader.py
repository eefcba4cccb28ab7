"""The order of the images is torch's own DistributedSampler's, and every rank gets its share of it."""

import pytest
import torch
from helpers.runs import expect_user_error
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from distgan.config.schema import Config, DataConfig, OptimConfig, ProcessesConfig
from distgan.data.base import Dataset
from distgan.data.loader import Batches, global_batch_size, min_batch_size, scale, steps_in_epoch
from distgan.distributed.sharding import BatchShard
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
def test_order_is_distributed_samplers(num: int, size: int, world_size: int, drop_last: bool, seed: int) -> None:
    """Each rank walks torch's own sampler, but for what that repeats at the end to fill up."""
    try:
        steps = steps_in_epoch(num, size, drop_last, fewest=world_size)
    except UserError:
        return
    dataset = numbered(num)
    for rank in range(world_size):
        sampler = DistributedSampler(range(num), num_replicas=world_size, rank=rank, seed=seed)
        batches = Batches(
            dataset, size, BatchShard(rank, world_size), drop_last=drop_last, seed=seed, device=CPU, fewest=world_size
        )
        for epoch in range(3):
            sampler.set_epoch(epoch)
            theirs = list(sampler)[: len(range(rank, min(num, steps * size), world_size))]
            assert batches.steps_per_epoch == steps
            ours = [next(batches) for _ in range(steps)]
            assert [index for batch in ours for index in indices(batch.real)] == theirs
            assert [label for batch in ours for label in batch.labels.tolist()] == [i % 10 for i in theirs]


def test_one_process_is_the_data_loader() -> None:
    """Batch by batch, against torch's DataLoader."""
    sampler = DistributedSampler(range(100), num_replicas=1, rank=0, seed=4)
    loader = DataLoader(TensorDataset(torch.arange(100)), 32, sampler=sampler)
    batches = Batches(numbered(100), 32, BatchShard(), drop_last=False, seed=4, device=CPU)
    assert [batch.tolist() for (batch,) in loader] == [indices(next(batches).real) for _ in range(4)]


@settings(max_examples=60, deadline=None)
@given(num=st.integers(4, 300), size=st.integers(2, 40), world_size=st.integers(2, 5), step=st.integers(0, 60))
def test_ranks_together_hold_one_process_batch(num: int, size: int, world_size: int, step: int) -> None:
    """The short last batch too, and batches that do not divide: each image once, where the noise has its row."""
    dataset = numbered(num)
    try:
        full = Batches(dataset, size, BatchShard(), drop_last=False, seed=3, device=CPU, fewest=world_size)
    except UserError:
        return
    full.seek(step)
    real, _, rows = next(full)
    for rank in range(world_size):
        shard = BatchShard(rank, world_size)
        part = Batches(dataset, size, shard, drop_last=False, seed=3, device=CPU, fewest=world_size)
        part.seek(step)
        batch = next(part)
        assert batch.rows == rows
        shard.rows = rows
        assert indices(batch.real) == torch.tensor(indices(real))[shard.row_indices(CPU)].tolist()


def test_seek_lands_where_walking_does() -> None:
    walked, sought = (Batches(numbered(100), 32, BatchShard(), drop_last=False, seed=1, device=CPU) for _ in range(2))
    for step in range(9):
        real, _, _ = next(walked)
        sought.seek(step)
        assert torch.equal(next(sought).real, real)
        assert len(real) == (4 if step % 4 == 3 else 32), "60,000 = 234 x 256 + 96: the short batch is kept"


def test_mnist_epoch_is_235_steps_of_256() -> None:
    assert steps_in_epoch(60_000, 256, False) == 235
    assert steps_in_epoch(60_000, 256, True) == 234


def test_scale_spans_minus_one_to_one() -> None:
    pixels = torch.tensor([0, 127, 128, 255], dtype=torch.uint8).view(1, 2, 2)
    assert scale(pixels).flatten().tolist() == pytest.approx([-1, -1 / 255, 1 / 255, 1], abs=1e-6)
    assert scale(pixels).shape == (1, 1, 2, 2)


def test_batch_size_is_global() -> None:
    assert global_batch_size(DataConfig(batch_size=256), 3) == 256
    assert global_batch_size(DataConfig(batch_size=None, per_rank_batch_size=256), 4) == 1024


@pytest.mark.parametrize(
    ("world_size", "accumulate", "sync", "expected"),
    [(1, 1, True, 2), (4, 1, True, 4), (4, 3, True, 12), (4, 1, False, 8), (1, 3, True, 3)],
)
def test_fewest_rows(world_size: int, accumulate: int, sync: bool, expected: int) -> None:
    config = Config(optim=OptimConfig(d_microbatches=accumulate), processes=ProcessesConfig(sync_batch_norm=sync))
    assert min_batch_size(config, world_size) == expected


def test_batches_that_can_not_be_trained_on_are_rejected() -> None:
    with expect_user_error("--drop-last ... 100 ... at most 100 ... [bad-value]"):
        steps_in_epoch(100, 128, True)
    with expect_user_error("--batch-size: ... 1 of 65 ... [batch-too-small]"):
        steps_in_epoch(65, 32, False)
    with expect_user_error("--batch-size: ... 3 of 67 ... 4 ... [batch-too-small]"):
        steps_in_epoch(67, 32, False, fewest=4)
    with expect_user_error("--batch-size ... 3 ... at least 4 ... [batch-too-small]"):
        steps_in_epoch(67, 3, False, fewest=4)
    assert steps_in_epoch(65, 32, True) == 2
