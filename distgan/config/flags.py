"""Build a config from presets and flags, with one message per mistake that names its flag or key.

Flags are argparse arguments made from the config's own fields. pydantic-settings would make them too,
but not name the file or flag of a mistake, and it takes the text "5" for a number in a TOML file.
"""

import argparse
import difflib
import json
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn, TypeVar, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from distgan.config.fields import (
    Section,
    allowed,
    fmt_default,
    help_text,
    known_words,
    metavar,
    setting_info,
    takes_path,
)
from distgan.config.schema import Config
from distgan.errors import UserError, not_readable

M = TypeVar("M", bound=BaseModel)

_MAX_CONFIG = 2**20


class Flag(NamedTuple):
    """A setting's flag, its path in the config and its field."""

    name: str
    path: tuple[str, ...]
    field: FieldInfo

    @property
    def dest(self) -> str:
        return ".".join(self.path)

    @property
    def old_names(self) -> tuple[str, ...]:
        """Return the names without dashes that the flag had before."""
        return setting_info(self.field).old_flags


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UserError and takes no abbreviations, which a new flag could make ambiguous."""

    def __init__(self, **kwargs: Any):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)
        self.add_argument("--debug", action="store_true", help="show the traceback of an error (default: off)")
        self.allowed: dict[str, str] = {}

    def error(self, message: str) -> NoReturn:
        """Raise UserError for a complaint of argparse, reworded."""
        if match := re.fullmatch(r"argument (--[\w-]+): expected one argument", message):
            message = f"{match[1]}: no value. Expected: {self.allowed.get(match[1], 'text')}"
            raise UserError(f"{message} (see {self.prog} --help)", code="missing-value")
        if match := re.fullmatch(r"argument (.*): ignored explicit argument (.*)", message):
            usage = match[1].replace("/", " or ")
            message = f"{usage.split()[0]}: takes no value ({match[2]}). Expected: {usage}"
        code = "missing-value" if "arguments are required" in message else "bad-value"
        raise UserError(f"{message} (see {self.prog} --help)", code=code)

    def parse(self, argv: list[str]) -> argparse.Namespace:
        namespace, unknown = self.parse_known_args(argv)
        known = [flag for action in self._actions if action.help != argparse.SUPPRESS for flag in action.option_strings]
        mistakes = [
            f"{word.split('=')[0]}: unknown flag{did_you_mean(word.split('=')[0], known)}"
            if word.startswith("-")
            else f"{word}: not the value of a flag"
            for word in unknown
        ]
        # The value of an unknown flag is no second mistake.
        if flags := [line for line in mistakes if "unknown flag" in line]:
            mistakes = flags
        if mistakes:
            raise UserError("\n".join(f"{line} (see {self.prog} --help)" for line in mistakes), code="unknown-setting")
        return namespace


def parse_settings(parser: Parser, argv: list[str], model: type[M]) -> tuple[argparse.Namespace, M]:
    """Parse the flags of a command other than training into its settings. Raises UserError."""
    add_flags(parser, model)
    namespace = parser.parse(argv)
    return namespace, from_flags(model, namespace)


def list_flags(model: type[BaseModel]) -> Iterator[Flag]:
    """Yield each setting below a config that has a flag."""
    return (flag for flag in list_settings(model) if not setting_info(flag.field).is_derived)


def list_settings(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[Flag]:
    """Yield each setting below a config, those too that are derived from the data and have no flag."""
    for key, field in model.model_fields.items():
        if _is_section(field):
            yield from list_settings(field.annotation, (*path, key))  # type: ignore[arg-type]
        else:
            yield Flag("--" + (setting_info(field).flag or key).replace("_", "-"), (*path, key), field)


def setting_paths(model: type[BaseModel], rule: str, *values: object) -> list[tuple[str, ...]]:
    """Return the paths of the settings whose SettingInfo have one of these values, as ("run", "out")."""
    return [flag.path for flag in list_settings(model) if getattr(setting_info(flag.field), rule) in values]


def add_flags(parser: Parser, model: type[BaseModel]) -> None:
    """Add an argument for each setting, the common ones first; it is absent from the namespace unless given."""
    groups: dict[tuple[str, ...], Any] = {}
    flags = list(list_flags(model))
    if any(setting_info(flag.field).is_common for flag in flags):
        groups["common",] = parser.add_argument_group("common settings; the others are below, by section")
    for flag in flags:
        section = ("common",) if setting_info(flag.field).is_common else flag.path[:-1]
        if section not in groups:
            owner = model.model_fields[section[0]].annotation if section else model
            title = f"{section[0]}: {(owner.__doc__ or '').strip().rstrip('.')}" if section else "settings"
            groups[section] = parser.add_argument_group(title)
        parser.allowed[flag.name] = allowed(flag.field)
        # argparse reads % in a help text as a format.
        old_flags = [f"--{old}" for old in setting_info(flag.field).old_flags]
        deprecated = f"; deprecated: {', '.join(old_flags)}" if old_flags else ""
        text = f"{help_text(flag.field)} (default: {fmt_default(flag.field.default)}{deprecated})".replace("%", "%%")
        options: dict[str, Any] = {"dest": flag.dest, "default": argparse.SUPPRESS, "help": text}
        if flag.field.annotation is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["metavar"] = metavar(flag.field)
        if setting_info(flag.field).may_be_repeated:
            options["action"] = "append"
        groups[section].add_argument(flag.name, **options)
        for old in old_flags:
            parser.allowed[old] = parser.allowed[flag.name]
            groups[section].add_argument(old, **options | {"help": argparse.SUPPRESS})


def from_flags(model: type[M], namespace: argparse.Namespace, base: dict[str, Any] | None = None) -> M:
    """Return the config of `base` (already valid) and the flags of a namespace. Raises UserError."""
    values: dict[str, Any] = json.loads(json.dumps(base or {}))
    mistakes: list[str] = []
    code = "bad-value"
    for flag in list_flags(model):
        if not hasattr(namespace, flag.dest):
            continue
        text = getattr(namespace, flag.dest)
        is_table = get_origin(flag.field.annotation) is dict
        if setting_info(flag.field).may_be_repeated and not is_table:
            text = ",".join(text)
        try:
            adapter: Any = TypeAdapter(Annotated[flag.field.annotation, flag.field])  # type: ignore[arg-type]
            value = adapter.validate_python(text)
        except ValidationError as error:
            first = error.errors()[0]
            code = code if mistakes else _error_code(first)
            mistakes.append(f"{flag.name}: {_describe_error(first, flag.field)}")
            continue
        section = values
        for key in flag.path[:-1]:
            section = section.setdefault(key, {})
        section[flag.path[-1]] = section.get(flag.path[-1], {}) | value if is_table else value
        for other in setting_info(flag.field).replaces:
            if not hasattr(namespace, ".".join((*flag.path[:-1], other))):  # stronger than that of the file
                section.pop(other, None)
    if mistakes:
        raise UserError("\n".join(mistakes), code=code)
    return _validate(model, values, "")


def read_file(path: Path, name: str) -> dict[str, Any]:
    """Read a preset (TOML) or a run's config (JSON); every key and type is checked. Raises UserError naming `name`."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_CONFIG + 1)
        if len(data) > _MAX_CONFIG:
            raise UserError(f"{name}: too large. Expected: at most {_MAX_CONFIG:,} bytes", code="bad-config-file")
        text = data.decode("utf-8-sig")  # Windows' editors begin a file with a mark
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise not_readable(name, error) from error
    except (ValueError, RecursionError) as error:  # both decoders and the text's encoding
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise UserError(f"{name}: not {kind} ({error}). Expected: {kind} settings", code="bad-config-file") from error
    if not isinstance(values, dict):
        raise UserError(f"{name}: a {type(values).__name__}. Expected: a table of settings", code="bad-config-file")
    # Combinations are checked when the flags are in.
    checked = _validate(Config, values, f"{name}: ")
    return checked.model_dump(mode="json", exclude_unset=True)


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, Section)


