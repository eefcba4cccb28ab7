"""What results.json has of the runs of `distgan bench convergence`, looked at before anything is made of it."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from distgan.benchmark import results
from distgan.benchmark.detector import Evaluation
from distgan.benchmark.targets import CganTargets, Protocol, VanillaTargets
from distgan.config.fields import first_mistake
from distgan.errors import UserError

KIND = "convergence"


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


# In a cell one has `seen_s` besides.
_Evaluation = Annotated[Evaluation, BeforeValidator(lambda each: _fields(each))]


def _fields(each: dict[str, Any]) -> dict[str, Any]:
    return {key: each[key] for key in Evaluation._fields if key in each}


class _Cell(_Strict):
    id: str
    arm: str
    seed: int
    outcome: str


class _Ended(_Cell):
    outcome: Literal["converged", "not converged", "diverged", "error"]
    why: str
    targets: list[str]
    resumed: bool
    evaluations: list[_Evaluation]
    last: dict[str, float | None]
    epochs: float | None
    train_s: float | None
    mlperf_s: float | None
    cold_s: float | None

    @model_validator(mode="after")
    def _converged_at_an_evaluation(self) -> "_Ended":
        if self.outcome == "converged" and self.epochs not in [each.epoch for each in self.evaluations]:
            raise ValueError("epochs is at none of its evaluations")
        return self


class _Data(_Strict):
    name: str


class _Arm(_Strict):
    name: str
    preset: str
    processes: int
    data: _Data


class _Targets(_Strict):
    frozen: str
    protocol: Protocol
    cgan: CganTargets
    vanilla: VanillaTargets


class _Identity(_Strict):
    arms: list[_Arm] = Field(min_length=1)
    targets: _Targets


class _Facts(_Strict):
    identity: _Identity
    protocol: Protocol
    model: Literal["vanilla", "cgan"]
    device: str
    notice: str | None


def read(path: Path) -> results.Results:
    """Raises UserError that names the file, and the key where something is missing or is no such thing."""
    found = results.read(path, KIND)
    _check(f"{path}: is damaged: facts", _Facts, found.facts)
    for index, cell in enumerate(found.cells):
        kind = _Cell if cell.get("outcome") == "unfinished" else _Ended
        _check(f"{path}: is damaged: cells.{index}", kind, cell)
    return found


def evaluations_of(cell: dict[str, Any]) -> list[Evaluation]:
    """Those of a run that has ended, in their order."""
    return [Evaluation(**_fields(each)) for each in cell["evaluations"]]


def _check(where: str, kind: type[BaseModel], content: dict[str, Any]) -> None:
    try:
        kind.model_validate(content)
    except ValidationError as error:
        key, words = first_mistake(error)
        raise UserError(f"{where}.{key}: {words}" if key else f"{where}: {words}") from None
