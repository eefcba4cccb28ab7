"""Scalars of each step, known ahead: learning rates, the weight of the moving average, the key of the noise."""

from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from distgan.config.schema import OptimConfig
from distgan.utils.counter_rng import step_key
from distgan.utils.devices import upload


class StepScalars(NamedTuple):
    """The numbers of one step, on the device: `key` (2,) int32, `rates` (3,) float64: of G, of D, of the average."""

    key: Tensor
    rates: Tensor


class Schedule:
    """A table of `num` steps on the device, in the same memory all the time: a graph reads its line by a counter.

    So no step has to copy a scalar to the device, which would make the host wait.
    """

    def __init__(self, config: OptimConfig, seed: int, total_steps: int, device: torch.device, num: int = 512):
        self.config, self.seed, self.total_steps, self.num = config, seed, total_steps, num
        self.keys = torch.zeros(num, 2, dtype=torch.int32, device=device)
        self.rates = torch.zeros(num, 3, dtype=torch.float64, device=device)
        self._first = -1

    def at(self, step: int) -> StepScalars:
        line = step % self.num
        self.load(step - line)
        return StepScalars(self.keys[line], self.rates[line])

    def load(self, first: int) -> None:
        """Set the table to the steps from `first` on."""
        if first == self._first:
            return
        steps = range(first, first + self.num)
        upload(torch.tensor([step_key(self.seed, step) for step in steps], dtype=torch.int32), self.keys)
        upload(torch.tensor([self._rates(step) for step in steps], dtype=torch.float64), self.rates)
        self._first = first

    def _rates(self, step: int) -> tuple[float, float, float]:
        config = self.config
        left = 1 - step / self.total_steps if config.lr_schedule == "linear" else 1.0
        # While few steps are done the decay is smaller, so that a short run does not average its random start in
        # (as TensorFlow's ExponentialMovingAverage does with num_updates).
        decay = min(config.ema_decay, (2 + step) / (11 + step))
        return config.g_lr * left, config.d_lr * left, 1 - decay


# -- The moving average of G's weights, which makes better images than the weights themselves --


class Ema:
    """`network` holds the average of a generator's weights, over about 1 / weight steps."""

    def __init__(self, generator: nn.Module):
        self.network = deepcopy(generator).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, generator: nn.Module, weight: Tensor) -> None:
        """Move the average towards `generator`; `weight` is that of the newest weights, 0-d on the device."""
        average: list[Tensor] = list(self.network.parameters())
        newest: list[Tensor] = list(generator.parameters())
        towards = torch._foreach_sub(newest, average)
        torch._foreach_mul_(towards, weight.to(newest[0].dtype))
        torch._foreach_add_(average, towards)
        # BatchNorm's statistics are averages already, and its counter is no float.
        if buffers := list(self.network.buffers()):
            torch._foreach_copy_(buffers, list(generator.buffers()))
