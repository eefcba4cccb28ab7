"""This rank's images, step by step: resident on the device, in the order of torch's DistributedSampler."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

from distgan.config.schema import Config, DataConfig
from distgan.data.base import Dataset
from distgan.data.decoding import MEMORY_SHARE
from distgan.distributed.sharding import BatchShard
from distgan.errors import UserError
from distgan.utils.counter_rng import derive_seed
from distgan.utils.devices import upload


class Batch(NamedTuple):
    """Real images (N, C, H, W) in [-1, 1] and their labels (N,): this rank's of the `rows` of all ranks."""

    real: Tensor
    labels: Tensor
    rows: range


def global_batch_size(config: DataConfig, world_size: int) -> int:
    """Return the images per step over all ranks."""
    if config.batch_size is not None:
        return config.batch_size
    assert config.per_rank_batch_size is not None
    return config.per_rank_batch_size * world_size


def min_batch_size(config: Config, world_size: int) -> int:
    """Return the smallest batch over all ranks: a row per rank and microbatch, two for BatchNorm."""
    separate = 1 if config.processes.sync_batch_norm else world_size
    return max(world_size * config.optim.d_microbatches, 2 * separate)


def check_batch_size(size: int, fewest: int) -> None:
    """Raise UserError for a batch that leaves a rank or a microbatch without rows."""
    if size < fewest:
        raise UserError(
            f"--batch-size: too few images for the processes, --d-microbatches and BatchNorm ({size}). "
            f"Expected: at least {fewest}",
            code="batch-too-small",
        )


def steps_in_epoch(num_images: int, size: int, drop_last: bool, *, fewest: int = 2) -> int:
    """Return the number of steps of an epoch, of `size` images over all ranks.

    Raises UserError for a batch that can't be trained on, or one of fewer than `fewest` images: what the
    ranks, the parts that a step is taken in, and BatchNorm need.
    """
    check_batch_size(size, fewest)
    steps, left = divmod(num_images, size)
    if drop_last:
        if not steps:
            raise UserError(
                f"--batch-size: with --drop-last none of the {num_images:,} images is left ({size}). Expected: at most "
                f"{num_images}",
                code="conflicting-settings",
            )
        return steps
    if 0 < left < fewest:
        raise UserError(
            f"--batch-size: leaves a last batch of {left} of {num_images:,} images, too few for the processes, "
            f"--d-microbatches and BatchNorm, which need {fewest} ({size}). Expected: another size, or --drop-last",
            code="batch-too-small",
        )
    return steps + (left > 0)


def check_memory(images: Tensor, device: torch.device) -> None:
    """Raise UserError for images that would leave a GPU too little memory for training."""
    if device.type != "cuda":
        return
    total = torch.cuda.get_device_properties(device).total_memory
    if images.nbytes > MEMORY_SHARE * total:
        raise UserError(
            f"--data: images of {images.nbytes / 2**30:.1f} GiB. Expected on this GPU, in which all stay: at most "
            f"{MEMORY_SHARE:.0%} of {total / 2**30:.1f} GiB; a smaller --image-size takes less",
            code="unavailable",
        )


class Batches:
    """Endless batches; `seek(step)` goes to any of them, so that a position is one number.

    `size` is the batch over all ranks. An epoch ends with the short batch that is left over, unless
    `drop_last`; so 60,000 images in batches of 256 are 235 steps, the last of 96. Each rank has its share of
    each, which for a short batch, or one that does not divide, may be one image more or less than another's.
    """

    def __init__(
        self,
        dataset: Dataset,
        size: int,
        shard: BatchShard,
        *,
        drop_last: bool,
        seed: int,
        device: torch.device,
        fewest: int = 2,
        flip: bool = False,
    ):
        check_memory(dataset.images, device)
        self.images = dataset.images.to(device)
        self.labels = dataset.labels.to(device)
        self.shard = shard
        # The sampler repeats images until the ranks have the same number: beyond the rows of any batch.
        self.sampler: DistributedSampler = DistributedSampler(
            range(len(dataset.images)),  # type: ignore[arg-type]  # only its length is looked at
            num_replicas=shard.world_size,
            rank=shard.rank,
            seed=seed,
        )
        self.seed, self.size = seed, size
        # Of each image in the current epoch, at a fixed address as `order`; None: without --mirror.
        self.is_flipped = torch.zeros(len(dataset.images), dtype=torch.bool, device=device) if flip else None
        self.steps_per_epoch = steps_in_epoch(len(dataset.images), size, drop_last, fewest=fewest)
        self._epoch = -1
        # This rank's images of the epoch in hand; always in the same memory, where a graph reads them.
        self.order = torch.zeros(len(self.sampler), dtype=torch.int64, device=device)
        self.seek(0)

    def seek(self, step: int) -> None:
        """Make the next batch that of `step`, counted from 0."""
        self.step = step

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Batch:
        epoch, index = divmod(self.step, self.steps_per_epoch)
        self.load(epoch)
        self.step += 1
        rows = self.rows(index)
        return Batch(*self.take(self.order[self.shard.local_slice(rows)]), rows)

    def rows(self, index: int) -> range:
        """Return the rows of a batch of the epoch, over all ranks."""
        return range(index * self.size, min((index + 1) * self.size, len(self.images)))

    def load(self, epoch: int) -> None:
        """Set `order` to that of an epoch."""
        if epoch != self._epoch:
            self.sampler.set_epoch(epoch)
            upload(torch.tensor(list(self.sampler)), self.order)
            if self.is_flipped is not None:
                generator = torch.Generator().manual_seed(derive_seed(self.seed, "mirror", epoch))
                upload(torch.randint(2, (len(self.images),), generator=generator).bool(), self.is_flipped)
            self._epoch = epoch

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return images (N, C, H, W) in [-1, 1] and labels (N,) of these indices, (N,) on the device."""
        images = self.images[rows]
        if self.is_flipped is not None:
            flipped = self.is_flipped[rows].view(-1, *[1] * (images.ndim - 1))
            images = torch.where(flipped, images.flip(-1), images)
        return scale(images), self.labels[rows]


def scale(images: Tensor) -> Tensor:
    """Return uint8 (N, H, W) or (N, C, H, W) as floats (N, C, H, W) in [-1, 1], the range of G's tanh."""
    images = images.unsqueeze(1) if images.ndim == 3 else images
    return images.to(torch.get_default_dtype()).div(127.5).sub(1)
