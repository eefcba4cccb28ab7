"""A network in training, with its optimizer: alone, in DDP, in a graph, or (deepspeed.py) in an engine of DeepSpeed."""

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel


class DDPNetwork:
    """A network, prepared by Accelerate: under its autocast and, where there are several ranks, in DDP.

    Calling it is a forward pass whose backward averages gradients over the ranks; `module` is the network itself,
    without DDP. All ranks call each method.
    """

    # Whether each rank holds only its part of the weights or of Adam's state.
    is_sharded = False
    # Updates left out for a non-finite gradient: none, as such a gradient breaks the weights here.
    num_skipped = 0

    def __init__(self, name: str, network: nn.Module, optim: torch.optim.Optimizer, *, accelerator: Any):
        self._accelerator = accelerator
        self._wrapped, self.optim = accelerator.prepare(network, optim)
        is_ddp = isinstance(self._wrapped, DistributedDataParallel)
        self.module: nn.Module = self._wrapped.module if is_ddp else self._wrapped
        # Of a kernel of one channel, whose stride over channels means nothing.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)

    def __call__(self, *inputs: Tensor) -> Tensor:
        return self._wrapped(*inputs)

    def zero_grad(self) -> None:
        self.optim.zero_grad()

    def accumulating(self, is_last: bool) -> AbstractContextManager:
        """Return a context for one of several backward passes of a step: gradients are averaged at the last."""
        return nullcontext() if is_last else self._accelerator.no_sync(self._wrapped)

    def backward(self, loss: Tensor) -> None:
        """Add to the gradients."""
        self._accelerator.backward(loss)

    def backward_to_leaf(self, loss: Tensor) -> None:
        """Compute the gradient of inputs of a frozen network. Under fp16 it is scaled as `backward` scales it."""
        self._accelerator.backward(loss)

    def backward_from(self, output: Tensor, gradient: Tensor) -> None:
        """Continue from an output of this network, whose gradient `backward_to_leaf` has found."""
        output.backward(gradient)

    def step(self) -> None:
        self.optim.step()

    @property
    def lr(self) -> float:
        return float(self.optim.param_groups[0]["lr"])

    def set_lr(self, lr: Tensor) -> None:
        """Set the learning rate; `lr` is 0-d on the device. A tensor rate keeps its memory, where a graph reads it."""
        for group in self.optim.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].copy_(lr)
            else:
                group["lr"] = float(lr)

    # -- what a checkpoint keeps ----------------------------------------------------------------------

    def full_params(self) -> AbstractContextManager:
        """Return a context in which every rank holds all of the weights, to read."""
        return nullcontext()

    def adam_state(self) -> dict[str, Tensor]:
        """Return `<parameter>.exp_avg`, `.exp_avg_sq` and `.step`; nothing before the first step."""
        state = self.optim.state_dict()["state"]
        names = [name for name, _ in self.module.named_parameters()]
        return {
            f"{name}.{key}": value
            for name, index in zip(names, sorted(state), strict=False)
            for key, value in state[index].items()
        }

    def load(self, weights: dict[str, Tensor], adam: list[dict[str, Tensor]]) -> None:
        """Load weights, and Adam's state of each parameter in turn (none before the first step)."""
        self.module.load_state_dict(weights)
        groups = self.optim.state_dict()["param_groups"]
        # A fused Adam walks through memory: moments have to lie in it as their parameter does.
        laid_out = [
            {key: value if key == "step" else torch.empty_like(parameter).copy_(value) for key, value in own.items()}
            for parameter, own in zip(self.module.parameters(), adam, strict=False)
        ]
        self.optim.load_state_dict({"state": dict(enumerate(laid_out)), "param_groups": groups})


class PlainNetwork(DDPNetwork):
    """A network of this process alone, in float32 and without Accelerate, whatever group the process is in."""

    def __init__(self, network: nn.Module, optim: torch.optim.Optimizer):
        self._wrapped = self.module = network
        self.optim = optim

    def accumulating(self, is_last: bool) -> AbstractContextManager:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def backward_to_leaf(self, loss: Tensor) -> None:
        loss.backward()


class LocalRuntime:
    """A runtime of one process, whatever group this one is in: what `build_gan` needs of one."""

    rank, world_size, precision = 0, 1, "fp32"
    memory_format = torch.contiguous_format

    def __init__(self, device: torch.device):
        self.device = device

    def wrap_network(self, name: str, network: nn.Module, optim: torch.optim.Optimizer) -> DDPNetwork:
        return PlainNetwork(network, optim)


class FlatAllReduceNetwork(DDPNetwork):
    """Without DDP: one all-reduce a network, of all gradients in one buffer, as a part of its step.

    What DDP does besides (events, buckets, hooks that look at a count of steps) is the host's, and is not in a graph.
    """

    def __init__(self, name: str, network: nn.Module, optim: torch.optim.Optimizer, *, accelerator: Any):
        self._accelerator = accelerator
        self._wrapped = self.module = accelerator.prepare_model(network, evaluation_mode=True)  # under autocast
        self.optim = accelerator.prepare_optimizer(optim)
        self._parameters = list(network.parameters())
        num = sum(parameter.numel() for parameter in self._parameters)
        self._flat = torch.zeros(num, dtype=self._parameters[0].dtype, device=self._parameters[0].device)
        # Laid out as their parameters are, for a fused Adam.
        parts = self._flat.split([parameter.numel() for parameter in self._parameters])
        self._views = [
            part.as_strided(parameter.shape, parameter.stride(), part.storage_offset())
            for part, parameter in zip(parts, self._parameters, strict=True)
        ]

    def accumulating(self, is_last: bool) -> AbstractContextManager:
        return nullcontext()

    def step(self) -> None:
        torch._foreach_copy_(self._views, [parameter.grad for parameter in self._parameters])  # type: ignore[misc]
        self._flat.div_(dist.get_world_size())
        dist.all_reduce(self._flat)
        for parameter, view in zip(self._parameters, self._views, strict=True):
            parameter.grad = view
        self.optim.step()
