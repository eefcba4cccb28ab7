"""Write the generated parts of the docs from the code: `make reference`. A test fails while they are stale.

A page marks each part by two comments, `<!-- generated: NAME -->` and `<!-- end -->`; what is between them is replaced.
Text is taken from where it belongs: a setting's help, a command's entry, the comment behind a field or a key.
"""

import argparse
import ast
import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args
from unittest.mock import patch

import distgan
from distgan.checkpoint import format as checkpoint_format
from distgan.cli import run_command
from distgan.cli.commands import TOP, Command, Group
from distgan.config.fields import allowed, fmt_default, help_text, setting_info
from distgan.config.flags import Flag, list_flags, read_file
from distgan.config.presets import config_folder
from distgan.config.schema import Config
from distgan.distributed.runtime import Runtime
from distgan.errors.codes import CODES
from distgan.evaluation import during_training, measure, schema
from distgan.runs import artifacts, run_dir
from distgan.training.metrics import MetricLog, MetricRecord
from distgan.utils import provenance

PAGES = Path(__file__).parent
PART = re.compile(r"(?<=<!-- generated: )([\w-]+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)
ON_RESUME = {"fixed": "no", "confirm": "with `--allow-config-change`", "free": "yes", "reset": "yes, and is not kept"}
JSON_TYPES = {
    "int": "integer", "Count": "integer", "Positive": "integer", "float": "number", "Finite": "number", "str": "text",
    "bool": "true or false", "None": "null", "Verdict": "text", "ClassNoun": "text", "Stats": "list of 4 numbers",
}  # fmt: skip


def stale_pages() -> dict[Path, str]:
    """Return each page whose generated parts are not what the code says, with the text that it should have."""
    pages = {path: path.read_text() for path in sorted(PAGES.glob("*.md"))}
    fresh = {path: PART.sub(lambda part: f"{part[1]}{part[2]}\n{PARTS[part[1]]()}\n\n", text)
             for path, text in pages.items()}  # fmt: skip
    return {path: text for path, text in fresh.items() if text != pages[path]}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)).replace("|  |", "| |")


def prose(text: str) -> str:
    """Return a help text as Markdown of one line that fits into a table's cell."""
    escaped = " ".join(text.split()).replace("<", "&lt;").replace("|", "\\|").replace("*", "\\*")
    return re.sub(r"(?<![\w-])--[a-z][\w-]*|\$[A-Z_]+|[\w./-]*\w\.(?:jsonl|json|toml)\b", r"`\g<0>`", escaped)


# -- Commands and settings --


def commands_below(group: Group, prog: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Command]]:
    for name, entry in group.commands.items():
        if isinstance(entry, Group):
            yield from commands_below(entry, (*prog, name))
        else:
            yield (*prog, name), entry


