"""Choose a run's precision: `--precision auto` is bf16 where the device has it and a short probe shows it faster.

The probe is a convolution and a matrix product of these networks' sizes, forward and backward under autocast. The
networks themselves would measure kernel launches on a GPU, which CUDA graphs later remove. It draws from a separate
generator and leaves no state behind.
"""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F

from distgan.config.registry import AUTO
from distgan.utils.devices import configure_cuda, synchronize
from distgan.utils.hardware import has_native_bf16

# The fastest round counts: libraries choose their algorithms in the first.
_ROUNDS = 4
# Images per pass and passes per round: half a second on one core, a few milliseconds on a GPU. With 8 a processor with
# AMX has no clear winner, though it trains batches of 256 images 1.5 times faster in bf16 (LOG.md).
_SIZES = {"cpu": (64, 1), "cuda": (256, 10)}


class ChosenPrecision(NamedTuple):
    """`name` in PRECISIONS; `note` is the reason or advice in the start line, "" for none."""

    name: str
    note: str = ""


def choose_precision(requested: str, device: torch.device, *, is_unset: bool) -> ChosenPrecision:
    """Return the precision for `requested`, which may be "auto". All ranks call it, in one process group.

    Where some ranks request one by name, as after reading a run's folder, the others with "auto" use it too.
    `is_unset`: neither the run nor its preset sets a precision.
    """
    known = [name for name in _all_gather(requested) if name != AUTO]
    if not known:
        return _choose_faster(device)
    is_slow = known[0] == "fp32" and is_unset and device.type == "cuda" and has_native_bf16(is_cpu=False)
    return ChosenPrecision(known[0], "several times slower here than --precision bf16" if is_slow else "")


def _choose_faster(device: torch.device) -> ChosenPrecision:
    float32_s, bf16_s = (max(seconds) for seconds in zip(*_all_gather(time_precisions(device)), strict=True))
    if math.isinf(bf16_s):
        return ChosenPrecision("fp32", "auto: no bf16 arithmetic here")
    times = f"{1e3 * bf16_s:.3g} ms, float32 {1e3 * float32_s:.3g} ms"
    return ChosenPrecision("bf16" if bf16_s < float32_s else "fp32", f"auto: a probe takes bf16 {times}")


def time_precisions(
    device: torch.device, clock: Callable[[], float] = time.perf_counter, probe: Callable[[bool], None] | None = None
) -> tuple[float, float]:
    """Return the seconds of a probe in float32 and in bf16; infinity for bf16 that the device does not have.

    `probe(is_bf16)` replaces the built-in one.
    """
    if not has_native_bf16(is_cpu=device.type == "cpu"):
        return 0.0, math.inf
    probe = probe or _build_probe(device)
    best_s = {False: math.inf, True: math.inf}
    for _ in range(_ROUNDS):
        for is_bf16 in best_s:  # alternating, so that other load slows both
            start = clock()
            probe(is_bf16)
            synchronize(device)
            best_s[is_bf16] = min(best_s[is_bf16], clock() - start)
    return best_s[False], best_s[True]


def _build_probe(device: torch.device) -> Callable[[bool], None]:
    if device.type == "cuda":
        configure_cuda(is_tf32=False)
    rows, passes = _SIZES[device.type]
    generator = torch.Generator(device).manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device, dtype=torch.float32)

    images = draw(rows, 64, 14, 14).contiguous(memory_format=torch.channels_last)
    tensors = [tensor.requires_grad_() for tensor in (images, draw(128, 64, 5, 5), draw(256, 128 * 7 * 7))]

    def probe(is_bf16: bool) -> None:
        images, kernel, matrix = tensors
        for _ in range(passes):
            with torch.autocast(device.type, torch.bfloat16, enabled=is_bf16):
                output = F.linear(F.conv2d(images, kernel, stride=2, padding=2).flatten(1), matrix)
            torch.autograd.grad(output.float().square().mean(), tensors)

    return probe


def _all_gather(value: Any) -> list[Any]:
    """Return the value of each rank, by rank. All ranks call it."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
