"""A small pair for a laptop: DCGAN's 4x4 kernels, and a D that projects its features on the label."""

import math
from itertools import pairwise

from torch import Tensor, nn

from distgan.config.network_spec import NetworkSpec
from distgan.models.layers import BatchNorm2d, Dropout, TransposedConv2d, channels_last, concat_one_hot, one_hot


def num_halvings(spec: NetworkSpec) -> int:
    """Return how often both sides can be halved while the shorter one keeps 4 pixels: 2 for 28 x 28, 3 for 32 x 32."""
    num = 0
    while all(side % 2 ** (num + 1) == 0 for side in (spec.height, spec.width)) and (
        min(spec.height, spec.width) >= 4 * 2 ** (num + 1)
    ):
        num += 1
    return num


def map_size(spec: NetworkSpec) -> tuple[int, int]:
    """Return height and width of the smallest maps, which G starts from and D ends with: 7 x 7 for 28 x 28."""
    scale = 2 ** num_halvings(spec)
    return spec.height // scale, spec.width // scale


def upsampling(spec: NetworkSpec, num_inputs: int, leaky_slope: float) -> tuple[nn.Sequential, nn.Sequential]:
    """Build (N, num_inputs) -> (N, C * h * w), and (N, C, h, w) -> images, doubling the sides at each layer."""
    height, width = map_size(spec)
    widths = spec.scaled(*(min(64 * 2**level, 512) for level in reversed(range(num_halvings(spec)))))
    num = widths[0] * height * width
    stem = nn.Sequential(nn.Linear(num_inputs, num, bias=False), nn.BatchNorm1d(num), nn.LeakyReLU(leaky_slope))
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(widths):
        layers += [
            TransposedConv2d(wide, narrow, 4, stride=2, padding=1, bias=False),
            BatchNorm2d(narrow),
            nn.LeakyReLU(leaky_slope),
        ]
    last = TransposedConv2d(widths[-1], spec.channels, 4, stride=2, padding=1)
    return stem, nn.Sequential(*layers, last, nn.Tanh())


def convolutions(spec: NetworkSpec, leaky_slope: float, dropout: float) -> tuple[list[nn.Module], int]:
    """Build images -> (N, C, h, w), halving the sides at each layer, and return C."""
    widths = spec.scaled(*(min(32 * 2**level, 256) for level in range(num_halvings(spec))))
    layers: list[nn.Module] = []
    for narrow, wide in pairwise((spec.channels, *widths)):
        layers += [nn.Conv2d(narrow, wide, 4, stride=2, padding=1), nn.LeakyReLU(leaky_slope), Dropout(dropout)]
    return layers, widths[-1]


class Generator(nn.Module):
    """Linear, then transposed convolutions: of 28 x 28 two, 7x7 -> 14x14 -> 28x28, of 128 and 64 channels."""

    takes_mixtures = True

    def __init__(self, spec: NetworkSpec, *, leaky_slope: float):
        super().__init__()
        self.num_classes = spec.num_classes
        self.map_size = map_size(spec)
        self.stem, self.main = upsampling(spec, spec.latent_dim + spec.num_classes, leaky_slope)

    def forward(self, z: Tensor, labels: Tensor | None) -> Tensor:
        inputs = z if labels is None else concat_one_hot(z, labels, self.num_classes)
        maps = self.stem(inputs).unflatten(1, (-1, *self.map_size))
        return self.main(channels_last(maps))


class Discriminator(nn.Module):
    """Strided convolutions and a linear read-out; the conditional one adds <embedding(label), features>.

    The label's projection: Miyato and Koyama 2018, figure 1d.
    """

    def __init__(self, spec: NetworkSpec, *, leaky_slope: float, dropout: float):
        super().__init__()
        layers, wide = convolutions(spec, leaky_slope, dropout)
        num, self.num_classes = wide * math.prod(map_size(spec)), spec.num_classes
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.read_out = nn.Linear(num, 1)
        self.projection = nn.Linear(self.num_classes, num, bias=False) if self.num_classes else None

    def forward(self, images: Tensor, labels: Tensor | None) -> Tensor:
        features = self.features(channels_last(images))
        logits = self.read_out(features)
        if self.projection is not None and labels is not None:
            embedding = self.projection(one_hot(labels, features, self.num_classes))
            logits = logits + (embedding * features).sum(1, keepdim=True)
        return logits


def build_generator(spec: NetworkSpec, *, leaky_slope: float) -> nn.Module:
    """Build G; `leaky_slope` is a setting of `[model]`."""
    return Generator(spec, leaky_slope=leaky_slope)


def build_discriminator(spec: NetworkSpec, *, leaky_slope: float, dropout: float) -> nn.Module:
    """Build D; `leaky_slope` and `dropout` are settings of `[model]`."""
    return Discriminator(spec, leaky_slope=leaky_slope, dropout=dropout)
