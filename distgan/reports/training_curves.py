"""The curves of a run: its losses and logits, its quality while it trained, and when it had converged."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from distgan.config.registry import LOSSES
from distgan.reports.charts import Chart, Level, Mark, Point, Series, chart
from distgan.reports.history import PREFIXES, alarms_of
from distgan.reports.number_format import epochs
from distgan.reports.run_data import Run
from distgan.utils.files import finite
from distgan.utils.thinning import Group

MOST_POINTS = 300


class Alarm(NamedTuple):
    epoch: float
    texts: list[str]


class Curves(NamedTuple):
    training: list[Chart]
    quality: list[Chart]


def curves_of(run: Run) -> Curves:
    measured = run.history.evaluations
    return Curves(_training(run), _quality(run, measured, _alarms(measured)))


def _training(run: Run) -> list[Chart]:
    num, undecided = run.history.num, LOSSES[run.config.optim.loss].undecided_d_loss
    levels = [Level("D can't tell real from fake", undecided)] if undecided else []
    wanted = (
        ("losses", "Losses", "loss (nats)" if undecided else "loss", levels,
         {"d_loss": "D's loss", "g_loss": "G's loss"}),
        ("logits", "What D says", "mean logit", [Level("undecided", 0.0)],
         {"real_logits": "on real images", "fake_logits": "on generated images"}),
    )  # fmt: skip
    charts = []
    for key, title, label, own_levels, names in wanted:
        series, every = [], 1
        for column, name in names.items():
            groups = run.history.curves[column].groups(MOST_POINTS)
            every = max([every, *(group.num for group in groups)])
            series.append(Series(name, [_point(group) for group in groups]))
        note = "Each point is the mean of the steps since the point before it."
        if every > 1:
            note = (
                f"Each point is the mean of {every} lines of metrics.jsonl ({num:,} in all); the band runs from "
                "the smallest to the largest of them."
            )
        charts.append(chart(key, title, label, series, levels=own_levels, note=note))
    return [each for each in charts if each]


def _point(group: Group) -> Point:
    """Return the mean of a group, with its range if it has more than one point."""
    return Point(group.x, group.mean, *((group.low, group.high) if group.num > 1 else ()))


def _quality(run: Run, lines: list[dict[str, Any]], alarms: list[Alarm]) -> list[Chart]:
    if not lines:
        return []
    # Of very many evaluations some are shown; the last always.
    shown = lines[::-1][:: -(-len(lines) // MOST_POINTS)][::-1]
    every = -(-run.history.num_evaluations // len(shown))
    marks = [Mark(alarm.epoch, "; ".join(alarm.texts)) for alarm in alarms]
    sizes = sorted({line["eval_n"] for line in lines if type(line.get("eval_n")) is int})
    counts = " or ".join(f"{size:,}" for size in sizes)
    note = f"Measured on {counts} images each time. " if counts else ""
    note += "Bands are 95 % intervals."
    note += f" One evaluation in {every} is shown." if every > 1 else ""
    wanted = [
        ("fcd", "Distance to real images (fcd)", "fcd", "fcd_floor", "two sets of real images", False,
         "The lower the better."),
        ("agreement", "Read as the digit that was asked for", "share of the images", None, "", True, ""),
        ("recognisable", "Recognisable images", "share of the images", "recognisable_floor", "real images", True,
         "The jury is over 90 % sure of them."),
        ("density", "Density", "density", "density_floor", "real images", False,
         "How closely real images lie around the generated ones."),
        ("coverage", "Coverage", "share of real images", "coverage_floor", "real images", False,
         "Real images that have a generated one near them: low where variety is lost."),
        ("kl", "Unevenness of the digits", "nats", None, "", False,
         "How far the shares of the digits are from a tenth each (Kullback-Leibler divergence)."),
    ]  # fmt: skip
    charts = []
    for key, title, label, floor, name, share, words in wanted:
        series = [Series(PREFIXES[p], _estimates(shown, f"{p}_{key}")) for p in PREFIXES]
        floors = [value for line in lines if floor and (value := finite(line.get(floor))) is not None]
        levels = [Level(name, floors[-1])] if floors else []
        charts.append(
            chart(
                f"q-{key}", title, label, series, note=f"{words} {note}".strip(), levels=levels, marks=marks,
                share=share, may_be_log=key == "fcd",
            )
        )  # fmt: skip
    charts.append(_worst_digit(run, shown, marks))
    return [each for each in charts if each]


def _worst_digit(run: Run, lines: list[dict[str, Any]], marks: list[Mark]) -> Chart | None:
    series = []
    for prefix, name in PREFIXES.items():
        found = [(finite(line["epoch"]), line.get(f"{prefix}_digits")) for line in lines]
        points = []
        for epoch, digits in found:
            values = [finite(value) for value in digits] if isinstance(digits, list) else []
            if epoch is not None and len(values) == 10 and None not in values:
                points.append(Point(epoch, min(value for value in values if value is not None)))
        series.append(Series(name, points))
    if run.kind == "C-GAN":
        title, levels = "The digit read as asked least often", []
        note = "Agreement of the worst of the ten digits."
    else:
        title, levels = "The rarest digit", [Level("all alike", 0.1)]
        note = "The smallest of the ten digits' shares; at 0 % one of them is missing."
    return chart("q-worst", title, "share of the images", series, note=note, levels=levels, marks=marks, share=True)


def _alarms(lines: list[dict[str, Any]]) -> list[Alarm]:
    return [Alarm(line["epoch"], texts) for line in lines if (texts := alarms_of(line))]


def _estimates(lines: list[dict[str, Any]], key: str) -> list[Point]:
    points = []
    for line in lines:
        value = finite(line.get(key))
        low, high = finite(line.get(f"{key}_low")), finite(line.get(f"{key}_high"))
        if value is not None:
            has_ends = low is not None and high is not None
            points.append(Point(float(line["epoch"]), value, *((low, high) if has_ends else ())))
    return points


def when(alarms: Mapping[str, Iterable[float]]) -> list[tuple[str, str]]:
    """Return each alarm once, with the epochs at which it was raised in words."""
    return [(text, _listed(sorted(set(at)))) for text, at in alarms.items()]


def _listed(at: list[float]) -> str:
    words = [epochs(value) for value in at]
    if len(words) == 1:
        return f"epoch {words[0]}"
    if len(words) > 6:
        return f"{len(words)} times, from epoch {words[0]} to {words[-1]}"
    return f"epochs {', '.join(words[:-1])} and {words[-1]}"


# -- When a run had converged: the first evaluation from which its fcd stays within 5 % of its best --

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
            epoch, fcd = finite(line.get("epoch")), finite(line.get(f"{prefix}_fcd"))
            if epoch is None or fcd is None:
                continue
            low, high = finite(line.get(f"{prefix}_fcd_low")), finite(line.get(f"{prefix}_fcd_high"))
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
