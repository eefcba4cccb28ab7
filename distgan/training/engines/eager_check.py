"""Check that an engine reproduces eager steps, and then restore all state bit for bit."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from distgan.config.registry import PRECISIONS
from distgan.data.loader import Batches
from distgan.training.gan import Gan

Advance = Callable[[int], tuple[Tensor, int]]


class Parity(NamedTuple):
    """Differences of losses and of weight updates after `steps` steps, and their `Precision.tolerance`."""

    steps: int
    losses: float
    weights: float
    tolerance: tuple[float, float]

    @property
    def passed(self) -> bool:
        # A NaN is not <= the tolerance, and does not pass.
        return self.losses <= self.tolerance[0] and self.weights <= self.tolerance[1]

    def __str__(self) -> str:
        return (
            f"over {self.steps} steps the losses differ by {self.losses:.1e} (allowed {self.tolerance[0]:g}) and the "
            f"updates of the weights by {self.weights:.1e} (allowed {self.tolerance[1]:g})"
        )


@contextmanager
def preserve_state(gan: Gan, batches: Batches) -> Iterator[None]:
    """Restore, bit for bit and in the same memory, all that steps in the block change.

    If Adam had no state before, its state becomes zeros, as Adam initializes it.
    """
    weights = _weights(gan)
    saved_weights = [value.clone() for value in weights]
    optims = gan.g.optim, gan.d.optim
    saved_adam = [
        {parameter: {key: value.clone() for key, value in state.items()} for parameter, state in optim.state.items()}
        for optim in optims
    ]
    rates = gan.g.lr, gan.d.lr
    step = gan.step
    try:
        yield
    finally:
        gan.step = step
        batches.seek(step)
        with torch.no_grad():
            for value, old in zip(weights, saved_weights, strict=True):
                value.copy_(old)
            for optim, saved in zip(optims, saved_adam, strict=True):
                for parameter, state in optim.state.items():
                    for key, value in state.items():
                        value.copy_(saved[parameter][key]) if parameter in saved else value.zero_()
            for network, rate in zip((gan.g, gan.d), rates, strict=True):
                network.set_lr(torch.tensor(rate, dtype=torch.float64))


def measure_parity(
    gan: Gan, batches: Batches, precision: str, reference: Advance, candidate: Advance, steps: int
) -> Parity:
    """Run `steps` from the current step by `reference` and by `candidate`, and compare. All ranks call it."""
    losses, updates = [], []
    for advance in (reference, candidate):
        with preserve_state(gan, batches):
            start = [value.clone() for value in _weights(gan)]
            end, stats = gan.step + steps, []
            while gan.step < end:
                stats.append(advance(end)[0].clone())
            assert gan.step == end, "an engine ran past its limit"
            losses.append(torch.cat(stats).double())
            updates.append([(now - old).double() for now, old in zip(_weights(gan), start, strict=True)])
    expected, actual = losses
    loss = ((actual - expected).abs() / (1 + expected.abs())).max()
    # Per network, so that a large one does not hide a small one.
    weight = torch.stack([
        _norm([x - y for x, y in zip(a, b, strict=True)]) / (_norm(a) + 1e-12)
        for a, b in zip(_by_network(gan, updates[0]), _by_network(gan, updates[1]), strict=True)
    ]).max()  # fmt: skip
    return Parity(steps, float(loss), float(weight), PRECISIONS[precision].tolerance)


def _weights(gan: Gan) -> list[Tensor]:
    return [value for network in gan.networks().values() for value in network.state_dict().values()]


def _by_network(gan: Gan, updates: list[Tensor]) -> Iterator[list[Tensor]]:
    """Yield the updates of each network's parameters, without buffers."""
    remaining = iter(updates)
    for network in gan.networks().values():
        parameters = {name for name, _ in network.named_parameters()}
        yield [update for name, update in zip(network.state_dict(), remaining, strict=False) if name in parameters]


def _norm(tensors: list[Tensor]) -> Tensor:
    return torch.stack([tensor.square().sum() for tensor in tensors]).sum().sqrt()
