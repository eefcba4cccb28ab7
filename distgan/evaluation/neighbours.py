"""What the nearest neighbours tell: density and coverage (Naeem et al. 2020), and whether images are copies."""

from typing import NamedTuple

import torch
from torch import Tensor

K = 5
_ROWS = 1000  # of a table of distances at a time


class Manifold(NamedTuple):
    """Real features (N, F), each in a ball that reaches to its K-th nearest neighbour among them, radii (N,)."""

    features: Tensor
    radii: Tensor


def manifold(features: Tensor) -> Manifold:
    """Of (N, F); fewer than K + 1 have no K-th neighbour, and so the farthest."""
    features = features.double()
    k = min(K + 1, len(features))  # the nearest is the image itself
    radii = [torch.cdist(part, features).kthvalue(k).values for part in features.split(_ROWS)]
    return Manifold(features, torch.cat(radii) if radii else features.new_zeros(0))


def density_and_coverage(real: Manifold, features: Tensor) -> tuple[Tensor, Tensor]:
    """Of each of (M, F) the balls around it over K, (M,); of each real image whether its ball holds one, (N,).

    Their means are density and coverage.
    """
    density, covered = [], torch.zeros(len(real.radii), dtype=torch.bool)
    for part in features.double().split(_ROWS):
        inside = torch.cdist(part, real.features) <= real.radii
        density.append(inside.sum(1).double() / K)
        covered |= inside.any(0)
    return torch.cat(density) if density else torch.zeros(0).double(), covered


class Nearest(NamedTuple):
    """The distance to the nearest other image, in greys of 255 per pixel (root of the mean square), and its number."""

    greys: Tensor
    which: Tensor


def nearest(images: Tensor, others: Tensor) -> Nearest:
    """Of (M, 28, 28) among (N, 28, 28) uint8, both (M,)."""
    theirs = others.flatten(1).float()
    squares = theirs.square().sum(1)
    found = []
    for part in images.flatten(1).float().split(_ROWS):
        table = (squares - 2 * part @ theirs.T) + part.square().sum(1, keepdim=True)
        found.append(table.min(1))
    values, which = (torch.cat(each) for each in zip(*found, strict=True))
    return Nearest((values.clamp(min=0) / theirs.shape[1]).sqrt(), which)
