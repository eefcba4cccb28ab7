"""What the 2023 report says: its sentences and its comparison table, each beside what was measured.

The only module that knows them: `rows_of` and `claims_of` are what the pages and the terminal show.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from distgan.evaluation.schema import Digit, Estimate, Quality
from distgan.reports.number_format import epochs, interval, percent, plain, whole
from distgan.reports.pairwise import (
    Cell,
    ComparedRun,
    Row,
    Verdict,
    epoch_seconds,
    no_partner,
    not_alike,
    versus,
    what_differs,
)  # fmt: skip
from distgan.reports.run_data import Run, eval_command, train_command
from distgan.reports.training_curves import Convergence, convergence, evaluated

NAME = "2023 report"


class Claim(NamedTuple):
    """`holds`: None where the measurement can't tell."""

    sentence: str
    holds: bool | None
    evidence: str


# Of fewer images of a digit a verdict says little.
ENOUGH = 30


def claims_of(quality: Quality) -> list[Claim]:
    """Those about a GAN for images that nobody asked a digit of, else those about a C-GAN."""
    claims = _of_gan(quality) if quality.matrix is None else _of_cgan(quality)
    if why := too_few(quality):
        return [Claim(claim.sentence, None, f"{why}; {claim.evidence}") for claim in claims]
    return claims


def too_few(quality: Quality) -> str | None:
    """Why these images can't tell of all digits, if so."""
    if unasked := [each.digit for each in quality.per_digit if each.verdict == "not asked for"]:
        return f"not asked for: {_list(unasked)}"
    if quality.n < 10 * ENOUGH:
        return f"{quality.n} images are too few to tell; {10 * ENOUGH} would do"
    return None


def _of_gan(quality: Quality) -> list[Claim]:
    return [
        _made_well(quality, (0, 1, 2, 3, 4, 5, 7)),
        _not_made(quality, (6, 8, 9)),
        Claim(
            "It does not hold all digits",
            bool(_missing(quality)),
            _missing_words(quality)
            + f"; shares from {_lowest(quality).share:.1%} ({_lowest(quality).digit}) "
            + f"to {_highest(quality).share:.1%} ({_highest(quality).digit})",
        ),
    ]


def _of_cgan(quality: Quality) -> list[Claim]:
    return [
        _made_well(quality, (0, 1, 3, 8, 9)),
        _confused(quality, 5, 6),
        _confused(quality, 7, 9),
        _worst(quality, (4, 2)),
        Claim("It holds all digits", not _missing(quality), _missing_words(quality)),
    ]


def _made_well(quality: Quality, digits: tuple[int, ...]) -> Claim:
    well = [each.digit for each in quality.per_digit if each.verdict == "made well"]
    holds = set(digits) <= set(well)
    return Claim(f"{_list(digits)} are made well", holds, f"made well here: {_list(well) or 'none'}")


def _not_made(quality: Quality, digits: tuple[int, ...]) -> Claim:
    """Not made, or not recognisable: missing or made poorly, each of them, and no other is."""
    poor = [each.digit for each in quality.per_digit if each.verdict != "made well"]
    words = ", ".join(f"{each.digit} {each.verdict} ({each.why})" for each in _of(quality, digits))
    return Claim(f"{_list(digits)} are not made, and the others are", set(poor) == set(digits), words)


def _confused(quality: Quality, asked: int, read: int) -> Claim:
    """Holds where it is the most frequent confusion of that digit, and more frequent than the jury's own."""
    own = [each for each in quality.confusions if each.asked == asked]
    if not own:
        return Claim(
            f"{asked} is read as {read}",
            False,
            f"no confusion of {asked} beyond the judges' own; {_count(quality, asked, read)} read as {read}",
        )
    found = next((each for each in own if each.read == read), None)
    most = f"most often as {own[0].read}, {own[0].share:.1%}"
    here = f"{found.share:.1%}" if found else f"{_count(quality, asked, read)}, no more than the judges' own"
    return Claim(f"{asked} is read as {read}", own[0].read == read, f"read as {read}: {here}; {most}")


def _worst(quality: Quality, digits: tuple[int, ...]) -> Claim:
    """Holds where they are the two that are read as asked least often."""
    asked = [each for each in quality.per_digit if each.verdict != "not asked for"]
    order = sorted(asked, key=lambda each: each.agreement.value if each.agreement else 0.0)
    worst = order[: len(digits)]
    words = ", ".join(f"{each.digit} {each.agreement.value:.1%}" if each.agreement else "" for each in worst)
    return Claim(
        f"{_list(digits)} are learnt badly, worse than the others",
        {each.digit for each in worst} == set(digits) and all(each.verdict != "made well" for each in worst),
        f"least often read as asked: {words}",
    )


def _missing(quality: Quality) -> list[int]:
    return [each.digit for each in quality.per_digit if each.verdict == "missing"]


