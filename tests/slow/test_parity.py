"""Four processes end where one does."""

from pathlib import Path

from helpers.parity import assert_ends_alike, train_matrix
from helpers.parity_matrix import RECIPES


def test_four_processes_end_where_one_does(tmp_path: Path) -> None:
    names = list(RECIPES)[::2]
    for num in (1, 4):
        train_matrix(tmp_path / str(num), num, names)
    assert_ends_alike(tmp_path / "1", tmp_path / "4", names)
