"""The command line before anything is trained: help, version, and mistakes."""

from pathlib import Path

import pytest
from helpers.runs import Run, assert_user_error


def test_help_names_the_commands(distgan: Run) -> None:
    result = distgan.ok("--help")
    for words in ("train", "sample", "--version", "exit codes: 0 done, 1 failed, 2 a mistake"):
        assert words in result.stdout


def test_version(distgan: Run) -> None:
    assert distgan("--version").stdout.startswith("distgan 0.")


@pytest.mark.parametrize("command", ["train", "sample"])
def test_command_help_shows_defaults(distgan: Run, command: str) -> None:
    result = distgan.ok(command, "--help")
    assert "(default: " in result.stdout
    assert "exit codes" in result.stdout


def test_no_command_and_unknown_command(distgan: Run) -> None:
    assert_user_error(distgan(), "names no command; allowed: train, sample")
    assert_user_error(distgan("trian"), "trian: unknown command; allowed: train, sample")


def test_train_needs_a_network(distgan: Run) -> None:
    assert_user_error(distgan("train"), "names no network; allowed: --model vanilla, --model cgan")


@pytest.mark.parametrize(
    ("flags", "fragments"),
    [
        (["--preset", "cgan-quik"], ["--preset cgan-quik: unknown preset, did you mean cgan-quick?", "vanilla"]),
        (["--config", "my.toml"], ["my.toml: can't be read (No such file or directory)"]),
        (["--preset", "cgan", "--config", "my.toml"], ["allowed: one of the two"]),
        (["--model", "cgan", "--preset", "vanilla-quick"], ["--model cgan", "trains vanilla"]),
        (["--model", "dcgan"], ["--model dcgan: unknown network; allowed: vanilla, cgan"]),
        (["--model", "cgan", "--epcohs", "3"], ["--epcohs: unknown flag, did you mean --epochs?"]),
        (
            ["--model", "cgan", "--precision", "fp16", "--device", "cpu"],
            ["--precision fp16", "allowed on a CPU: no, bf16"],
        ),
        (
            ["--model", "cgan", "--data", "digits", "--batch-size", "20000", "--drop-last"],
            ["--batch-size 20000", "17,970"],
        ),
        (
            ["--model", "vanilla", "--data-dir", "none", "--no-download"],
            ["--data-dir none: no mnist there", "--data digits"],
        ),
        (["--model", "vanilla", "--data-dir", "none", "--data-mirror", "http://127.0.0.1:9"], ["the download failed"]),
    ],
)
def test_mistakes_end_in_one_line_and_leave_nothing(
    distgan: Run, tmp_path: Path, flags: list[str], fragments: list[str]
) -> None:
    assert_user_error(distgan("train", *flags, "--out", "run"), *fragments)
    assert not (tmp_path / "run").exists()


def test_existing_folder_is_never_overwritten(distgan: Run, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("precious")
    flags = ("train", "--preset", "cgan-quick", "--data", "digits", "--out", "run")
    assert_user_error(distgan(*flags), "--out run: holds no run to go on with", "name a new folder")
    result = distgan(*flags, "--resume", "never")
    assert_user_error(result, "--out run: is there already and is not overwritten", "--resume auto")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("out", ["/proc/run", "file/run"])
def test_unwritable_folder(distgan: Run, tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("")
    assert_user_error(
        distgan("train", "--preset", "cgan-quick", "--data", "digits", "--out", out), "--out", "can't be written to"
    )


def test_dry_run_and_resume_name_a_used_or_missing_folder(distgan: Run, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("precious")
    flags = ("train", "--preset", "cgan-quick", "--data", "digits", "--dry-run")
    assert_user_error(distgan(*flags, "--out", "run"), "--out run: holds no run to go on with")
    assert_user_error(distgan(*flags, "--resume", "auto"), "--resume auto: goes on with the run in --out")
    assert_user_error(distgan("--verison"), "--verison: unknown flag")


def test_debug_brings_the_traceback(distgan: Run) -> None:
    result = distgan("train", "--preset", "nonesuch", "--debug")
    assert result.returncode == 2
    assert "Traceback" in result.stderr
    assert "distgan: --preset nonesuch: unknown preset" in result.stderr


def test_dry_run_writes_nothing(distgan: Run, tmp_path: Path) -> None:
    result = distgan.ok("train", "--model", "cgan", "--data", "digits", "--dry-run", "--epochs", "2", "--out", "run")
    for words in (
        '"epochs": 2',
        "2,430,912",
        "236,545",
        "digits",
        "17,970 images",
        "142 (71 an epoch)",
        "nothing was done",
    ):
        assert words in result.stdout
    assert not list(tmp_path.glob("r*"))


SMALL = ("--width", 0.1, "--data", "digits", "--log-every", 2, "--tracker", "none", "--threads", 1)


def test_wrong_numbers_of_clusters_are_one_line(distgan: Run) -> None:
    flags = ("train", "--preset", "cgan-fast", *SMALL, "--max-steps", 2)
    assert_user_error(distgan(*flags, "--clusters", 5000), "--clusters 5000: of 17,970 images; allowed: at most 1797")
    assert_user_error(distgan(*flags, "--clusters", 0), "--clusters: '0' is not allowed", "1 or more")
    assert_user_error(distgan(*flags, "--family", "small"), "--clusters 25: with --family small", "allowed:")
    assert_user_error(
        distgan("train", "--model", "cgan", "--family", "clustered"), "--clusters unset: with --family clustered"
    )
