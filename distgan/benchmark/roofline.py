"""What this device can do at most, measured: matmuls, on a CPU convolutions too, and a copy.

`python -m distgan.benchmark.roofline CONFIG` takes a Config as JSON, of which device and threads count.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F

from distgan.config.schema import Config
from distgan.distributed.runtime import Runtime, open_runtime

_REPEATS = 5
# Of a repeat, which has as many calls as fill them.
_REPEAT_S = 0.1
_ROWS = {"cpu": 1024, "cuda": 8192}
_COPIED = {"cpu": 2**28, "cuda": 2**30}
# Images, channels in and out, height and width, and rows of the kernel: without padding, which libraries skip.
_CONV = (8, 256, 256, 28, 3)
_KINDS = {
    "cpu": {"fp32": torch.float32, "bf16": torch.bfloat16},
    "cuda": {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16},
}


def measure(runtime: Runtime) -> dict[str, Any]:
    """FLOP/s for each kind of number, bytes/s of a copy (those read and those written), and `how` in words."""
    device = runtime.device
    rows, num_bytes = _ROWS[device.type], _COPIED[device.type]
    reached: dict[str, dict[str, float]] = {"matmul_flops": {}}
    for kind, dtype in _KINDS[device.type].items():
        with _tf32(kind == "tf32"):
            reached["matmul_flops"][kind] = _matmul(rows, dtype, runtime)
            if device.type == "cpu":
                reached.setdefault("conv_flops", {})[kind] = _conv(dtype, runtime)
    source = torch.ones(num_bytes // 4, device=device)
    target = torch.empty_like(source)
    copy_s = _seconds(lambda: target.copy_(source), runtime)
    how = f"matmul of two {rows}x{rows} matrices"
    if device.type == "cpu":
        # MKL's matmul leaves half of some processors' width unused, which oneDNN's convolutions take.
        how += f"; convolution of {_CONV[0]} x {_CONV[1]}x{_CONV[3]}x{_CONV[3]} by {_CONV[2]} kernels of {_CONV[4]}x"
        how += f"{_CONV[4]}, no padding; the peak is the higher of the two"
    else:
        how += "; fp32 with TF32 off, tf32 with it on"
    return reached | {
        "peak_flops": {kind: max(of[kind] for of in reached.values()) for kind in _KINDS[device.type]},
        "copy_bytes_per_s": 2 * num_bytes / copy_s,
        "how": f"{how}; copy of {num_bytes / 2**20:.0f} MiB; median of {_REPEATS} repeats of about {_REPEAT_S} s",
        "threads": torch.get_num_threads(),
    }


def _matmul(rows: int, dtype: torch.dtype, runtime: Runtime) -> float:
    a, b = (torch.randn(rows, rows, device=runtime.device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * rows**3 / _seconds(lambda: torch.mm(a, b, out=out), runtime)


def _conv(dtype: torch.dtype, runtime: Runtime) -> float:
    num, channels, kernels, side, size = _CONV
    images, weight = (torch.randn(num, channels, side, side, dtype=dtype), torch.randn(kernels, channels, size, size))
    weight = weight.to(dtype)
    flops = 2 * weight.numel() * num * (side - size + 1) ** 2
    return flops / _seconds(lambda: F.conv2d(images, weight), runtime)


@contextmanager
def _tf32(is_on: bool) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if is_on else "highest")
    yield
    torch.set_float32_matmul_precision(before)


def _seconds(call: Callable[[], object], runtime: Runtime) -> float:
    """Of one call: the median of the repeats."""

    def timed(num: int) -> float:
        start = time.perf_counter()
        for _ in range(num):
            call()
        runtime.wait()
        return time.perf_counter() - start

    timed(1)
    num = max(1, ceil(_REPEAT_S / timed(1)))
    timed(num)
    return median(timed(num) / num for _ in range(_REPEATS))


def main() -> None:
    with open_runtime(Config.model_validate_json(sys.argv[1])) as runtime:
        print(json.dumps(measure(runtime)))


if __name__ == "__main__":
    main()
