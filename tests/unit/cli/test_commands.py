"""The table of commands: each entry can be run, has help, and is listed."""

from collections.abc import Iterator

import pytest

from distgan.cli import _load, run_command
from distgan.cli.commands import TOP, Command, Group
from distgan.config.fields import Section
from distgan.errors import UserError


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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nope"], "nope: unknown command; allowed: train, sample"),
        (["--nope"], "--nope: unknown flag; allowed: train, sample"),
        (["bench"], "names no benchmark; allowed: throughput, compare"),
        (["bench", "nope"], "nope: unknown benchmark; .*see distgan bench --help"),
        (["judge", "nope"], "^nope: unknown action; allowed: train, show$"),
        (["checkpoint", "ls", "a", "b"], "^b: ls takes one folder"),
        (["sample"], "required: RUN_OR_WEIGHTS .see distgan sample --help"),
    ],
)
def test_mistakes(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_command(*words)


def test_a_result_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("distgan.sample.sample", lambda where, config: f"{where}: {config.num}")
    run_command("sample", "some/run", "--num", "3")
    assert capsys.readouterr().out == "some/run: 3\n"
