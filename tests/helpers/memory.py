"""Limit the peak memory of a block."""

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def at_most(mib: int) -> Iterator[None]:
    """Fail if the block needs more memory: resident (on Linux), or allocated by Python and numpy."""
    tracemalloc.start()
    before = _reset_peak()
    try:
        yield
        allocated, resident = tracemalloc.get_traced_memory()[1], _status("VmHWM") - before
    finally:
        tracemalloc.stop()
    assert max(allocated, resident) <= mib * 2**20, f"{allocated / 2**20:.0f} MiB, {resident / 2**20:.0f} MiB resident"


def _reset_peak() -> int:
    """Reset the kernel's peak. Return the resident bytes now."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux, or no permission: only allocations by Python count
        return 2**62
    return _status("VmRSS")


def _status(key: str) -> int:
    path = Path("/proc/self/status")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), 0)
