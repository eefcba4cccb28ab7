"""Rows of `distgan compare`: a row for each aspect, a cell for each run."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from distgan.evaluation.schema import Quality, class_names_of
from distgan.reports.number_format import epochs, format_number, interval, join_and, percent, with_interval
from distgan.reports.pairwise import ComparedRun, compare_fcd, compare_speed, compare_with_each, describe
from distgan.reports.quality_view import class_noun, missing_classes, missing_text, weight_text
from distgan.reports.run_data import Run, eval_command, train_command


class Check(NamedTuple):
    """A published claim about runs of this kind, and if the measurement agrees with it; None: undecided."""

    claim: str
    agrees: bool | None
    why: str

    @property
    def word(self) -> str:
        return {True: "agrees", False: "disagrees", None: "undecided"}[self.agrees]


class Cell(NamedTuple):
    """A measurement of a run. `value` and `interval` are text, `more` lines below; `command` measures it again."""

    value: str
    command: str
    interval: str = ""
    more: Sequence[str] = ()
    check: Check | None = None


class Row(NamedTuple):
    """An aspect of the comparison, with a cell for each run."""

    key: str
    name: str
    meaning: str
    cells: list[Cell]
    note: str = ""


def build_rows(compared: Sequence[ComparedRun]) -> list[Row]:
    """Return the rows of the comparison of these runs."""
    table: list[tuple[str, str, str, Callable[[ComparedRun, Sequence[ComparedRun]], Cell]]] = [
        ("labels", "labels", "if the model takes labels, and if images match them", _labels),
        ("input", "input", "the generator's input", _input),
        ("quality", "image quality", "fcd is a distance to real images", _quality),
        ("speed", "training speed", "seconds per epoch by the run's log, including other load of the machine", _speed),
        ("epochs", "epochs to converge", "first evaluation that meets and holds all quality targets", _epochs),
        ("diversity", "diversity", "classes that are generated", _diversity),
    ]
    return [
        Row(key, name, meaning, [cell_of(subject, compared) for subject in compared])
        for key, name, meaning, cell_of in table
    ]


def _not_measured(why: str, command: str) -> Cell:
    return Cell("not measured", command, more=[why])


def _needs_eval(run: Run) -> Cell:
    if run.unmeasurable:
        return _not_measured(run.unmeasurable, train_command(run, "--dry-run"))
    return _not_measured("its quality was not measured", eval_command(run))


def _measured(quality: Quality) -> str:
    """Return the number of images of an evaluation, and the weights that drew them."""
    weights = weight_text(quality)
    return f"{quality.n:,} images" + (f", {weights}" if weights else "")


def _labels(subject: ComparedRun, others: Sequence[ComparedRun]) -> Cell:
    run, quality = subject.run, subject.run.quality
    if not run.config.model.is_conditional:
        clusters = run.config.model.clusters
        more = (
            [f"both networks are conditioned on one of {clusters:,} clusters of the training images"]
            if clusters
            else []
        )
        return Cell("no label input", train_command(run, "--dry-run"), "by its settings", more)
    if quality is None or quality.agreement is None:
        return _needs_eval(run)
    chance = percent(1 / len(quality.shares), 0)
    more = [f"images read as the requested {class_noun(quality)[0]}; by chance {chance}", _measured(quality)]
    return Cell(percent(quality.agreement.value), quality.source.command, interval(quality.agreement, share=True), more)


def _input(subject: ComparedRun, others: Sequence[ComparedRun]) -> Cell:
    run, model = subject.run, subject.run.config.model
    shape = run.environment.get(list, "networks", "latent_shape")
    if shape is None and model.stem == "linear":
        shape = [model.latent_dim]
    parts = [f"{'x'.join(map(str, shape))} of noise" if shape else "a map of noise"]
    parts += ["the label"] if model.is_conditional else []
    clusters = f"one of {model.clusters:,} clusters" if model.clusters else ""
    parts += [f"{clusters} of its images" if model.is_conditional else f"{clusters} of images"] if clusters else []
    sizes = [run.environment.get(int, "networks", f"{name}_parameters") for name in "gd"]
    fact = (
        f"G {sizes[0]:,} and D {sizes[1]:,} parameters" if None not in sizes else "number of parameters: not recorded"
    )
    return Cell(join_and(parts), train_command(run, "--dry-run"), "by its settings", [fact])


def _quality(subject: ComparedRun, others: Sequence[ComparedRun]) -> Cell:
    quality = subject.run.quality
    if quality is None:
        return _needs_eval(subject.run)
    more = [
        f"fcd of two sets of real images: {with_interval(quality.fcd_floor)}",
        f"recognisable: {with_interval(quality.recognisable, share=True)}",
        f"real images: {with_interval(quality.real.recognisable, share=True)}",
        _measured(quality),
        *describe(compare_with_each(subject, others, compare_fcd)),
    ]
    return Cell(f"fcd {format_number(quality.fcd.value)}", quality.source.command, interval(quality.fcd), more)


def _speed(subject: ComparedRun, others: Sequence[ComparedRun]) -> Cell:
    run, command = subject.run, train_command(subject.run)
    if subject.seconds is None:
        is_known = run.environment.get(int, "data", "num_images")
        return _not_measured(
            "too few lines in its log" if is_known else "the number of images is not recorded", command
        )
    seconds, num = subject.seconds
    engine, precision = run.environment.get(str, "engine", "name"), run.environment.get(str, "precision")
    start = f", since it was resumed at step {run.history.since:,}" if run.history.since else ""
    more = [
        f"median of {num:,} lines of metrics.jsonl{start}",
        f"on {run.environment.get(str, 'device') or 'a device that is not recorded'}; engine "
        f"{engine or 'not recorded'}, {precision or 'precision not recorded'}",
        *describe(compare_with_each(subject, others, compare_speed)),
    ]
    return Cell(f"{format_number(seconds.value)} s", command, f"{interval(seconds)} s", more)


def _epochs(subject: ComparedRun, others: Sequence[ComparedRun]) -> Cell:
    run, convergence = subject.run, subject.convergence
    if run.unmeasurable and not convergence.facts:  # no training of them could give it
        return _needs_eval(run)
    command = train_command(run, *([] if run.config.run.evaluates_quality else ["--eval-every", "1"]))
    if not convergence.facts:
        return _not_measured(convergence.why, command)
    if convergence.at is None:
        return Cell(f"not by epoch {epochs(convergence.last)}", command, "", [convergence.why, *convergence.facts])
    between = f"after epoch {epochs(convergence.before)}, held to {epochs(convergence.held)}"
    return Cell(f"epoch {epochs(convergence.at)}", command, between, convergence.facts)


def _diversity(subject: ComparedRun, others: Sequence[ComparedRun]) -> Cell:
    quality = subject.run.quality
    if quality is None:
        return _needs_eval(subject.run)
    num = len(quality.shares)
    shares = sorted(enumerate(quality.shares), key=lambda item: item[1].value)
    (rarest, low), (commonest, high) = shares[0], shares[-1]
    names = class_names_of(quality)
    more = [
        missing_text(quality),
        f"share of {names[rarest]}: {with_interval(low, share=True)}; of {names[commonest]}: "
        f"{with_interval(high, share=True)}",
        f"coverage: {with_interval(quality.coverage)}",
        f"coverage of real images: {with_interval(quality.real.coverage)}",
        _measured(quality),
    ]
    value = f"{num - len(missing_classes(quality))} of {num} {class_noun(quality)[1]}"
    return Cell(value, quality.source.command, f"smallest share {interval(low, share=True)}", more)
