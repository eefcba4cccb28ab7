"""The CPU and the GPUs of this machine. Imports without torch."""

import platform
import warnings
from pathlib import Path


def cpu_name() -> str:
    """The processor's own name where the system tells it."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def cpu_flags() -> set[str]:
    """What its instructions are called, where the system tells it."""
    path = Path("/proc/cpuinfo")
    return set(path.read_text().split()) if path.is_file() else set()


def imitates_bf16() -> bool:
    """Whether this CPU has no arithmetic in bfloat16: torch's is 17 times slower than float32 then (LOG.md)."""
    flags = cpu_flags()
    return bool(flags) and not flags & {"amx_bf16", "avx512_bf16", "bf16"}  # the last is what Arm's are called


def has_fast_bf16(*, is_cpu: bool) -> bool:
    """True if bf16 is faster than float32: on GPUs and CPUs with native bf16 (AMX, or avx512_bf16 on AMD; README).

    An Intel CPU with avx512_bf16 and without AMX was slower; others were not measured.
    """
    if is_cpu:
        flags = cpu_flags()
        return "amx_bf16" in flags or {"avx512_bf16", "AuthenticAMD"} <= flags
    import torch

    return torch.cuda.is_bf16_supported(including_emulation=False)


def count_gpus() -> int:
    import torch

    with warnings.catch_warnings(action="ignore"):  # torch's own words on a driver; gpus() asks for them
        return torch.cuda.device_count() if torch.cuda.is_available() else 0
