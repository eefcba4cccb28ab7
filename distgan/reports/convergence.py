"""When a run had converged: the first evaluated epoch from which its fcd is and stays within 5 % of its best."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from distgan.reports.run_data import number

SLACK = 1.05


class Evaluated(NamedTuple):
    epoch: float
    fcd: float
    low: float
    high: float


class Convergence(NamedTuple):
    """`epoch` is None of a run that never stays near its best.

    `low` and `high` are the earliest and the latest epoch that the intervals of fcd allow; None where that is never.
    `best` is the epoch of the smallest fcd, `last` that of the last evaluation, after which nothing is known.
    """

    epoch: float | None
    low: float | None
    high: float | None
    best: float
    last: float
    num: int

    @property
    def is_improving(self) -> bool:
        return self.best == self.last


def evaluated(lines: Sequence[dict[str, Any]]) -> list[Evaluated]:
    """The measured fcd by epoch: of the moving average of G where the run has one, as distgan eval takes it."""
    for prefix in ("ema", "raw"):
        found: dict[float, Evaluated] = {}
        for line in lines:
            epoch, fcd = number(line.get("epoch")), number(line.get(f"{prefix}_fcd"))
            if epoch is None or fcd is None:
                continue
            low, high = number(line.get(f"{prefix}_fcd_low")), number(line.get(f"{prefix}_fcd_high"))
            found[epoch] = Evaluated(epoch, fcd, fcd if low is None else low, fcd if high is None else high)
        if found:
            return [found[epoch] for epoch in sorted(found)]
    return []


def convergence(measured: Sequence[Evaluated]) -> Convergence | None:
    """None without an evaluation."""
    if not measured:
        return None
    best = min(measured, key=lambda each: each.fcd)
    limit = SLACK * best.fcd

    def first(values: list[float]) -> float | None:
        found = None
        for each, value in zip(reversed(measured), reversed(values), strict=True):
            if value > limit:
                break
            found = each.epoch
        return found

    return Convergence(
        first([each.fcd for each in measured]),
        first([each.low for each in measured]),
        first([each.high for each in measured]),
        best.epoch,
        measured[-1].epoch,
        len(measured),
    )
