"""How many floating-point operations a training step takes, by formula."""

import torch
from torch import Tensor, nn

from distgan.config.registry import LOSSES, ORDERS
from distgan.config.schema import ModelConfig, OptimConfig
from distgan.models.base import build_discriminator, build_generator

FORMULA = (
    "FLOP an image and step, of the model and not of its implementation: 2 a multiply-add of linear layers, "
    "convolutions and transposed convolutions as torch defines them, padding included, and nothing else. f: forward "
    "FLOP of a layer. G: the sum of 3 f, but 2 f in its first layer, whose input needs no gradient. D's step, on real "
    "and fake: twice that sum over D. G's gradient through the frozen D: 2 f where the image passes, f elsewhere. "
    "Order alternating-fresh: one more sum of f over G."
)


def flops_per_image(model: ModelConfig, optim: OptimConfig) -> int | None:
    """Of one step, divided by the images of its batch; FORMULA in words. None for a loss that has no formula."""
    if LOSSES[optim.loss].penalty:  # which differentiates D twice, through passes of its own
        return None
    images = model.images
    with torch.device("meta"):
        generator, discriminator = build_generator(model).eval(), build_discriminator(model).eval()
        z_shape: tuple[int, ...] = generator.latent_shape  # type: ignore[assignment]  # Module's attributes have no types
        z, image = torch.empty(1, *z_shape), torch.empty(1, images.channels, images.height, images.width)
        labels = torch.empty(1, max(1, model.num_labels))
    g_layers = _layers(generator, z, labels)
    total = sum(f * (3 if is_inner else 2) for f, is_inner in g_layers)
    total += 2 * sum(f * (3 if is_inner else 2) for f, is_inner in _layers(discriminator, image, labels))
    discriminator.requires_grad_(False)
    total += sum(
        f * (2 if is_reached else 1) for f, is_reached in _layers(discriminator, image.requires_grad_(), labels)
    )
    return total + (ORDERS[optim.order].g_forwards - 1) * sum(f for f, _ in g_layers)


def _layers(network: nn.Module, inputs: Tensor, labels: Tensor) -> list[tuple[int, bool]]:
    """Of each layer that multiplies: its forward FLOP for one image, and whether its input needs a gradient."""
    found = []

    def note(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(layer, nn.Linear):
            found.append((2 * layer.in_features * layer.out_features, args[0].requires_grad))
        elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            # Each weight is used once for each position: of the output, or of what a transposed one spreads out.
            positions = args[0] if isinstance(layer, nn.ConvTranspose2d) else output
            found.append((2 * layer.weight.numel() * positions[0, 0].numel(), args[0].requires_grad))

    hooks = [layer.register_forward_hook(note) for layer in network.modules()]
    network(inputs, labels)
    for hook in hooks:
        hook.remove()
    return found
