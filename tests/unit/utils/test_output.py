"""stdout and stderr of a command: their encoding, and readers that leave, do not change its exit code."""

import errno
import io
import os
import sys

import pytest
from helpers.runs import Capture, MonkeyPatch, fits

from distgan import cli
from distgan.errors import FAILED, OK, USER_ERROR, CommandFailed, print_line
from distgan.utils.output import guarded_output


class Stream(io.TextIOWrapper):
    """Fails at each write, as a pipe without a reader or a full disk does; strict, as stdout is."""

    def __init__(self, number: int = 0, encoding: str = "utf-8"):
        super().__init__(io.BytesIO(), encoding=encoding, errors="strict")
        self.number, self.is_used = number, False

    def write(self, text: str) -> int:
        self.is_used = True
        return super().write(text)

    def flush(self) -> None:
        if self.number and self.is_used:
            raise OSError(self.number, os.strerror(self.number))
        super().flush()

    def fileno(self) -> int:
        raise io.UnsupportedOperation

    def text(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)  # type: ignore[attr-defined]


def damaged() -> None:
    print_line("run: damaged")
    raise CommandFailed("1 of 1 checkpoints damaged")


def commands(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "run_command", lambda name: {"ok": lambda: print_line("complete"), "bad": damaged}[name]())


@pytest.mark.parametrize(
    ("number", "command", "code"),
    [
        (0, "ok", OK),
        (0, "bad", FAILED),
        (errno.EPIPE, "ok", OK),
        (errno.EPIPE, "bad", FAILED),
        (errno.ENOSPC, "ok", USER_ERROR),
        (errno.ENOSPC, "bad", USER_ERROR),
        (errno.EIO, "ok", USER_ERROR),
    ],
)
def test_a_stdout_that_takes_nothing_keeps_the_exit_code(
    monkeypatch: MonkeyPatch, capsys: Capture, number: int, command: str, code: int
) -> None:
    commands(monkeypatch)
    monkeypatch.setattr(sys, "stdout", Stream(number))
    assert cli.main([command]) == code
    err = capsys.readouterr().err
    assert ("distgan: stdout: " in err and "[unwritable]" in err) is (code == USER_ERROR)
    assert not fits("file ... run:", err)


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize(("command", "code"), [("ok", OK), ("bad", FAILED)])
def test_no_error_of_stderr_counts(monkeypatch: MonkeyPatch, number: int, command: str, code: int) -> None:
    commands(monkeypatch)
    monkeypatch.setattr(sys, "stderr", Stream(number))
    assert cli.main([command]) == code


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_stream_may_be_closed(monkeypatch: MonkeyPatch, name: str) -> None:
    commands(monkeypatch)
    monkeypatch.setattr(sys, name, None)
    assert cli.main(["ok"]) == OK
    assert cli.main(["bad"]) == FAILED


def test_help_that_nobody_can_read_is_no_success(monkeypatch: MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(sys, "stdout", Stream(errno.ENOSPC))
    assert cli.main(["--help"]) == USER_ERROR
    assert "stdout: " in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_an_encoding_lacks_is_shown_in_another_way(monkeypatch: MonkeyPatch, encoding: str) -> None:
    stream = Stream(encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    with guarded_output():
        print("ü 数 1–2 ✓✗")
    shown = {"ascii": "\\xfc \\u6570 1-2 +x\n", "latin-1": "ü \\u6570 1-2 +x\n", "utf-8": "ü 数 1–2 ✓✗\n"}
    assert stream.text() == shown[encoding]

    assert sys.stdout is stream


def test_a_pipe_of_the_commands_own_is_no_success(monkeypatch: MonkeyPatch, capsys: Capture) -> None:
    """As the error of a child or a socket."""

    def run_command(*words: str) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(cli, "run_command", run_command)
    assert cli.main(["train"]) == FAILED
    assert "BrokenPipeError" in capsys.readouterr().err
