"""Result of an evaluation: every number with its 95 % interval and its reference."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from distgan.config.registry import DATASETS
from distgan.errors import UserError, printable
from distgan.utils.files import read_model
from distgan.utils.text import one_line

FORMAT = 1
_MAX_BYTES = 2**24

NOT_REQUESTED: Literal["not asked for"] = "not asked for"  # as files have it; pages show "not requested"
Verdict = Literal["made well", "made poorly", "missing", "not asked for"]
ClassNoun = Literal["digit", "class", "cluster"]
PLURALS: dict[ClassNoun, str] = {"digit": "digits", "class": "classes", "cluster": "clusters"}


def has_digits(data: str | None) -> bool:
    """True for a data set whose classes are the digits 0 to 9, by its entry in the registry."""
    return data is not None and data in DATASETS and DATASETS[data].has_mnist_digits


def noun_of(data: str | None, *, has_labels: bool) -> ClassNoun:
    """Return what the classes of a data set are called; `data` is its name, or None for own images."""
    return "digit" if has_digits(data) else "class" if has_labels else "cluster"


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

    value: float  # the estimate
    low: float  # lower end of its 95 % interval
    high: float  # upper end

    def __format__(self, spec: str) -> str:
        """Return `0.981 (0.978 to 0.984)`."""
        return f"{self.value:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


class ImageMetrics(_Frozen):
    """Numbers of a set of images: generated ones, or as many real ones, which are the baseline.

    Distances, density and coverage are to the real test images. `fcd` is None of fewer images than a covariance
    needs. `recognisable`: the share of which the ensemble is over 90 % sure.
    """

    recognisable: Estimate  # share of images to whose class the ensemble gives over 90 %
    fcd: Estimate | None  # Frechet distance of classifier features; null of too few images
    density: Estimate  # Naeem et al. 2020
    coverage: Estimate  # the same: share of real images that have a generated neighbour


class ClassQuality(_Frozen):
    """Quality of a class. `n`: the images with this label or, without labels, those read as it.

    `agreement` (with labels only) is the share of them that is read as this class, `share` that of all images read as
    this class, `real` what as many real images of it measure, `jury` the ensemble's accuracy on real ones.
    """

    digit: int  # number of the class, from 0
    n: int  # images requested as it or, without labels, read as it
    agreement: Estimate | None  # share of them that is read as requested; null without labels
    share: Estimate  # share of all images that is read as this class
    sample: ImageMetrics | None  # measures of these images; null of too few
    real: ImageMetrics  # the same of as many real images of the class
    jury: Estimate  # share of real images of the class that the ensemble reads correctly
    verdict: Verdict  # "made well", "made poorly", "missing" or "not asked for"
    why: str  # the numbers behind the verdict


class Confusion(_Frozen):
    """Images requested as one class and read as another: their share, and that of real images of the requested class.

    Listed only if the interval of `share` lies above that of `jury`, for the ensemble and for at least two judges
    alone, which `seen_by` counts.
    """

    asked: int  # the requested class
    read: int  # the class that is read instead
    share: Estimate  # share of the images of the requested class
    jury: Estimate  # the same share among real images
    seen_by: int  # judges that find it on their own


class Ambiguity(_Frozen):
    """Images that stand between two classes: neither of which the ensemble gives 90 %."""

    first: int  # the lower class of the pair
    second: int  # the higher one
    share: Estimate  # share of all images


class JudgeFacts(_Frozen):
    """One of the judges: its accuracy on real test images, and its agreement with the labels of these."""

    name: str  # of the classifier
    sha256: str  # of its weights
    accuracy: Estimate  # share of real test images that it reads correctly
    agreement: Estimate | None  # share of these images that it reads as requested; null without labels


class Source(_Frozen):
    """Input and reference of an evaluation."""

    what: str  # the path as it was given
    path: str | None = None  # the same, absolute; older versions have none
    weights: str | None  # file of the generator; null for images
    sha256: str  # of the weights, or of the images
    preset: str | None  # that the run was started with
    step: int | None  # of the weights
    epoch: float | None  # of the weights
    ema: bool | None  # true for the moving average of G
    seed: int | None  # of z
    data: str  # name of the real data
    reference: str  # fingerprint of the real images
    is_test_seen: bool | None = None  # true if G was trained on the images compared with; null: unknown, as for an .npz
    judged_by: str  # data that the judges were trained on
    command: str  # that measures it again


class Quality(_Frozen):
    """An evaluation of N classes. `matrix` counts label x read class, (N, N); None without labels."""

    format: int = FORMAT  # version of this format
    n: int = Field(ge=1)  # images evaluated
    agreement: Estimate | None  # share that is read as the requested class; null without labels
    per_digit: list[ClassQuality]  # one of each class, 0 to N - 1
    shares: list[Estimate] = Field(min_length=1)  # share of each class among all images, 0 to N - 1
    class_names: list[str] | None = None  # of 0 to N - 1; older versions have none: their numbers
    class_noun: ClassNoun | None = None  # "digit", "class", or "cluster" of real images without labels
    expected_shares: list[float] | None = None  # requested, else those of real images; older versions: equal ones
    kl: Estimate  # divergence of the shares from the expected ones, in nats
    recognisable: Estimate  # share of images to whose class the ensemble gives over 90 %
    fcd: Estimate  # Frechet distance of classifier features to the real test images
    fcd_floor: Estimate  # the same of as many real training images
    density: Estimate  # Naeem et al. 2020
    coverage: Estimate  # the same: share of real images that have a generated neighbour
    real: ImageMetrics  # measures of as many real training images against the test images
    gan_train: Estimate | None  # accuracy on real images of a classifier trained on these; with labels only
    gan_train_real: Estimate | None  # the same, trained on as many real ones
    copies: Estimate  # share nearer to a training image than 99 % of unseen real ones of its class
    matrix: list[list[int]] | None  # counts, requested x read, N x N; null without labels
    jury_matrix: list[list[int]]  # counts, true x read, of the real test images
    confusions: list[Confusion]  # classes read as another more often than real ones are
    ambiguities: list[Ambiguity]  # pairs of classes between which most uncertain images are
    judges: list[JudgeFacts] = Field(min_length=1)  # each classifier of the ensemble
    alarms: list[str]  # missing classes and collapse
    notices: list[str]  # what to know before comparing these numbers with others
    source: Source  # what was measured, and against what
    seconds: dict[str, float]  # that each part of the evaluation took


def class_names_of(quality: Quality) -> list[str]:
    """Return the names of the classes, each in one line; their numbers where they are not recorded."""
    names = quality.class_names or map(str, range(len(quality.shares)))
    return [one_line(name) for name in names]


def read_quality(path: Path) -> Quality:
    """Read a result. Raises UserError for a file that is damaged or of another version."""
    rule = "what this version of distgan eval wrote"
    quality = read_model(path, Quality, _MAX_BYTES, version=FORMAT, rule=rule)
    num = len(quality.shares)
    tables = [quality.jury_matrix, *([quality.matrix] if quality.matrix is not None else [])]
    if any([len(row) for row in table] != [num] * num or min(map(min, table)) < 0 for table in tables):
        problem = f"a matrix is not of {num} by {num} counts"
    elif any(len(values) != num for values in (quality.class_names, quality.expected_shares) if values is not None):
        problem = f"names or shares of other than {num} classes"
    elif sorted(row.digit for row in quality.per_digit) != list(range(num)):
        problem = "a class is missing or repeated"
    else:
        return quality
    raise UserError(f"{path}: damaged ({problem}). Expected: {rule}", code="damaged-file")
