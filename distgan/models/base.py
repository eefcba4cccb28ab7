"""The two networks of a run: of a family of `config.registry.FAMILIES`, or of a user's file, all of one signature.

`generator(z, labels)` gives images (N, C, H, W) in [-1, 1] from z (N, *latent_shape), where `config.images` has the
sizes; `discriminator(images, labels)` gives logits (N, 1). Labels are classes (N,) int64, None for a pair without. A
generator with `takes_mixtures` also takes weights over the classes (N, K), for a walk between two of them. Labels of a
clustered pair are clusters, which `generator_labels` draws.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from distgan.config.registry import FAMILIES, Family
from distgan.config.schema import ModelConfig
from distgan.errors import UserError
from distgan.models.layers import swap_dropout
from distgan.models.network_arguments import annotations_of, check_arguments, convert_argument, parameters_of
from distgan.models.user_networks import describe_value, load_family, loaded
from distgan.utils.text import one_line


def get_family(model: ModelConfig) -> Family:
    """Return the two functions that build the networks. Raises UserError for a file that is not loaded."""
    return load_family(model) if model.family is None else FAMILIES[model.family]


def check_fit(model: ModelConfig) -> None:
    """Raise UserError for networks that can't be built for the images."""
    images, family = model.images, get_family(model)
    if model.is_conditional and images.num_classes < 2:
        count = f"{images.num_classes} of" if images.num_classes else "no"
        raise UserError(
            f"--model: the data has {count} classes ({model.name}). Expected: 2 or more, or a vanilla preset",
            code="images-do-not-fit",
        )
    if allowed := family.unsupported(images):
        raise UserError(
            f"--family: not for images of {images.describe()} ({model.family}). Expected: {allowed}, or another one",
            code="images-do-not-fit",
        )
    check_arguments(model, family)


_MOST_LATENT = 1_000_000  # numbers of one z, of which 250 are drawn together


def build_generator(config: ModelConfig) -> nn.Module:
    """Build G, with `latent_shape`: the shape of one z."""
    check_fit(config)
    generator = _build(config, "build_generator")
    if not hasattr(generator, "latent_shape"):
        generator.latent_shape = (config.latent_dim,)  # type: ignore[assignment]  # Module's have no types
    _check_latent_shape(config, generator.latent_shape)
    return generator


def _check_latent_shape(config: ModelConfig, shape: Any) -> None:
    """Raise UserError for a `latent_shape` that no z can have, or one that memory has no room for."""
    where = f"--networks {config.networks}" if config.networks else f"--family {config.family}"
    if not isinstance(shape, tuple | list) or not all(type(size) is int and size > 0 for size in shape):
        raise UserError(
            f"{where}: generator.latent_shape is {describe_value(shape)} ({one_line(str(shape))[:80]}). Expected: the "
            "shape of one z without the batch, as (8,)",
            code="bad-networks",
        )
    if (num := math.prod(shape)) > _MOST_LATENT:
        raise UserError(
            f"{where}: generator.latent_shape has {num:,} numbers for an image ({tuple(shape)}). Expected: at most "
            f"{_MOST_LATENT:,}",
            code="bad-networks",
        )


def build_discriminator(config: ModelConfig) -> nn.Module:
    """Build D."""
    return _build(config, "build_discriminator")


def _build(config: ModelConfig, name: str) -> nn.Module:
    family = get_family(config)
    function = getattr(family, name)
    annotations = annotations_of(function)
    given = {setting: getattr(config, setting) for setting in family.settings}
    given |= {key: convert_argument(value, annotations.get(key)) for key, value in config.args.items()}
    taken = parameters_of(function)
    network: Any = function(config.spec, **{name: given[name] for name in given if name in taken or "**" in taken})
    if not isinstance(network, nn.Module):
        advice = f", as {network.__name__}(spec)" if isinstance(network, type) else ""
        raise UserError(
            f"--networks {config.networks}: {name} returns {describe_value(network)}. Expected: an nn.Module{advice}",
            code="bad-networks",
        )
    network = swap_dropout(network)
    if not config.num_labels:
        network.register_forward_pre_hook(drop_labels)
    return network


def drop_labels(network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
    """Give None in place of the labels, which are all 0 where there are none."""
    return inputs[0], None


def generator_labels(generator: nn.Module, z: Tensor, classes: Tensor) -> Tensor:
    """Return what a generator takes for the requested classes (N,): these, or one of the clusters of each, by z."""
    return generator.draw_labels(z, classes) if hasattr(generator, "draw_labels") else classes  # type: ignore[operator]


def num_parameters(network: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def tensor_layouts(config: ModelConfig) -> tuple[dict[str, Tensor], dict[str, Tensor]] | None:
    """Return names, shapes and types of the tensors of G and D; None for a file whose code is not loaded."""
    if config.family is None and loaded(config) is None:
        return None
    # Of a user's functions not all run without contents.
    with torch.device("meta") if config.family else torch.random.fork_rng(devices=[]):
        return build_generator(config).state_dict(), build_discriminator(config).state_dict()