def _missing_words(quality: Quality) -> str:
    missing = _missing(quality)
    return f"missing: {_list(missing)}" if missing else "none is missing"


def _lowest(quality: Quality) -> Digit:
    return min(quality.per_digit, key=lambda each: each.share.value)


def _highest(quality: Quality) -> Digit:
    return max(quality.per_digit, key=lambda each: each.share.value)


def _count(quality: Quality, asked: int, read: int) -> str:
    assert quality.matrix is not None
    return f"{quality.matrix[asked][read]} of {sum(quality.matrix[asked])}"


def _of(quality: Quality, digits: tuple[int, ...]) -> list[Digit]:
    return [quality.per_digit[digit] for digit in digits]


def _list(digits: list[int] | tuple[int, ...]) -> str:
    return ", ".join(map(str, digits))


# -- Its comparison table, each cell measured --

CHANCE = 0.1
_STAMPS = (
    "The 2023 report's own time stamps contradict its sentence: 21.2 s per epoch for its GAN, 13.6 s for its C-GAN."
)


def rows_of(subjects: Sequence[ComparedRun]) -> list[Row]:
    """Return the rows of the table, with a cell for each run."""
    table: list[tuple[str, str, tuple[str, str], Callable[[ComparedRun, str, list[ComparedRun]], Cell], str]] = [
        ("target", "what it is for", ("unsupervised tasks", "supervised or semi-supervised tasks"), _target, ""),
        ("input", "what G starts from", ("noise", "noise and a condition"), _input, ""),
        ("image quality", "fcd is a distance to real images", ("usually better", "recognisable but noisier"),
         _image_quality, ""),
        ("training speed", "seconds per epoch by the run's own log, with whatever else the machine did",
         ("usually faster", "slower"), _speed, _STAMPS),
        ("epochs to converge", "fcd within 5 % of the run's own best, for good", ("60", "80"), _epochs, ""),
        ("diversity", "digits that are there", ("does not hold all digits", "holds all digits"), _diversity, ""),
    ]  # fmt: skip
    rows = []
    for name, meaning, (of_gan, of_cgan), cell_of, note in table:
        claims = {"GAN": of_gan, "C-GAN": of_cgan}
        cells = []
        for subject in subjects:
            others = [other for other in subjects if other.run.kind != subject.run.kind]
            claim = claims[subject.run.kind]
            cells.append(cell_of(subject, claim, others)._replace(claim=claim))
        rows.append(Row(name, meaning, claims, cells, note))
    return rows


def _not_measured(why: str, command: str) -> Cell:
    return Cell("not measured", Verdict(None, why), command)


def _needs_eval(run: Run) -> Cell:
    return _not_measured("its quality was not measured", eval_command(run))


def _target(subject: ComparedRun, claim: str, others: list[ComparedRun]) -> Cell:
    run, quality, size = subject.run, subject.run.quality, subject.size
    if run.kind == "GAN":
        if size is None:
            return _not_measured("its weights can't be looked at", train_command(run))
        facts = f"G takes {size.z:,} numbers of noise, D the image alone"
        value, verdict = "no label enters", Verdict(True, "it trains without labels")
        if size.clusters:
            facts = (
                f"G takes {size.z:,} numbers of noise, and both are told one of {size.clusters:,} clusters of images"
            )
        if size.takes_labels:
            value, verdict = "a label enters", Verdict(False, "its weights have inputs for a label")
        return Cell(value, verdict, train_command(run, "--dry-run"), "exact", [facts])
    if quality is None or quality.agreement is None:
        return _needs_eval(run)
    found, chance = quality.agreement, percent(CHANCE, 0)
    verdict = Verdict(True, f"of the images asked for by label, more are read as asked than by chance ({chance})")
    if found.high < CHANCE:
        verdict = Verdict(False, "its images follow the label no more than by chance")
    elif found.low <= CHANCE:
        verdict = Verdict(None, f"the interval holds chance ({chance})")
    more = [f"images read as the digit asked for; by chance {chance}"]
    return Cell(percent(found.value), verdict, quality.source.command, interval(found, share=True), more)


def _input(subject: ComparedRun, claim: str, others: list[ComparedRun]) -> Cell:
    run, size = subject.run, subject.size
    if size is None:
        return _not_measured("there are no whole weights yet", train_command(run))
    value = f"{size.z:,} of noise" + (f" and {size.condition} of {size.condition_name}" if size.condition else "")
    more = [f"G {size.g_parameters:,} and D {size.d_parameters:,} parameters, counted in {size.path}"]
    is_so = size.takes_labels == (run.kind == "C-GAN")
    verdict = Verdict(is_so, "as the weights have it" if is_so else "the weights have it otherwise")
    return Cell(value, verdict, train_command(run, "--dry-run"), "exact", more)