def parser_of(words: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser that a command reads its flags with."""
    parsers: list[argparse.ArgumentParser] = []
    with patch.object(argparse.ArgumentParser, "print_help", lambda self: parsers.append(self)), suppress(SystemExit):
        run_command(*words, "--help")
    return parsers[0]


def command_reference() -> str:
    return "\n\n".join(describe_command(words) for words, _ in commands_below(TOP))


def describe_command(words: Sequence[str]) -> str:
    parser = parser_of(words)
    arguments, flags = [], []
    for action in parser._actions:
        if action.help in (None, argparse.SUPPRESS) or action.dest in ("help", "debug") or "." in action.dest:
            continue
        text, _, default = action.help.replace("%%", "%").removesuffix(")").rpartition(" (default: ")
        if not action.option_strings:
            arguments.append((f"`{prose(action.metavar or action.dest)}`", prose(action.help)))
        else:
            is_switch = action.nargs == 0
            default, _, old = default.partition("; deprecated: ")
            text += f" (deprecated name: {old})" if old else ""
            values = "" if is_switch else prose(getattr(parser, "allowed", {}).get(action.option_strings[0], "text"))
            names = ", ".join(f"`{each}`" for each in action.option_strings)
            flags.append((names, values, prose(default), prose(text)))
    parts = [f"## distgan {' '.join(words)}", prose(parser.description or ""), f"```text\n{parser.usage}\n```"]
    if arguments:
        parts.append(table(("argument", "meaning"), arguments))
    if flags:
        parts.append(table(("flag", "values", "default", "meaning"), flags))
    if any("." in action.dest for action in parser._actions):
        parts.append("Every [setting of a training](settings.md) is a flag too.")
    parts += map(prose, re.split(r"\n(?=[A-Z]|exit codes)", parser.epilog or ""))
    return "\n\n".join(parts)


def flag_names(flag: Flag) -> str:
    return f"`{flag.name}`" + (f", `--no-{flag.name[2:]}`" if flag.field.annotation is bool else "")


def settings_reference() -> str:
    flags = list(list_flags(Config))
    parts = []
    for section, field in Config.model_fields.items():
        rows = [
            (
                flag_names(flag),
                f"`{flag.path[1]}`",
                prose(allowed(flag.field)),
                prose(fmt_default(flag.field.default)),
                prose(
                    help_text(flag.field)
                    + "".join(f" (deprecated name: --{old})" for old in setting_info(flag.field).old_flags)
                ),
                ON_RESUME[setting_info(flag.field).on_resume],
            )
            for flag in flags
            if flag.path[0] == section
        ]
        head = ("flag", "key", "values", "default", "meaning", "may change on resume")
        parts += [f"## [{section}]", (field.annotation.__doc__ or "").strip(), table(head, rows)]
    return "\n\n".join(parts)


def preset_reference() -> str:
    """Return a table of the settings that a preset has and the defaults have not."""
    presets = {path.stem: read_file(path, str(path)) for path in sorted(config_folder().glob("*.toml"))}
    rows = []
    for flag in list_flags(Config):
        section, key = flag.path
        values = [preset.get(section, {}).get(key, flag.field.default) for preset in presets.values()]
        if any(value != flag.field.default for value in values):
            rows.append([f"`{flag.name}`", *(prose(fmt_default(value)) for value in values)])
    return table(["setting", *(f"`{name}`" for name in presets)], rows)


def error_reference() -> str:
    rows = ((f"`{code}`", f"`{each.kind}`", prose(each.cause), prose(each.remedy)) for code, each in CODES.items())
    return table(("code", "kind", "the error", "what to do"), rows)


# -- Files: the comment behind each field of a class, and behind each key that a function writes --


def parse(code: object) -> tuple[ast.AST, dict[int, str]]:
    """Return the syntax tree of a class or function, and its comments by line."""
    source = textwrap.dedent(inspect.getsource(code))  # type: ignore[arg-type]
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {each.start[0]: each.string.lstrip("# ") for each in tokens if each.type == tokenize.COMMENT}
    return ast.parse(source), comments


def fields_of(model: type) -> str:
    """Return a table of a class's fields: name, type in JSON, comment. Raises KeyError for one without a comment."""
    tree, comments = parse(model)
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    rows = [(f"`{node.target.id}`", json_type(node.annotation), prose(comments[node.end_lineno])) for node in nodes]  # type: ignore[union-attr, index]
    return table(("field", "type", "meaning"), rows)


def json_type(annotation: ast.expr) -> str:
    match annotation:
        case ast.BinOp(left=left, right=right):
            return f"{json_type(left)} or {json_type(right)}"
        case ast.Subscript(value=ast.Name(id="list"), slice=item):
            return f"list of {json_type(item)}"
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[_, item])):
            return f"object of {json_type(item)}"
        case ast.Name(id=name) if name in JSON_TYPES:
            return JSON_TYPES[name]
        case ast.Name(id=name):
            return f"[{name}](#{name.lower()})"
    return JSON_TYPES[ast.unparse(annotation)]


def keys_of(function: Callable[..., Any]) -> dict[str, str]:
    """Return the keys that a function writes into a file, each with its comment; those without one are not documented.

    `{name}` in a key stands for what the function puts there.
    """
    tree, comments = parse(function)
    keys: list[ast.expr | None] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            keys += node.keys
        if isinstance(node, ast.DictComp):
            keys.append(node.key)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
            keys.append(node.targets[0].slice)
    texts = [key for key in keys if isinstance(key, ast.JoinedStr | ast.Constant) and key.lineno in comments]
    texts.sort(key=lambda key: key.lineno)
    return {ast.unparse(key).removeprefix("f")[1:-1]: comments[key.lineno] for key in texts}


