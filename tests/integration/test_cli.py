"""The command line in a process made from nothing: what it imports, and where it finds its files."""

import errno
import os
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from helpers.runs import ROOT, Run


@pytest.mark.parametrize("words", ["--help", "bench --help", "--version", "train --help", "sample --help"])
def test_help_imports_nothing_heavy(run: Run, words: str) -> None:
    """Guards what keeps it under half a second; the seconds themselves stand in LOG.md."""
    heavy = ["torch", "accelerate", "numpy", "rich", "matplotlib"]
    if words.split()[0] not in ("train", "sample"):  # whose flags are settings
        heavy.append("pydantic")
    code = (
        "import sys\nfrom distgan.cli import main\n"
        f"try:\n    main({words.split()!r})\nexcept SystemExit:\n    pass\n"
        f"print('HEAVY', [name for name in {heavy!r} if name in sys.modules])"
    )
    assert run(sys.executable, "-c", code).stdout.endswith("HEAVY []\n")


def test_presets_are_found_from_any_folder_and_in_a_wheel(run: Run, tmp_path: Path) -> None:
    """A wheel's layout: the package with configs/ inside the package that reads it, and no checkout around it."""
    site = tmp_path / "site"
    shutil.copytree(ROOT / "distgan", site / "distgan", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "configs", site / "distgan" / "config" / "presets_toml")
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "from distgan.config.presets import preset_path; print(preset_path('cgan', ''))"
    )
    result = run(sys.executable, "-c", code)
    assert result.stdout.strip() == str(site / "distgan" / "config" / "presets_toml" / "cgan.toml"), result.stderr


SHOWS = (
    "import sys, os\nfrom distgan import cli\nfrom distgan.utils.terminal import TerminalConsole\n"
    "from distgan.errors import CommandFailed, print_line\n"
    "def command(*words):\n    TerminalConsole().print('ü ' * 100)\n    print('ü ' * 100)\n    print_line('ü')\n"
    "    raise CommandFailed('damaged')\n"
    "cli.run_command = command\nsys.exit(cli.main())\n"
)


def test_a_closed_pipe_and_an_old_encoding_keep_the_exit_code(run: Run) -> None:
    """Real ones: what the interpreter does at its end is no test's."""
    python = shlex.join([sys.executable, "-c", SHOWS])
    for how, code, words in (
        (f"{python} | true; exit ${{PIPESTATUS[0]}}", 1, "distgan: damaged"),
        (f"{python} > /dev/full", 2, f"distgan: stdout: not writable ({os.strerror(errno.ENOSPC)})"),
        (f"{python} >&-", 1, "distgan: damaged"),
        (f"{python} 2> /dev/full", 1, ""),
        (f"PYTHONIOENCODING=ascii {python}", 1, "distgan: damaged"),
    ):
        result = run("bash", "-c", how)
        assert (result.returncode, words in result.stderr) == (code, True), (how, result)
        assert "Traceback" not in result.stderr
        assert "Exception ignored" not in result.stderr
    result = run("bash", "-c", f"{shlex.join([sys.executable, '-m', 'distgan', '--help'])} > /dev/full")
    assert (result.returncode, "Exception ignored" in result.stderr) == (2, False), result.stderr


@pytest.mark.skipif(shutil.which("script") is None, reason="no util-linux: script makes a terminal")
def test_an_ascii_terminal_shows_tables_and_messages(run: Run, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real one, of a system without a locale: Python's own remedies are switched off."""
    for name in ("LANG", "LC_CTYPE", "PYTHONIOENCODING", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    shutil.copytree(trained, trained.parent / "other", symlinks=True)
    program = shlex.join([sys.executable, "-m", "distgan"])
    for words, shown in (
        ("compare run run/../other --no-eval", "disagree"),
        ("checkpoint ls run", "step-00000006"),
        ("sample run --num 10 --out ü.png", "encoding of the locale, ascii"),
    ):
        result = run("script", "--quiet", "--command", f"{program} {words}", "/dev/null")
        assert result.stdout.isascii()
        assert shown in " ".join(result.stdout.split()), result.stdout
        assert "Traceback" not in result.stdout
        assert "\\u27" not in result.stdout, "our own signs have others in their place"


def test_pictures_need_no_backend_of_the_environments(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every `!distgan` of a notebook inherits the notebook's."""
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    code = (
        "from pathlib import Path; from distgan.reports.charts import _ticks; from distgan.utils.figures import *\n"
        "_ticks(0, 1, 5); save_png(new_figure(1, 1), Path('plot.png')); import os; print(os.environ['MPLBACKEND'])"
    )
    assert run.ok(sys.executable, "-c", code).stdout == "module://matplotlib_inline.backend_inline\n"
