"""The networks of a family of `config.registry.FAMILIES`, all of one signature.

`generator(z, labels)` gives images (N, C, H, W) in [-1, 1] from z (N, *latent_shape), where `config.images` has the
sizes; `discriminator(images, labels)` gives logits (N, 1). Labels are classes (N,) int64, or weights over the classes
(N, K) between two of them; an unconditional network ignores them. Those of a clustered pair are clusters, which
`labels_for` draws.
"""

import torch
from torch import Tensor, nn

from distgan.config.registry import FAMILIES
from distgan.config.schema import ModelConfig
from distgan.errors import UserError


def check_fit(model: ModelConfig) -> None:
    """Raise UserError for networks that can't be built for the images."""
    images, family = model.images, FAMILIES[model.family]
    if model.is_conditional and images.num_classes < 2:
        found = f"{images.num_classes} of" if images.num_classes else "no"
        raise UserError(
            f"--model: the data has {found} classes ({model.name}). Expected: 2 or more, or a vanilla preset",
            code="images-do-not-fit",
        )
    if allowed := family.unsupported(images):
        raise UserError(
            f"--family: not for images of {images.describe()} ({model.family}). Expected: {allowed}, or another",
            code="images-do-not-fit",
        )


def build_generator(config: ModelConfig) -> nn.Module:
    """Build G, with `latent_shape`: the shape of one z."""
    check_fit(config)
    return FAMILIES[config.family].build_generator(config)


def build_discriminator(config: ModelConfig) -> nn.Module:
    """Build D."""
    return FAMILIES[config.family].build_discriminator(config)


def labels_for(generator: nn.Module, z: Tensor, classes: Tensor) -> Tensor:
    """Return what a generator takes for the requested classes (N,): these, or one of the clusters of each, by z."""
    return generator.draw_labels(z, classes) if hasattr(generator, "draw_labels") else classes  # type: ignore[operator]


def num_parameters(network: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def layouts(config: ModelConfig) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return names, shapes and types of the tensors of G and D, without contents."""
    with torch.device("meta"):
        return build_generator(config).state_dict(), build_discriminator(config).state_dict()
