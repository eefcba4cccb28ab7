"""When a run has met and held its targets."""

import math
from pathlib import Path
from typing import Any

import pytest
from helpers.fake_bench import EASY
from helpers.runs import expect_user_error

from distgan.evaluation.targets import (
    SETS,
    CganTargets,
    EarlyStop,
    Evaluation,
    VanillaTargets,
    detect,
    evaluations,
    find_targets,
    list_targets,
    read_targets,
)

INF, NAN = math.inf, math.nan


CGAN = list_targets(CganTargets(max_fcd=1.0, min_agreement=0.9, min_coverage=0.7))


def evaluation(fcd: float | None, step: int = 0, **changes: Any) -> Evaluation:
    good = Evaluation(step, step / 4, step * 1.0, 0.5, fcd, 0.99, [0.95] * 10, [0.8] * 10)
    return good._replace(**changes)


def curve(*fcds: float | None) -> list[Evaluation]:
    """Four evaluations per epoch, from epoch 1/4 on."""
    return [evaluation(fcd, index + 1) for index, fcd in enumerate(fcds)]


@pytest.mark.parametrize(
    ("fcds", "reached", "why"),
    [
        ((3, 2, 0.9, 0.8, 0.7), 2, ""),
        ((3, 0.9, 0.9, 0.9, 50), 1, ""),  # a spike after it has held
        ((0.9, 3, 0.9, 0.8, 0.7), 2, ""),  # early luck
        ((1.0, 1.0, 1.0), 0, ""),  # exactly at the target
        ((1.1, 1.01, 1.001, 1.0001), None, "never met"),  # a plateau above it
        ((3, 0.9, 0.8, 3), None, "met at epoch 0.5 but not held"),
        ((3, 0.9, 2, 0.9, 0.9, 2), None, "met at epoch 0.5 but not held"),
        ((3, 2, 0.9, 0.8), None, "met at epoch 0.75, too late to be confirmed"),
        ((0.9, 2, 0.9), None, "met at epoch 0.75, too late to be confirmed"),
        ((0.9, None, 0.9, 0.9), None, "met at epoch 0.75, too late to be confirmed"),
        ((NAN, INF, None), None, "never met"),
        ((), None, "never met"),
    ],
)
def test_when_a_run_has_converged(fcds: tuple[float | None, ...], reached: int | None, why: str) -> None:
    found = detect(curve(*fcds), CGAN, hold=2)
    assert (found.reached, found.why) == (reached, why)


def test_without_a_hold_the_first_that_meets_counts() -> None:
    assert detect(curve(3, 0.9), CGAN, hold=0).reached == 1


def test_a_number_that_is_missing_meets_nothing() -> None:
    good = curve(0.9, 0.9, 0.9)
    assert detect(good, CGAN, 2).reached == 0
    for broken in (
        {"fcd": None},
        {"digits": [0.95] * 9},
        {"digits": [0.95] * 9 + [None]},
        {"coverages": []},
        {"coverages": [0.8] * 11},
    ):
        assert detect([*good[:2], good[2]._replace(**broken)], CGAN, 2).reached is None, broken
    # Not requested in the C-GAN's targets.
    assert detect([each._replace(recognisable=None) for each in good], CGAN, 2).reached == 0


def test_any_number_of_classes_can_meet_targets() -> None:
    for num in (2, 37):
        good = evaluation(0.9, digits=[0.95] * num, coverages=[0.8] * num)
        assert detect([good], CGAN, hold=0).reached == 0
        assert detect([good._replace(digits=[0.95] * (num - 1))], CGAN, hold=0).reached is None
        assert detect([good._replace(digits=[0.95] * (num - 1) + [0.8])], CGAN, hold=0).reached is None


def test_the_worst_digit_counts() -> None:
    digits, coverages = [0.95] * 9 + [0.89], [0.8] * 9 + [0.69]
    missed = detect([evaluation(0.5, digits=digits)], CGAN, 0)
    assert (missed.reached, missed.targets) == (None, ["worst digit"])
    assert detect([evaluation(0.5, coverages=coverages)], CGAN, 0).targets == ["worst coverage"]


def test_shares_are_held_between_two_limits() -> None:
    wanted = list_targets(
        VanillaTargets(max_fcd=1, min_share=0.07, max_share=0.13, min_recognisable=0.9, min_coverage=0.7)
    )
    even = evaluation(0.5, digits=[0.1] * 10)
    assert detect([even], wanted, 0).reached == 0
    for changes, name in (
        ({"digits": [0.1] * 9 + [0.069]}, "smallest share"),
        ({"digits": [0.1] * 9 + [0.131]}, "largest share"),
        ({"recognisable": 0.89}, "recognisable"),
        ({"recognisable": None}, "recognisable"),
    ):
        assert detect([even._replace(**changes)], wanted, 0).targets == [name]