def _validate(model: type[M], values: dict[str, Any], where: str) -> M:
    try:
        return model.model_validate(values, strict=True, context="file")
    except ValidationError as error:
        fields = {flag.path: flag.field for flag in list_settings(model)}
        mistakes = error.errors()
        code = _error_code(mistakes[0])
        raise UserError("\n".join(_line(mistake, fields, where) for mistake in mistakes), code=code) from error


def _error_code(error: Any) -> str:
    """Return the error code for a complaint of pydantic's."""
    known = {
        "extra_forbidden": "unknown-setting",
        "value_error": "conflicting-settings",
        "unknown_name": "unknown-name",
    }
    return known.get(error["type"], "bad-value")


def _line(error: Any, fields: dict[tuple[str, ...], FieldInfo], where: str) -> str:
    """Return the message for one error of a file, with its key as the file writes it."""
    path = tuple(str(part) for part in error["loc"])
    table, key = (f"[{path[0]}] " if len(path) > 1 else ""), path[1] if len(path) > 1 else "".join(path)
    if error["type"] == "extra_forbidden":
        siblings = [known[-1] for known in fields if known[:-1] == path[:-1]] if table else {p[0] for p in fields}
        thing = "unknown key" if table or not isinstance(error["input"], dict) else "unknown table"
        return (
            f"{where}{table}{key}: {thing}{did_you_mean(key, siblings) or '.'} Expected: {', '.join(sorted(siblings))}"
        )
    if error["type"] == "value_error":
        return f"{where}{error['ctx']['error']}"
    if path[:2] not in fields:
        return f"{where}{key}: not a table ({error['input']!r}). Expected: [{key}] and keys below it"
    return f"{where}{table}{key}: {_describe_error(error, fields[path[:2]])}"


def _describe_error(error: Any, field: FieldInfo) -> str:
    encoding = sys.getfilesystemencoding()  # what it lacks is kept as bytes, which are no text
    text = "UTF-8" if encoding == "utf-8" else f"the encoding of the locale, {encoding} (LC_ALL=C.UTF-8 has all)"
    more = {"float32": ", neither 0 nor infinite in float32", "nul": ", without NUL", "string_unicode": f", in {text}"}
    guess = ""
    if error["type"] in ("unknown_name", "literal_error") and isinstance(error["input"], str):
        known = known_words(field.annotation, field.metadata)
        guess = did_you_mean(error["input"], known) or (did_you_mean_path(error["input"]) if takes_path(field) else "")
    return f"invalid value ({error['input']!r}){guess or '.'} Expected: {allowed(field)}{more.get(error['type'], '')}"


def did_you_mean_path(path: str) -> str:
    """Return `, did you mean photos?` for the most similar name in the folder of a path that is not there."""
    folder, name = os.path.split(path.rstrip("/" + os.sep))
    with suppress(OSError), os.scandir(folder or ".") as entries:
        beside = [entry.name for entry in islice(entries, 1_000)]
        if close := difflib.get_close_matches(name, beside, n=1):
            return f", did you mean {os.path.join(folder, close[0])}?"
    return ""


def did_you_mean(word: str, known: Any) -> str:
    """Return `, did you mean X?` for the closest known word, "" without one."""
    # A short word with another first letter is another word: `gpu` is not `cpu`.
    near = [name for name in known if len(word) > 3 or name[:1] == word[:1]]
    close = difflib.get_close_matches(word, near, n=1)
    return f", did you mean {close[0]}?" if close else ""
