"""Targets of quality, for `--stop-at` and `distgan bench convergence`: a run that meets and holds them converged."""

import tomllib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from distgan.config.fields import Real, Section
from distgan.config.flags import did_you_mean
from distgan.errors import UserError
from distgan.evaluation.schema import ClassNoun
from distgan.utils.files import check_format, finite_or_none, metric_lines, parse_model, read_limited
from distgan.utils.paths import user_path

FORMAT = 1
SETS = {path.stem: path for path in sorted((Path(__file__).parent / "target_sets").glob("*.toml"))}

_MAX_BYTES = 2**20

Fraction = Annotated[Real, Field(ge=0, le=1)]
Distance = Annotated[Real, Field(gt=0)]


class Protocol(Section):
    """`num` images an evaluation; `hold`: at how many more in a row all targets have to be met."""

    num: int = Field(ge=65, le=1_000_000)
    evaluations_per_epoch: int = Field(ge=1, le=1000)
    hold: int = Field(ge=0, le=1000)


class CganTargets(Section):
    """Agreement (the share read as its label) and coverage are those of the worst class."""

    max_fcd: Distance
    min_agreement: Fraction
    min_coverage: Fraction


class VanillaTargets(Section):
    """Shares are those of each class among all images; coverage is that of the worst."""

    max_fcd: Distance
    min_share: Annotated[Real, Field(ge=0, le=0.1)]
    max_share: Annotated[Real, Field(ge=0.1, le=1)]
    min_recognisable: Fraction
    min_coverage: Fraction


class Targets(Section):
    """A file of targets. `runs`: those that the numbers were taken from, for information only."""

    format: int
    frozen: str = Field(pattern=r"^\d{4}-\d\d-\d\d$")
    protocol: Protocol
    cgan: CganTargets
    vanilla: VanillaTargets
    runs: list[dict[str, bool | int | Real | str]] = Field(default_factory=list)


def find_targets(name: str, flag: str) -> Path:
    """Return the file of a named set, or the path itself. Raises UserError, with `flag`, for what is neither."""
    path = SETS.get(name) or user_path(name, flag)
    if not path.exists():
        raise UserError(
            f"{flag}: neither a file nor a set of targets ({name}){did_you_mean(name, SETS) or '.'} Expected: "
            f"{', '.join(SETS)}, or a TOML file",
            code="not-found",
        )
    return path


def check_targets_fit(name: str, flag: str, class_noun: ClassNoun) -> None:
    """Raise UserError for a named set, whose numbers are of digits, with other images."""
    if name in SETS and class_noun != "digit":
        raise UserError(
            f"{flag}: targets for digits ({name}). Expected for other images: a TOML file of targets, as "
            f"{SETS[name].name} of distgan is one",
            code="setting-not-applicable",
        )


def read_targets(path: Path) -> Targets:
    """Read a file of targets. Raise UserError for one that is missing, damaged, newer, or out of range."""
    data = read_limited(path, _MAX_BYTES)
    try:
        values = tomllib.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not TOML ({error}). Expected: targets in TOML", code="bad-config-file") from error
    check_format(path, values, FORMAT)
    return parse_model(Targets, values, str(path), strict=True)


# -- When a run had converged: the first evaluation that meets all targets, if the next ones do too --


class Evaluation(NamedTuple):
    """Numbers of an evaluation after `step`; None where one is not finite.

    `elapsed_s`: seconds of training alone up to it. `eval_s`: of the evaluation. `since_start_s`: of all since the
    start of the process that trained it. `digits` (a key of results.json): the agreement of each class (C-GAN) or its
    share of all images (GAN), `coverages`: those of its real images; (N,) each.
    """

    step: int
    epoch: float
    elapsed_s: float
    eval_s: float
    fcd: float | None
    recognisable: float | None
    digits: list[float | None]
    coverages: list[float | None]
    since_start_s: float | None = None


class Target(NamedTuple):
    """A bound on a number of an evaluation: at most or at least `limit`. `about`: its label on an axis."""

    name: str
    about: str
    of: Callable[[Evaluation], float | None]
    limit: float
    is_most: bool

    def is_met(self, evaluation: Evaluation) -> bool:
        value = self.of(evaluation)
        if value is None:
            return False
        return value <= self.limit if self.is_most else value >= self.limit


class DetectedConvergence(NamedTuple):
    """`reached`: at which of the evaluations the run had converged; None where it has not, for the reason `why`.

    `targets`: the names of those that were met last or, where it has not converged, that its best evaluation missed:
    the one that missed the fewest or, where one met all but did not hold, the one that ended it.
    """

    reached: int | None
    why: str
    targets: list[str]


def is_evaluation(line: dict[str, Any]) -> bool:
    """True if quality was measured at a line of metrics.jsonl."""
    return "eval_s" in line


def evaluation_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics.jsonl that have an evaluation, which are few."""
    return [line for line in metric_lines(path) if line is not None and is_evaluation(line)]


def evaluated_weights(lines: Iterable[dict[str, Any]]) -> Literal["ema", "raw"]:
    """Return of which weights the evaluations of a run count: of G's moving average where it has one."""
    return "ema" if any(key.startswith("ema_") for line in lines for key in line) else "raw"


