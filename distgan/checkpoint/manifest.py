"""What the JSON files of a checkpoint say: which files there are, and where the run stands."""

import hashlib
import json
from typing import Annotated

from pydantic import AllowInfNan, BaseModel, ConfigDict, Field, model_validator

FORMAT = 1

Finite = Annotated[float, AllowInfNan(False)]
Count = Annotated[int, Field(ge=0, le=10**15)]
Positive = Annotated[int, Field(ge=1, le=10**9)]
Stats = Annotated[list[Finite], Field(min_length=4, max_length=4)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Entry(_Strict):
    size: Count
    sha256: str


class Manifest(_Strict):
    format: int
    distgan: str
    saved_at: str
    step: Count
    files: dict[str, Entry]
    sha256: str = ""  # of this file as it is without this value

    def to_bytes(self) -> bytes:
        bare = self._dump("")
        return self._dump(hashlib.sha256(bare).hexdigest())

    def _dump(self, sha256: str) -> bytes:
        return (json.dumps(self.model_dump() | {"sha256": sha256}, indent=2) + "\n").encode()


class State(_Strict):
    """Where a run stands. The position is a function of `step`; it is here to be checked and read."""

    step: Count
    epoch: Count  # whole epochs done
    step_in_epoch: Count
    steps_per_epoch: Positive
    batch_size: Count  # images of a step over all ranks
    data: str  # the fingerprint
    notice: str | None  # what the data is not
    world_size: Positive
    engine: str
    g_lr: Finite
    d_lr: Finite
    grad_scaler: dict[str, int | Finite] | None
    elapsed_s: Finite  # of training alone
    logged_step: Count  # the last step of the last line of metrics.jsonl
    num_lines: Count  # of metrics.jsonl, up to there
    unlogged: list[Stats]  # the numbers of the steps since then
    metrics: dict[str, Finite]  # the newest means, for --keep-best and for people

    @model_validator(mode="after")
    def _counters_agree(self) -> "State":
        if divmod(self.step, self.steps_per_epoch) != (self.epoch, self.step_in_epoch):
            raise ValueError(
                f"epoch {self.epoch} and step_in_epoch {self.step_in_epoch} are not step {self.step}"
            )
        if self.logged_step + len(self.unlogged) != self.step:
            raise ValueError(
                f"logged_step {self.logged_step} and {len(self.unlogged)} more are not step {self.step}"
            )
        return self
