"""What results.json has of `distgan bench convergence`: its runs, what they say together, and what they must share."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, JsonValue, PlainSerializer, model_validator

from distgan.benchmark.measurement import Engine, Facts, Record
from distgan.benchmark.results import Results
from distgan.config.fields import shown
from distgan.config.schema import ModelName
from distgan.evaluation.schema import Estimate
from distgan.evaluation.targets import CganTargets, Evaluation, Protocol, Target, VanillaTargets, targets_of

# What is measured of a run, and what it is called after "fewer".
MEASURES = {
    "epochs": "epochs",
    "train_s": "seconds of training",
    "mlperf_s": "seconds with evaluations",
    "cold_s": "seconds from the start",
}
OVER = ("converged", "not converged", "diverged")


def _fields(each: Any) -> Any:
    """Of older benches, which have `seen_s` besides."""
    return {key: each[key] for key in Evaluation._fields if key in each} if isinstance(each, dict) else each


Judged = Annotated[Evaluation, BeforeValidator(_fields), PlainSerializer(lambda each: each._asdict())]


class Strict(Record):
    model_config = ConfigDict(strict=True, extra="allow")


class Clocks(Strict):
    """Until a run met its targets; None where it has not, and of what is not known."""

    epochs: float | None = None
    train_s: float | None = None
    mlperf_s: float | None = None
    cold_s: float | None = None

    @classmethod
    def at(cls, found: list[Evaluation], index: int, *, is_resumed: bool) -> "Clocks":
        """`cold_s` is None for a resumed run: its first start is not known."""
        at = found[index]
        with_evals_s = at.elapsed_s + sum(each.eval_s for each in found if each.step <= at.step)
        cold_s = None if is_resumed else at.since_start_s
        return cls(epochs=at.epoch, train_s=at.elapsed_s, mlperf_s=with_evals_s, cold_s=cold_s)


class TrialResult(Clocks):
    """A run of `arm`. `targets`: those met last, or missed; `last`: each target's number at the last evaluation."""

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
        if self.outcome == "converged" and self.epochs not in [each.epoch for each in self.evaluations]:
            raise ValueError("epochs is at none of its evaluations")
        return self

    @property
    def name(self) -> str:
        return f"{self.arm}, seed {self.seed}"


class TimesSummary(Record):
    median: float | None
    low: float | None
    high: float | None
    min: float | None
    max: float | None
    num: int


class Summary(Record):
    """The runs of an arm that are over: how many converged, and each measure of which something is known."""

    num: int
    converged: int
    rate: Estimate
    epochs: TimesSummary | None = None
    train_s: TimesSummary | None = None
    mlperf_s: TimesSummary | None = None
    cold_s: TimesSummary | None = None


class Test(Record):
    """Of whether arm A's times are smaller than B's (`less`), or differ."""

    measure: str
    a: str
    b: str
    alternative: Literal["two-sided", "less"]
    p: float | None
    ratio: float | None
    words: str


class Data(Strict):
    name: str


class ArmFacts(Strict):
    name: str
    preset: str
    processes: int
    data: Data


class FrozenTargets(Strict):
    frozen: str
    protocol: Protocol
    cgan: CganTargets
    vanilla: VanillaTargets


class Identity(Strict):
    """What must be the same for runs to be compared."""

    settings: dict[str, JsonValue] = Field({})
    targets: FrozenTargets
    arms: list[ArmFacts] = Field(min_length=1)
    device: str | None = None

    def difference(self, other: "Identity") -> tuple[str, str, str] | None:
        """The first place where the other differs, as a flag or keys; what stands here and there."""
        if not (found := _difference(self.model_dump(), other.model_dump(), ())):
            return None
        path, old, new = found
        is_flag = path[:1] == ("settings",)
        return f"--{path[-1].replace('_', '-')}" if is_flag else ".".join(path), shown(old), shown(new)


def _difference(old: Any, new: Any, path: tuple[str, ...]) -> tuple[tuple[str, ...], Any, Any] | None:
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        old, new = (dict(enumerate(each)) for each in (old, new))
    if not isinstance(old, dict) or not isinstance(new, dict):
        return None if old == new else (path, old, new)
    differences = (_difference(old.get(key), new.get(key), (*path, str(key))) for key in {**new, **old})
    return next(filter(None, differences), None)


class ConvergenceFacts(Facts):
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
        """The targets that the runs had to meet."""
        of = self.identity.targets
        return targets_of(of.cgan if self.model == "cgan" else of.vanilla)


class ConvergenceResults(Results):
    kind: Literal["convergence"]
    facts: ConvergenceFacts
    cells: list[TrialResult]

    def of_arm(self, name: str) -> list[TrialResult]:
        return [cell for cell in self.cells if cell.arm == name]
