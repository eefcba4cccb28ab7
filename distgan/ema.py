"""The moving average of G's weights, which makes better images than the weights themselves."""

from copy import deepcopy

import torch
from torch import nn


class Ema:
    """`network` holds the average of a generator's weights over about 1 / (1 - decay) steps.

    While few steps are done the decay is (1 + step) / (10 + step), so that a short run does not
    average its random start in (as TensorFlow's ExponentialMovingAverage does with num_updates).
    """

    def __init__(self, generator: nn.Module, decay: float):
        self.decay = decay
        self.network = deepcopy(generator).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, generator: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.network.parameters()), list(generator.parameters()), 1 - decay)
        # BatchNorm's statistics are averages already, and its counter is no float.
        torch._foreach_copy_(list(self.network.buffers()), list(generator.buffers()))
