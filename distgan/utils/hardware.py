"""The CPU and the GPUs of this machine. Imports without torch."""

import platform
import warnings
from pathlib import Path

_BF16 = {"amx_bf16", "avx512_bf16", "bf16"}  # of a CPU's flags; the last is what Arm's are called


def cpu_name() -> str:
    """Return the processor's name if known."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def cpu_flags() -> set[str]:
    """Return the names of its instruction sets if known."""
    path = Path("/proc/cpuinfo")
    return set(path.read_text().split()) if path.is_file() else set()


def emulates_bf16() -> bool:
    """True if this CPU lacks bfloat16 arithmetic: torch's is 17 times slower than float32 then (LOG.md)."""
    flags = cpu_flags()
    return bool(flags) and not flags & _BF16


def has_native_bf16(*, is_cpu: bool) -> bool:
    """True if the CPU, or the GPU of this process, computes in bfloat16 itself, be it fast or slow."""
    if is_cpu:
        return bool(cpu_flags() & _BF16)
    import torch

    return torch.cuda.is_bf16_supported(including_emulation=False)


def count_gpus() -> int:
    """Return the number of CUDA devices, 0 without a driver."""
    import torch

    with warnings.catch_warnings(action="ignore"):  # torch's warning about a driver; gpus() reports it
        return torch.cuda.device_count() if torch.cuda.is_available() else 0
