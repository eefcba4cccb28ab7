"""Arguments of the functions that build the networks: `--model-arg`, checked by signatures and annotations."""

import inspect
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import Any, get_type_hints

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from distgan.config.flags import did_you_mean
from distgan.config.registry import Family, Lazy
from distgan.config.schema import ModelConfig
from distgan.errors import UserError
from distgan.models.user_networks import BUILDERS, MODULE, describe_value

_KINDS = {bool: "true or false", int: "an integer", float: "a number", str: "text", list: "a list"}


def check_arguments(model: ModelConfig, family: Family) -> None:
    """Raise UserError for a `--model-arg` that neither function takes, is of another type, or is missing."""
    of_both = {name: parameters_of(getattr(family, name)) for name in BUILDERS}
    annotations = {key: kind for name in BUILDERS for key, kind in annotations_of(getattr(family, name)).items()}
    known = {name: parameter for parameters in of_both.values() for name, parameter in parameters.items()}
    allowed = [name for name in known if name not in (*family.settings, "**")]
    for name, value in model.args.items():
        if name in family.settings or (name not in known and "**" not in known):
            raise UserError(
                f"--model-arg: {model.networks_name} takes no {name}{did_you_mean(name, allowed)} ({value!r}). "
                f"Expected: {', '.join(allowed) or 'none'}",
                code="unknown-setting",
            )
        kind = annotations.get(name)
        if kind in _KINDS:
            is_right = type(value) is kind or (kind is float and type(value) is int)
            expected = _KINDS[kind]
        else:
            is_right, expected = _is_convertible(value, kind), _describe_annotation(kind)
        if not is_right:
            raise UserError(
                f"--model-arg: {name} of {model.networks_name} is {describe_value(value)} ({value!r}). Expected: "
                f"{expected}"
            )
    for function, parameters in of_both.items():
        for name, parameter in parameters.items():
            if name not in (*family.settings, *model.args, "**") and parameter.default is parameter.empty:
                raise UserError(
                    f"--model-arg: {function} of {model.networks_name} needs {name}, which is not set. Expected: "
                    f"--model-arg {name}=VALUE, or a default in the function",
                    code="missing-value",
                )


def _is_convertible(value: Any, annotation: Any) -> bool:
    """True if an argument fits an annotation, also one that says nothing or that pydantic does not know."""
    try:
        convert_argument(value, annotation)
    except ValidationError:
        return False
    return True


def _describe_annotation(annotation: Any) -> str:
    """Return the values of an Enum, or the annotation as it stands in the file: `Optional[int]`."""
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(str(member.value) for member in annotation)
    return inspect.formatannotation(annotation, MODULE).replace("typing.", "")


def convert_argument(value: Any, annotation: Any) -> Any:
    """Return an argument as its annotation has it, for example as the member of an Enum. Raises ValidationError."""
    if annotation is None or annotation in _KINDS:
        return value
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    except PydanticUserError:  # of a class that pydantic does not know
        return value
    return adapter.validate_python(value)


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a builder behind `spec`, by their names; `**` for one that takes any."""
    if isinstance(function, Lazy):
        function = function.load()
    parameters = list(inspect.signature(function).parameters.values())[1:]
    any_name = inspect.Parameter.VAR_KEYWORD
    named = (each for each in parameters if each.kind is not each.VAR_POSITIONAL)
    return {"**" if each.kind is any_name else each.name: each for each in named}


def annotations_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the types that a builder's parameters are annotated with, {} where one can't be resolved."""
    if isinstance(function, Lazy):
        function = function.load()
    with suppress(Exception):  # the annotations are the user's code
        return get_type_hints(inspect.unwrap(function))
    return {}
