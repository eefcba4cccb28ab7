"""A small pair for a laptop: DCGAN's 4x4 kernels, and a D that projects its features on the label."""

import math
from itertools import pairwise

from torch import Tensor, nn

from distgan.config.image_spec import ImageSpec
from distgan.config.schema import ModelConfig
from distgan.models.layers import BatchNorm2d, Dropout, TransposedConv2d, channels_last, join, one_hot


def channels(config: ModelConfig, *full: int) -> tuple[int, ...]:
    """Return the channels at the configured width, at least 1 each."""
    return tuple(max(1, round(num * config.width)) for num in full)


def num_halvings(images: ImageSpec) -> int:
    """Return how often both sides can be halved while the shorter one keeps 4 pixels: 2 for 28 x 28, 3 for 32 x 32."""
    num = 0
    while all(side % 2 ** (num + 1) == 0 for side in (images.height, images.width)) and (
        min(images.height, images.width) >= 4 * 2 ** (num + 1)
    ):
        num += 1
    return num


def map_size(images: ImageSpec) -> tuple[int, int]:
    """Return height and width of the smallest maps, which G starts from and D ends with: 7 x 7 for 28 x 28."""
    scale = 2 ** num_halvings(images)
    return images.height // scale, images.width // scale


def upsampling(config: ModelConfig, num_inputs: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Build (N, num_inputs) -> (N, C * h * w), and (N, C, h, w) -> images, doubling the sides at each layer."""
    height, width = map_size(config.images)
    widths = channels(config, *(min(64 * 2**level, 512) for level in reversed(range(num_halvings(config.images)))))
    num = widths[0] * height * width
    stem = nn.Sequential(nn.Linear(num_inputs, num, bias=False), nn.BatchNorm1d(num), nn.LeakyReLU(config.leaky_slope))
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(widths):
        layers += [
            TransposedConv2d(wide, narrow, 4, stride=2, padding=1, bias=False),
            BatchNorm2d(narrow),
            nn.LeakyReLU(config.leaky_slope),
        ]
    last = TransposedConv2d(widths[-1], config.images.channels, 4, stride=2, padding=1)
    return stem, nn.Sequential(*layers, last, nn.Tanh())


def convolutions(config: ModelConfig) -> tuple[list[nn.Module], int]:
    """Build images -> (N, C, h, w), halving the sides at each layer, and return C."""
    widths = channels(config, *(min(32 * 2**level, 256) for level in range(num_halvings(config.images))))
    layers: list[nn.Module] = []
    for narrow, wide in pairwise((config.images.channels, *widths)):
        layers += [
            nn.Conv2d(narrow, wide, 4, stride=2, padding=1),
            nn.LeakyReLU(config.leaky_slope),
            Dropout(config.dropout),
        ]
    return layers, widths[-1]


class Generator(nn.Module):
    """Linear, then transposed convolutions: of 28 x 28 two, 7x7 -> 14x14 -> 28x28, of 128 and 64 channels."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.is_conditional = config.is_conditional
        self.latent_shape = (config.latent_dim,)
        self.num_classes = config.images.num_classes
        self.map_size = map_size(config.images)
        self.stem, self.main = upsampling(config, config.latent_dim + self.num_classes * self.is_conditional)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        inputs = join(z, labels, self.num_classes) if self.is_conditional else z
        maps = self.stem(inputs).unflatten(1, (-1, *self.map_size))
        return self.main(channels_last(maps))


class Discriminator(nn.Module):
    """Strided convolutions and a linear read-out; the conditional one adds <embedding(label), features>.

    The label's projection: Miyato and Koyama 2018, figure 1d.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        layers, wide = convolutions(config)
        num, self.num_classes = wide * math.prod(map_size(config.images)), config.images.num_classes
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.read_out = nn.Linear(num, 1)
        self.projection = nn.Linear(self.num_classes, num, bias=False) if config.is_conditional else None

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        features = self.features(channels_last(images))
        logits = self.read_out(features)
        if self.projection is not None:
            embedding = self.projection(one_hot(labels, features, self.num_classes))
            logits = logits + (embedding * features).sum(1, keepdim=True)
        return logits
