"""The command line in a process made from nothing: what it imports, and where it finds its files."""

import shutil
import sys
from pathlib import Path

import pytest
from helpers.runs import ROOT, Run


@pytest.mark.parametrize("words", ["--help", "bench --help", "--version", "train --help", "sample --help"])
def test_help_imports_nothing_heavy(run: Run, words: str) -> None:
    """What keeps it under half a second; the seconds themselves stand in LOG.md."""
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
    """A wheel's layout: the package with configs/ inside the wing that reads it, and no checkout around it."""
    site = tmp_path / "site"
    shutil.copytree(ROOT / "distgan", site / "distgan", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "configs", site / "distgan" / "config" / "presets_toml")
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "from distgan.config.presets import preset_path; print(preset_path('cgan', ''))"
    )
    result = run(sys.executable, "-c", code)
    assert result.stdout.strip() == str(site / "distgan" / "config" / "presets_toml" / "cgan.toml"), result.stderr
