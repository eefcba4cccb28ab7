"""Schema of the results.json of `distgan bench convergence`: runs, summary, tests, and the settings they share."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, JsonValue, PlainSerializer, model_validator

from distgan.benchmark.measurement import Engine, Facts, Record
from distgan.benchmark.results import Results
from distgan.config.fields import fmt_default
from distgan.config.model_config import ModelName
from distgan.evaluation.schema import Estimate
from distgan.evaluation.targets import CganTargets, Evaluation, Protocol, Target, VanillaTargets, list_targets

# The measures of a run, and the name of each after "fewer".
MEASURES = {
    "epochs": "epochs",
    "train_s": "seconds of training",
    "mlperf_s": "seconds with evaluations",
    "cold_s": "seconds from the start",
}
OVER = ("converged", "not converged", "diverged")


def _known_fields(value: Any) -> Any:
    """Drop unknown keys: older benches have `seen_s` as well."""
    return {key: value[key] for key in Evaluation._fields if key in value} if isinstance(value, dict) else value


Judged = Annotated[Evaluation, BeforeValidator(_known_fields), PlainSerializer(lambda evaluation: evaluation._asdict())]


class Strict(Record):
    """A record without type coercion, which may have more keys."""

    model_config = ConfigDict(strict=True, extra="allow")


class Clocks(Strict):
    """Epochs and seconds until a run met its targets; None if it has not, or if it is not known."""

    epochs: float | None = None
    train_s: float | None = None
    mlperf_s: float | None = None
    cold_s: float | None = None

    @classmethod
    def at(cls, evaluations: list[Evaluation], index: int, *, is_resumed: bool) -> "Clocks":
        """Return the clocks at evaluation `index`. `cold_s` is None for a resumed run: its first start is not known."""
        at = evaluations[index]
        with_evals_s = at.elapsed_s + sum(evaluation.eval_s for evaluation in evaluations if evaluation.step <= at.step)
        cold_s = None if is_resumed else at.since_start_s
        return cls(epochs=at.epoch, train_s=at.elapsed_s, mlperf_s=with_evals_s, cold_s=cold_s)


class TrialResult(Clocks):
    """A run of `arm`. `targets`: those met last, or missed; `last`: each target's value at the last evaluation."""

    id: str
    arm: str
    seed: int
    command: str = ""
    outcome: Literal["unfinished", "converged", "not converged", "diverged", "error"] = "unfinished"
    why: str = ""
    targets: list[str] = Field([])
    resumed: bool = False
    engine: Engine | None = None
    precision: str | None = None
    images: int | None = None
    evaluations: list[Judged] = Field([])
    last: dict[str, float | None] = Field({})

    @model_validator(mode="after")
    def _converged_at_an_evaluation(self) -> "TrialResult":
        if self.outcome == "converged" and self.epochs not in [evaluation.epoch for evaluation in self.evaluations]:
            raise ValueError("epochs is not the epoch of an evaluation")
        return self

    @property
    def name(self) -> str:
        return f"{self.arm}, seed {self.seed}"


class TimesSummary(Record):
    """Median with its 95 % interval, and extremes, of `num` runs; None: not reached."""

    median: float | None
    low: float | None
    high: float | None
    min: float | None
    max: float | None
    num: int


class Summary(Record):
    """The finished runs of an arm: how many converged, and a summary of each known measure."""

    num: int
    converged: int
    rate: Estimate
    epochs: TimesSummary | None = None
    train_s: TimesSummary | None = None
    mlperf_s: TimesSummary | None = None
    cold_s: TimesSummary | None = None


class Test(Record):
    """Test if arm A's times are smaller than B's (`less`), or differ (`two-sided`).

    `later`: the arm with the later times by the sign of the statistic, significant or not; None in older results.
    """

    measure: str
    a: str
    b: str
    alternative: Literal["two-sided", "less"]
    p: float | None
    ratio: float | None
    words: str
    later: str | None = None


class Data(Strict):
    """The data set of an arm."""

    name: str


class ArmFacts(Strict):
    """The configuration of an arm."""

    name: str
    preset: str
    processes: int
    data: Data


class FrozenTargets(Strict):
    """The quality targets; `frozen` is the date at which they were fixed."""

    frozen: str
    protocol: Protocol
    cgan: CganTargets
    vanilla: VanillaTargets


class Identity(Strict):
    """Settings, targets and data that must be the same for runs to be compared."""

    settings: dict[str, JsonValue] = Field({})
    targets: FrozenTargets
    arms: list[ArmFacts] = Field(min_length=1)
    device: str | None = None

    def difference(self, other: "Identity") -> tuple[str, str, str] | None:
        """Return the first key that differs, as a flag or dotted keys, and both values; None if equal."""
        if not (first_difference := _difference(self.model_dump(), other.model_dump(), ())):
            return None
        path, old, new = first_difference
        is_flag = path[:1] == ("settings",)
        return f"--{path[-1].replace('_', '-')}" if is_flag else ".".join(path), fmt_default(old), fmt_default(new)


def _difference(old: Any, new: Any, path: tuple[str, ...]) -> tuple[tuple[str, ...], Any, Any] | None:
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        old, new = (dict(enumerate(side)) for side in (old, new))
    if not isinstance(old, dict) or not isinstance(new, dict):
        return None if old == new else (path, old, new)
    differences = (_difference(old.get(key), new.get(key), (*path, str(key))) for key in {**new, **old})
    return next(filter(None, differences), None)


class ConvergenceFacts(Facts):
    """Facts, summary and tests of a convergence benchmark. `joined`: the results files of a summary."""

    model_config = ConfigDict(strict=True)

    identity: Identity
    protocol: Protocol
    model: ModelName
    notice: str | None
    summary: dict[str, Summary] = Field({})
    tests: list[Test] = Field([])
    joined: list[str] | None = None

    @property
    def wanted(self) -> list[Target]:
        """Return the targets that the runs had to meet."""
        of = self.identity.targets
        return list_targets(of.cgan if self.model == "cgan" else of.vanilla)


class ConvergenceResults(Results):
    """The results.json of a convergence benchmark."""

    kind: Literal["convergence"]
    facts: ConvergenceFacts
    cells: list[TrialResult]

    def of_arm(self, name: str) -> list[TrialResult]:
        return [cell for cell in self.cells if cell.arm == name]
