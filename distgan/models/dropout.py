"""nn.Dropout, the same on one process and on many, eagerly, compiled and in a graph."""

from typing import Protocol

import torch
from torch import Tensor, nn


class BitSource(Protocol):
    """`training.noise.Noise` is one."""

    def bits(self, shape: torch.Size, salt: int) -> Tensor: ...


class Dropout(nn.Dropout):
    """In training its mask comes from `noise`, by 16 random bits an element; without one it is torch's own.

    torch draws one number after another on a CPU, which takes a fifth of the seed GAN's step (LOG.md). `p` becomes
    the next multiple of 2**-16, which for 0.3 is 0.3 + 3e-6, and the kept elements are scaled by what that leaves.
    """

    noise: BitSource | None = None
    salt = 0

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # its name in torch
        if not self.training or self.p == 0 or self.noise is None:
            return super().forward(input)
        num_dropped = round(self.p * 2**16)
        kept = self.noise.bits(input.shape, self.salt) >= num_dropped - 2**15
        return input * kept.to(input.dtype).mul_(2**16 / (2**16 - num_dropped))


def draw_from(network: nn.Module, noise: BitSource) -> None:
    """Lets every Dropout of a network draw from `noise`, each other numbers."""
    for salt, module in enumerate(module for module in network.modules() if isinstance(module, Dropout)):
        module.noise, module.salt = noise, salt * 0x2545F491
