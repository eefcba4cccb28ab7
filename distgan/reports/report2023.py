"""A measurement beside what the 2023 report says: agrees, disagrees, or can't be told, and why."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from distgan.evaluation.schema import Estimate, Quality
from distgan.reports.convergence import Convergence
from distgan.reports.number_format import epochs
from distgan.reports.run_data import Run

WORDS = {True: "agrees", False: "disagrees", None: "can't be told"}


class Verdict(NamedTuple):
    agrees: bool | None
    why: str

    @property
    def word(self) -> str:
        return WORDS[self.agrees]


def versus(
    own: Estimate,
    others: Sequence[tuple[str, Estimate]],
    *,
    expects_lower: bool,
    thing: str,
    shown: Callable[[Estimate], str],
) -> Verdict:
    """By the intervals of one run against each of the other kind: all as expected, all the other way, or neither."""
    words = {-1: "lies below", 0: "overlaps", 1: "lies above"}
    sides = [(-1 if own.high < other.low else 1 if own.low > other.high else 0) for _, other in others]
    why = "; ".join(
        f"its interval of {thing} {words[side]} that of {name} ({shown(other)})"
        for side, (name, other) in zip(sides, others, strict=True)
    )
    expected = -1 if expects_lower else 1
    if all(side == expected for side in sides):
        return Verdict(True, why)
    return Verdict(False if all(side == -expected for side in sides) else None, why)


def no_partner(run: Run) -> Verdict:
    other = "C-GAN" if run.kind == "GAN" else "GAN"
    return Verdict(None, f"there is no {other} beside it to compare with")


def not_alike(one: Quality, other: Quality) -> str | None:
    """Why two evaluations can't be compared, if so."""
    if one.n != other.n:
        return f"they were measured on {one.n:,} and {other.n:,} images"
    if (one.source.reference, one.source.judged_by) != (other.source.reference, other.source.judged_by):
        return "they were measured against other real images, or by judges of other data"
    if [judge.sha256 for judge in one.judges] != [judge.sha256 for judge in other.judges]:
        return "they were measured by other judges"
    return None


def reached(found: Convergence, claimed: int) -> Verdict:
    """Whether a run converged at the epoch that the 2023 report names."""
    last = epochs(found.last)
    if found.num < 2:
        return Verdict(None, "it was evaluated once only")
    if found.epoch is None:
        if found.last >= claimed:
            return Verdict(
                False, f"at epoch {last} it was not within 5 % of its best, of epoch {epochs(found.best)}"
            )
        return Verdict(None, f"it left its best again, and ended at epoch {last}, before {claimed}")
    if found.is_improving:
        if found.last > claimed:
            return Verdict(False, f"its last evaluation, of epoch {last}, is its best: not at {claimed}")
        return Verdict(
            None, f"its last evaluation, of epoch {last}, is its best, and {claimed} is no earlier"
        )
    assert found.low is not None  # no later than `epoch`
    if claimed < found.low:
        return Verdict(
            False, f"{claimed} is before epoch {epochs(found.low)}, the earliest that its intervals allow"
        )
    if found.high is None:
        return Verdict(None, "the intervals of fcd are wider than 5 %, so that the latest epoch is open")
    if claimed > found.high:
        return Verdict(
            False, f"{claimed} is after epoch {epochs(found.high)}, the latest that its intervals allow"
        )
    return Verdict(True, f"{claimed} lies between the earliest and the latest epoch that its intervals allow")
