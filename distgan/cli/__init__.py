"""`distgan ...`: finds the command, reads its flags, and only then imports what it needs."""

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from types import FrameType
from typing import Any

import distgan
from distgan.cli.commands import TOP, Command, Group
from distgan.errors import PARENT, UserError, print_line, print_message, run_and_report
from distgan.utils.operating_system import STOP_SIGNALS, is_ignored, is_parent_gone
from distgan.utils.output import guarded_output

_WATCH_S = 0.2  # between two looks whether the launcher is there


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    _, entry, _ = _find(arguments)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        threading.Thread(target=_end_with_launcher, daemon=True, name="distgan-launcher").start()
        if not is_ignored(signal.SIGINT):
            # Python would heed Ctrl-C only after a wait for another process, and swallow it in some callbacks. From
            # its first step on a training catches it, and saves.
            signal.signal(signal.SIGINT, signal.SIG_DFL)

    def run() -> None:
        try:
            run_command(*arguments)
        except Exception as error:
            if mistake := _import_mistake(error):
                raise mistake from error
            raise
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()

    with guarded_output():
        code = run_and_report(run, debug="--debug" in arguments, less_memory=getattr(entry, "less_memory", ""))
    if os.environ.get("WORLD_SIZE", "1") != "1":
        # Threads of gloo, which DDP keeps alive, may abort an interpreter that ends in good order.
        os._exit(code)
    return code


def _end_with_launcher() -> None:
    """End this process when its launcher is gone, which nobody else would, until a training heeds signals itself.

    At any instant: also while libraries are imported, and in a wait for another rank.
    """
    while not is_parent_gone(PARENT):
        time.sleep(_WATCH_S)
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            return
    if os.environ.get("RANK", "0") == "0":
        with suppress(OSError):
            print_message("the launcher is gone; nothing is left to save")
    os._exit(128 + signal.SIGTERM)


def run_command(*words: str) -> None:
    """Run the command that the words name, with those behind it. Raises UserError and what the command raises."""
    prog, entry, rest = _find(words)
    if isinstance(entry, Group):
        _show_group(" ".join(prog), entry, rest)
        return
    if "bench" in prog:
        _stop_as_by_ctrl_c()
    result = _run(" ".join(prog), entry, rest)
    if result is not None:
        print_line(result)


def _find(words: Sequence[str]) -> tuple[list[str], Command | Group, list[str]]:
    """Return the words that name a command or a group, that one, and the words behind them."""
    entry: Command | Group = TOP
    prog, rest = ["distgan"], list(words)
    while isinstance(entry, Group) and rest and rest[0] in entry.commands:
        entry = entry.commands[rest[0]]
        prog.append(rest.pop(0))
    return prog, entry, rest


def _show_group(prog: str, group: Group, rest: list[str]) -> None:
    """Print a group's help if requested. Raises UserError for no command or an unknown one."""
    # A parser without pydantic, whose import is the larger part of half a second on a slow disk.
    width = max(map(len, group.commands)) + 2
    entries = [f"  {name:<{width}}{entry.help}" for name, entry in group.commands.items()]
    parser = argparse.ArgumentParser(
        prog=prog,
        usage=f"{prog} {group.usage}",
        description=group.description,
        epilog="\n".join([f"{group.heading}:", *entries, "", group.epilog]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if group is TOP:
        parser.add_argument("--version", action="version", version=f"distgan {distgan.__version__}")
    allowed = ", ".join(group.commands)
    if not rest:
        parser.print_help()
        raise UserError(f"no {group.noun} given. Expected: {allowed}", code="missing-value")
    parser.parse_known_args(rest)
    kind = "flag" if rest[0].startswith("-") else group.noun
    raise UserError(f"{rest[0]}: unknown {kind}. Expected: {allowed} (see {prog} --help)", code="unknown-name")


def _run(prog: str, command: Command, words: list[str]) -> Any:
    """Read the flags of a command and call its function, which is imported last; return its result."""
    try:
        from distgan.config.flags import Parser, parse_settings
    except ImportError:
        if command.needs_pydantic:
            raise
        return _load(command.run)()
    parser = Parser(prog=prog, usage=f"{prog} {command.usage}", description=command.description, epilog=command.epilog)
    for each in command.arguments:
        options = each._replace(metavar="|".join(each.choices) or each.metavar, choices=())._asdict()
        parser.add_argument(options.pop("name"), **{key: value for key, value in options.items() if value})
    if command.reads_flags:
        return _load(command.run)(parser, words)
    if command.settings is None:
        namespace, settings = parser.parse(words), []
    else:
        namespace, config = parse_settings(parser, words, _load(command.settings))
        settings = [config]
    values = [getattr(namespace, each.name) for each in command.arguments]
    for each, value in zip(command.arguments, values, strict=True):
        if each.choices and value not in each.choices:
            raise UserError(f"{value}: unknown {each.name}. Expected: {', '.join(each.choices)}", code="unknown-name")
    if command.needs_pydantic:  # else it reports what is missing
        _load("distgan.distributed.env:check_before_imports")()
    return _load(command.run)(*values, *settings)


def _import_mistake(error: Exception) -> UserError | None:
    """Return the user's mistake in a variable at which torch's import failed, None for any other error."""
    with suppress(ImportError):
        mistake: UserError | None = _load("distgan.distributed.env:explain_import_error")(error)
        return mistake
    return None


def _load(name: str) -> Any:
    """Return what "module:attribute" names."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def _stop_as_by_ctrl_c() -> None:
    """Make signals end a benchmark as Ctrl-C does: what was measured is kept, and no process is left behind."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for signum in STOP_SIGNALS:
        if signum != signal.SIGINT and not is_ignored(signum):
            signal.signal(signum, interrupt)
