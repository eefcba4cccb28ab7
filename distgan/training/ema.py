"""The moving average of G's weights, which makes better images than the weights themselves."""

from copy import deepcopy

import torch
from torch import Tensor, nn


class Ema:
    """`network` holds the average of a generator's weights, over about 1 / weight steps."""

    def __init__(self, generator: nn.Module):
        self.network = deepcopy(generator).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, generator: nn.Module, weight: Tensor) -> None:
        """`weight` is that of the newest weights, 0-d on the device."""
        average: list[Tensor] = list(self.network.parameters())
        newest: list[Tensor] = list(generator.parameters())
        towards = torch._foreach_sub(newest, average)
        torch._foreach_mul_(towards, weight.to(newest[0].dtype))
        torch._foreach_add_(average, towards)
        # BatchNorm's statistics are averages already, and its counter is no float.
        torch._foreach_copy_(list(self.network.buffers()), list(generator.buffers()))
