"""What a setting is: a field of a frozen section, with its help text, its limits and its flag."""

from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AllowInfNan, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo
from pydantic.fields import FieldInfo


def split_commas(value: Any, info: ValidationInfo) -> Any:
    """`1,20,42` of a command line as a list; in a file it is text, where a list belongs."""
    if info.context == "file":
        return value
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


# 90s, 1h30m, 45:00, 1:30:00 or 1-12:00:00
DURATION = r"^(\d{1,6}[dhms])+$|^(\d{1,4}-)?(\d{1,6}:)?\d{1,6}:\d\d$"

Real = Annotated[float, AllowInfNan(False)]
Epochs = Annotated[list[Annotated[int, Field(ge=0)]], BeforeValidator(split_commas)]
Digits = Annotated[list[Annotated[int, Field(ge=0, le=9)]], BeforeValidator(split_commas)]


def setting(
    default: Any, description: str, *, flag: str | None = None, allowed: str | None = None, **limits: Any
) -> Any:
    """A field with its help text, its limits, and where they differ from key and type its flag and rule."""
    extra: dict[str, Any] = {key: text for key, text in (("flag", flag), ("allowed", allowed)) if text}
    return Field(default, description=description, json_schema_extra=extra, **limits)


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


# -- A setting in words: what may stand in it, and how help shows it --

_SOME = "one or more of "


def allowed(field: FieldInfo) -> str:
    """What may stand in a field, in words: `a whole number, 1 or more`."""
    limits = {
        key: getattr(item, key)
        for item in field.metadata
        for key in ("gt", "ge", "lt", "le", "min_length")
        if getattr(item, key, None) is not None
    }
    if "allowed" in extra(field):
        return str(extra(field)["allowed"])
    kind = _kind(field.annotation)
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


def _kind(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kind(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return " or ".join(_kind(part) for part in get_args(annotation) if part is not type(None))
    if origin is Literal:
        return ", ".join(map(str, get_args(annotation)))
    if origin is list and get_origin(get_args(annotation)[0]) is Literal:
        return _SOME + _kind(get_args(annotation)[0])
    if origin is list:
        limits = getattr(get_args(annotation)[0], "__metadata__", ())
        numbers = [bound for item in limits for bound in getattr(item, "metadata", [])]
        low = next((item.ge for item in numbers if hasattr(item, "ge")), None)
        high = next((item.le for item in numbers if hasattr(item, "le")), None)
        return "whole numbers" + (f" from {low}" if low is not None else "") + (f" to {high}" if high else "")
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[annotation]


def metavar(field: FieldInfo) -> str:
    kind = _kind(field.annotation)
    short = {"a whole number": "N", "a number": "X", "text": "TEXT"}
    if kind.startswith("whole numbers"):
        return "N,N,..."
    if kind.startswith(_SOME):
        return "{" + kind.removeprefix(_SOME).replace(", ", ",") + "},..."
    return short.get(kind, "{" + kind.replace(", ", ",") + "}")


def shown(default: Any) -> str:
    match default:
        case None:
            return "unset"
        case bool():
            return "on" if default else "off"
        case list():
            return ",".join(map(str, default))
    return str(default)


def extra(field: FieldInfo) -> dict[str, Any]:
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