def _image_quality(subject: ComparedRun, claim: str, others: list[ComparedRun]) -> Cell:
    run, quality = subject.run, subject.run.quality
    if quality is None:
        return _needs_eval(run)
    more = [
        f"fcd of two sets of real images: {whole(quality.fcd_floor)}",
        f"recognisable: {whole(quality.recognisable, share=True)}",
        f"real images: {whole(quality.real.recognisable, share=True)}",
    ]
    verdict = _better(run, quality, others)
    return Cell(f"fcd {plain(quality.fcd.value)}", verdict, quality.source.command, interval(quality.fcd), more)


def _speed(subject: ComparedRun, claim: str, others: list[ComparedRun]) -> Cell:
    run, own = subject.run, epoch_seconds(subject.run)
    if own is None:
        return _not_measured("its log has too few lines, or no number of images", train_command(run))
    found, num = own
    more = [f"median of {num:,} lines of metrics.jsonl, on {run.fact('device') or 'an unknown device'}"]
    verdict = _faster(run, found, others)
    return Cell(f"{plain(found.value)} s", verdict, train_command(run), f"{interval(found)} s", more)


def _epochs(subject: ComparedRun, claim: str, others: list[ComparedRun]) -> Cell:
    run, command = subject.run, train_command(subject.run, "--eval-every", "1")
    found = convergence(evaluated(run.history.evaluations))
    if found is None:
        is_due = bool(run.config.run.eval_every or run.config.run.eval_every_steps)
        return _not_measured("it was not evaluated yet" if is_due else "it was trained without --eval-every", command)
    more = [f"{found.num} evaluations up to epoch {epochs(found.last)}; the best at epoch {epochs(found.best)}"]
    if found.is_improving:
        value, ends = f"not before epoch {epochs(found.last)}", "still improving"
    elif found.epoch is None:
        value, ends = f"not by epoch {epochs(found.last)}", "did not stay within 5 % of its best"
    else:
        low = epochs(found.low if found.low is not None else found.epoch)
        ends = f"{low} to {epochs(found.high)}" if found.high is not None else f"from {low} on, the latest is open"
        value = f"epoch {epochs(found.epoch)}"
    return Cell(value, _reached(found, int(claim)), command, ends, more)


def _diversity(subject: ComparedRun, claim: str, others: list[ComparedRun]) -> Cell:
    run, quality = subject.run, subject.run.quality
    if quality is None:
        return _needs_eval(run)
    missing = _missing(quality)
    shares = sorted(enumerate(quality.shares), key=lambda each: each[1].value)
    (rarest, low), (commonest, high) = shares[0], shares[-1]
    more = [
        f"share of {rarest}: {whole(low, share=True)}; of {commonest}: {whole(high, share=True)}",
        f"coverage: {whole(quality.coverage)}",
        f"coverage of real images: {whole(quality.real.coverage)}",
    ]
    why = f"missing: {_list(missing)}" if missing else "no digit is missing"
    verdict = Verdict((not missing) == (run.kind == "C-GAN"), why)
    if reason := too_few(quality):
        verdict = Verdict(None, reason)
    ends = f"smallest share {interval(low, share=True)}"
    return Cell(f"{10 - len(missing)} of 10 digits", verdict, quality.source.command, ends, more)


def _better(run: Run, quality: Quality, others: list[ComparedRun]) -> Verdict:
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


def _faster(run: Run, own: Estimate, others: list[ComparedRun]) -> Verdict:
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

    return versus(own, theirs, expects_lower=run.kind == "GAN", thing="seconds per epoch", shown=seconds)


def _reached(found: Convergence, claimed: int) -> Verdict:
    """Whether a run converged at the epoch that the 2023 report names."""
    last = epochs(found.last)
    if found.num < 2:
        return Verdict(None, "it was evaluated once only")
    if found.epoch is None:
        if found.last >= claimed:
            return Verdict(False, f"at epoch {last} it was not within 5 % of its best, of epoch {epochs(found.best)}")
        return Verdict(None, f"it left its best again, and ended at epoch {last}, before {claimed}")
    if found.is_improving:
        if found.last > claimed:
            return Verdict(False, f"its last evaluation, of epoch {last}, is its best: not at {claimed}")
        return Verdict(None, f"its last evaluation, of epoch {last}, is its best, and {claimed} is no earlier")
    assert found.low is not None  # no later than `epoch`
    if claimed < found.low:
        return Verdict(False, f"{claimed} is before epoch {epochs(found.low)}, the earliest that its intervals allow")
    if found.high is None:
        return Verdict(None, "the intervals of fcd are wider than 5 %, so that the latest epoch is open")
    if claimed > found.high:
        return Verdict(False, f"{claimed} is after epoch {epochs(found.high)}, the latest that its intervals allow")
    return Verdict(True, f"{claimed} lies between the earliest and the latest epoch that its intervals allow")
