"""Which precision a run takes: `--precision auto` is bf16 where the device has it and a short race shows it faster.

The race is of a convolution and a matrix product of the sizes of these networks, forward and backward, under autocast
as in a training, and not of the networks themselves: on a GPU a step of those waits for the launches of its kernels,
which CUDA graphs take away later. It draws from a separate generator and leaves no state behind.
"""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F

from distgan.config.registry import AUTO
from distgan.utils.devices import choose_arithmetic, wait
from distgan.utils.hardware import has_native_bf16

# Of which the fastest counts: in the first libraries choose their algorithms.
_ROUNDS = 6
# Images of a pass, and passes of a round: a fraction of a second on one core, a few milliseconds on a GPU.
_SIZES = {"cpu": (8, 1), "cuda": (256, 10)}


class ChosenPrecision(NamedTuple):
    """`name` in PRECISIONS; `note` is what the start line says of it, "" if nothing."""

    name: str
    note: str = ""


def choose_precision(wanted: str, device: torch.device, *, is_unset: bool) -> ChosenPrecision:
    """Return what `wanted` comes to. All ranks call it, in one process group; where some know it, the others follow.

    `is_unset`: neither the run nor its preset sets one.
    """
    known = [name for name in _gathered(wanted) if name != AUTO]
    if not known:
        return _raced(device)
    is_slow = known[0] == "fp32" and is_unset and device.type == "cuda" and has_native_bf16(is_cpu=False)
    return ChosenPrecision(known[0], "several times slower here than --precision bf16" if is_slow else "")


def _raced(device: torch.device) -> ChosenPrecision:
    float32_s, bf16_s = (max(each) for each in zip(*_gathered(time_precisions(device)), strict=True))
    if math.isinf(bf16_s):
        return ChosenPrecision("fp32", "auto: no bf16 arithmetic here")
    times = f"{1e3 * bf16_s:.3g} ms, float32 {1e3 * float32_s:.3g} ms"
    return ChosenPrecision("bf16" if bf16_s < float32_s else "fp32", f"auto: a probe takes bf16 {times}")


def time_precisions(
    device: torch.device, clock: Callable[[], float] = time.perf_counter, work: Callable[[bool], None] | None = None
) -> tuple[float, float]:
    """Return the seconds of the same work in float32 and in bf16; infinite for a bf16 that the device does not have.

    `work(is_bf16)` replaces that work.
    """
    if not has_native_bf16(is_cpu=device.type == "cpu"):
        return 0.0, math.inf
    work = work or _build_probe(device)
    best = {False: math.inf, True: math.inf}
    for _ in range(_ROUNDS):
        for is_bf16 in best:  # in turn, so that what slows the machine down slows both
            began = clock()
            work(is_bf16)
            wait(device)
            best[is_bf16] = min(best[is_bf16], clock() - began)
    return best[False], best[True]


def _build_probe(device: torch.device) -> Callable[[bool], None]:
    if device.type == "cuda":
        choose_arithmetic(is_tf32=False)
    rows, passes = _SIZES[device.type]
    generator = torch.Generator(device).manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device, dtype=torch.float32)

    images = draw(rows, 64, 14, 14).contiguous(memory_format=torch.channels_last)
    tensors = [each.requires_grad_() for each in (images, draw(128, 64, 5, 5), draw(256, 128 * 7 * 7))]

    def work(is_bf16: bool) -> None:
        images, kernel, matrix = tensors
        for _ in range(passes):
            with torch.autocast(device.type, torch.bfloat16, enabled=is_bf16):
                output = F.linear(F.conv2d(images, kernel, stride=2, padding=2).flatten(1), matrix)
            torch.autograd.grad(output.float().square().mean(), tensors)

    return work


def _gathered(value: Any) -> list[Any]:
    """Return the value of each rank, in their order. All ranks call it."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
