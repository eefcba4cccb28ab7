"""The command line: find the command, parse its flags, and only then import what it needs."""

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

_POLL_S = 0.2  # between checks of the launcher


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    _, entry, _ = _find_command(arguments)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        threading.Thread(target=_exit_with_launcher, daemon=True, name="distgan-launcher").start()
        if not is_ignored(signal.SIGINT):
            # Python's handler would run only after a wait in C++, and some callbacks drop its KeyboardInterrupt. A
            # training sets its own handler, which saves, before its first step.
            signal.signal(signal.SIGINT, signal.SIG_DFL)

    def run() -> None:
        try:
            run_command(*arguments)
        except Exception as error:
            if user_error := _explain_import_error(error):
                raise user_error from error
            raise
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()

    with guarded_output():
        code = run_and_report(run, debug="--debug" in arguments, less_memory=getattr(entry, "less_memory", ""))
    if os.environ.get("WORLD_SIZE", "1") != "1":
        # DDP keeps threads of gloo alive, which may abort the interpreter at exit.
        os._exit(code)
    return code


def _exit_with_launcher() -> None:
    """Exit when the launcher has ended, until a training handles that itself.

    Runs in a thread, so that it works also during imports and in a wait for another rank.
    """
    while not is_parent_gone(PARENT):
        time.sleep(_POLL_S)
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            return
    if os.environ.get("RANK", "0") == "0":
        with suppress(OSError):
            print_message("the launcher has ended; there is nothing to save")
    os._exit(128 + signal.SIGTERM)


def run_command(*arguments: str) -> None:
    """Run the command that the arguments begin with. Raises UserError and what the command raises."""
    prog, entry, rest = _find_command(arguments)
    if isinstance(entry, Group):
        _show_group(" ".join(prog), entry, rest)
        return
    if "bench" in prog:
        _interrupt_on_signals()
    result = _run(" ".join(prog), entry, rest)
    if result is not None:
        print_line(result)


def _find_command(arguments: Sequence[str]) -> tuple[list[str], Command | Group, list[str]]:
    """Return the words that name a command or a group, its entry, and the remaining arguments."""
    entry: Command | Group = TOP
    prog, rest = ["distgan"], list(arguments)
    while isinstance(entry, Group) and rest and rest[0] in entry.commands:
        entry = entry.commands[rest[0]]
        prog.append(rest.pop(0))
    return prog, entry, rest


def _show_group(prog: str, group: Group, rest: list[str]) -> None:
    """Print a group's help if requested. Raises UserError for no command or an unknown one."""
    # Without config.flags: importing pydantic takes most of half a second on a slow disk.
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


def _run(prog: str, command: Command, arguments: list[str]) -> Any:
    """Parse the flags of a command, import its function, call it, and return its result."""
    try:
        from distgan.config.flags import Parser, parse_settings
    except ImportError:
        if command.needs_pydantic:
            raise
        return _load(command.run)()
    parser = Parser(prog=prog, usage=f"{prog} {command.usage}", description=command.description, epilog=command.epilog)
    for arg in command.arguments:
        options = arg._replace(metavar="|".join(arg.choices) or arg.metavar, choices=())._asdict()
        parser.add_argument(options.pop("name"), **{key: value for key, value in options.items() if value})
    if command.reads_flags:
        return _load(command.run)(parser, arguments)
    if command.settings is None:
        namespace, settings = parser.parse(arguments), []
    else:
        namespace, config = parse_settings(parser, arguments, _load(command.settings))
        settings = [config]
    values = [getattr(namespace, arg.name) for arg in command.arguments]
    for arg, value in zip(command.arguments, values, strict=True):
        if arg.choices and value not in arg.choices:
            raise UserError(f"{value}: unknown {arg.name}. Expected: {', '.join(arg.choices)}", code="unknown-name")
    if command.needs_pydantic:  # else it is doctor, which runs without torch
        _load("distgan.distributed.env:check_before_imports")()
    return _load(command.run)(*values, *settings)


def _explain_import_error(error: Exception) -> UserError | None:
    """Return a UserError if torch's import failed for an environment variable, None for any other error."""
    with suppress(ImportError):
        user_error: UserError | None = _load("distgan.distributed.env:explain_import_error")(error)
        return user_error
    return None


def _load(name: str) -> Any:
    """Import and return "module:attribute"."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def _interrupt_on_signals() -> None:
    """Let signals end a benchmark as Ctrl-C does: it keeps its results and ends its processes."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for signum in STOP_SIGNALS:
        if signum != signal.SIGINT and not is_ignored(signum):
            signal.signal(signum, interrupt)
