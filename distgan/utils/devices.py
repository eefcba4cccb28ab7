"""GPU specifics: which one this process takes, how it computes, how full it is."""

import os
import platform

import torch
from torch import Tensor

from distgan.errors import UserError
from distgan.utils.operating_system import peak_memory_bytes


def device_named(name: str) -> torch.device:
    """Return the device of a command that runs alone and outside Accelerate."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device: no CUDA device here (cuda). Expected here: cpu, auto", code="no-gpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def set_local_gpu() -> None:
    """Raise UserError if there are fewer GPUs than processes, which NCCL would report much later."""
    local_rank, here = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local_rank >= here:
        raise UserError(
            f"LOCAL_RANK: more processes than the {here} GPUs of {platform.node()} ({local_rank}). Expected: at most "
            f"{here}, or --device cpu",
            code="launcher-conflict",
        )
    torch.cuda.set_device(local_rank)


def configure_cuda(*, is_tf32: bool) -> None:
    """Set TF32, which torch's convolutions take by default, and the fastest cuDNN algorithms for fixed shapes."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = is_tf32
    torch.backends.cudnn.benchmark = True


def wait(device: torch.device) -> None:
    """Wait for the work of a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory_gib(device: torch.device) -> float:
    """Return GiB: on a GPU what torch has allocated, graphs included; on a CPU of this process."""
    if device.type == "cuda":
        # What lies in a graph's own memory counts as allocated only during its capture.
        return torch.cuda.max_memory_reserved(device) / 2**30
    return peak_memory_bytes() / 2**30


# -- Numbers to the device and back without making the host wait --


def upload(values: Tensor, into: Tensor) -> None:
    """Copy to a tensor on the device, after its pending work; page-locked memory avoids the wait."""
    into.copy_(values.pin_memory() if into.is_cuda else values, non_blocking=True)


class AsyncHostCopy:
    """Numbers on their way from the device; `wait` gives them as a tensor on the CPU."""

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
