"""Devices: select and configure a GPU, synchronize, measure memory, copy without blocking the host."""

import os
import platform

import torch
from torch import Tensor

from distgan.errors import UserError
from distgan.utils.operating_system import peak_memory_bytes


def device_named(name: str) -> torch.device:
    """Return the device for a command without Accelerate. Raises UserError for "cuda" without a GPU."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device: no CUDA device here (cuda). Expected here: cpu, auto", code="no-gpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def set_local_gpu() -> None:
    """Select the GPU of this local rank. Raises UserError if there is none."""
    local_rank, num_gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local_rank >= num_gpus:
        raise UserError(
            f"LOCAL_RANK: more processes than the {num_gpus} GPUs of {platform.node()} ({local_rank}). Expected: at "
            f"most {num_gpus}, or --device cpu",
            code="launcher-conflict",
        )
    torch.cuda.set_device(local_rank)


def configure_cuda(*, is_tf32: bool) -> None:
    """Turn TF32 on or off (torch's convolutions use it by default), and cuDNN's benchmark mode on."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = is_tf32
    torch.backends.cudnn.benchmark = True


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory_gib(device: torch.device) -> float:
    """Return the peak memory in GiB: on a GPU reserved by torch, CUDA graphs included; on a CPU of this process."""
    if device.type == "cuda":
        # A graph's memory pool counts as allocated only during its capture.
        return torch.cuda.max_memory_reserved(device) / 2**30
    return peak_memory_bytes() / 2**30


def upload(values: Tensor, target: Tensor) -> None:
    """Copy a CPU tensor to `target` on the device, after pending work; pinned memory makes it asynchronous."""
    target.copy_(values.pin_memory() if target.is_cuda else values, non_blocking=True)


class AsyncHostCopy:
    """An asynchronous copy of a tensor to the CPU; `wait` returns it."""

    def __init__(self, values: Tensor):
        self._event = None
        self._values = values
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def wait(self) -> Tensor:
        if self._event is not None:
            self._event.synchronize()
        return self._values
