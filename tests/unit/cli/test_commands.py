"""The table of commands: each entry can be run, has help, and is listed."""

import ast
import re
from collections.abc import Iterator

import pytest
from helpers.runs import ROOT, expect_user_error

from distgan.cli import _load, run_command
from distgan.cli.commands import TOP, Command, Group
from distgan.config.fields import Section

FLAG = re.compile(r"--[a-z0-9][a-z0-9-]*")
OTHER_PROGRAM = re.compile(r"(distgan [a-z]+|accelerate launch|torchrun)[^,;]*")


def entries(group: Group = TOP, prog: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Command]]:
    for name, entry in group.commands.items():
        if isinstance(entry, Group):
            yield from entries(entry, (*prog, name))
        else:
            yield (*prog, name), entry


@pytest.mark.parametrize(("words", "command"), [pytest.param(*each, id="-".join(each[0])) for each in entries()])
def test_names_of_an_entry_can_be_loaded(words: tuple[str, ...], command: Command) -> None:
    assert callable(_load(command.run))
    assert command.settings is None or issubclass(_load(command.settings), Section)
    assert command.settings is None or not command.reads_flags


@pytest.mark.parametrize("words", [words for words, _ in entries()], ids="-".join)
def test_help_of_a_command(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run_command(*words, "--help")
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: distgan {' '.join(words)} ")
    assert "exit codes: 0" in text


ENTRIES = dict(entries())
ON_DATA = [("train",), ("eval",), ("judge",), *(("bench", name) for name in ("throughput", "scaling", "convergence"))]
# The commands that each module speaks in. Flags that only a value of themselves leads to are no advice.
SPEAKERS = {
    "data/base.py": (ON_DATA, {"--no-download", "--test-data"}),
    "data/mnist.py": (ON_DATA, set()),
    "evaluation/ensemble.py": ([("train",), ("eval",)], set()),
    "evaluation/reference.py": ([("eval",), ("report",), ("compare",)], set()),
    "distributed/rendezvous.py": ([("train",), ("eval",)], set()),
    "utils/devices.py": ([("train",), ("sample",), ("eval",), ("judge",), ("report",), ("compare",)], set()),
}


def flags_of_help(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> set[str]:
    with pytest.raises(SystemExit):
        run_command(*words, "--help")
    return set(FLAG.findall(capsys.readouterr().out))


@pytest.mark.parametrize("words", ENTRIES, ids="-".join)
def test_flags_that_need_less_memory_are_the_commands(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    advice = ENTRIES[words].less_memory
    assert set(FLAG.findall(advice)) <= flags_of_help(words, capsys)
    needy = {"train", "data", "sample", "eval", "report", "throughput", "scaling", "convergence"}
    assert bool(advice) == (words[-1] in needy or words == ("compare",))


@pytest.mark.parametrize("module", SPEAKERS)
def test_flags_in_a_message_are_those_of_each_command_that_says_it(
    module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """But for those behind the name of a program, which are that one's."""
    commands, exempt = SPEAKERS[module]
    tree = ast.parse((ROOT / "distgan" / module).read_text())
    strings = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = [node.value for node in strings if id(node) not in docstrings and not FLAG.fullmatch(node.value)]
    named = {flag for text in texts for flag in FLAG.findall(OTHER_PROGRAM.sub("", text))} - exempt
    for words in commands:
        assert named <= flags_of_help(words, capsys), words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nope"], "nope ... [unknown-name]"),
        (["--nope"], "--nope: unknown ... [unknown-name]"),
        (["bench"], "throughput, compare ... [missing-value]"),
        (["bench", "nope"], "nope ... --help ... [unknown-name]"),
        (["judge", "nope"], "nope: ... train, show [unknown-name]"),
        (["checkpoint", "ls", "a", "b"], "b: ls ... [conflicting-settings]"),
        (["sample"], "RUN_OR_WEIGHTS ... (see distgan sample --help) [missing-value]"),
    ],
)
def test_mistakes(words: list[str], message: str) -> None:
    with expect_user_error(message):
        run_command(*words)


def test_a_result_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("distgan.runs.sample.sample", lambda where, config: f"{where}: {config.num}")
    run_command("sample", "some/run", "--num", "3")
    assert capsys.readouterr().out == "some/run: 3\n"


def test_the_help_of_train_lists_few_common_settings_first(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_command("train", "--help")
    head, *sections = re.split(
        r"^(?=(?:model|data|optim|run|processes): )", capsys.readouterr().out, flags=re.MULTILINE
    )
    common = re.findall(r"^  (?:-h, )?(--[\w-]+)", head, re.MULTILINE)
    assert len(common) <= 20
    assert {"--preset", "--data", "--out", "--epochs", "--batch-size", "--device", "--processes"} <= set(common)
    assert [section.partition(":")[0] for section in sections] == ["model", "data", "optim", "run", "processes"]
    assert not {"--loss", "--keep", "--zero-stage"} & set(common)
