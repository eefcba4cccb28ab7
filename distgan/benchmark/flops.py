"""Floating-point operations of a training step, by formula."""

from contextlib import nullcontext
from functools import partial

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from distgan.config.registry import ORDERS
from distgan.config.schema import ModelConfig, OptimConfig
from distgan.models.base import build_discriminator, build_generator
from distgan.training.losses import find_loss

FORMULA = (
    "FLOP an image and step, of the model and not of its implementation: 2 a multiply-add of linear layers, "
    "convolutions and transposed convolutions as torch defines them, padding included, and nothing else. f: forward "
    "FLOP of a layer. G: the sum of 3 f, but 2 f in its first layer, whose input needs no gradient. D's step, on real "
    "and fake: twice that sum over D. G's gradient through the frozen D: 2 f where the image passes, f elsewhere. "
    "Order alternating-fresh: one more sum of f over G. With --networks: what torch.utils.flop_counter counts of such "
    "a step of the file's networks in eval mode: matrix products, convolutions and attention, wherever they are "
    "called; none with recurrent layers, of which it counts nothing."
)


def flops_per_image(model: ModelConfig, optim: OptimConfig) -> int | None:
    """Return the FLOP of a step per image of its batch, by FORMULA. None for a loss or a layer that has no formula."""
    if find_loss(optim.loss, model).penalty:  # which differentiates D twice, in extra passes
        return None
    with torch.random.fork_rng(devices=[]):  # a user's functions may draw numbers
        return _count(model, ORDERS[optim.order].g_forwards)


def _count(model: ModelConfig, g_forwards: int) -> int | None:
    """Count a step of one image; G's forward passes in it: `g_forwards`."""
    images = model.images
    # A user's functions do not all run without contents.
    with torch.device("meta") if model.family else nullcontext():
        generator, discriminator = build_generator(model).eval(), build_discriminator(model).eval()
        z_shape: tuple[int, ...] = generator.latent_shape  # type: ignore[assignment]  # Module's attributes have no types
        z, image = torch.empty(1, *z_shape), torch.empty(1, images.channels, images.height, images.width)
        labels = torch.zeros(1, dtype=torch.int64)
    if any(isinstance(layer, nn.RNNBase) for layer in (*generator.modules(), *discriminator.modules())):
        return None  # of which torch counts nothing
    for layer in (*generator.modules(), *discriminator.modules()):
        # distgan's layers reach the same result by other multiplications.
        if isinstance(layer, nn.Conv2d):
            layer.forward = partial(nn.Conv2d.forward, layer)  # type: ignore[method-assign]
        elif isinstance(layer, nn.ConvTranspose2d):
            layer.forward = partial(nn.ConvTranspose2d.forward, layer)  # type: ignore[method-assign]
    with FlopCounterMode(display=False) as counter:
        for _ in range(g_forwards):
            fake = generator(z, labels)
        (discriminator(image, labels) + discriminator(fake.detach(), labels)).sum().backward()
        discriminator.requires_grad_(False)
        discriminator(fake, labels).sum().backward()
    return counter.get_total_flops()
