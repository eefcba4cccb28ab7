"""A pair for your own images in colour, with classes or without, of sides that are multiples of 8.

distgan train --preset images-fast --networks examples/colour_gan.py --data photos/ --image-size 64
"""

from torch import nn
from torch.nn.utils.parametrizations import spectral_norm


class Generator(nn.Module):
    """A linear stem, then three times: twice the sides, convolution, GroupNorm. The class is added to z."""

    def __init__(self, spec, width):
        super().__init__()
        self.sides = (spec.height // 8, spec.width // 8)
        self.classes = nn.Embedding(spec.num_classes, spec.latent_dim) if spec.num_classes else None
        self.stem = nn.Linear(spec.latent_dim, 4 * width * self.sides[0] * self.sides[1])
        layers = []
        for wide, narrow in ((4 * width, 2 * width), (2 * width, width), (width, width)):
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(wide, narrow, 3, padding=1), nn.GroupNorm(4, narrow)]
            layers.append(nn.LeakyReLU(0.2))
        self.main = nn.Sequential(*layers, nn.Conv2d(width, spec.channels, 3, padding=1), nn.Tanh())

    def forward(self, z, labels):
        z = z if labels is None else z + self.classes(labels)
        return self.main(self.stem(z).view(len(z), -1, *self.sides))


class Discriminator(nn.Module):
    """Three strided convolutions under spectral norm, a read-out, and the projection of the features on the class."""

    def __init__(self, spec, width, dropout):
        super().__init__()
        layers = []
        for narrow, wide in ((spec.channels, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [spectral_norm(nn.Conv2d(narrow, wide, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
        self.features = nn.Sequential(*layers, nn.Dropout2d(dropout), nn.Flatten())
        num = 4 * width * (spec.height // 8) * (spec.width // 8)
        self.read_out = nn.Linear(num, 1)
        self.classes = nn.Embedding(spec.num_classes, num) if spec.num_classes else None

    def forward(self, images, labels):
        features = self.features(images)
        logits = self.read_out(features)
        return logits if labels is None else logits + (self.classes(labels) * features).mean(1, keepdim=True)


def build_generator(spec, width: int = 32) -> nn.Module:
    return Generator(spec, width)


def build_discriminator(spec, width: int = 32, dropout: float = 0.1) -> nn.Module:
    return Discriminator(spec, width, dropout)
