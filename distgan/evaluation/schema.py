"""Result of an evaluation: every number with its 95 % interval and its reference."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from distgan.errors import UserError, printable
from distgan.utils.files import read_model

FORMAT = 1
_MAX_BYTES = 2**24

Verdict = Literal["made well", "made poorly", "missing", "not asked for"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _escape(cls, value: Any) -> Any:
        """Return text as it is printed: a file's name may hold bytes that are no text, which JSON does not take."""
        if isinstance(value, list):
            return [printable(item) if isinstance(item, str) else item for item in value]
        return printable(value) if isinstance(value, str) else value


class Estimate(_Frozen):
    """A number and the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        """Return `0.981 (0.978 to 0.984)`."""
        return f"{self.value:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


class Sample(_Frozen):
    """Numbers of a set of images: generated ones, or as many real ones, which are the floor.

    Distances, density and coverage are to the real test images. `fcd` is None of fewer images than a covariance
    needs. `recognisable`: the share of which the jury is over 90 % sure.
    """

    recognisable: Estimate
    fcd: Estimate | None
    density: Estimate
    coverage: Estimate


class Digit(_Frozen):
    """`n`: the images with this label or, without labels, those read as it.

    `agreement` (with labels only) is the share of them that is read as this digit, `share` that of all images read as
    this digit, `real` what as many real images of it measure, `jury` the share of real ones that the jury reads right.
    """

    digit: int
    n: int
    agreement: Estimate | None
    share: Estimate
    sample: Sample | None  # None of too few images to say anything
    real: Sample
    jury: Estimate
    verdict: Verdict
    why: str


class Confusion(_Frozen):
    """Images with the label `asked` that are read as `read`: their share, and that of real images of `asked`.

    Listed only if the interval of `share` lies above that of `jury`, for the jury and for at least two of the judges
    alone, which `seen_by` counts.
    """

    asked: int
    read: int
    share: Estimate
    jury: Estimate
    seen_by: int


class Ambiguity(_Frozen):
    """Images that stand between two digits: neither of which the jury gives 90 %."""

    first: int
    second: int
    share: Estimate


class JudgeFacts(_Frozen):
    """One of the judges: its accuracy on real test images, and its agreement with the labels of these."""

    name: str
    sha256: str
    accuracy: Estimate
    agreement: Estimate | None


class Source(_Frozen):
    """Input and reference of an evaluation."""

    what: str  # the path that was named
    path: str | None = None  # where that is, which older versions do not say
    weights: str | None  # the file, for a generator
    sha256: str  # of the weights, or of the images
    preset: str | None
    step: int | None
    epoch: float | None
    ema: bool | None
    seed: int | None
    data: str
    reference: str
    judged_by: str  # the data that the judges were trained on
    command: str  # that measures it again


class Quality(_Frozen):
    """An evaluation. `matrix` counts label x read digit, (10, 10); None without labels."""

    format: int = FORMAT
    n: int = Field(ge=1)
    agreement: Estimate | None
    per_digit: list[Digit]
    shares: list[Estimate]
    kl: Estimate  # of the shares from uniform ones, in nats
    recognisable: Estimate
    fcd: Estimate
    fcd_floor: Estimate
    density: Estimate
    coverage: Estimate
    real: Sample  # what as many real training images measure against the test images
    gan_train: Estimate | None  # accuracy on real images of a classifier trained on these
    gan_train_real: Estimate | None  # the same, trained on as many real ones
    copies: Estimate  # the share nearer to a training image than 99 % of unseen real ones of its digit
    matrix: list[list[int]] | None
    jury_matrix: list[list[int]]  # true x read, on the real test images
    confusions: list[Confusion]
    ambiguities: list[Ambiguity]
    judges: list[JudgeFacts] = Field(min_length=1)
    alarms: list[str]
    notices: list[str]
    source: Source
    seconds: dict[str, float]


def read_quality(path: Path) -> Quality:
    """Read a result. Raises UserError for a file that is damaged or of another version."""
    found = read_model(path, Quality, _MAX_BYTES, version=FORMAT, rule="what this version of distgan eval wrote")
    tables = [found.jury_matrix, *([found.matrix] if found.matrix is not None else [])]
    if any([len(row) for row in table] != [10] * 10 or min(map(min, table)) < 0 for table in tables):
        raise UserError(f"{path}: damaged (a matrix is not of 10 by 10 counts)", code="damaged-file")
    if len(found.shares) != 10 or sorted(digit.digit for digit in found.per_digit) != list(range(10)):
        raise UserError(f"{path}: damaged (it has not each digit once)", code="damaged-file")
    return found
