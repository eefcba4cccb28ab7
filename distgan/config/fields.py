"""Fields of frozen sections: a setting's help text, limits, flag and properties."""

import struct
import tomllib
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
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError, core_schema

from distgan.config.registry import Registry


def split_commas(value: Any, info: ValidationInfo) -> Any:
    """Return `1,20,42` of a command line as a list. Text in a file stays text, which no list setting takes."""
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


def read_int(value: Any, info: ValidationInfo) -> Any:
    """Return `3` of a command line as an integer, which a Literal does not. Text in a file stays text."""
    return int(value) if info.context != "file" and isinstance(value, str) and value.isdecimal() else value


def _fit_float32(value: float) -> float:
    """Return a number that the networks can be given. Raises for one that is 0 or infinite in float32."""
    try:
        is_lost = value != 0 and struct.unpack("<f", struct.pack("<f", value)) == (0.0,)
    except OverflowError:
        is_lost = True
    if is_lost:
        raise PydanticCustomError("float32", "0 or infinite in float32")
    return value


def split_pairs(value: Any) -> Any:
    """Return the `key=value` texts of a command line as a table, with values as a TOML file has them, or else text."""
    if not isinstance(value, list) or not all(isinstance(pair, str) for pair in value):
        return value
    table = {}
    for pair in value:
        key, is_pair, text = pair.partition("=")
        if not is_pair or not key.strip().isidentifier():
            raise PydanticCustomError("no_pair", "a text that is no KEY=VALUE")
        try:
            table[key.strip()] = tomllib.loads(f"x = {text}")["x"]
        except tomllib.TOMLDecodeError:
            table[key.strip()] = text
    return table


# 90s, 1h30m, 45:00, 1:30:00 or 1-12:00:00
DURATION = r"^(\d{1,6}[dhms])+$|^(\d{1,4}-)?(\d{1,6}:)?\d{1,6}:\d\d$"

Real = Annotated[float, AllowInfNan(False), AfterValidator(_fit_float32)]
Epochs = Annotated[list[Annotated[int, Field(ge=0)]], BeforeValidator(split_commas)]
Channels = Annotated[Literal[1, 3], BeforeValidator(read_int)]
Names = Annotated[list[str], BeforeValidator(split_commas)]
_Scalar = bool | int | float | str
Table = Annotated[dict[str, _Scalar | list[_Scalar]], BeforeValidator(split_pairs)]


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
        entries = {name: entry for name, entry in self.registry.items() if self.only(entry)}
        return dict(self.also) | {
            name: entry.describe() + (f" (deprecated name: {', '.join(entry.old_names)})" if entry.old_names else "")
            for name, entry in entries.items()
        }

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, name: str) -> str:
        """Return the current name for `name`, which may be an old one. Raises for one that is not allowed."""
        name = self.registry.current(name)
        if name not in (names := self.names()) and not (self.takes_path and self.takes_path(name)):
            raise PydanticCustomError("unknown_name", "Input should be one of {names}", {"names": ", ".join(names)})
        return name


class SettingInfo(BaseModel):
    """Properties of a setting that other modules read; the defaults are the strictest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flag: str | None = None  # where it is not the key
    old_flags: tuple[str, ...] = ()  # which are accepted, and named in the help as deprecated
    old_keys: tuple[str, ...] = ()  # likewise in files
    allowed: str | None = None  # in words, where type and limits do not say it
    metavar: str = ""  # placeholder of the value in the help, where the type does not say it
    # On resume, another value is allowed. fixed: never. confirm: with --allow-config-change. free: always. reset:
    # always, and the run's own is dropped. In a benchmark or an evaluation, free: it does not change the results.
    on_resume: Literal["fixed", "confirm", "free", "reset"] = "confirm"
    may_differ_per_rank: bool = False
    is_copied: bool = True  # taken over by `--config RUN/config.json`
    may_be_repeated: bool = False  # the flag of a list or a table: its values are joined
    replaces: tuple[str, ...] = ()  # the keys of its section that a flag of this setting unsets
    is_common: bool = False  # listed before the sections in the help of distgan train
    is_passed_on: bool = False  # by a benchmark to the `distgan train` that it starts
    is_derived: bool = False  # found when a run starts: it has no flag, and what a file says is replaced


def setting(default: Any, description: str, **more: Any) -> Any:
    """Return a field with its help text (`{names}`: that of each registered name), its SettingInfo and its limits."""
    if more.get("metavar", "").endswith(("DIR", "FILE", "PATH")):
        more.setdefault("min_length", 1)
    rules = SettingInfo(**{key: more.pop(key) for key in SettingInfo.model_fields if key in more})
    return Field(default, description=description, json_schema_extra={"info": rules}, **more)  # type: ignore[dict-item]


fixed, free = partial(setting, on_resume="fixed"), partial(setting, on_resume="free")


def setting_info(field: FieldInfo) -> SettingInfo:
    """Return the SettingInfo of a setting's field."""
    extra = field.json_schema_extra
    return extra.get("info", SettingInfo()) if isinstance(extra, dict) else SettingInfo()  # type: ignore[return-value]


def check_one_of_two(flags: str, one: Any, other: Any) -> None:
    """Raise ValueError, which names `flags`, unless exactly one of two values is set."""
    if (one is None) == (other is None):
        raise ValueError(f"{flags}: both or none are set ({one}, {other}). Expected: exactly one of the two")


def replace_default(values: Any, name: str, default: str) -> Any:
    """Return the values of a section with `default` unset if `name`, which stands in its place, is set."""
    if isinstance(values, dict) and values.get(name) is not None:
        return {default: None} | values
    return values


