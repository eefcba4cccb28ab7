"""The CPU and the GPUs of this machine. Imports without torch."""

import platform
import warnings
from pathlib import Path

_BF16 = {"amx_bf16", "avx512_bf16", "bf16"}  # CPU flags of x86; the last one is Arm's


def cpu_name() -> str:
    """Return the processor's name if known."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def cpu_flags() -> set[str]:
    """Return the CPU's flags, which name its instruction sets; empty if unknown."""
    path = Path("/proc/cpuinfo")
    return set(path.read_text().split()) if path.is_file() else set()


def emulates_bf16() -> bool:
    """True if this CPU lacks bfloat16 arithmetic: torch emulates it, 17 times slower than float32 (LOG.md)."""
    flags = cpu_flags()
    return bool(flags) and not flags & _BF16


def has_native_bf16(*, is_cpu: bool) -> bool:
    """True if the CPU, or the GPU of this process, has bfloat16 arithmetic, whatever its speed."""
    if is_cpu:
        return bool(cpu_flags() & _BF16)
    import torch

    return torch.cuda.is_bf16_supported(including_emulation=False)


def count_gpus() -> int:
    """Return the number of CUDA devices, 0 without a driver."""
    import torch

    with warnings.catch_warnings(action="ignore"):  # torch warns of a driver problem, which doctor reports
        return torch.cuda.device_count() if torch.cuda.is_available() else 0
