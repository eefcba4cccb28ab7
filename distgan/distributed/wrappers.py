"""A network with its optimizer: on one process, in DDP, in a CUDA graph, or (deepspeed.py) in a DeepSpeed engine."""

import re
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from distgan.errors import UserError

# Of the precisions that are autocast.
AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_UNFINISHED = "Expected to have finished reduction"  # in DDP's error for a parameter without a gradient


class WrappedNetwork:
    """A network prepared by Accelerate: under autocast, and in DDP with several ranks.

    Call it for a forward pass whose backward averages gradients over the ranks; `module` is the network without DDP.
    All ranks call each method.
    """

    # True if each rank holds only its part of the weights or of Adam's state.
    is_sharded = False
    _is_ddp = False
    # Updates skipped for a non-finite gradient: only DeepSpeed skips them.
    num_skipped = 0

    def __init__(self, name: str, network: nn.Module, optim: torch.optim.Optimizer, *, accelerator: Any):
        self._accelerator = accelerator
        self._wrapped, self.optim = accelerator.prepare(network, optim)
        self._name, self._is_ddp = name, isinstance(self._wrapped, DistributedDataParallel)
        self.module: nn.Module = self._wrapped.module if self._is_ddp else self._wrapped
        # Raised for a kernel of one channel, whose channel stride has no effect.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)

    def __call__(self, *inputs: Tensor) -> Tensor:
        try:
            return self._wrapped(*inputs)
        except RuntimeError as error:
            # DDP notices in the next forward pass that the last backward pass of a step left a parameter out.
            if self._is_ddp and _UNFINISHED in str(error):
                found = re.search(r"did not receive grad for rank \d+:((?: \d+)+)", str(error))
                self.check_left_out([int(index) for index in found[1].split()] if found else [])
            raise

    def check_left_out(self, indices: Sequence[int]) -> None:
        """Raise UserError that names the parameters of these indices, unless there are none."""
        if indices:
            keys = [key for key, _ in self.module.named_parameters()]
            more = f" (and {len(indices) - 1} more)" if len(indices) > 1 else ""
            raise UserError(
                f"rank {dist.get_rank()}: {self._name}.{keys[indices[0]]}{more} got no gradient in a step: a pass left "
                "its layer out, and several processes average the gradients of all layers. Expected: a layer whose "
                "output is multiplied by 0 instead, or --processes 1",
                code="bad-networks",
            )

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
        """Continue the backward pass from an output of this network, given its gradient by `backward_to_leaf`."""
        output.backward(gradient)

    def step(self) -> None:
        if self._is_ddp:
            self.check_left_out(_without_gradient(self.module))
        self.optim.step()

    @property
    def lr(self) -> float:
        return float(self.optim.param_groups[0]["lr"])

    def set_lr(self, lr: Tensor) -> None:
        """Set the learning rate; `lr` is 0-d on the device. A tensor is updated in place, for CUDA graphs."""
        for group in self.optim.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].copy_(lr)
            else:
                group["lr"] = float(lr)

    def full_params(self) -> AbstractContextManager:
        """Return a context in which every rank can read the full weights."""
        return nullcontext()

    def adam_state(self) -> dict[str, Tensor]:
        """Return `<parameter>.exp_avg`, `.exp_avg_sq` and `.step` of each parameter that has had a gradient."""
        state = self.optim.state_dict()["state"]
        names = [name for name, _ in self.module.named_parameters()]
        return {f"{names[index]}.{key}": value for index in sorted(state) for key, value in state[index].items()}

    def load(self, weights: dict[str, Tensor], adam: list[dict[str, Tensor]]) -> None:
        """Load weights, and Adam's state per parameter in their order: {} without a gradient so far, [] for all."""
        self.module.load_state_dict(weights)
        groups = self.optim.state_dict()["param_groups"]
        # A fused Adam goes through memory in order: moments need the memory format of their parameter.
        states = [
            {key: value if key == "step" else torch.empty_like(parameter).copy_(value) for key, value in state.items()}
            for parameter, state in zip(self.module.parameters(), adam, strict=False)
        ]
        # As Adam has none before the first gradient of a parameter.
        state = {index: state for index, state in enumerate(states) if state}
        self.optim.load_state_dict({"state": state, "param_groups": groups})


def _without_gradient(network: nn.Module) -> list[int]:
    return [index for index, parameter in enumerate(network.parameters()) if parameter.grad is None]


class PlainNetwork(WrappedNetwork):
    """A network of this process alone, without Accelerate, whatever group the process is in."""

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
    """A runtime of one process, whatever group this one is in: what `build_gan` needs of one.

    `precision`: one of PRECISIONS; without a loss scaler.
    """

    rank, world_size = 0, 1
    memory_format = torch.contiguous_format

    def __init__(self, device: torch.device, precision: str = "fp32"):
        self.device, self.precision = device, precision

    def wrap_network(self, name: str, network: nn.Module, optim: torch.optim.Optimizer) -> WrappedNetwork:
        if self.precision in AUTOCAST_DTYPES:
            wrap_forward_in_autocast(network, self.device.type, AUTOCAST_DTYPES[self.precision])
        return PlainNetwork(network, optim)


def wrap_forward_in_autocast(network: nn.Module, device_type: str, dtype: torch.dtype) -> None:
    """Wrap the forward pass in autocast, as Accelerate does under DDP; weights and outputs stay float32."""
    forward = network.forward

    def under_autocast(*inputs: Tensor) -> Tensor:
        with torch.autocast(device_type, dtype):
            return forward(*inputs).float()

    network.forward = under_autocast


class FlatAllReduceNetwork(WrappedNetwork):
    """A network without DDP: its step all-reduces all gradients in one flat buffer.

    A CUDA graph can capture that; DDP's buckets and hooks run on the host.
    """

    def __init__(self, name: str, network: nn.Module, optim: torch.optim.Optimizer, *, accelerator: Any):
        self._accelerator, self._name = accelerator, name
        self._wrapped = self.module = accelerator.prepare_model(network, evaluation_mode=True)  # under autocast
        self.optim = accelerator.prepare_optimizer(optim)
        self._parameters = list(network.parameters())
        num = sum(parameter.numel() for parameter in self._parameters)
        self._flat = torch.zeros(num, dtype=self._parameters[0].dtype, device=self._parameters[0].device)
        # In the memory format of their parameters, for a fused Adam.
        parts = self._flat.split([parameter.numel() for parameter in self._parameters])
        self._views = [
            part.as_strided(parameter.shape, parameter.stride(), part.storage_offset())
            for part, parameter in zip(parts, self._parameters, strict=True)
        ]

    def accumulating(self, is_last: bool) -> AbstractContextManager:
        return nullcontext()

    def step(self) -> None:
        self.check_left_out(_without_gradient(self.module))
        torch._foreach_copy_(self._views, [parameter.grad for parameter in self._parameters])  # type: ignore[misc]
        self._flat.div_(dist.get_world_size())
        dist.all_reduce(self._flat)
        for parameter, view in zip(self._parameters, self._views, strict=True):
            parameter.grad = view
        self.optim.step()
