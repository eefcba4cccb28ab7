"""Read the files of a GPU report."""

import json
from pathlib import Path
from typing import Any


def read(folder: Path) -> dict[str, Any]:
    report = json.loads((folder / "report.json").read_text())
    assert "# GPU report" in (folder / "report.md").read_text()
    return report


def statuses(folder: Path) -> dict[str, str]:
    return {name: part["status"] for name, part in read(folder)["parts"].items()}