class Section(BaseModel):
    """A frozen table of settings, which reads old keys of a setting by its current one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _rename_old_keys(cls, values: Any) -> Any:
        """Return `values` with the key that a setting has now in place of one that it had."""
        for key, field in cls.model_fields.items() if isinstance(values, dict) else ():
            for old in setting_info(field).old_keys:
                if old in values and key in values:
                    raise ValueError(f"{old}: is the old name of {key}, which is set too. Expected: one of the two")
                values = {key if name == old else name: value for name, value in values.items()}
        return values

    @field_validator("*")
    @classmethod
    def _check_text(cls, value: Any) -> Any:
        """Raise for text with NUL, which no file name and no argument can have."""
        if isinstance(value, str) and "\0" in value:
            raise PydanticCustomError("nul", "text with NUL")
        return value


# -- A setting in words: what may stand in it, and how help shows it --

_SOME, _OR_PATH = "one or more of ", ", or an existing path"


def allowed(field: FieldInfo) -> str:
    """Return the allowed values of a field in words: `an integer, 1 or more`."""
    limits = {
        key: getattr(item, key)
        for item in field.metadata
        for key in ("gt", "ge", "lt", "le", "min_length")
        if getattr(item, key, None) is not None
    }
    if text := setting_info(field).allowed:
        return text
    kind = _kind(field.annotation, field.metadata)
    templates = {
        "min_length": "not empty",
        "ge": "{:,} or more",
        "gt": "more than {:,}",
        "le": "at most {:,}",
        "lt": "less than {:,}",
    }
    if kind.startswith(_SOME):
        limits.pop("min_length", None)
    return ", ".join([kind, *(templates[key].format(limits[key]) for key in templates if key in limits)])


def help_text(field: FieldInfo) -> str:
    """Return the help text of a setting, with that of each registered name."""
    names = choices(field.annotation, field.metadata)
    explained = ". ".join(f"{name}: {text}" for name, text in names.items())
    return (field.description or "").replace("{names}", explained)


def choices(annotation: Any, metadata: Any = ()) -> dict[str, str]:
    """Return the registered names that a setting takes, each with its help text; empty for any other setting."""
    one_of = _one_of(annotation, metadata)
    return one_of.names() if one_of else {}


def known_words(annotation: Any, metadata: Any = ()) -> list[str]:
    """Return the words that a setting takes, or each item of its list; [] for any other setting."""
    if found := _one_of(annotation, metadata):
        return list(found.names())
    if get_origin(annotation) is Literal:
        return [word for word in get_args(annotation) if isinstance(word, str)]
    return [word for part in get_args(annotation) for word in known_words(part)]


def registry_of(field: FieldInfo) -> Registry[Any] | None:
    """Return the registry whose names a setting takes; None for any other setting."""
    one_of = _one_of(field.annotation, field.metadata)
    return one_of.registry if one_of else None


def takes_path(field: FieldInfo) -> bool:
    """True for a setting of names that takes a path as well."""
    one_of = _one_of(field.annotation, field.metadata)
    return one_of is not None and one_of.takes_path is not None


def _one_of(annotation: Any, metadata: Any = ()) -> OneOf | None:
    for item in metadata:
        if isinstance(item, OneOf):
            return item
    if get_origin(annotation) is Annotated:
        return _one_of(None, get_args(annotation)[1:])
    if get_origin(annotation) in (Union, UnionType):
        return next(filter(None, map(_one_of, get_args(annotation))), None)
    return None


def _kind(annotation: Any, metadata: Any = ()) -> str:
    if one_of := _one_of(annotation, metadata):
        return ", ".join(one_of.names()) + (_OR_PATH if one_of.takes_path else "")
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kind(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return " or ".join(_kind(part) for part in get_args(annotation) if part is not type(None))
    if origin is Literal:
        return ", ".join(map(str, get_args(annotation)))
    if origin is dict:
        return "key=value"
    if origin is list and choices(get_args(annotation)[0]):
        return _SOME + _kind(get_args(annotation)[0])
    if origin is list and _kind(get_args(annotation)[0]) == "text":
        return "texts"
    if origin is list:
        limits = getattr(get_args(annotation)[0], "__metadata__", ())
        numbers = [bound for item in limits for bound in getattr(item, "metadata", [])]
        low = next((item.ge for item in numbers if hasattr(item, "ge")), None)
        high = next((item.le for item in numbers if hasattr(item, "le")), None)
        return "integers" + (f" from {low}" if low is not None else "") + (f" to {high}" if high else "")
    return {int: "an integer", float: "a number", bool: "true or false", str: "text"}[annotation]


def metavar(field: FieldInfo) -> str:
    """Return the placeholder of a flag's value in the help."""
    if text := setting_info(field).metavar:
        return text
    kind = _kind(field.annotation, field.metadata)
    short = {"an integer": "N", "a number": "X", "text": "TEXT", "texts": "TEXT,TEXT,..."}
    if kind == "key=value":
        return "KEY=VALUE"
    if kind.startswith("integers"):
        return "N,N,..."
    if kind.startswith(_SOME):
        return "{" + kind.removeprefix(_SOME).replace(", ", ",") + "},..."
    names = kind.removesuffix(_OR_PATH)
    return short.get(kind, "{" + names.replace(", ", ",") + "}" + ("|PATH" if names != kind else ""))


def fmt_default(default: Any) -> str:
    """Return a default as the help shows it."""
    match default:
        case None:
            return "unset"
        case bool():
            return "on" if default else "off"
        case list():
            return ",".join(map(str, default))
        case dict():
            return " ".join(f"{key}={value}" for key, value in default.items()) or "none"
    return str(default)
