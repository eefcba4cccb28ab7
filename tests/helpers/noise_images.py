"""A data set of random pixels."""

import torch

from distgan.config.image_spec import MNIST_SPEC, ImageSpec
from distgan.data.base import Dataset

COLOUR = ImageSpec(channels=3, height=32, width=32, num_classes=7, class_names=list("abcdefg"))
UNLABELLED = ImageSpec(channels=1, height=48, width=48, num_classes=0, class_names=[])


def noise_images(num: int, spec: ImageSpec = MNIST_SPEC) -> Dataset:
    """Return `num` random images, named as a data set that a config accepts."""
    generator = torch.Generator().manual_seed(1)
    colours = [3] if spec.channels == 3 else []
    pixels = torch.randint(0, 256, (num, *colours, spec.height, spec.width), dtype=torch.uint8, generator=generator)
    return Dataset(
        "digits", pixels, torch.arange(num) % max(1, spec.num_classes), "memory", class_names=spec.class_names
    )