def evaluations(lines: Iterable[dict[str, Any]]) -> list[Evaluation]:
    """Return the evaluations in lines of metrics.jsonl, by step: of G's moving average where the run has one.

    Of two of one step, as a resume may leave them, the later line counts.
    """
    judged = [line for line in lines if is_evaluation(line)]
    prefix = evaluated_weights(judged)
    by_step = {}
    for line in judged:
        step = line["step"]
        epoch, elapsed_s, eval_s = (finite_or_none(line.get(key)) for key in ("epoch", "elapsed_s", "eval_s"))
        if epoch is None or elapsed_s is None or eval_s is None:
            continue
        by_step[step] = Evaluation(
            step,
            epoch,
            elapsed_s,
            eval_s,
            finite_or_none(line.get(f"{prefix}_fcd")),
            finite_or_none(line.get(f"{prefix}_recognisable")),
            _numbers(line.get(f"{prefix}_digits")),
            _numbers(line.get(f"{prefix}_coverage_digits")),
            finite_or_none(line.get("since_start_s")),
        )
    return [by_step[step] for step in sorted(by_step)]


def _numbers(value: Any) -> list[float | None]:
    return [finite_or_none(item) for item in value] if isinstance(value, list) else []


def list_targets(targets: CganTargets | VanillaTargets) -> list[Target]:
    """Return the targets of a kind of network, each with the number that it bounds."""
    fcd = Target("fcd", "fcd", lambda result: result.fcd, targets.max_fcd, True)
    coverage = Target(
        "worst coverage",
        "coverage, worst class",
        lambda result: _extreme(min, result.coverages, result),
        targets.min_coverage,
        False,
    )
    if isinstance(targets, CganTargets):
        agreement = Target(
            "worst digit",  # of any data: a key of results.json
            "read as requested, worst class",
            lambda result: _extreme(min, result.digits, result),
            targets.min_agreement,
            False,
        )
        return [fcd, agreement, coverage]
    shares = "smallest and largest share\nof a class"
    return [
        fcd,
        Target("smallest share", shares, lambda result: _extreme(min, result.digits, result), targets.min_share, False),
        Target("largest share", shares, lambda result: _extreme(max, result.digits, result), targets.max_share, True),
        coverage,
        Target("recognisable", "recognisable", lambda result: result.recognisable, targets.min_recognisable, False),
    ]


def _extreme(
    choose: Callable[[list[float]], float], values: list[float | None], evaluation: Evaluation
) -> float | None:
    """Return the extreme of the classes' values; None unless all are known: the missing one could be it."""
    known = [value for value in values if value is not None]
    num_classes = max(len(evaluation.digits), len(evaluation.coverages))
    return choose(known) if known and len(known) == num_classes else None


def detect(results: Sequence[Evaluation], targets: Sequence[Target], hold: int) -> DetectedConvergence:
    """Return when a run had converged by evaluations `found`, which are in the order of their steps."""
    missed = [[target.name for target in targets if not target.is_met(result)] for result in results]
    starts = [i for i, names in enumerate(missed) if not names and (i == 0 or missed[i - 1])]
    for start in starts:
        if len(window := missed[start : start + hold + 1]) == hold + 1 and not any(window):
            return DetectedConvergence(start, "", _met_last(missed, start, targets))
    if not starts:
        best = min(reversed(missed), key=len, default=[target.name for target in targets])
        return DetectedConvergence(None, "never met", best)
    if not missed[-1]:
        return DetectedConvergence(None, f"met at epoch {results[starts[-1]].epoch:.4g}, too late to be confirmed", [])
    end = next(names for names in missed[starts[0] :] if names)
    return DetectedConvergence(None, f"met at epoch {results[starts[0]].epoch:.4g} but not held", end)


class EarlyStop:
    """State of a run against its targets (`detected`), by its `evaluations` so far."""

    def __init__(self, targets: Targets, *, is_conditional: bool):
        self.protocol = targets.protocol
        self.wanted = list_targets(targets.cgan if is_conditional else targets.vanilla)
        self._lines: list[dict[str, Any]] = []
        self.add()

    def add(self, *lines: dict[str, Any]) -> None:
        """Take lines of metrics.jsonl; those without an evaluation do not count."""
        self._lines += lines
        self.evaluations = evaluations(self._lines)
        self.detected = detect(self.evaluations, self.wanted, self.protocol.hold)

    @property
    def is_met(self) -> bool:
        return self.detected.reached is not None

    def describe(self) -> str:
        """Return `targets met at step 470`, with the steps over which they were held, or what the last one misses."""
        if self.detected.reached is not None:
            first, last = (self.evaluations[self.detected.reached + more].step for more in (0, self.protocol.hold))
            return f"targets met at step {first:,}" + (f" and held to step {last:,}" if last > first else "")
        missed = [target.name for last in self.evaluations[-1:] for target in self.wanted if not target.is_met(last)]
        return f"targets missed: {', '.join(missed)}" if missed else "all targets met; not held long enough yet"


def _met_last(missed: list[list[str]], start: int, targets: Sequence[Target]) -> list[str]:
    """Return the names that the evaluation before `start` still missed; all where there is none."""
    return missed[start - 1] if start else [target.name for target in targets]
