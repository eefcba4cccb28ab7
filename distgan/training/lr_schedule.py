"""Scalars of each step, computed in advance: learning rates, weight of the moving average, noise key; and the EMA."""

from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from distgan.config.schema import OptimConfig
from distgan.utils.counter_rng import step_key
from distgan.utils.devices import upload


class StepScalars(NamedTuple):
    """Scalars of one step, on the device. `key`: (2,) int32. `rates`: (3,) float64: of G, of D, weight of the EMA."""

    key: Tensor
    rates: Tensor


class Schedule:
    """StepScalars of `num` steps on the device, always in the same memory: a CUDA graph indexes them by a counter.

    A step then copies no scalar to the device, which would make the host wait.
    """

    def __init__(self, config: OptimConfig, seed: int, total_steps: int, device: torch.device, num: int = 512):
        self.config, self.seed, self.total_steps, self.num = config, seed, total_steps, num
        self.keys = torch.zeros(num, 2, dtype=torch.int32, device=device)
        self.rates = torch.zeros(num, 3, dtype=torch.float64, device=device)
        self._first = -1

    def at(self, step: int) -> StepScalars:
        index = step % self.num
        self.load(step - index)
        return StepScalars(self.keys[index], self.rates[index])

    def load(self, first: int) -> None:
        """Fill the table with the steps from `first` on."""
        if first == self._first:
            return
        steps = range(first, first + self.num)
        upload(torch.tensor([step_key(self.seed, step) for step in steps], dtype=torch.int32), self.keys)
        upload(torch.tensor([self._rates(step) for step in steps], dtype=torch.float64), self.rates)
        self._first = first

    def _rates(self, step: int) -> tuple[float, float, float]:
        config = self.config
        factor = 1 - step / self.total_steps if config.lr_schedule == "linear" else 1.0
        # The decay is smaller in the first steps, so that a short run does not average in its random initial weights
        # (as TensorFlow's ExponentialMovingAverage with num_updates).
        decay = min(config.ema_decay, (2 + step) / (11 + step))
        return config.g_lr * factor, config.d_lr * factor, 1 - decay


# -- Moving average of G's weights, whose images are better than those of the weights themselves --


class Ema:
    """`network` holds the average of a generator's weights, over about 1 / weight steps."""

    def __init__(self, generator: nn.Module):
        self.network = deepcopy(generator).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, generator: nn.Module, weight: Tensor) -> None:
        """Add the generator's weights with `weight`, 0-d on the device, to the average."""
        average: list[Tensor] = list(self.network.parameters())
        newest: list[Tensor] = list(generator.parameters())
        deltas = torch._foreach_sub(newest, average)
        torch._foreach_mul_(deltas, weight.to(newest[0].dtype))
        torch._foreach_add_(average, deltas)
        # Copied: BatchNorm's statistics are averages already, and its counter is an integer.
        if buffers := list(self.network.buffers()):
            torch._foreach_copy_(buffers, list(generator.buffers()))
