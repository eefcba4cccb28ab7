"""The targets of `distgan bench convergence`: the quality that a run has to reach and hold, and how it is asked."""

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from distgan.config.fields import Real, Section, first_mistake
from distgan.errors import UserError
from distgan.utils.files import read_within

FORMAT = 1
SHIPPED = Path(__file__).with_name("targets.toml")

_MAX_BYTES = 2**20

Share = Annotated[Real, Field(ge=0, le=1)]
Distance = Annotated[Real, Field(gt=0)]


class Protocol(Section):
    """`num` images an evaluation; `hold`: at how many more in a row all targets have to be met."""

    num: int = Field(ge=65, le=1_000_000)
    evaluations_per_epoch: int = Field(ge=1, le=1000)
    hold: int = Field(ge=0, le=1000)


class CganTargets(Section):
    """Agreement (the share read as asked) and coverage are those of the worst digit."""

    max_fcd: Distance
    min_agreement: Share
    min_coverage: Share


class VanillaTargets(Section):
    """Shares are those of each digit among all images; coverage is that of the worst."""

    max_fcd: Distance
    min_share: Annotated[Real, Field(ge=0, le=0.1)]
    max_share: Annotated[Real, Field(ge=0.1, le=1)]
    min_recognisable: Share
    min_coverage: Share


class Targets(Section):
    """A file of them. `runs` tell of the runs that the numbers were taken from, and bind nobody."""

    format: int
    frozen: str = Field(pattern=r"^\d{4}-\d\d-\d\d$")
    protocol: Protocol
    cgan: CganTargets
    vanilla: VanillaTargets
    runs: list[dict[str, bool | int | Real | str]]


def read_targets(path: Path) -> Targets:
    """Raises UserError with one line for a file that is missing, damaged, newer, or has a number that can't be."""
    data = read_within(path, _MAX_BYTES)
    try:
        values = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not TOML ({error})") from error
    if values.get("format") != FORMAT:
        raise UserError(f"{path}: has the format {values.get('format')!r}; allowed: {FORMAT}")
    try:
        return Targets.model_validate(values, strict=True)
    except ValidationError as error:
        place, words = first_mistake(error)
        first = error.errors()[0]
        if first["type"] == "missing":
            raise UserError(f"{path}: {place}: is missing") from error
        if first["type"] == "extra_forbidden":
            raise UserError(f"{path}: {place}: unknown key") from error
        rule = words.removeprefix("Input should be ").removeprefix("String should ")
        raise UserError(f"{path}: {place}: {first['input']!r} is not allowed; allowed: {rule}") from error
