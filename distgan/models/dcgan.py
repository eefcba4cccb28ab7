"""A small pair for a laptop: DCGAN's 4x4 kernels, and a D that projects its features on the label."""

from torch import Tensor, nn

from distgan.config.schema import ModelConfig
from distgan.models.layers import NUM_CLASSES, BatchNorm2d, Dropout, TransposedConv2d, channels_last, join, one_hot


def channels(config: ModelConfig, *full: int) -> tuple[int, ...]:
    """Return the channels at the configured width, at least 1 each."""
    return tuple(max(1, round(num * config.width)) for num in full)


def upsampling(config: ModelConfig, num_inputs: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Build (N, num_inputs) -> (N, C * 7 * 7), and (N, C, 7, 7) -> images."""
    wide, narrow = channels(config, 128, 64)
    stem = nn.Sequential(
        nn.Linear(num_inputs, wide * 7 * 7, bias=False), nn.BatchNorm1d(wide * 7 * 7), nn.LeakyReLU(config.leaky_slope)
    )
    main = nn.Sequential(
        TransposedConv2d(wide, narrow, 4, stride=2, padding=1, bias=False),
        BatchNorm2d(narrow),
        nn.LeakyReLU(config.leaky_slope),
        TransposedConv2d(narrow, 1, 4, stride=2, padding=1),
        nn.Tanh(),
    )
    return stem, main


def convolutions(config: ModelConfig, narrow: int, wide: int) -> list[nn.Module]:
    """Build images -> (N, wide, 7, 7)."""
    return [
        nn.Conv2d(1, narrow, 4, stride=2, padding=1),
        nn.LeakyReLU(config.leaky_slope),
        Dropout(config.dropout),
        nn.Conv2d(narrow, wide, 4, stride=2, padding=1),
        nn.LeakyReLU(config.leaky_slope),
        Dropout(config.dropout),
    ]


class Generator(nn.Module):
    """Linear, then two transposed convolutions, 7x7 -> 14x14 -> 28x28, of 128 and 64 channels."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.is_conditional = config.is_conditional
        self.latent_shape = (config.latent_dim,)
        num_inputs = config.latent_dim + NUM_CLASSES * self.is_conditional
        self.stem, self.main = upsampling(config, num_inputs)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        maps = self.stem(join(z, labels, self.is_conditional)).unflatten(1, (-1, 7, 7))
        return self.main(channels_last(maps))


class Discriminator(nn.Module):
    """Two strided convolutions and a linear read-out; the conditional one adds <embedding(label), features>.

    The label's projection: Miyato and Koyama 2018, figure 1d.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        narrow, wide = channels(config, 32, 64)
        self.features = nn.Sequential(*convolutions(config, narrow, wide), nn.Flatten())
        self.read_out = nn.Linear(wide * 7 * 7, 1)
        self.projection = nn.Linear(NUM_CLASSES, wide * 7 * 7, bias=False) if config.is_conditional else None

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        features = self.features(channels_last(images))
        logits = self.read_out(features)
        if self.projection is not None:
            embedding = self.projection(one_hot(labels, features))
            logits = logits + (embedding * features).sum(1, keepdim=True)
        return logits
