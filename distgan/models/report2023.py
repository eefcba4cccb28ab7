"""The networks of the 2023 report, layer by layer."""

from torch import Tensor, nn

from distgan.config.network_spec import NetworkSpec
from distgan.models.layers import (
    BatchNorm2d,
    ChannelsLastFlatten,
    Conv2d,
    Dropout,
    ReadOut,
    TransposedConv2d,
    channels_last,
    concat_one_hot,
)

NUM_CLASSES = 10


class Generator(nn.Module):
    """Three transposed convolutions, 7x7 -> 7x7 -> 14x14 -> 28x28, behind a linear stem on z.

    The conditional one joins the one-hot label to z. With `stem = "noise-map"` there is no stem: z is
    itself the 256x7x7 input of the first convolution. No layer has a bias, as BatchNorm would undo it.
    """

    takes_mixtures = True

    def __init__(self, spec: NetworkSpec, *, stem: str, leaky_slope: float):
        super().__init__()
        wide, middle, narrow = spec.scaled(256, 128, 64)
        self.map_shape = (wide, 7, 7)
        self.stem: nn.Module
        if stem == "noise-map":
            self.latent_shape: tuple[int, ...] = self.map_shape
            self.stem = nn.Identity()
        else:
            self.latent_shape = (spec.latent_dim,)
            num_inputs = spec.latent_dim + NUM_CLASSES * (spec.num_classes > 0)
            self.stem = nn.Sequential(
                nn.Linear(num_inputs, wide * 7 * 7, bias=False), nn.BatchNorm1d(wide * 7 * 7), nn.LeakyReLU(leaky_slope)
            )
        self.main = nn.Sequential(
            TransposedConv2d(wide, middle, 5, stride=1, padding=2, bias=False),
            BatchNorm2d(middle),
            nn.LeakyReLU(leaky_slope),
            TransposedConv2d(middle, narrow, 5, stride=2, padding=2, output_padding=1, bias=False),
            BatchNorm2d(narrow),
            nn.LeakyReLU(leaky_slope),
            TransposedConv2d(narrow, 1, 5, stride=2, padding=2, output_padding=1, bias=False),
            nn.Tanh(),
        )

    def forward(self, z: Tensor, labels: Tensor | None) -> Tensor:
        inputs = z if labels is None else concat_one_hot(z, labels, NUM_CLASSES)
        maps = self.stem(inputs).view(-1, *self.map_shape)
        return self.main(channels_last(maps))


class ConvDiscriminator(nn.Module):
    """The GAN's D. The report pads its second convolution by 5, so 28 -> 14 -> 10 and 12,800 inputs."""

    def __init__(self, spec: NetworkSpec, *, leaky_slope: float, dropout: float):
        super().__init__()
        narrow, middle = spec.scaled(64, 128)
        self.main = nn.Sequential(
            nn.Conv2d(1, narrow, 5, stride=2, padding=2),
            nn.LeakyReLU(leaky_slope),
            Dropout(dropout),
            Conv2d(narrow, middle, 5, stride=2, padding=5),
            nn.LeakyReLU(leaky_slope),
            Dropout(dropout),
            ChannelsLastFlatten(),
            ReadOut(middle, 10, 10, 1),
        )

    def forward(self, images: Tensor, labels: Tensor | None) -> Tensor:
        return self.main(channels_last(images))


class MlpDiscriminator(nn.Module):
    """The C-GAN's D, on the flat image joined with the one-hot label: 794 -> 256 -> 128 -> 1.

    `logit_tail` ends it as the report does, with LeakyReLU and dropout on the logit: a negative logit
    shrinks to a fifth, and dropout sets some logits to exactly 0.
    """

    def __init__(self, spec: NetworkSpec, *, leaky_slope: float, dropout: float, logit_tail: bool):
        super().__init__()
        wide, narrow = spec.scaled(256, 128)
        tail = [nn.LeakyReLU(leaky_slope), Dropout(dropout)] if logit_tail else []
        self.main = nn.Sequential(
            nn.Linear(28 * 28 + NUM_CLASSES, wide),
            nn.LeakyReLU(leaky_slope),
            Dropout(dropout),
            nn.Linear(wide, narrow),
            nn.LeakyReLU(leaky_slope),
            Dropout(dropout),
            nn.Linear(narrow, 1),
            *tail,
        )

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.main(concat_one_hot(images.flatten(1), labels, NUM_CLASSES))


def build_generator(spec: NetworkSpec, *, stem: str, leaky_slope: float) -> nn.Module:
    """Build G; `stem` and `leaky_slope` are settings of `[model]`."""
    return Generator(spec, stem=stem, leaky_slope=leaky_slope)


def build_discriminator(spec: NetworkSpec, *, leaky_slope: float, dropout: float, logit_tail: bool) -> nn.Module:
    """Build the C-GAN's D for images with classes, else the GAN's."""
    if spec.num_classes:
        return MlpDiscriminator(spec, leaky_slope=leaky_slope, dropout=dropout, logit_tail=logit_tail)
    return ConvDiscriminator(spec, leaky_slope=leaky_slope, dropout=dropout)