def keys_table(*functions: Callable[..., Any]) -> str:
    rows = [(f"`{name}`", prose(text)) for function in functions for name, text in keys_of(function).items()]
    return table(("key", "meaning"), rows)


def eval_reference() -> str:
    models = (
        schema.Quality, schema.Estimate, schema.ImageMetrics, schema.ClassQuality, schema.Confusion, schema.Ambiguity,
        schema.JudgeFacts, schema.Source,
    )  # fmt: skip
    first, *others = ((model, fields_of(model)) for model in models)
    return "\n\n".join([first[1], *(f"### {model.__name__}\n\n{text}" for model, text in others)])


def checkpoint_reference() -> str:
    models = checkpoint_format.Manifest, checkpoint_format.Entry, checkpoint_format.State
    titles = "manifest.json", "Entry", "state.json"
    return "\n\n".join(f"### {title}\n\n{fields_of(model)}" for title, model in zip(titles, models, strict=True))


def environment_reference() -> str:
    return keys_table(
        provenance.describe_environment, Runtime.describe, artifacts.RunArtifacts._write_environment,
        artifacts.RunArtifacts.finish,
    )  # fmt: skip


def python_reference() -> str:
    """Return signature and docstring of each name of `import distgan`."""
    found = [("Config.from_preset", distgan.Config.from_preset)]
    found += [(name, getattr(distgan, name)) for name in distgan.__all__ if name != "Config"]
    return "\n\n".join(f"### distgan.{name}\n\n{describe_object(name, each)}" for name, each in found)


def describe_object(name: str, each: Any) -> str:
    if isinstance(each, type) and hasattr(each, "_fields"):
        fields = ", ".join(f"{key}: {readable(kind)}" for key, kind in each.__annotations__.items())
        signature = f"({fields})"
    else:
        signature = readable(inspect.signature(each)).replace("(self, ", "(")
    if len(signature) > 100:  # a line for each argument
        signature = re.sub(r", (?=\w+: |\*)", ",\n    ", signature.replace("(", "(\n    ", 1))
        signature = re.sub(r"\)(?=( -> \w+)?$)", ",\n)", signature)
    code = f"```python\ndistgan.{name}{signature}\n```"
    text, *sections = re.split(r"\n(Args|Raises):\n", inspect.getdoc(each) or "")
    parts = [code, text.strip()]
    for title, body in zip(sections[::2], sections[1::2], strict=True):
        entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", body, re.MULTILINE)
        head = ("argument", "meaning") if title == "Args" else ("error", "raised")
        parts.append(table(head, ((f"`{key}`", prose(value)) for key, value in entries)))
    return "\n\n".join(parts)


def readable(annotated: object) -> str:
    """Return a signature or a type without the modules of its types."""
    text = annotated.__name__ if isinstance(annotated, type) and not get_args(annotated) else str(annotated)
    return re.sub(r"(?<![\w'\"])(?:[a-z_]\w*\.)+(?=[A-Za-z])", "", text)


PARTS: dict[str, Callable[[], str]] = {
    "commands": command_reference,
    "settings": settings_reference,
    "presets": preset_reference,
    "error-codes": error_reference,
    "python": python_reference,
    "run-folder": lambda: table(
        ("file", "content"), ((f"`{name}`", prose(text)) for name, text in run_dir.CONTENTS.items())
    ),
    "status": lambda: keys_table(run_dir.record_status),
    "environment": environment_reference,
    "checkpoint": checkpoint_reference,
    "metrics": lambda: fields_of(MetricRecord),
    "metrics-evaluation": lambda: keys_table(
        measure.to_metrics, during_training.QualityMonitor.evaluate, MetricLog.__init__
    ),
    "eval": eval_reference,
}


if __name__ == "__main__":
    for path, text in stale_pages().items():
        path.write_text(text)
        print(f"written anew: {path}")
