"""A plain small pair for a laptop: DCGAN's 4x4 kernels, and a D that projects its features on the label."""

from torch import Tensor, nn

from distgan.config import ModelConfig
from distgan.models.dropout import Dropout
from distgan.models.labels import NUM_CLASSES, join, one_hot
from distgan.models.layers import BatchNorm2d, TransposedConv2d, channels_last


class Generator(nn.Module):
    """Linear, then two transposed convolutions, 7x7 -> 14x14 -> 28x28, of 128 and 64 channels."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        wide, narrow = (max(1, round(c * config.width)) for c in (128, 64))
        self.is_conditional = config.is_conditional
        self.latent_shape = (config.latent_dim,)
        self.map_shape = (wide, 7, 7)
        num_inputs = config.latent_dim + NUM_CLASSES * self.is_conditional
        self.stem = nn.Sequential(
            nn.Linear(num_inputs, wide * 7 * 7, bias=False),
            nn.BatchNorm1d(wide * 7 * 7),
            nn.LeakyReLU(config.leaky_slope),
        )
        self.main = nn.Sequential(
            TransposedConv2d(wide, narrow, 4, stride=2, padding=1, bias=False),
            BatchNorm2d(narrow),
            nn.LeakyReLU(config.leaky_slope),
            TransposedConv2d(narrow, 1, 4, stride=2, padding=1),
            nn.Tanh(),
        )

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        maps = self.stem(join(z, labels, self.is_conditional)).view(-1, *self.map_shape)
        return self.main(channels_last(maps))


class Discriminator(nn.Module):
    """Two strided convolutions and a linear read-out; the conditional one adds <embedding(label), features>.

    The label's projection: Miyato and Koyama 2018, figure 1d.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        narrow, wide = (max(1, round(c * config.width)) for c in (32, 64))
        self.features = nn.Sequential(
            nn.Conv2d(1, narrow, 4, stride=2, padding=1),
            nn.LeakyReLU(config.leaky_slope),
            Dropout(config.dropout),
            nn.Conv2d(narrow, wide, 4, stride=2, padding=1),
            nn.LeakyReLU(config.leaky_slope),
            Dropout(config.dropout),
            nn.Flatten(),
        )
        self.read_out = nn.Linear(wide * 7 * 7, 1)
        self.projection = nn.Linear(NUM_CLASSES, wide * 7 * 7, bias=False) if config.is_conditional else None

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        features = self.features(channels_last(images))
        logits = self.read_out(features)
        if self.projection is not None:
            embedding = self.projection(one_hot(labels, features))
            logits = logits + (embedding * features).sum(1, keepdim=True)
        return logits
