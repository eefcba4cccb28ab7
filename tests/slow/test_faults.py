"""More ways in which a rank fails."""

from pathlib import Path

import pytest
from helpers.launchers import TWO, assert_first_culprit_has_last_word, fault
from helpers.runs import InjectFault, Run


@pytest.mark.parametrize(
    ("how", "last_line", "limit_s"),
    [
        ("kill", "distgan: rank 1 was ended by SIGKILL (often: out of memory)", 3),
        ("hang", "distgan: rank 1 is silent for --timeout 5 s", 15),
        ("exit", "distgan: rank 1 ended with exit code 7 and without a word", 3),
        ("memory", "a higher --d-microbatches, or more --processes", 3),
    ],
)
def test_culprit_has_the_last_word(
    run: Run, tmp_path: Path, inject_fault: InjectFault, how: str, last_line: str, limit_s: float
) -> None:
    inject_fault(f"1,5,{how}")
    assert_first_culprit_has_last_word(run, tmp_path, how, last_line, limit_s)


def test_torchruns_report_ends_with_the_culprits_words(run: Run, inject_fault: InjectFault) -> None:
    inject_fault("1,5,raise")
    result = run(*TWO, *fault("run"))
    assert result.returncode == 1
    root_cause = result.stderr.split("Root Cause")[1]
    assert "rank      : 1" in root_cause
    assert "rank 1: ValueError: an injected fault" in root_cause
    assert "distgan: rank 1 is gone (" in result.stderr, "and what the other one saw"