def test_which_targets_came_last_and_which_were_missed() -> None:
    low = [0.5] * 10
    steps = [evaluation(3, 1, digits=low), evaluation(0.9, 2, digits=low), *curve(0.9, 0.9)]
    assert detect(steps, CGAN, 1).targets == ["worst digit"]
    assert detect(curve(0.9, 0.9), CGAN, 1).targets == ["fcd", "worst digit", "worst coverage"]
    # Its best evaluation is the second.
    assert detect([steps[0], evaluation(3, 2), steps[0]], CGAN, 1).targets == ["fcd"]
    # One met all; the next ended it.
    assert detect([evaluation(0.9), evaluation(3), evaluation(9, digits=low)], CGAN, 1).targets == ["fcd"]
    assert detect([], CGAN, 1).targets == ["fcd", "worst digit", "worst coverage"]


def test_lines_become_evaluations() -> None:
    def line(step: int, **more: Any) -> dict[str, Any]:
        own = {"raw_fcd": 9.0, "ema_fcd": 1.0, "ema_recognisable": 0.9, "ema_digits": [0.5, NAN, "x"]}
        return {"step": step, "epoch": step / 10, "elapsed_s": 2.0, "eval_s": 0.5} | own | more

    lines = [
        {"step": 1, "epoch": 0.1, "elapsed_s": 1.0, "d_loss": 1.0},
        line(20),
        line(10),  # what a resume takes again may stand behind
        line(20, ema_fcd=3.0),
        line(30, elapsed_s=NAN),
        line(40, ema_fcd=NAN, ema_digits=None),
        line(50, eval_s=None),
    ]
    found = evaluations(lines)
    assert [each.step for each in found] == [10, 20, 40]
    assert [each.fcd for each in found] == [1.0, 3.0, None]
    assert found[0].digits == [0.5, None, None]
    assert found[2].digits == found[2].coverages == []
    raw = {"step": 5, "epoch": 1, "elapsed_s": 1, "eval_s": 1, "raw_fcd": 2}
    assert evaluations([raw])[0].fcd == 2


def test_an_early_stop_says_where_it_was_met_and_held(tmp_path: Path) -> None:
    (tmp_path / "easy.toml").write_text(EASY.replace("max_fcd = 1000.0", "max_fcd = 1.0"))
    found = EarlyStop(read_targets(tmp_path / "easy.toml"), is_conditional=True)

    def line(step: int, fcd: float) -> dict[str, Any]:
        good = {"epoch": step / 40, "elapsed_s": 1.0, "eval_s": 0.5, "raw_digits": [1.0] * 10}
        return {"step": step, "raw_fcd": fcd, "raw_coverage_digits": [1.0] * 10} | good

    said = []
    for step, fcd in ((10, 3.0), (20, 0.9), (30, 2.0), (40, 0.9), (50, 0.8)):
        assert not found.is_met
        found.add({"step": step - 1, "d_loss": 0.1}, line(step, fcd))
        said.append(found.describe())
    assert said == [
        "targets missed: fcd", "all targets met; not held long enough yet", "targets missed: fcd",
        "all targets met; not held long enough yet", "targets met at step 40 and held to step 50",
    ]  # fmt: skip
    # Of a step that a resume takes again the later line counts.
    found.add(line(50, 4.0))
    assert not found.is_met


def test_a_set_of_targets_is_found_by_its_name_or_as_a_file(tmp_path: Path) -> None:
    assert find_targets("mnist", "--stop-at") == SETS["mnist"]
    (tmp_path / "mine.toml").write_text(EASY)
    assert find_targets(str(tmp_path / "mine.toml"), "--stop-at") == tmp_path / "mine.toml"
    with expect_user_error("--stop-at ... moon ... [not-found]", "mnist", code="not-found"):
        find_targets("moon", "--stop-at")
    with expect_user_error("mnits ... mnist? ... [not-found]"):
        find_targets("mnits", "--stop-at")


def test_the_shipped_targets() -> None:
    found = read_targets(SETS["mnist"])
    assert (found.frozen, found.protocol.num, found.protocol.hold) == ("2026-11-26", 5000, 3)
    assert found.protocol.evaluations_per_epoch == 2


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("format = 1", "format = 2", "(2) ... 1 ... [unknown-format]"),
        ("format = 1\n", "", "(None) ... [unknown-format]"),
        ("format = 1", "format = ", "TOML ... [bad-config-file]"),
        ("max_fcd = 1000.0", "max_fcd = -1", "cgan.max_fcd: ... (-1) ... greater than 0 [damaged-file]"),
        ("max_fcd = 1000.0", 'max_fcd = "1"', "cgan.max_fcd: ... ('1') ... number"),
        ("max_fcd = 1000.0", "max_fcd = nan", "cgan.max_fcd: ... (nan) ... finite"),
        ("max_fcd = 1000.0, ", "", "cgan.max_fcd: is missing"),
        ("max_fcd", "max_fdc", "cgan.max_fcd: is missing"),
        ("hold = 1", "hold = 1, held = 2", "protocol.held: unknown key"),
        ("min_share = 0", "min_share = 0.2", "vanilla.min_share: ... (0.2)"),
        ("num = 100", "num = 10", "protocol.num: ... (10) ... 65"),
        ('"2026-01-01"', '"today"', "frozen: ... ('today')"),
        ("fcd = 2.5", "fcd = [nan]", "runs.0.fcd"),
    ],
)
def test_targets_that_are_none(before: str, after: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "targets.toml"
    assert before in EASY
    path.write_text(EASY.replace(before, after, 1))
    with expect_user_error(f"{path}: ... {message}"):
        read_targets(path)
