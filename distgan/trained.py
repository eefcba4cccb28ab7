"""A network in training, with its optimizer: alone, in DDP, or (in zero.py) in an engine of DeepSpeed."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class Trained:
    """`trained(...)` is a pass that collects gradients of all ranks; `bare` is the network itself.

    Under Accelerate's autocast and, where there are several ranks, in DDP. All ranks call each method.
    """

    # Whether each rank holds only its part of the weights or of Adam's state.
    is_sharded = False
    # Updates left out for a gradient that is no number: none, as such a gradient breaks the weights here.
    num_skipped = 0

    def __init__(self, name: str, network: nn.Module, optim: torch.optim.Optimizer, *, accelerator: Any):
        self._accelerator = accelerator
        self._wrapped, self.optim = accelerator.prepare(network, optim)
        is_ddp = isinstance(self._wrapped, DistributedDataParallel)
        self.bare: nn.Module = self._wrapped.module if is_ddp else self._wrapped

    def __call__(self, *inputs: Tensor) -> Tensor:
        return self._wrapped(*inputs)

    def zero_grad(self) -> None:
        self.optim.zero_grad()

    def accumulating(self, is_last: bool) -> AbstractContextManager:
        """For one of several forward and backward passes before a step: the ranks add up at the last."""
        return nullcontext() if is_last else self._accelerator.no_sync(self._wrapped)

    def backward(self, loss: Tensor) -> None:
        """Adds to the gradients."""
        self._accelerator.backward(loss)

    def backward_to_leaf(self, loss: Tensor) -> None:
        """To inputs of a frozen network. Under fp16 their gradient is as much too large as `backward` makes it."""
        self._accelerator.backward(loss)

    def backward_from(self, output: Tensor, gradient: Tensor) -> None:
        """Goes on from an output of this network, whose gradient `backward_to_leaf` has found."""
        output.backward(gradient)

    def step(self) -> None:
        self.optim.step()

    @property
    def lr(self) -> float:
        return self.optim.param_groups[0]["lr"]

    @lr.setter
    def lr(self, lr: float) -> None:
        for group in self.optim.param_groups:
            group["lr"] = lr

    # -- what a checkpoint keeps ----------------------------------------------------------------------

    def whole(self) -> AbstractContextManager:
        """Within it every rank holds all of the weights, to read."""
        return nullcontext()

    def adam_state(self) -> dict[str, Tensor]:
        """`<parameter>.exp_avg`, `.exp_avg_sq` and `.step`; nothing before the first step."""
        state = self.optim.state_dict()["state"]
        names = [name for name, _ in self.bare.named_parameters()]
        return {
            f"{name}.{key}": value
            for name, index in zip(names, sorted(state), strict=False)
            for key, value in state[index].items()
        }

    def load(self, weights: dict[str, Tensor], adam: list[dict[str, Tensor]]) -> None:
        """Weights, and Adam's state of each parameter in turn (none before the first step)."""
        self.bare.load_state_dict(weights)
        groups = self.optim.state_dict()["param_groups"]
        self.optim.load_state_dict({"state": dict(enumerate(adam)), "param_groups": groups})
