"""The command line before anything is trained: help, version, a dry run."""

from pathlib import Path

import pytest
from helpers.runs import Run


def test_help_names_the_commands(distgan: Run) -> None:
    result = distgan.ok("--help")
    for words in ("train", "sample", "--version", "exit codes: 0 done, 1 failed, 2 usage error"):
        assert words in result.stdout


def test_version(distgan: Run) -> None:
    assert distgan("--version").stdout.startswith("distgan 0.")


@pytest.mark.parametrize("command", ["train", "sample"])
def test_command_help_shows_defaults(distgan: Run, command: str) -> None:
    result = distgan.ok(command, "--help")
    assert "(default: " in result.stdout
    assert "exit codes" in result.stdout


def test_debug_brings_the_traceback(distgan: Run) -> None:
    result = distgan("train", "--preset", "nonesuch", "--debug")
    assert result.returncode == 2
    assert "Traceback" in result.stderr
    assert "distgan: --preset: " in result.stderr
    assert "(nonesuch)" in result.stderr


def test_dry_run_writes_nothing(distgan: Run, tmp_path: Path) -> None:
    result = distgan.ok("train", "--model", "cgan", "--data", "digits", "--dry-run", "--epochs", "2", "--out", "run")
    words = (
        '"epochs": 2',
        "2,430,912",
        "236,545",
        "digits",
        "17,970 images",
        "142 (71 per epoch)",
        "nothing was trained",
    )
    assert [each for each in words if each not in result.stdout] == []
    assert not list(tmp_path.glob("r*"))
    flags = ("--preset", "cgan-quick", "--family", "dcgan", "--image-size", 32, "--channels", 3, "--dry-run")
    planned = distgan.ok("train", *flags).stdout  # of data that is not there yet
    assert '"height": 32' in planned
    assert '"channels": 3' in planned
