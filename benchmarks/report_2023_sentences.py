"""The sentences of the 2023 report, each judged at the epoch that it speaks of."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from report_2023_files import NUM_EPOCHS, TITLES, Training, made_well, missing, overlap, pair_of

from distgan.evaluation.schema import Estimate, Quality
from distgan.reports.report2023 import check_claims

# -- The report's sentences on single epochs --


class Sentence(NamedTuple):
    """`holds` judges the evaluation at `epoch`; `rule` says how. `until`: a second epoch, for what stays as it is."""

    name: str
    epoch: int
    text: str
    rule: str
    holds: Callable[[Quality], bool]
    until: int | None = None


def is_noise(quality: Quality) -> bool:
    return quality.coverage.high < 0.1


SENTENCES = (
    Sentence("gan", 1, "noise in the centre", "coverage of the real images below 0.1", is_noise),
    Sentence("gan", 20, "first shapes of 0 and 4", "0 and 4 not missing", lambda q: not {0, 4} & missing(q)),
    Sentence("gan", 42, "smooth 2, 3, 9", "2, 3 and 9 made well", lambda q: {2, 3, 9} <= set(made_well(q))),
    Sentence("gan", 42, "stable from 42 to 82", "intervals of FCD overlap", lambda q: True, 82),
    Sentence("gan", 120, "most digits", "at least 6 of 10 digits made well", lambda q: len(made_well(q)) >= 6),
    Sentence("cgan", 1, "noise", "coverage of the real images below 0.1", is_noise),
    Sentence("cgan", 13, "digits form in the middle", "read as the requested digit more often than by chance",
             lambda q: q.agreement is not None and q.agreement.low > 0.1),
    Sentence("cgan", 42, "a part of the digits", "1 to 9 digits made well", lambda q: 0 < len(made_well(q)) < 10),
    Sentence("cgan", 82, "digits clearly by their label", "at least 90 % read as the requested digit",
             lambda q: q.agreement is not None and q.agreement.low >= 0.9),
    Sentence("cgan", 120, "most labels well", "at least 6 of 10 digits made well", lambda q: len(made_well(q)) >= 6),
)  # fmt: skip


def verdict(holds: bool | None) -> str:
    return {True: "yes", False: "**no**", None: "undecided"}[holds]


def percent(estimate: Estimate) -> str:
    return f"{estimate.value:.1%} ({estimate.low:.1%} to {estimate.high:.1%})"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows))


def write_sentences(trainings: dict[str, Training]) -> str:
    """Return the table of the report's sentences: those on an epoch, then those on the end."""
    rows: list[tuple[object, ...]] = []
    for each in SENTENCES:
        quality, until = (
            trainings[each.name].at(epoch) if epoch and each.name in trainings else None
            for epoch in (each.epoch, each.until)
        )
        at = f"{each.epoch} to {each.until}" if each.until else str(each.epoch)
        if quality is None or (each.until and until is None):
            rows.append((TITLES[each.name], at, each.text, each.rule, "not reached", ""))
            continue
        holds = overlap(quality.fcd, until.fcd) if until else each.holds(quality)
        evidence = f"FCD {quality.fcd:.1f}" + (f", then {until.fcd:.1f}" if until else "")
        if not until:
            agreement = f", read as requested {percent(quality.agreement)}" if quality.agreement else ""
            well = ", ".join(map(str, made_well(quality))) or "none"
            evidence += f", recognisable {percent(quality.recognisable)}{agreement}; made well: {well}"
        rows.append((TITLES[each.name], at, each.text, each.rule, verdict(holds), evidence))
    for training in pair_of(trainings):
        for claim in check_claims(training.last):
            found = (verdict(claim.holds), claim.evidence) if training.is_complete else ("not reached", "")
            rows.append((training.title, NUM_EPOCHS, claim.sentence, "as `distgan report`", *found))
    return table(("network", "epoch", "the report", "measured as", "holds", "measured"), rows)
