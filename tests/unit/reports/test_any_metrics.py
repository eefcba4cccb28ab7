"""Whatever stands in metrics.jsonl: its readers take what they can use of it, and none ends in a traceback."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.made_up_runs import make_run, training_lines
from helpers.memory import at_most
from helpers.runs import MonkeyPatch
from hypothesis import given, settings
from hypothesis import strategies as st

from distgan.errors import WriteErrorPolicy
from distgan.evaluation.targets import SETS, detect, evaluations, list_targets, read_targets
from distgan.reports import history as history_module
from distgan.reports.comparison_rows import build_rows
from distgan.reports.history import History
from distgan.reports.options import PagesConfig
from distgan.reports.pairwise import compared_runs, epoch_seconds
from distgan.reports.report import RunPage, render
from distgan.reports.report2023 import add_checks
from distgan.reports.run_data import read_run
from distgan.reports.training_curves import when
from distgan.runs.loss_curves import save_curves
from distgan.training.metrics import MetricLog
from distgan.utils.files import metric_lines, read_metrics

# Also what Python's json writes and JSON has not, and numbers that no float and no 64 bits hold.
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**19), 2**63, 1e308, -1e308, 5e-324, 0])
    | st.floats()
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=10) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=12,
)
KEYS = [
    *(
        "epoch",
        "d_loss",
        "g_loss",
        "real_logits",
        "fake_logits",
        "images_per_s",
        "elapsed_s",
        "peak_memory_gib",
        "data",
    ),
    *("eval_s", "eval_n", "alarms", "raw_fcd", "raw_fcd_low", "raw_fcd_high", "ema_fcd", "raw_digits", "ema_digits"),
    *("raw_coverage_digits", "raw_agreement", "raw_recognisable", "raw_kl", "fcd_floor", "coverage_floor"),
]
SANE = dict.fromkeys(KEYS, 0.5) | {"raw_digits": [0.1] * 10, "raw_coverage_digits": [0.5] * 10, "eval_n": 100}
LINES = st.builds(
    lambda step, values: SANE | {"step": step} | values,
    st.integers(-2, 9) | VALUES,
    st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4),
)
ROWS = st.lists(
    LINES.map(json.dumps).map(str.encode) | st.binary(max_size=20) | st.just(b'{"step": 3, "epo'), max_size=6
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("any") / "run", num_samples=1)


@settings(max_examples=60, deadline=None)
@given(rows=ROWS)
def test_any_lines_leave_a_page_and_a_comparison(run: Path, rows: list[bytes]) -> None:
    (run / "metrics.jsonl").write_bytes(b"\n".join(rows))
    found = read_run(str(run), PagesConfig(evaluate=False))
    render("report.html", RunPage(found))
    two = compared_runs([found, found])
    add_checks(build_rows(two), two)
    targets = read_targets(SETS["mnist"])
    for of in (targets.cgan, targets.vanilla):
        detect(evaluations(read_metrics(run / "metrics.jsonl")), list_targets(of), hold=1)


@settings(max_examples=12, deadline=None)
@given(rows=ROWS)
def test_any_lines_leave_curves(run: Path, rows: list[bytes]) -> None:
    lines = [json.dumps(line).encode() for line in training_lines(3)]
    (run / "metrics.jsonl").write_bytes(b"\n".join([*lines, *rows]))
    assert save_curves(run, "title", None)


@settings(max_examples=30, deadline=None)
@given(rows=ROWS, step=st.integers(0, 5))
def test_any_lines_can_be_gone_on_from(run: Path, rows: list[bytes], step: int) -> None:
    (run / "metrics.jsonl").write_bytes(b"\n".join(rows))
    policy = WriteErrorPolicy(stops=False)
    log = MetricLog(run, SimpleNamespace(is_main=True), 6, None, policy)  # type: ignore[arg-type]
    state: Any = SimpleNamespace(step=step, logged_step=step, num_lines=1, elapsed_s=0.0, unlogged=[])
    log.restore(run / "metrics.jsonl", state, is_over=True)
    assert all(line["step"] <= step for line in read_metrics(run / "metrics.jsonl"))


def test_memory_does_not_grow_with_the_log(run: Path) -> None:
    """For a page, a comparison, losses.png and a resume: they took four times the file, and 32 kB a line for speeds."""

    def write(lines: int) -> None:
        with (run / "metrics.jsonl").open("w") as file:
            for line in training_lines(lines, fcd=None, per_epoch=60, note="x" * 10_000):
                file.write(json.dumps(line) + "\n")

    def read_all(lines: int) -> History:
        found = read_run(str(run), PagesConfig(evaluate=False))
        render("report.html", RunPage(found))
        epoch_seconds(found)
        save_curves(run, "title", None)
        policy = WriteErrorPolicy(stops=True)
        log = MetricLog(run, SimpleNamespace(is_main=True), 6, None, policy)  # type: ignore[arg-type]
        at: Any = SimpleNamespace(step=0, logged_step=78 * lines, num_lines=lines, elapsed_s=0.0, unlogged=[])
        log.restore(run / "metrics.jsonl", at)
        assert not policy.warnings()
        assert sum(1 for line in metric_lines(run / "metrics.jsonl") if line) == lines
        return found.history

    write(3)
    read_all(3)  # what is imported stays
    write(2000)
    with at_most(25):
        history = read_all(2000)
    assert (history.num, history.step, history.epoch) == (2000, 78 * 2000, round(2000 / 60, 4))
    assert len(history.speeds) == 1999


def test_a_history_of_very_many_evaluations_keeps_their_totals_and_the_last(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "_MOST_EVALUATIONS", 64)
    history = History()
    for line in training_lines(900):
        history.add(line)
    assert history.num_evaluations == 300
    assert len(history.evaluations) < 66
    assert history.evaluations[-1]["epoch"] == 300
    assert when(history.alarms) == [("digit 8 is missing", "epochs 1, 2 and 3")]
