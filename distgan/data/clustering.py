"""K-means of the training images: labels for both networks without labelled data.

In integers throughout, so that every machine, device and number of threads finds the same clusters to the bit.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from distgan.errors import UserError

# Lloyd's rounds. MNIST moves by less than one image in a thousand after about as many.
_ROUNDS = 20
_ROWS = 4096  # of a table of distances at a time
_CELL = 4  # pixels
_SIDE = 28  # pixels, to which larger images are brought


def check_clusters(num: int, num_images: int, groups: int) -> None:
    """Raise UserError for more clusters in each group of images than it has images on average."""
    limit = num_images // groups
    if num > limit:
        images = f"{num_images:,} images" + (f" of {groups:,} classes" if groups > 1 else "")
        raise UserError(
            f"--clusters: too many for {images} ({num}). Expected: at most {limit}"
            + (" for each class" if groups > 1 else "")
        )


def cluster_within(images: Tensor, groups: Tensor, num: int) -> Tensor:
    """Cluster within each group of images, (N,) of small numbers. Return group * `num` + cluster, (N,)."""
    clusters = groups * num
    for group in groups.unique():
        mask = groups == group
        clusters[mask] += cluster(images[mask], num)
    return clusters


def cluster(images: Tensor, num: int, seed: int = 0) -> Tensor:
    """Return the cluster (N,) of each image, 0 to `num` - 1, by Lloyd's algorithm from random images.

    `images`: uint8 (N, H, W), or (N, 3, H, W), of which the brightness counts.

    Of the outlines of upright images: 97 % of MNIST are then of the digit that most of their cluster are, with 250 of
    them; by the images' own pixels 91 % (LOG.md). Centres are rounded to integers. Some clusters may be empty.
    """
    if num == 1:
        return torch.zeros(len(images), dtype=torch.int64)  # without the outlines, which take seconds
    points = torch.cat([_edge_features(_deskew(_small_greys(part))) for part in images.split(_ROWS)])
    chosen = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))[:num]
    centres, assigned = points[chosen], torch.full((len(points),), -1)
    for _ in range(_ROUNDS):
        nearest = _nearest(points, centres)
        if torch.equal(nearest, assigned):
            break
        assigned = nearest
        sums = torch.zeros_like(centres).index_add_(0, assigned, points).long()
        counts = assigned.bincount(minlength=len(centres)).unsqueeze(1)
        means = (2 * sums + counts).div((2 * counts).clamp(min=1), rounding_mode="floor")
        centres = torch.where(counts > 0, means.float(), centres)
    return assigned


def _small_greys(images: Tensor) -> Tensor:
    """Return (N, H, W) uint8 of at most 28 pixels a side, of which `_nearest` has exact sums, all in integers.

    Colours are weighted as by ITU-R BT.601, in 256ths; pixels become means of squares of them.
    """
    if images.ndim == 4:
        weights = torch.tensor([77, 150, 29]).view(3, 1, 1)
        images = (images.long() * weights).sum(1).div(256, rounding_mode="floor").to(torch.uint8)
    block = -(-max(images.shape[1:]) // _SIDE)
    if block == 1:
        return images
    sums = F.avg_pool2d(images.double().unsqueeze(1), block, ceil_mode=True, divisor_override=1).squeeze(1)
    return sums.div(block * block, rounding_mode="floor").to(torch.uint8)


def _deskew(images: Tensor) -> Tensor:
    """Shear (N, H, W) uint8, each about its middle, until it is upright. Return (N, H, W) int64, 0 to 255.

    So that its greys' covariance of row and column is zero, to a 256th of a pixel a row; by at most two pixels a row.
    """
    greys, (height, width) = images.long(), images.shape[1:]
    rows, columns = torch.arange(height), torch.arange(width)
    mass = greys.sum((1, 2)).clamp(min=1)
    row_sum, column_sum = (greys.sum(2) * rows).sum(1), (greys.sum(1) * columns).sum(1)
    covariance = mass * ((greys * columns).sum(2) * rows).sum(1) - row_sum * column_sum
    variance = (mass * (greys.sum(2) * rows**2).sum(1) - row_sum**2).clamp(min=1)
    slope = (256 * covariance).div(variance, rounding_mode="floor").clamp(-512, 512)
    # (N, H), of 256ths of a pixel.
    away = rows * mass.unsqueeze(1) - row_sum.unsqueeze(1)
    shift = (slope.unsqueeze(1) * away).div(mass.unsqueeze(1), rounding_mode="floor").unsqueeze(2)
    padded, left = F.pad(greys, (1, 1)), columns + shift // 256 + 1
    first, second = (padded.gather(2, at.clamp(0, width + 1)) for at in (left, left + 1))
    return ((256 - shift % 256) * first + shift % 256 * second) // 256


def _edge_features(greys: Tensor) -> Tensor:
    """Return the edges of each cell of (N, H, W) in eight directions: (N, 8 * cells), integers as float32.

    After Dalal and Triggs 2005. A gradient is the sum of one along an axis and one along a diagonal.
    """
    padded = F.pad(greys, (1, 1, 1, 1)).float()
    x, y = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2], padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    axes = [(value - other.abs()).relu() for a, b in ((x, y), (y, x)) for value, other in ((a, b), (-a, b))]
    diagonals = [torch.minimum(a, b).relu() for a in (x, -x) for b in (y, -y)]
    maps = torch.stack(axes + diagonals, dim=1)
    # A cell takes in a pixel more on each side.
    blurred = F.avg_pool2d(maps, 3, stride=1, padding=1, divisor_override=1)
    cells = F.avg_pool2d(blurred, _CELL, ceil_mode=True, divisor_override=1)
    # As if many soft edges were worth more than a few hard ones. A root of an integer is rounded right everywhere.
    return cells.flatten(1).double().sqrt().floor().float()


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    """Return the nearest centre of each point, (N,); the first of two that are as near."""
    squares, num = centres.square().sum(1), len(centres)
    indices = []
    for part in points.split(_ROWS):
        # Each of these sums is of integers, and below 2^24 in size: float32 holds it exactly.
        distances = (squares - 2 * part @ centres.T).long()
        indices.append((distances * num + torch.arange(num)).argmin(1))
    return torch.cat(indices)
