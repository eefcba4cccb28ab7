"""This rank's images, step by step: resident on the device, in the order of torch's DistributedSampler."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

from distgan.config import DataConfig
from distgan.data import Dataset
from distgan.errors import UserError


class Batch(NamedTuple):
    """Real images (N, 1, 28, 28) in [-1, 1] and their labels (N,)."""

    real: Tensor
    labels: Tensor


def per_rank_size(config: DataConfig, world_size: int) -> int:
    """Images per step and rank. Raises UserError for a global batch that the ranks can't share evenly."""
    if config.per_rank_batch_size is not None:
        return config.per_rank_batch_size
    batch_size = config.batch_size
    assert batch_size is not None
    if batch_size % world_size:
        raise UserError(
            f"--batch-size {batch_size}: does not divide by the {world_size} processes; allowed: a multiple "
            f"of {world_size}, or --per-rank-batch-size"
        )
    if batch_size // world_size < 2:
        raise UserError(
            f"--batch-size {batch_size}: leaves {batch_size // world_size} image for each of {world_size} "
            f"processes; BatchNorm needs 2: at least {2 * world_size}"
        )
    return batch_size // world_size


def steps_in_epoch(num_images: int, size: int, world_size: int, drop_last: bool) -> int:
    """How many steps an epoch has. Raises UserError for a batch that can't be trained on."""
    share = num_images // world_size if drop_last else -(-num_images // world_size)
    if drop_last and share < size:
        raise UserError(
            f"--batch-size {size * world_size}: --drop-last leaves nothing of {num_images:,} images; allowed: at "
            f"most {share * world_size}"
        )
    if not drop_last and share % size == 1:  # BatchNorm has no statistics of one image
        raise UserError(
            f"--batch-size {size * world_size}: leaves a last batch of 1 image a process, too few for BatchNorm; "
            "allowed: another size, or --drop-last"
        )
    return share // size if drop_last else -(-share // size)


class Batches:
    """Endless batches; `seek(step)` goes to any of them, so that a position is one number.

    `size` is this rank's share of a step. An epoch ends with the short batch that is left over, unless
    `drop_last`; so 60,000 images in batches of 256 are 235 steps, the last of 96.
    """

    def __init__(
        self,
        dataset: Dataset,
        size: int,
        *,
        drop_last: bool,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.images = dataset.images.to(device)
        self.labels = dataset.labels.to(device)
        self.sampler: DistributedSampler = DistributedSampler(
            range(len(dataset.images)),  # type: ignore[arg-type]  # only its length is looked at
            num_replicas=world_size,
            rank=rank,
            seed=seed,
            drop_last=drop_last,
        )
        self.size = size
        self.steps_per_epoch = steps_in_epoch(len(dataset.images), size, world_size, drop_last)
        self._epoch = -1
        self._order = torch.empty(0)
        self.seek(0)

    def seek(self, step: int) -> None:
        """Makes the batch after this one that of `step`, counted from 0."""
        self.step = step

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Batch:
        epoch, index = divmod(self.step, self.steps_per_epoch)
        if epoch != self._epoch:
            self.sampler.set_epoch(epoch)
            self._order = torch.tensor(list(self.sampler), device=self.images.device)
            self._epoch = epoch
        self.step += 1
        rows = self._order[index * self.size : (index + 1) * self.size]
        return Batch(scale(self.images[rows]), self.labels[rows])


def scale(images: Tensor) -> Tensor:
    """uint8 (N, 28, 28) as float32 (N, 1, 28, 28) in [-1, 1], the range of G's tanh."""
    return images.unsqueeze(1).float().div(127.5).sub(1)
