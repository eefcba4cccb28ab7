"""The networks of the 2023 report, layer by layer."""

from torch import Tensor, nn

from distgan.config.schema import ModelConfig
from distgan.models.layers import (
    BatchNorm2d,
    ChannelsLastFlatten,
    Conv2d,
    Dropout,
    ReadOut,
    TransposedConv2d,
    channels_last,
    join,
)

NUM_CLASSES = 10


class Generator(nn.Module):
    """Three transposed convolutions, 7x7 -> 7x7 -> 14x14 -> 28x28, behind a linear stem on z.

    The conditional one joins the one-hot label to z. With `stem = "noise-map"` there is no stem: z is
    itself the 256x7x7 input of the first convolution. No layer has a bias, as BatchNorm would undo it.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        wide, middle, narrow = (max(1, round(c * config.width)) for c in (256, 128, 64))
        self.is_conditional = config.is_conditional
        self.map_shape = (wide, 7, 7)
        self.stem: nn.Module
        if config.stem == "noise-map":
            self.latent_shape: tuple[int, ...] = self.map_shape
            self.stem = nn.Identity()
        else:
            self.latent_shape = (config.latent_dim,)
            num_inputs = config.latent_dim + NUM_CLASSES * self.is_conditional
            self.stem = nn.Sequential(
                nn.Linear(num_inputs, wide * 7 * 7, bias=False),
                nn.BatchNorm1d(wide * 7 * 7),
                nn.LeakyReLU(config.leaky_slope),
            )
        self.main = nn.Sequential(
            TransposedConv2d(wide, middle, 5, stride=1, padding=2, bias=False),
            BatchNorm2d(middle),
            nn.LeakyReLU(config.leaky_slope),
            TransposedConv2d(middle, narrow, 5, stride=2, padding=2, output_padding=1, bias=False),
            BatchNorm2d(narrow),
            nn.LeakyReLU(config.leaky_slope),
            TransposedConv2d(narrow, 1, 5, stride=2, padding=2, output_padding=1, bias=False),
            nn.Tanh(),
        )

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        inputs = join(z, labels, NUM_CLASSES) if self.is_conditional else z
        maps = self.stem(inputs).view(-1, *self.map_shape)
        return self.main(channels_last(maps))


class ConvDiscriminator(nn.Module):
    """The GAN's D. The report pads its second convolution by 5, so 28 -> 14 -> 10 and 12,800 inputs."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        narrow, middle = (max(1, round(c * config.width)) for c in (64, 128))
        self.main = nn.Sequential(
            nn.Conv2d(1, narrow, 5, stride=2, padding=2),
            nn.LeakyReLU(config.leaky_slope),
            Dropout(config.dropout),
            Conv2d(narrow, middle, 5, stride=2, padding=5),
            nn.LeakyReLU(config.leaky_slope),
            Dropout(config.dropout),
            ChannelsLastFlatten(),
            ReadOut(middle, 10, 10, 1),
        )

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.main(channels_last(images))


class MlpDiscriminator(nn.Module):
    """The C-GAN's D, on the flat image joined with the one-hot label: 794 -> 256 -> 128 -> 1.

    `logit_tail` ends it as the report does, with LeakyReLU and dropout on the logit: a negative logit
    shrinks to a fifth, and dropout sets some logits to exactly 0.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        wide, narrow = (max(1, round(c * config.width)) for c in (256, 128))
        tail = [nn.LeakyReLU(config.leaky_slope), Dropout(config.dropout)] if config.logit_tail else []
        self.main = nn.Sequential(
            nn.Linear(28 * 28 + NUM_CLASSES, wide),
            nn.LeakyReLU(config.leaky_slope),
            Dropout(config.dropout),
            nn.Linear(wide, narrow),
            nn.LeakyReLU(config.leaky_slope),
            Dropout(config.dropout),
            nn.Linear(narrow, 1),
            *tail,
        )

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.main(join(images.flatten(1), labels, NUM_CLASSES))


def build_discriminator(config: ModelConfig) -> nn.Module:
    """Build the D of the configured model."""
    return MlpDiscriminator(config) if config.is_conditional else ConvDiscriminator(config)
