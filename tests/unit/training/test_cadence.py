"""Actions that are due after each step, as a table."""

import pytest

from distgan.config.schema import Config, ProcessesConfig, RunConfig
from distgan.training.cadence import Cadence

# 4 epochs of 10 steps, unless a row says otherwise.
NOTHING = {"log_every": 1000, "save_every": 1000, "sample_epochs": [1000], "check_ranks_every": 0}


def cadence(*, last_step: int = 40, check_ranks_every: int = 0, **run: object) -> Cadence:
    settings = {key: value for key, value in NOTHING.items() if key != "check_ranks_every"} | {"epochs": 4} | run
    config = Config(run=RunConfig(**settings), processes=ProcessesConfig(check_ranks_every=check_ranks_every))
    return Cadence.from_config(config, 10, last_step)


@pytest.mark.parametrize(
    ("settings", "what", "steps"),
    [
        ({}, "log", [10, 20, 30, 40]),  # the end of an epoch always has a line
        ({"log_every": 4}, "log", [4, 8, 10, 12, 16, 20, 24, 28, 30, 32, 36, 40]),
        ({"eval_every_steps": 15}, "log", [10, 15, 20, 30, 40]),  # an evaluation brings a line
        ({"last_step": 17}, "log", [10, 17]),  # and so does the end of the run
        ({"last_step": 17}, "log_is_kept", [10]),  # though not one that a longer run would have
        ({}, "evaluate", []),
        ({"eval_every": 2}, "evaluate", [20, 40]),
        ({"eval_every": 3}, "evaluate", [30, 40]),  # the last epoch too
        ({"eval_every": 3, "last_step": 35}, "evaluate", [30]),  # but not a run that ends before
        ({"eval_every_steps": 15}, "evaluate", [15, 30]),
        ({"eval_every": 2, "eval_every_steps": 15}, "evaluate", [15, 20, 30, 40]),
        ({"check_ranks_every": 7}, "check_ranks", [7, 14, 21, 28, 35]),
        ({}, "check_ranks", []),
        ({"sample_epochs": [1, 3]}, "sample", [10, 30, 40]),  # the end always has samples
        ({"sample_epochs": [0], "last_step": 13}, "sample", [13]),
        ({}, "save", [40]),
        ({"save_every": 1}, "save", [10, 20, 30, 40]),
        ({"save_every": 2}, "save", [20, 40]),
        ({"save_every": 4, "save_every_steps": 15}, "save", [15, 30, 40]),
        ({"save_every_steps": 20, "last_step": 33}, "save", [20, 33]),
        ({}, "is_last", [40]),
    ],
)
def test_what_is_due(settings: dict[str, int], what: str, steps: list[int]) -> None:
    rule = cadence(**settings)
    assert [step for step in range(1, rule.last_step + 1) if getattr(rule.due(step), what)] == steps


def test_a_stop_saves_samples_and_logs_a_line_that_a_resume_does_not_keep() -> None:
    due = cadence().due(13, is_stopping=True)
    assert (due.log, due.sample, due.save, due.is_last) == (True, True, True, True)
    assert (due.log_is_kept, due.evaluate, due.check_ranks) == (False, False, False)


@pytest.mark.parametrize(
    ("settings", "step", "expected"),
    [
        ({}, 0, 10),
        ({"log_every": 4}, 0, 4),
        ({"log_every": 4}, 8, 10),
        ({"check_ranks_every": 7, "save_every_steps": 9, "eval_every_steps": 8}, 0, 7),
        ({"check_ranks_every": 7, "save_every_steps": 9, "eval_every_steps": 8}, 7, 8),
        ({"check_ranks_every": 7, "save_every_steps": 9, "eval_every_steps": 8}, 8, 9),
        ({"last_step": 13}, 11, 13),
        ({"last_step": 13}, 10, 13),
    ],
)
def test_an_engine_may_run_to_the_next_step_at_which_something_may_be_due(
    settings: dict[str, int], step: int, expected: int
) -> None:
    rule = cadence(**settings)
    assert rule.next_event(step) == expected
    skipped = [rule.due(between) for between in range(step + 1, expected)]
    assert not any(any(due) for due in skipped)


def test_ranks_poll_each_other_at_intervals() -> None:
    """Even where an epoch is long: they would not hear of a stop."""
    rule = Cadence.from_config(Config(run=RunConfig(log_every=1000)), 600, 600)
    assert rule.next_event(0) == 25
