"""K-means of the training images: the kinds of image that both networks may be told, without any label.

In whole numbers throughout, so that every machine, device and number of threads finds the same clusters to the bit.
"""

import torch
from torch import Tensor

# Lloyd's rounds. MNIST moves by less than one image in a thousand after about as many.
_ROUNDS = 20
_ROWS = 4096  # of a table of distances at a time


def cluster_within(images: Tensor, groups: Tensor, num: int) -> Tensor:
    """`cluster` within each group of images, (N,) of small numbers: group * `num` + its cluster, (N,)."""
    found = groups * num
    for group in groups.unique():
        own = groups == group
        found[own] += cluster(images[own], num)
    return found


def cluster(images: Tensor, num: int, seed: int = 0) -> Tensor:
    """The cluster (N,) of each of (N, H, W) uint8, from 0 to `num` - 1, by Lloyd's algorithm from random images.

    Of images at half the size, of 64 greys: float32 then holds every sum of their products exactly. Centres are rounded
    to whole greys. Some clusters may be left without an image.
    """
    small = _coarse(images)
    chosen = torch.randperm(len(small), generator=torch.Generator().manual_seed(seed))[:num]
    centres, found = small[chosen], torch.full((len(small),), -1)
    for _ in range(_ROUNDS):
        nearest = _nearest(small, centres)
        if torch.equal(nearest, found):
            break
        found = nearest
        sums = torch.zeros_like(centres).index_add_(0, found, small).long()
        counts = found.bincount(minlength=len(centres)).unsqueeze(1)
        means = (2 * sums + counts).div((2 * counts).clamp(min=1), rounding_mode="floor")
        centres = torch.where(counts > 0, means.float(), centres)
    return found


def _coarse(images: Tensor) -> Tensor:
    """(N, H, W) uint8 as whole numbers from 0 to 63, (N, H / 2 * W / 2) float32."""
    rows, columns = images.shape[1] // 2 * 2, images.shape[2] // 2 * 2
    blocks = images[:, :rows, :columns].int().unflatten(1, (-1, 2)).unflatten(3, (-1, 2))
    return (blocks.sum((2, 4)) // 16).flatten(1).float()


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    """The nearest centre of each point, (N,); of two as near the first."""
    squares, num = centres.square().sum(1), len(centres)
    found = []
    for part in points.split(_ROWS):
        distances = (squares - 2 * part @ centres.T).long()
        found.append((distances * num + torch.arange(num)).argmin(1))
    return torch.cat(found)
