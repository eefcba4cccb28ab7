"""Curves of a run: losses and logits, and quality during training."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from distgan.config.registry import LOSSES
from distgan.evaluation.schema import has_digits
from distgan.reports.charts import Chart, Level, Mark, Point, Series, chart
from distgan.reports.history import PREFIXES, Line, alarms_of
from distgan.reports.number_format import epochs, join_and
from distgan.reports.run_data import Run
from distgan.utils.files import finite_or_none
from distgan.utils.thinning import Group

MOST_POINTS = 300


class Curves(NamedTuple):
    """The charts of the losses and logits, and of quality."""

    training: list[Chart]
    quality: list[Chart]


def build_curves(run: Run) -> Curves:
    """Return the charts of a run."""
    return Curves(_training(run), _quality(run, run.history.evaluations))


def _training(run: Run) -> list[Chart]:
    num, loss = run.history.num, LOSSES.get(run.config.optim.loss)  # None: of a file that is not executed here
    undecided = loss.undecided_d_loss if loss else None
    levels = [Level("D can't distinguish real from fake", undecided)] if undecided else []
    wanted = (
        ("losses", "Losses", "loss (nats)" if undecided else "loss", levels,
         {"d_loss": "D's loss", "g_loss": "G's loss"}),
        ("logits", "D's outputs", "mean logit", [Level("undecided", 0.0)] if undecided else [],
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
    return [chart for chart in charts if chart]


def _point(group: Group) -> Point:
    """Return the mean of a group, with its range if it has more than one point."""
    return Point(group.x, group.mean, *((group.low, group.high) if group.num > 1 else ()))


def _quality(run: Run, lines: list[Line]) -> list[Chart]:
    if not lines:
        return []
    # With very many evaluations some are shown, always the last.
    shown = lines[::-1][:: -(-len(lines) // MOST_POINTS)][::-1]
    every = -(-run.history.num_evaluations // len(shown))
    marks = [Mark(line["epoch"], "; ".join(texts)) for line in lines if (texts := alarms_of(line))]
    sizes = sorted({line["eval_n"] for line in lines if type(line.get("eval_n")) is int})
    counts = " or ".join(f"{size:,}" for size in sizes)
    note = f"Measured on {counts} images each time. " if counts else ""
    note += "Bands are 95 % intervals."
    noun, nouns = run.class_nouns
    note += f" One evaluation in {every} is shown." if every > 1 else ""
    expected = "equal shares"
    if run.kind == "GAN":
        expected = "those of the real images (in runs of older versions from equal shares)"
    wanted = [
        ("fcd", "Distance to real images (fcd)", "fcd", "fcd_floor", "two sets of real images", False,
         "Lower is better."),
        ("agreement", f"Read as the requested {noun}", "share of the images", None, "", True, ""),
        ("recognisable", "Recognisable images", "share of the images", "recognisable_floor", "real images", True,
         "The judges are over 90 % confident."),
        ("density", "Density", "density", "density_floor", "real images", False,
         "How closely real images lie around the generated ones."),
        ("coverage", "Coverage", "share of real images", "coverage_floor", "real images", False,
         "Real images that have a generated one near them: low if variety is lost."),
        ("kl", f"Unevenness of the {nouns}", "nats", None, "", False,
         f"Kullback-Leibler divergence of the shares of the {nouns} from {expected}."),
    ]  # fmt: skip
    charts = []
    for key, title, label, baseline, name, share, caption in wanted:
        series = [Series(PREFIXES[p], _estimates(shown, f"{p}_{key}")) for p in PREFIXES]
        known = [value for line in lines if baseline and (value := finite_or_none(line.get(baseline))) is not None]
        levels = [Level(name, known[-1])] if known else []
        charts.append(
            chart(
                f"q-{key}", title, label, series, note=f"{caption} {note}".strip(), levels=levels, marks=marks,
                share=share, may_be_log=key == "fcd",
            )
        )  # fmt: skip
    charts.append(_worst_class(run, shown, marks))
    return [chart for chart in charts if chart]


def _worst_class(run: Run, lines: list[Line], marks: list[Mark]) -> Chart | None:
    series, sizes = [], {0}
    for prefix, name in PREFIXES.items():
        points = []
        for line in lines:
            epoch, per_class = finite_or_none(line["epoch"]), line.get(f"{prefix}_digits")
            values = [finite_or_none(value) for value in per_class] if isinstance(per_class, list) else []
            known = [value for value in values if value is not None]
            if epoch is not None and known and len(known) == len(values):
                points.append(Point(epoch, min(known)))
                sizes.add(len(known))
        series.append(Series(name, points))
    num, (noun, nouns) = max(sizes), run.class_nouns
    if run.kind == "C-GAN":
        title, levels = f"The {noun} with the lowest agreement", []
        note = f"Agreement of the worst of the {num} {nouns}."
    else:
        title = f"The rarest {noun}"
        levels = [Level("equal shares", 1 / max(num, 1))] if has_digits(run.data_name) else []
        note = f"The smallest of the {num} {nouns}' shares; at 0 % one of them is missing."
    return chart("q-worst", title, "share of the images", series, note=note, levels=levels, marks=marks, share=True)


def _estimates(lines: list[Line], key: str) -> list[Point]:
    points = []
    for line in lines:
        value = finite_or_none(line.get(key))
        low, high = finite_or_none(line.get(f"{key}_low")), finite_or_none(line.get(f"{key}_high"))
        if value is not None:
            has_ends = low is not None and high is not None
            points.append(Point(float(line["epoch"]), value, *((low, high) if has_ends else ())))
    return points


def when(alarms: Mapping[str, Iterable[float]]) -> list[tuple[str, str]]:
    """Return each alarm once, with the epochs at which it was raised as text."""
    return [(text, _listed(sorted(set(at)))) for text, at in alarms.items()]


def _listed(at: list[float]) -> str:
    texts = [epochs(value) for value in at]
    if len(texts) > 6:
        return f"{len(texts)} times, from epoch {texts[0]} to {texts[-1]}"
    return f"epoch{'s' if len(texts) > 1 else ''} {join_and(texts)}"
