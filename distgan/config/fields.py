"""What a setting is: a field of a frozen section, with its help text, its limits and its flag."""

from typing import Annotated, Any

from pydantic import AllowInfNan, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo


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
