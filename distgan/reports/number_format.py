"""Formatting of numbers."""

import math
from collections.abc import Iterable, Sequence

from distgan.evaluation.schema import Estimate


def format_number(value: float) -> str:
    """Return three significant digits: 0.0312, 1.39, 23.4, 1,235."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 999.5:
        return f"{value:,.0f}" if size < 1e9 else f"{value:.2e}"
    if size < 0.001:
        return f"{value:.1e}"
    decimals = 2 - math.floor(math.log10(size))
    return f"{value:.{max(0, min(decimals, 4))}f}"


def percent(value: float, decimals: int = 1) -> str:
    """Return a share in percent; very small shares get one more digit, so that they don't round to 0."""
    more = 1 if decimals and 0 < abs(value) < 0.0005 else 0
    return f"{100 * value:.{decimals + more}f} %"


def interval(estimate: Estimate, *, share: bool = False) -> str:
    """Return the interval: `97.8 to 98.4 %`, or `0.29 to 0.33`."""
    if share:
        return f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f} %"
    return f"{format_number(estimate.low)} to {format_number(estimate.high)}"


def with_interval(estimate: Estimate, *, share: bool = False) -> str:
    """Return value and interval: `98.1 % (97.8 to 98.4 %)`."""
    return f"{percent(estimate.value) if share else format_number(estimate.value)} ({interval(estimate, share=share)})"


def epochs(value: float) -> str:
    """Return a number of epochs: 4, 4.2."""
    return f"{value:,.2f}".rstrip("0").rstrip(".")


def join(items: Iterable[object]) -> str:
    """Return `a, b, c`."""
    return ", ".join(map(str, items))


def join_and(items: Sequence[str]) -> str:
    """Return `a, b and c`."""
    return f"{join(items[:-1])} and {items[-1]}" if len(items) > 1 else "".join(items)
