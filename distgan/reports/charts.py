"""Curves as inline SVG: the data of a template that draws them, and a table of every number.

The viewport is 1000 by 1000, stretched to the available space; lines keep their width, and text its size.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from distgan.reports.number_format import epochs, format_number, percent
from distgan.utils.figures import load_matplotlib

SIZE = 1000.0
_LOG_FROM = 30.0  # ratio of maximum to minimum from which `may_be_log` selects a logarithmic axis


class Point(NamedTuple):
    """A value with the ends of its interval, if it has one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


class Series(NamedTuple):
    """A named curve."""

    name: str
    points: Sequence[Point]


class Level(NamedTuple):
    """A horizontal reference line."""

    name: str
    value: float


class Mark(NamedTuple):
    """An event at x."""

    x: float
    text: str


class Tick(NamedTuple):
    """A text at a position, in per mille of the viewport from the left or the top."""

    at: float
    text: str


class Drawn(NamedTuple):
    """A series as SVG paths: its line, its band ("" for none), its markers."""

    name: str
    line: str
    band: str
    spots: str


class Entry(NamedTuple):
    """A cell of the table: its text, and its height in the viewport; both empty without a value."""

    text: str
    at: float | None


class Chart(NamedTuple):
    """The data of a template that draws one chart and its table."""

    key: str
    title: str
    label: str  # of the y axis
    note: str
    summary: str  # in place of the picture
    is_log: bool
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    series: list[Drawn]
    levels: list[Tick]
    marks: list[Tick]
    rows: list[tuple[Tick, list[Entry]]]  # x, and an entry for each series


def chart(
    key: str,
    title: str,
    label: str,
    series: Sequence[Series],
    *,
    note: str = "",
    levels: Sequence[Level] = (),
    marks: Sequence[Mark] = (),
    share: bool = False,
    may_be_log: bool = False,
) -> Chart | None:
    """Return a chart, None without a single point. A share is shown in percent."""
    series = [curve for curve in series if curve.points]
    if not series:
        return None
    text = (lambda value: percent(value)) if share else format_number
    xs = [point.x for curve in series for point in curve.points]
    ys = [level.value for level in levels]
    ys += [y for curve in series for p in curve.points for y in (p.y, p.low, p.high) if y is not None]
    is_log = may_be_log and min(ys) > 0 and max(ys) / min(ys) >= _LOG_FROM
    y_ticks, (y_low, y_high) = _log_ticks(min(ys), max(ys)) if is_log else _ticks(min(ys), max(ys), 5)
    is_log = is_log and y_low > 0  # a power of ten below what a float can hold is 0
    x_ticks, (x_low, x_high) = _ticks(min(xs), max(xs), 6, inside=True)
    across = _scale(x_low, x_high, False)
    up = _scale(y_low, y_high, is_log)

    def down(value: float) -> float:
        return SIZE - up(value)

    def y_text(value: float) -> str:
        if share:
            return percent(value, 0 if abs(100 * value - round(100 * value)) < 1e-9 else 1)
        return f"{value:g}" if is_log or value == 0 else f"{value:,.{_decimals(y_ticks)}f}"

    return Chart(
        key,
        title,
        label,
        note,
        _summary(title, series, text),
        is_log,
        [Tick(across(x), epochs(x)) for x in x_ticks],
        [Tick(down(y), y_text(y)) for y in y_ticks],
        [_project(curve, across, down) for curve in series],
        [Tick(down(level.value), f"{level.name}: {text(level.value)}") for level in levels],
        [Tick(across(mark.x), mark.text) for mark in marks if x_low <= mark.x <= x_high],
        _rows(series, across, down, text),
    )


def _project(series: Series, across: Callable[[float], float], down: Callable[[float], float]) -> Drawn:
    places = [(across(point.x), down(point.y)) for point in series.points]
    line = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    upper = [(across(p.x), down(p.high)) for p in series.points if p.low is not None and p.high is not None]
    lower = [(across(p.x), down(p.low)) for p in series.points if p.low is not None and p.high is not None]
    outline = upper + lower[::-1]
    band = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in outline) + "Z" if len(upper) > 1 else ""
    # Enough markers to identify a line, and one at its end.
    every = max(1, math.ceil(len(places) / 14))
    spots = "".join(f"M{x:.1f} {y:.1f}h.01" for x, y in places[::-every])
    return Drawn(series.name, line, band, spots)


def _rows(
    series: Sequence[Series],
    across: Callable[[float], float],
    down: Callable[[float], float],
    text: Callable[[float], str],
) -> list[tuple[Tick, list[Entry]]]:
    by_x = [{point.x: point for point in curve.points} for curve in series]

    def entry(point: Point | None) -> Entry:
        if point is None:
            return Entry("", None)
        ends = f" ({text(point.low)} to {text(point.high)})" if None not in (point.low, point.high) else ""  # type: ignore[arg-type]
        return Entry(text(point.y) + ends, down(point.y))

    return [
        (Tick(across(x), epochs(x)), [entry(points.get(x)) for points in by_x])
        for x in sorted({x for points in by_x for x in points})
    ]


def _summary(title: str, series: Sequence[Series], text: Callable[[float], str]) -> str:
    parts = []
    for curve in series:
        first, last = curve.points[0], curve.points[-1]
        low, high = min(p.y for p in curve.points), max(p.y for p in curve.points)
        parts.append(
            f"{curve.name} goes from {text(first.y)} at epoch {epochs(first.x)} to {text(last.y)} at epoch "
            f"{epochs(last.x)}, with {text(low)} at the least and {text(high)} at the most"
        )
    return f"{title}. {'; '.join(parts)}."


def _scale(low: float, high: float, is_log: bool) -> Callable[[float], float]:
    bend: Callable[[float], float] = math.log if is_log else float
    start, end = bend(low), bend(high)
    return lambda value: SIZE * (bend(value) - start) / (end - start)


def _ticks(low: float, high: float, num: int, *, inside: bool = False) -> tuple[list[float], tuple[float, float]]:
    """Return round ticks, and the range of the axis: to the ticks around the values, or (`inside`) of the values."""
    load_matplotlib()
    from matplotlib.ticker import MaxNLocator

    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-9):
        margin = max(abs(low) / 2, 0.5)
        low, high = low - margin, high + margin
    ticks = [float(tick) for tick in MaxNLocator(num, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)]
    if not inside:
        return ticks, (ticks[0], ticks[-1])
    slack = 1e-9 * (high - low)
    return [tick for tick in ticks if low - slack <= tick <= high + slack], (low, high)


def _log_ticks(low: float, high: float) -> tuple[list[float], tuple[float, float]]:
    """Return 1, 2 and 5 times each power of ten, or the powers only for a wide range; and the range of the axis."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if last - first <= 2 else (1, 3) if last - first <= 3 else (1,)
    ticks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    below = max((tick for tick in ticks if tick <= low), default=ticks[0])
    above = min((tick for tick in ticks if tick >= high), default=ticks[-1])
    return [tick for tick in ticks if below <= tick <= above], (below, above)


def _decimals(ticks: Sequence[float]) -> int:
    """Return the number of decimals that distinguishes the ticks."""
    return next((n for n in range(8) if all(abs(t - round(t, n)) < 1e-9 * max(1, abs(t)) for t in ticks)), 8)
