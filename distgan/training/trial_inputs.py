"""Inputs to try networks with, and numbers for their layers that draw: the same at each call."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from distgan.config.schema import ModelConfig
from distgan.distributed.sharding import BatchShard
from distgan.models.layers import attach_noise
from distgan.training.noise import Noise

ROWS = 4


class TrialInputs(NamedTuple):
    """`z` (ROWS, *latent_shape), `images` (ROWS, C, H, W) in [-1, 1], and `labels` (ROWS,)."""

    z: Tensor
    images: Tensor
    labels: Tensor

    def of(self, name: str) -> Tensor:
        """Return what the network of that name is given with the labels."""
        return self.z if name == "generator" else self.images


def draw_inputs(generator: nn.Module, model: ModelConfig, device: torch.device, seed: int = 0) -> TrialInputs:
    """Return inputs of the shapes that `generator` and the images of `model` have."""
    source, spec = torch.Generator().manual_seed(seed), model.spec
    shape: Any = generator.latent_shape
    z = torch.randn((ROWS, *shape), generator=source)
    images = torch.rand((ROWS, spec.channels, spec.height, spec.width), generator=source).mul(2).sub(1)
    labels = torch.arange(ROWS) % max(1, model.num_labels)
    return TrialInputs(*(each.to(device) for each in (z, images, labels)))


def with_noise(network: nn.Module, device: torch.device, shard: BatchShard | None = None) -> nn.Module:
    """Let the network draw as in the first pass of a step; by default for all rows."""
    shard = shard or BatchShard()
    shard.rows = range(ROWS)
    noise = Noise((1,), device, shard)
    noise.begin_step(torch.tensor([3, 4], dtype=torch.int32, device=device))
    noise.begin_forward()
    attach_noise(network, noise)
    return network
