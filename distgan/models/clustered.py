"""The dcgan pair, conditioned on the cluster of training images (`data/clustering.py`) of an image.

A smooth map from one normal distribution to ten kinds of images also draws images between them; clusters let it jump.
With labels they are kinds within a class. After Liu et al. 2020, who cluster D's features instead.
"""

import torch
from torch import Tensor, nn

from distgan.config.network_spec import NetworkSpec
from distgan.models.dcgan import convolutions, map_size, upsampling
from distgan.models.layers import ChannelsLastFlatten, ReadOut, channels_last, one_hot
from distgan.utils.counter_rng import counter_hash, counters, to_uniform

_EMBEDDING = 32  # numbers that stand for a cluster in each network


class Generator(nn.Module):
    """Linear on z and the cluster's embedding, then transposed convolutions: of 28x28 two, 7x7 -> 14x14 -> 28x28.

    `cluster_counts` (D, K): how many training images each of K clusters of each of D classes has (D = 1: of all).
    Labels are numbers of clusters, class * K + cluster (N,), or weights over them (N, D * K).
    """

    cluster_counts: Tensor
    takes_mixtures = True

    def __init__(self, spec: NetworkSpec, *, clusters: int, leaky_slope: float):
        super().__init__()
        groups = max(1, spec.num_classes)
        self.num_labels = groups * clusters
        self.register_buffer("cluster_counts", torch.zeros(groups, clusters))
        self.embedding = nn.Linear(self.num_labels, _EMBEDDING, bias=False)
        # `forward` makes it as large as the normals of z beside it. Adam moves every weight by the same amount:
        # of small weights that is more, and clusters come apart sooner (LOG.md).
        nn.init.normal_(self.embedding.weight, std=_EMBEDDING**-0.5)
        self.map_size = map_size(spec)
        self.stem, self.main = upsampling(spec, spec.latent_dim + _EMBEDDING, leaky_slope)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        embedded = self.embedding(one_hot(labels, z, self.num_labels))
        embedded = embedded.to(z.dtype) * _EMBEDDING**0.5
        maps = self.stem(torch.cat([z, embedded], dim=1)).unflatten(1, (-1, *self.map_size))
        return self.main(channels_last(maps))

    def draw_labels(self, z: Tensor, classes: Tensor) -> Tensor:
        """Return a cluster per class (N,), as often as the training images have it; a function of z alone."""
        counts = self.cluster_counts.to(z.device).double()
        rows = classes if len(counts) > 1 else torch.zeros_like(classes)
        # The last bits of a normal are as good as independent of its value.
        bits = z.flatten(1)[:, 0].contiguous().view(torch.int32)
        nothing = torch.zeros(2, dtype=torch.int32, device=z.device)
        uniform = to_uniform(counter_hash(counters(bits, 1), nothing[:1], nothing)).double()
        ends = counts.cumsum(1)[rows]
        clusters = torch.searchsorted(ends, uniform * ends[:, -1:], right=True).squeeze(1)
        return rows * counts.shape[1] + clusters.clamp(max=counts.shape[1] - 1)


class Discriminator(nn.Module):
    """Strided convolutions, a linear read-out, and a few features that are projected on the cluster's embedding."""

    def __init__(self, spec: NetworkSpec, *, clusters: int, leaky_slope: float, dropout: float):
        super().__init__()
        layers, wide = convolutions(spec, leaky_slope, dropout)
        size = map_size(spec)
        self.num_labels = max(1, spec.num_classes) * clusters
        self.features = nn.Sequential(*layers, ChannelsLastFlatten())
        self.read_out = ReadOut(wide, *size, 1)
        self.projected = nn.Sequential(ReadOut(wide, *size, _EMBEDDING), nn.LeakyReLU(leaky_slope))
        self.embedding = nn.Linear(self.num_labels, _EMBEDDING, bias=False)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        features = self.features(channels_last(images))
        embedded = self.embedding(one_hot(labels, features, self.num_labels))
        logits = (embedded * self.projected(features)).sum(1, keepdim=True)
        return self.read_out(features) + logits


def build_generator(spec: NetworkSpec, *, clusters: int, leaky_slope: float) -> nn.Module:
    """Build G; `clusters` and `leaky_slope` are settings of `[model]`."""
    return Generator(spec, clusters=clusters, leaky_slope=leaky_slope)


def build_discriminator(spec: NetworkSpec, *, clusters: int, leaky_slope: float, dropout: float) -> nn.Module:
    """Build D; `clusters`, `leaky_slope` and `dropout` are settings of `[model]`."""
    return Discriminator(spec, clusters=clusters, leaky_slope=leaky_slope, dropout=dropout)
