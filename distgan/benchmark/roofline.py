"""Measured peak performance of the device: matmuls, on a CPU convolutions too, and a copy.

`python -m distgan.benchmark.roofline CONFIG` takes a Config as JSON, and uses its device and threads.
"""

import json
import sys
from collections.abc import Callable
from math import ceil
from statistics import median

import torch
import torch.nn.functional as F
from torch.utils.benchmark import Timer

from distgan.benchmark.measurement import Roofline
from distgan.config.schema import Config
from distgan.distributed.runtime import open_runtime

_REPEATS = 5
# Duration of a repeat, filled by repeated calls.
_REPEAT_S = 0.1
_ROWS = {"cpu": 1024, "cuda": 8192}
_COPIED = {"cpu": 2**28, "cuda": 2**30}
# Images, channels in and out, height and width, and rows of the kernel: without padding, which libraries skip.
_CONV = (8, 256, 256, 28, 3)
_KINDS = {
    "cpu": {"fp32": torch.float32, "bf16": torch.bfloat16},
    "cuda": {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16},
}


def measure(device: torch.device) -> Roofline:
    """Measure FLOP/s by precision and bytes/s of a copy (read plus written); `how` describes the method."""
    rows, num_bytes, is_cpu = _ROWS[device.type], _COPIED[device.type], device.type == "cpu"
    matmul, conv = dict[str, float](), dict[str, float]()
    before = torch.get_float32_matmul_precision()
    for kind, dtype in _KINDS[device.type].items():
        torch.set_float32_matmul_precision("high" if kind == "tf32" else "highest")
        matmul[kind] = _matmul(rows, dtype, device)
        if is_cpu:
            conv[kind] = _conv(dtype)
    torch.set_float32_matmul_precision(before)
    source = torch.ones(num_bytes // 4, device=device)
    target = torch.empty_like(source)
    copy_s = _seconds(lambda: target.copy_(source))
    how = f"matmul of two {rows}x{rows} matrices"
    if is_cpu:
        # MKL's matmul leaves half of some processors' width unused, which oneDNN's convolutions take.
        how += f"; convolution of {_CONV[0]} x {_CONV[1]}x{_CONV[3]}x{_CONV[3]} by {_CONV[2]} kernels of {_CONV[4]}x"
        how += f"{_CONV[4]}, no padding; the peak is the higher of the two"
    else:
        how += "; fp32 with TF32 off, tf32 with it on"
    how += f"; copy of {num_bytes / 2**20:.0f} MiB; median of {_REPEATS} repeats of about {_REPEAT_S} s"
    peaks = {kind: max(speed, conv.get(kind, 0.0)) for kind, speed in matmul.items()}
    reached = {"matmul_flops": matmul} | ({"conv_flops": conv} if is_cpu else {}) | {"peak_flops": peaks}
    more = {"copy_bytes_per_s": 2 * num_bytes / copy_s, "how": how, "threads": torch.get_num_threads()}
    return Roofline.model_validate(reached | more)


def _matmul(rows: int, dtype: torch.dtype, device: torch.device) -> float:
    a, b = (torch.randn(rows, rows, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * rows**3 / _seconds(lambda: torch.mm(a, b, out=out))


def _conv(dtype: torch.dtype) -> float:
    num, channels, kernels, side, size = _CONV
    images, weight = (
        torch.randn(num, channels, side, side).to(dtype),
        torch.randn(kernels, channels, size, size).to(dtype),
    )
    return 2 * weight.numel() * num * (side - size + 1) ** 2 / _seconds(lambda: F.conv2d(images, weight))


def _seconds(call: Callable[[], object]) -> float:
    """Return the seconds of one call: the median of the repeats."""
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    num = max(1, ceil(_REPEAT_S / timer.timeit(3).mean))
    return median(timer.timeit(num).mean for _ in range(_REPEATS))


if __name__ == "__main__":
    with open_runtime(Config.model_validate_json(sys.argv[1])) as runtime:
        print(json.dumps(measure(runtime.device).model_dump()))
