"""Folders from which no run can be resumed."""

from pathlib import Path

import pytest
from helpers.runs import Run, assert_user_error, quick


@pytest.mark.parametrize("text", ["[]", '{"run": 5}', "{", '{"model": {"wdth": 1}}'])
def test_resume_refuses_a_damaged_config(distgan: Run, tmp_path: Path, text: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(text)
    assert_user_error(distgan("train", *quick("run")), "run/config.json")
