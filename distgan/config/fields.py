"""What a setting is: a field of a frozen section, with its help text, its limits, its flag and its rules."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    AllowInfNan,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError, core_schema

from distgan.config.registry import Registry


def split_commas(value: Any, info: ValidationInfo) -> Any:
    """`1,20,42` of a command line as a list; in a file it is text, where a list belongs."""
    if info.context == "file":
        return value
    if not isinstance(value, str):
        return value
    parts = [part.strip() for part in value.split(",")]
    if parts == [""]:
        return []
    if "" in parts:
        raise PydanticCustomError("empty_part", "a list with nothing between two commas")
    return parts


def _fit_float32(value: float) -> float:
    """Return a number that the networks can be given. Raises for one that is 0 or infinite in float32."""
    try:
        is_lost = value != 0 and struct.unpack("<f", struct.pack("<f", value)) == (0.0,)
    except OverflowError:
        is_lost = True
    if is_lost:
        raise PydanticCustomError("float32", "0 or infinite in float32")
    return value


# 90s, 1h30m, 45:00, 1:30:00 or 1-12:00:00
DURATION = r"^(\d{1,6}[dhms])+$|^(\d{1,4}-)?(\d{1,6}:)?\d{1,6}:\d\d$"

Real = Annotated[float, AllowInfNan(False), AfterValidator(_fit_float32)]
Epochs = Annotated[list[Annotated[int, Field(ge=0)]], BeforeValidator(split_commas)]
Names = Annotated[list[str], BeforeValidator(split_commas)]


@dataclass(frozen=True, eq=False)
class OneOf:
    """Annotates a setting that takes a name of a registry: those for which `only` is true, and `also` before them.

    `takes_path`: tells whether a text that is no such name is taken as a path.
    """

    registry: Registry[Any]
    also: tuple[tuple[str, str], ...] = ()
    only: Callable[[Any], bool] = lambda entry: True
    takes_path: Callable[[str], bool] | None = None

    def names(self) -> dict[str, str]:
        """Return the names that are registered now, each with its help text."""
        return dict(self.also) | {name: entry.describe() for name, entry in self.registry.items() if self.only(entry)}

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, name: str) -> str:
        if name not in (names := self.names()) and not (self.takes_path and self.takes_path(name)):
            raise PydanticCustomError("unknown_name", "Input should be one of {names}", {"names": ", ".join(names)})
        return name


class Rules(BaseModel):
    """What other modules need to know of a setting; the defaults are the strictest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flag: str | None = None  # where it is not the key
    old_flags: tuple[str, ...] = ()  # which are accepted and not shown
    allowed: str | None = None  # in words, where type and limits do not say it
    # On resume, another value is allowed. fixed: never. confirm: with --allow-config-change. free: always. reset:
    # always, and the run's own is dropped. In a benchmark or an evaluation, free: it does not change the results.
    on_resume: Literal["fixed", "confirm", "free", "reset"] = "confirm"
    may_differ_per_rank: bool = False
    is_copied: bool = True  # taken over by `--config RUN/config.json`
    may_be_repeated: bool = False  # the flag of a list: its values are joined
    replaces: str | None = None  # the key of its section that a flag of this setting unsets
    is_passed_on: bool = False  # by a benchmark to the `distgan train` that it starts
    is_derived: bool = False  # from the data when a run starts: it has no flag, and what a file says is replaced


def setting(default: Any, description: str, **more: Any) -> Any:
    """A field with its help text (`{names}`: that of each registered name), its Rules and its limits."""
    rules = Rules(**{key: more.pop(key) for key in Rules.model_fields if key in more})
    return Field(default, description=description, json_schema_extra={"rules": rules}, **more)  # type: ignore[dict-item]


fixed, free = partial(setting, on_resume="fixed"), partial(setting, on_resume="free")


def rules(field: FieldInfo) -> Rules:
    extra = field.json_schema_extra
    return extra.get("rules", Rules()) if isinstance(extra, dict) else Rules()  # type: ignore[return-value]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*")
    @classmethod
    def _check_text(cls, value: Any) -> Any:
        """Raise for text that no file can have as its name, and that no program can be handed."""
        if isinstance(value, str) and "\0" in value:
            raise PydanticCustomError("nul", "text with NUL")
        return value


# -- A setting in words: what may stand in it, and how help shows it --

_SOME, _OR_PATH = "one or more of ", ", or a path that is there"


def allowed(field: FieldInfo) -> str:
    """What may stand in a field, in words: `a whole number, 1 or more`."""
    limits = {
        key: getattr(item, key)
        for item in field.metadata
        for key in ("gt", "ge", "lt", "le", "min_length")
        if getattr(item, key, None) is not None
    }
    if text := rules(field).allowed:
        return text
    kind = _kind(field.annotation, field.metadata)
    words = {
        "min_length": "not empty",
        "ge": "{:,} or more",
        "gt": "more than {:,}",
        "le": "at most {:,}",
        "lt": "less than {:,}",
    }
    if kind.startswith(_SOME):
        limits.pop("min_length", None)
    return ", ".join([kind, *(words[key].format(limits[key]) for key in words if key in limits)])


def help_text(field: FieldInfo) -> str:
    names = choices(field.annotation, field.metadata)
    explained = ". ".join(f"{name}: {text}" for name, text in names.items())
    return (field.description or "").replace("{names}", explained)


def choices(annotation: Any, metadata: Any = ()) -> dict[str, str]:
    """Return the registered names that a setting takes, each with its help text; empty for any other setting."""
    for item in metadata:
        if isinstance(item, OneOf):
            return item.names()
    if get_origin(annotation) is Annotated:
        return choices(None, get_args(annotation)[1:])
    if get_origin(annotation) in (Union, UnionType):
        return {name: text for part in get_args(annotation) for name, text in choices(part).items()}
    return {}


def _kind(annotation: Any, metadata: Any = ()) -> str:
    if names := choices(annotation, metadata):
        takes_path = any(isinstance(item, OneOf) and item.takes_path for item in metadata)
        return ", ".join(names) + (_OR_PATH if takes_path else "")
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kind(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return " or ".join(_kind(part) for part in get_args(annotation) if part is not type(None))
    if origin is Literal:
        return ", ".join(map(str, get_args(annotation)))
    if origin is list and choices(get_args(annotation)[0]):
        return _SOME + _kind(get_args(annotation)[0])
    if origin is list and _kind(get_args(annotation)[0]) == "text":
        return "texts"
    if origin is list:
        limits = getattr(get_args(annotation)[0], "__metadata__", ())
        numbers = [bound for item in limits for bound in getattr(item, "metadata", [])]
        low = next((item.ge for item in numbers if hasattr(item, "ge")), None)
        high = next((item.le for item in numbers if hasattr(item, "le")), None)
        return "whole numbers" + (f" from {low}" if low is not None else "") + (f" to {high}" if high else "")
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[annotation]


def metavar(field: FieldInfo) -> str:
    kind = _kind(field.annotation, field.metadata)
    short = {"a whole number": "N", "a number": "X", "text": "TEXT", "texts": "TEXT,TEXT,..."}
    if kind.startswith("whole numbers"):
        return "N,N,..."
    if kind.startswith(_SOME):
        return "{" + kind.removeprefix(_SOME).replace(", ", ",") + "},..."
    names = kind.removesuffix(_OR_PATH)
    return short.get(kind, "{" + names.replace(", ", ",") + "}" + ("|PATH" if names != kind else ""))


def shown(default: Any) -> str:
    match default:
        case None:
            return "unset"
        case bool():
            return "on" if default else "off"
        case list():
            return ",".join(map(str, default))
    return str(default)
