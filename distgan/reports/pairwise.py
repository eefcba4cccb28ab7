"""Runs against those of the other kind: which has the better images, and which trains faster."""

from collections.abc import Sequence
from typing import NamedTuple

from distgan.errors import UserError
from distgan.evaluation.schema import Estimate, Quality
from distgan.reports.number_format import interval, plain, whole
from distgan.reports.report2023 import Verdict, no_partner, not_alike, versus
from distgan.reports.run_data import Run
from distgan.reports.size import Size, size_of
from distgan.reports.speed import epoch_seconds, what_differs


class Subject(NamedTuple):
    """A run of the table, under a name that no other has."""

    name: str
    run: Run
    size: Size | None


def subjects_of(runs: Sequence[Run]) -> list[Subject]:
    """A damaged weights file is told as a problem of its run."""
    names = [run.name for run in runs]
    labels = names if len(set(names)) == len(names) else [run.where for run in runs]
    found = []
    for label, run in zip(labels, runs, strict=True):
        size = None
        try:
            size = size_of(run)
        except UserError as error:
            run.problems.append(str(error))
        found.append(Subject(label, run, size))
    return found


def better(run: Run, quality: Quality, others: list[Subject]) -> Verdict:
    """Of a GAN: better than each C-GAN. Of a C-GAN: most images recognisable, and each GAN better."""
    if run.kind == "C-GAN" and quality.recognisable.high < 0.5:
        return Verdict(False, "fewer than half of its images are recognisable")
    if not others:
        return no_partner(run)
    fcds, reasons = [], []
    for other in others:
        theirs = other.run.quality
        if theirs is None:
            reasons.append(f"the quality of {other.name} was not measured")
        elif reason := not_alike(quality, theirs):
            reasons.append(f"not to be compared with {other.name}: {reason}")
        else:
            fcds.append((other.name, theirs.fcd))
    if not fcds:
        return Verdict(None, "; ".join(reasons))
    verdict = versus(quality.fcd, fcds, expects_lower=run.kind == "GAN", thing="fcd", shown=whole)
    if run.kind == "C-GAN" and verdict.agrees and quality.recognisable.low <= 0.5:
        return Verdict(None, f"{verdict.why}; but whether most of its images are recognisable is open")
    return verdict


def faster(run: Run, own: Estimate, others: list[Subject]) -> Verdict:
    if not others:
        return no_partner(run)
    theirs, reasons = [], []
    for other in others:
        if differing := what_differs(run, other.run):
            reasons.append(f"not to be compared with {other.name}: {', '.join(differing)}")
        elif (found := epoch_seconds(other.run)) is None:
            reasons.append(f"the speed of {other.name} was not measured")
        else:
            theirs.append((other.name, found[0]))
    if not theirs:
        return Verdict(None, "; ".join(reasons))

    def seconds(estimate: Estimate) -> str:
        return f"{plain(estimate.value)} s, {interval(estimate)}"

    return versus(own, theirs, expects_lower=run.kind == "GAN", thing="seconds an epoch", shown=seconds)
