"""Reports and comparisons of made-up runs: known answers, damaged files, and nothing that runs or reaches out."""

import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
from helpers.made_up_runs import about, environment_of, make_run, picture, quality_of, sample_of, training_lines
from helpers.runs import Capture, MonkeyPatch, assert_user_error, refused
from helpers.runs import Run as Command
from rich.console import Console
from safetensors.torch import save_file

from distgan.cli import run_command
from distgan.config.schema import ModelConfig
from distgan.errors import UserError
from distgan.evaluation.schema import Estimate, Verdict
from distgan.evaluation.scores import estimate_proportion
from distgan.models.base import build_discriminator, build_generator, num_parameters
from distgan.reports.charts import Level, Point, Series, chart
from distgan.reports.comparison import notes_on, show, tally_of
from distgan.reports.eval_terminal import show as show_evaluation
from distgan.reports.number_format import percent, plain
from distgan.reports.options import PagesConfig
from distgan.reports.pairwise import ComparedRun, Row, compared_runs, epoch_seconds, what_differs
from distgan.reports.quality_view import view_of
from distgan.reports.report2023 import rows_of
from distgan.reports.run_data import Run, pictures, read_run
from distgan.reports.training_curves import Convergence, convergence, curves_of, evaluated, when

ATTACK = "<script>alert(1)</script>"
AS_IT_IS = PagesConfig(evaluate=False)


def read(folder: Path) -> Run:
    return read_run(str(folder), AS_IT_IS)


def table_of(*folders: Path) -> tuple[list[ComparedRun], dict[str, Row]]:
    subjects = compared_runs([read(folder) for folder in folders])
    return subjects, {row.name: row for row in rows_of(subjects)}


def page(folder: Path, *flags: str) -> str:
    run_command("report", str(folder), "--no-eval", *flags)
    return (folder / "report.html").read_text()


def from_values(*values: float, wide: float = 0.0) -> Convergence:
    ends = {"raw_fcd": 1.0, "raw_fcd_low": 1 - wide, "raw_fcd_high": 1 + wide}
    lines = [
        {"step": n, "epoch": float(n)} | {key: value * factor for key, factor in ends.items()}
        for n, value in enumerate(values, 1)
    ]
    found = convergence(evaluated(lines))
    assert found is not None
    return found


# -- when a run had converged -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "wide", "expected"),
    [
        ((9, 4, 1.04, 1.0, 1.05, 1.01), 0.0, {"epoch": 3, "low": 3, "high": 3, "best": 4, "is_improving": False}),
        # Near the best at 2, away at 4, back from 5 on: an epoch that leaves it again does not count.
        ((9, 1.02, 1.0, 3.0, 1.01, 1.03), 0.0, {"epoch": 5}),
        # A late spike is no convergence.
        ((9, 1.0, 1.0, 1.0, 5.0), 0.0, {"epoch": None, "low": None, "high": None, "best": 2, "last": 5}),
        # By 4 %: 1.09 may be within 1.05 of the best, and 1.02 may not; only 1.0 surely is.
        ((9, 1.09, 1.02, 1.0, 1.0), 0.04, {"low": 2, "epoch": 3, "high": 4}),
        ((9, 1.02, 1.0, 1.0), 0.06, {"high": None}),  # wider than 5 %: never sure
        ((9, 4, 2, 1), 0.0, {"is_improving": True}),
    ],
)
def test_converged_where_it_stays_within_5_percent_of_its_best(
    values: tuple[float, ...], wide: float, expected: dict[str, object]
) -> None:
    found = from_values(*values, wide=wide)
    assert {name: getattr(found, name) for name in expected} == expected


def test_the_moving_average_counts_where_there_is_one() -> None:
    lines = [{"step": 1, "epoch": 1.0, "raw_fcd": 5.0, "ema_fcd": 3.0}]
    assert [each.fcd for each in evaluated(lines)] == [3.0]
    assert convergence(evaluated([{"step": 1, "epoch": 1.0}])) is None


@pytest.mark.parametrize(
    ("fcd", "num", "value", "agrees"),
    [
        (lambda e: 1 + max(0, 80 - e), 300, "epoch 80", True),
        (lambda e: 1 + max(0, 20 - e), 300, "epoch 20", False),
        (lambda e: 1 + max(0, 20 - e), 120, "epoch 20", False),  # ended before 80, converged before
        (lambda e: 200 - e, 300, "not before epoch 100", False),
        (lambda e: 200 - e, 120, "not before epoch 40", None),
        (lambda e: 1 if e < 100 else 9, 300, "not by epoch 100", False),
        (lambda e: 1 if e < 40 else 9, 120, "not by epoch 40", None),
        (None, 120, "not measured", None),
    ],
)
def test_epochs_to_converge(
    tmp_path: Path, fcd: Callable[[float], float] | None, num: int, value: str, agrees: bool | None
) -> None:
    run = make_run(tmp_path / "run", lines=training_lines(num, fcd=fcd))
    _, rows = table_of(run, make_run(tmp_path / "other", "GAN", lines=[]))
    cell = rows["epochs to converge"].cells[0]
    assert cell.value == value
    assert cell.verdict.agrees is agrees
    assert cell.command == f"distgan train --config {run / 'config.json'} --eval-every 1"
    if fcd and "not" not in value:
        assert re.fullmatch(r"\d+ to \d+", cell.interval)


def test_intervals_too_wide_to_tell_when(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", lines=training_lines(300, fcd=lambda e: 1 + max(0, 50 - e), wide=0.08))
    cell = table_of(run, make_run(tmp_path / "other", "GAN", lines=[]))[1]["epochs to converge"].cells[0]
    assert cell.value == "epoch 50"
    assert cell.interval == "from 50 on, the latest is open"
    assert cell.verdict.agrees is None


# -- the other rows ---------------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A GAN, quick and bad, that lacks a 6, and a C-GAN."""
    gan = make_run(
        tmp_path / "vanilla-1", "GAN", lines=training_lines(rate=6000, kind="GAN"),
        quality=quality_of("GAN", fcd=9.0, missing=[6]),
    )  # fmt: skip
    return gan, make_run(tmp_path / "cgan-1", quality=quality_of())


def test_each_cell_has_a_value_an_interval_a_command_and_a_verdict(pair: tuple[Path, Path]) -> None:
    _, rows = table_of(*pair)
    assert list(rows) == [
        "target", "input", "image quality", "training speed", "epochs to converge", "diversity",
    ]  # fmt: skip
    for row in rows.values():
        assert len(row.cells) == 2
        for kind, cell in zip(("GAN", "C-GAN"), row.cells, strict=True):
            assert cell.value
            assert cell.interval
            assert cell.command.startswith("distgan ")
            assert cell.claim == row.claims[kind]
            assert cell.verdict.why


def test_target_and_input_are_read_from_the_weights(pair: tuple[Path, Path]) -> None:
    gan, cgan = table_of(*pair)[1]["target"].cells
    assert (gan.value, gan.verdict.agrees) == ("no label enters", True)
    assert (cgan.value, cgan.interval, cgan.verdict.agrees) == ("95.3 %", "94.9 to 95.7 %", True)
    gan, cgan = table_of(*pair)[1]["input"].cells
    assert gan.value == "100 of noise"
    assert cgan.value == "100 of noise and 10 of the label"
    # Averages of BatchNorm are not learnt, and do not count.
    assert gan.more[0].startswith("G 220 and D 30 parameters")
    assert cgan.more[0].startswith("G 240 and D 794 parameters")
    assert gan.verdict.agrees
    assert cgan.verdict.agrees


@pytest.mark.parametrize(
    ("name", "family", "target", "given"),
    [
        ("vanilla", "dcgan", "no label enters", "100 of noise"),
        ("vanilla", "clustered", "no label enters", "100 of noise and 32 of a cluster of images"),
        ("cgan", "dcgan", "95.3 %", "100 of noise and 10 of the label"),
        ("cgan", "clustered", "95.3 %", "100 of noise and 32 of the label and one of its 7 clusters"),
    ],
)
def test_a_cluster_is_no_label(tmp_path: Path, name: str, family: str, target: str, given: str) -> None:
    model = {"name": name, "family": family, "width": 0.05, "clusters": 7 if family == "clustered" else None}
    kind = "C-GAN" if name == "cgan" else "GAN"
    run = make_run(tmp_path / "run", kind, quality=quality_of(kind), config={"model": model})
    config = ModelConfig.model_validate(model)
    for file, network in (("generator", build_generator(config)), ("discriminator", build_discriminator(config))):
        save_file(network.state_dict(), run / "weights" / f"{file}.safetensors")
    subjects, rows = table_of(run, make_run(tmp_path / "other", "GAN"))
    assert (rows["target"].cells[0].value, rows["target"].cells[0].verdict.agrees) == (target, True)
    assert (rows["input"].cells[0].value, rows["input"].cells[0].verdict.agrees) == (given, True)
    if family == "clustered" and name == "vanilla":
        assert "7 clusters" in " ".join(rows["target"].cells[0].more)
    assert subjects[0].size is not None
    assert subjects[0].size.g_parameters == num_parameters(build_generator(config))


@pytest.mark.parametrize("verdict", get_args(Verdict))
def test_every_verdict_is_shown(tmp_path: Path, verdict: Verdict, capsys: Capture, monkeypatch: MonkeyPatch) -> None:
    """Of digits that nobody asked for too: the images of an .npz are what they are."""
    each = quality_of().per_digit[3]
    unasked = {"agreement": estimate_proportion(0, 0), "sample": None, "n": 0} if verdict == "not asked for" else {}
    digits = [*quality_of().per_digit[:3], each.model_copy(update={"verdict": verdict, "why": "a reason"} | unasked)]
    wide = {"sample": sample_of(113.44), "real": sample_of(12.345), "agreement": about(0.953, 0.02)}
    rest = [digit.model_copy(update=wide) for digit in quality_of().per_digit[4:]]
    found = quality_of(per_digit=digits + rest)
    monkeypatch.setenv("COLUMNS", "80")
    show_evaluation(found, tmp_path)
    text = capsys.readouterr().out
    assert verdict in text
    assert "…" not in text
    if unasked:
        assert ": 3 0.0%" not in " ".join(text.split()), "the digit least often read as asked was asked for"
    run = make_run(tmp_path / "run", quality=found)
    assert verdict in page(run)
    assert table_of(run, make_run(tmp_path / "other", "GAN"))[1]


@pytest.mark.parametrize(("low", "high", "agrees"), [(0.2, 0.3, True), (0.09, 0.12, None), (0.02, 0.08, False)])
def test_a_label_works_only_above_chance(tmp_path: Path, low: float, high: float, agrees: bool | None) -> None:
    found = quality_of(agreement=Estimate(value=(low + high) / 2, low=low, high=high))
    run = make_run(tmp_path / "run", quality=found)
    assert table_of(run)[1]["target"].cells[0].verdict.agrees is agrees


@pytest.mark.parametrize(("fcd", "gan", "cgan"), [(0.4, True, True), (9.0, False, False), (1.35, None, None)])
def test_image_quality_goes_by_intervals(tmp_path: Path, fcd: float, gan: bool | None, cgan: bool | None) -> None:
    runs = [
        make_run(tmp_path / "gan", "GAN", quality=quality_of("GAN", fcd=fcd)),
        make_run(tmp_path / "cgan", quality=quality_of(fcd=1.3)),
    ]
    cells = table_of(*runs)[1]["image quality"].cells
    assert [cell.verdict.agrees for cell in cells] == [gan, cgan]


def test_evaluations_of_another_size_are_not_compared(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "gan", "GAN", quality=quality_of("GAN", fcd=0.2, n=2000)),
        make_run(tmp_path / "cgan", quality=quality_of()),
    ]
    subjects, rows = table_of(*runs)
    for cell in rows["image quality"].cells:
        assert cell.verdict.agrees is None
        assert "2,000" in cell.verdict.why
        assert "10,000" in cell.verdict.why
    assert any("2,000" in note for note in notes_on(subjects))


def test_speed_is_the_median_without_the_first_line(tmp_path: Path) -> None:
    lines = [{"step": n, "epoch": n / 3, "images_per_s": rate} for n, rate in enumerate((1, 100, 200, 300), 1)]
    run = read(make_run(tmp_path / "run", lines=lines))
    found = epoch_seconds(run)
    assert found is not None
    estimate, num = found
    assert num == 3
    assert estimate.value == pytest.approx(60_000 / 200)
    assert 200 <= estimate.low <= 300 <= estimate.high <= 600
    assert epoch_seconds(read(make_run(tmp_path / "short", lines=lines[:1]))) is None


def test_speeds_are_compared_on_the_same_hardware_only(pair: tuple[Path, Path], tmp_path: Path) -> None:
    gan, cgan = table_of(*pair)[1]["training speed"].cells
    assert (gan.verdict.agrees, cgan.verdict.agrees) == (True, True)
    assert gan.value == "10.0 s"
    other = make_run(tmp_path / "other", environment=environment_of(device="Another", threads=7), quality=quality_of())
    assert what_differs(read(pair[0]), read(other)) == ["device A processor against Another", "threads 2 against 7"]
    row = table_of(pair[0], other)[1]["training speed"]
    for cell in row.cells:
        assert cell.verdict.agrees is None
        assert "Another" in cell.verdict.why
    assert "21.2 s" in row.note
    assert "13.6 s" in row.note


def test_another_batch_is_another_speed(pair: tuple[Path, Path], tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", config={"data": {"per_rank_batch_size": 64}})
    assert what_differs(read(pair[0]), read(other)) == ["batch 256 against 64"]


def test_diversity_counts_the_digits_that_are_there(pair: tuple[Path, Path], tmp_path: Path) -> None:
    gan, cgan = table_of(*pair)[1]["diversity"].cells
    assert (gan.value, gan.verdict.agrees, gan.verdict.why) == ("9 of 10 digits", True, "missing: 6")
    assert (cgan.value, cgan.verdict.agrees) == ("10 of 10 digits", True)
    whole = make_run(tmp_path / "whole", "GAN", quality=quality_of("GAN"))
    poor = make_run(tmp_path / "poor", quality=quality_of(missing=[2, 3]))
    gan, cgan = table_of(whole, poor)[1]["diversity"].cells
    assert (gan.verdict.agrees, cgan.verdict.agrees) == (False, False)
    assert cgan.verdict.why == "missing: 2, 3"


def test_two_gans_alone_leave_the_comparison_open(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, "GAN", quality=quality_of("GAN")) for name in ("a", "b")]
    subjects, rows = table_of(*runs)
    for name in ("image quality", "training speed"):
        for cell in rows[name].cells:
            assert cell.verdict.agrees is None
            assert "no C-GAN beside it" in cell.verdict.why
    assert any("There is no C-GAN" in note for note in notes_on(subjects))
    tally = tally_of(list(rows.values()))
    assert tally == "Of 12 cells, 4 agree with the report, 4 disagree, and of 4 it can't be told."


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name / "run", "GAN") for name in ("a", "b")]
    assert [subject.name for subject in table_of(*runs)[0]] == [str(run) for run in runs]


def test_one_that_was_not_measured_does_not_hide_the_others(pair: tuple[Path, Path], tmp_path: Path) -> None:
    third = make_run(tmp_path / "young", lines=[], weights=False)
    cells = table_of(*pair, third)[1]["image quality"].cells
    assert cells[0].verdict.agrees is False
    assert cells[2].value == "not measured"
    assert cells[2].command == f"distgan eval {third}"


# -- on the screen ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [40, 80])
def test_the_table_fits_a_screen(pair: tuple[Path, Path], width: int) -> None:
    subjects, rows = table_of(*pair)
    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=True, color_system=None)
    show(subjects, list(rows.values()), ["a note"], console)
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in text.getvalue()
    if width < 80:  # words are folded
        return
    for row in rows.values():
        for cell in row.cells:
            assert cell.value.split()[0] in text.getvalue()
    commands = {cell.command for row in rows.values() for cell in row.cells}
    joined = "".join(line.strip() for line in lines)
    assert all(command.replace(" ", "") in joined.replace(" ", "") for command in commands)


def test_a_pipe_gets_plain_lines(pair: tuple[Path, Path], capsys: Capture) -> None:
    run_command("compare", *map(str, pair), "--no-eval")
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "─" not in text
    assert "  vanilla-1 (GAN): fcd 9.00 (8.55 to 9.45)" in text
    assert "    again: distgan eval run --num 10000" in text
    assert len([line for line in text.splitlines() if "2023 report: " in line]) == 12


# -- charts -----------------------------------------------------------------------------------------------


def test_a_chart_has_every_number_in_its_table() -> None:
    points = [Point(1, 0.5, 0.4, 0.6), Point(2, 0.25, 0.2, 0.3)]
    drawn = chart("k", "T", "share", [Series("a", points)], levels=[Level("floor", 0.1)], share=True)
    assert drawn is not None
    assert [[tick.text, *(entry.text for entry in entries)] for tick, entries in drawn.rows] == [
        ["1", "50.0 % (40.0 % to 60.0 %)"],
        ["2", "25.0 % (20.0 % to 30.0 %)"],
    ]
    assert drawn.levels[0].text == "floor: 10.0 %"
    # Heights go down from the top, in order of the values.
    heights = [entries[0].at for _, entries in drawn.rows]
    assert heights[0] < heights[1] < drawn.levels[0].at
    assert drawn.series[0].band
    assert "from 50.0 % at epoch 1 to 25.0 % at epoch 2" in drawn.summary


def test_a_tick_stands_where_its_number_is() -> None:
    drawn = chart("k", "T", "loss", [Series("a", [Point(0, 1), Point(10, 3)])])
    assert drawn is not None
    by_text = {tick.text: tick.at for tick in drawn.y_ticks}
    assert (drawn.y_ticks[0].at, drawn.y_ticks[-1].at) == (1000, 0)
    places = [float(number) for number in re.findall(r"[\d.]+", drawn.series[0].line)]
    assert places == pytest.approx([0, drawn.rows[0][1][0].at, 1000, drawn.rows[1][1][0].at], abs=0.1)
    assert by_text["1.0"] - drawn.rows[0][1][0].at == pytest.approx(0)
    assert by_text["3.0"] - drawn.rows[1][1][0].at == pytest.approx(0)


@pytest.mark.parametrize("values", [(5,), (5, 5), (0, 0), (1e-9, 2e-9), (1e12, -1e12), (0.3, 400)])
def test_any_numbers_make_a_chart(values: tuple[float, ...]) -> None:
    series = [Series("a", [Point(float(n), float(value)) for n, value in enumerate(values)])]
    drawn = chart("k", "T", "y", series, may_be_log=True)
    assert drawn is not None
    assert all(-0.1 <= entry.at <= 1000.1 for _, entries in drawn.rows for entry in entries)
    assert len(drawn.y_ticks) >= 2
    assert "nan" not in repr(drawn)
    assert chart("k", "T", "y", [Series("a", [])]) is None


def test_pages_of_long_runs_stay_small_and_say_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", lines=training_lines(12_000, per_epoch=30), num_samples=1)
    text = page(run)
    assert len(text) < 1_000_000
    assert "the mean of 40 lines of metrics.jsonl (12,000 in all)" in text
    assert "One evaluation in 2 is shown" in text


def test_alarms_stand_on_the_charts_and_in_a_list(tmp_path: Path) -> None:
    curves = curves_of(run := read(make_run(tmp_path / "run")))
    assert when(run.history.alarms) == [("digit 8 is missing", "epochs 1, 2 and 3")]
    assert all(len(drawn.marks) == 3 for drawn in curves.quality)
    assert [drawn.key for drawn in curves.quality][:2] == ["q-fcd", "q-agreement"]
    assert curves.quality[0].levels[0].text == "two sets of real images: 0.210"


def test_small_numbers_in_words() -> None:
    assert [plain(value) for value in (0, 0.0312, 1.386, 23.44, 999.6, 12345.6, -0.5, 0.00001)] == [
        "0", "0.0312", "1.39", "23.4", "1,000", "12,346", "-0.500", "1.0e-05",
    ]  # fmt: skip
    assert [percent(value) for value in (0, 0.0002, 0.953, 1)] == ["0.0 %", "0.02 %", "95.3 %", "100.0 %"]


# -- the report -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["GAN", "C-GAN"])
def test_a_report_has_all_its_parts(tmp_path: Path, kind: str, capsys: Capture) -> None:
    run = make_run(tmp_path / "run", kind, quality=quality_of(kind, missing=[6]))
    text = page(run)
    assert capsys.readouterr().out == f"report: {run / 'report.html'}\n"
    assert text.count('<img src="data:image/png;base64,') == 5 + 3
    for words in ("Digit by digit", "The judges", "2023 report", "fcd", "digit 6 is missing", "248860264fc8de75",
                  "c0a8072d2ef3 and changes", "distgan sample", "made poorly", "near copies"):  # fmt: skip
        assert words in text
    assert ("asked for ↓" in text) == (kind == "C-GAN")
    assert text.count('<table class="heat">') == (2 if kind == "C-GAN" else 1)
    # A cell of the matrix, and one of the jury's.
    assert ("4 read as 9: 292 of 1,000" in text) == (kind == "C-GAN")
    headings = [int(level) for level in re.findall(r"<h(\d)", text)]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(headings))


def test_the_heat_map_tells_right_answers_from_errors() -> None:
    heat = view_of(quality_of()).matrices[0]
    assert (heat.rows[4][4].text, heat.rows[4][4].tone) == ("70.0", "hit1")
    assert (heat.rows[4][9].text, heat.rows[4][9].tone) == ("29.2", "miss5")
    assert heat.rows[0][1].tone == "miss0"


def test_a_report_needs_no_other_file_and_no_host(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", quality=quality_of())
    other = make_run(tmp_path / "other", "GAN", quality=quality_of("GAN"))
    run_command("compare", str(run), str(other), "--no-eval", "--out", str(tmp_path / "both.html"))
    for text in (page(run), (tmp_path / "both.html").read_text()):
        for value in re.findall(r"""(?:src|href|action|data|poster|srcset)\s*=\s*["']?([^"'\s>]*)""", text):
            assert value.startswith(("data:image/png;base64,", "#", "data:,")), value
        assert not re.search(r"url\(|@import|@font-face|<link (?!rel=\"icon\" href=\"data:,\")|<iframe|<object", text)
        assert not re.search(r"""["'(]//""", text)
        assert "http://" not in text
        assert "https://" not in text
        # Should something slip through, the browser would not run it.
        assert "default-src 'none'; img-src data:;" in text.replace("&#39;", "'")


def test_what_files_say_is_escaped(tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>"
    quality = quality_of(alarms=[ATTACK], notices=[ATTACK])
    quality = quality.model_copy(
        update={"source": quality.source.model_copy(update={"command": ATTACK, "judged_by": ATTACK})}
    )
    lines = training_lines(data=ATTACK)
    lines[2]["alarms"] = [ATTACK]
    environment = environment_of(
        preset=ATTACK, device=ATTACK, command=[ATTACK], versions={ATTACK: ATTACK}, host=ATTACK,
        git={"revision": ATTACK},
        data={"name": ATTACK, "notice": ATTACK, "warning": ATTACK, "source": ATTACK, "fingerprint": ATTACK},
    )  # fmt: skip
    run = make_run(tmp_path / name, quality=quality, lines=lines, environment=environment)
    (run / "status.json").write_text(json.dumps({"state": "failed", "reason": ATTACK, "step": 3}))
    run_command("compare", str(run), str(make_run(tmp_path / "o")), "--no-eval", "--out", str(tmp_path / "both.html"))
    for text in (page(run), (tmp_path / "both.html").read_text()):
        assert ATTACK not in text
        assert "<img src=x" not in text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
        assert text.count("<script>") == 2


def test_data_that_is_not_mnist_is_said_at_the_top(tmp_path: Path) -> None:
    data = {"name": "digits", "notice": "scikit-learn's digits, not MNIST", "num_images": 17_970}
    text = page(make_run(tmp_path / "run", environment=environment_of(data=data)))
    assert text.index("not MNIST") < text.index("<nav")
    # By the metrics alone, where the environment is lost.
    run = make_run(tmp_path / "two", lines=training_lines(data="other digits"))
    (run / "environment.json").unlink()
    assert "trained on other digits" in page(run)


def test_an_older_evaluation_is_said_to_be_old(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", lines=training_lines(450), quality=quality_of())
    assert "measured at step 12,000, the run is at step 35,100 by now" in page(run)


def test_of_very_many_samples_some_are_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", num_samples=90)
    picture(run / "samples" / "epoch-0003-step-0000123.png", 7)
    text = page(run)
    assert text.count('<figure class="frame"') == 40
    assert "40 of 91 pictures are shown" in text
    assert [when for when, _ in pictures(read(run))][:3] == ["epoch 1", "step 123", "epoch 11"]
    assert 'data-when="epoch 1"' in text
    assert 'data-when="epoch 891"' in text


# -- young, killed and damaged runs -----------------------------------------------------------------------


def test_a_young_run_has_a_page_that_says_what_is_missing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", lines=[], num_samples=0, weights=False, state="running")
    text = page(run)
    for words in ("no samples yet", "no numbers yet", "no weights yet", "without <code>--eval-every", "or killed"):
        assert words in text
    assert f"distgan eval {run}" in text
    # Nothing to measure: the same without --no-eval.
    run_command("report", str(run))


def test_a_run_that_was_not_measured_is_measured_first(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    run = make_run(tmp_path / "run")
    asked: list[Any] = []

    class Fake:
        @staticmethod
        def evaluate(where: str, config: Any) -> tuple[Any, Path]:
            asked.append((where, config.num, config.device))
            return quality_of(), tmp_path / "run" / "eval"

    monkeypatch.setitem(sys.modules, "distgan.evaluation.evaluate", Fake)
    run_command("report", str(run), "--num", "500", "--device", "cpu")
    assert asked == [(str(run), 500, "cpu")]
    assert "95.3 %" in (run / "report.html").read_text()
    (run / "eval").mkdir()
    (run / "eval" / "eval.json").write_text(quality_of(fcd=7.77).model_dump_json())
    run_command("report", str(run))
    assert len(asked) == 1
    assert "7.77" in (run / "report.html").read_text()


def test_page_that_can_not_be_written_is_refused_before_the_run_is_measured(
    tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    def evaluate(where: str, config: object) -> None:
        pytest.fail("measured first")

    monkeypatch.setattr("distgan.evaluation.evaluate.evaluate", evaluate)
    runs = [str(make_run(tmp_path / name, kind)) for name, kind in (("run", "C-GAN"), ("other", "GAN"))]
    for words in (["report", runs[0]], ["compare", *runs]):
        with refused("--out: ... /proc/page.html", code="unwritable"):
            run_command(*words, "--out", "/proc/page.html")
    (tmp_path / "run" / "report.html").write_text("precious")
    with refused("report.html", code="exists"):
        run_command("report", runs[0])
    (tmp_path / "run" / "report.html").unlink()
    (tmp_path / "run" / "report.html").symlink_to("/proc/page.html")
    with refused("report.html", code="unwritable"):
        run_command("report", runs[0])


def test_page_is_written_behind_a_link(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "report.html").symlink_to(tmp_path / "page.html")
    for _ in range(2):
        page(run)
        assert (run / "report.html").is_symlink()
        assert (tmp_path / "page.html").read_bytes().startswith(b"<!doctype html>")


def test_what_can_not_be_measured_is_told_with_a_way_out(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    class Fake:
        @staticmethod
        def evaluate(where: str, config: Any) -> None:
            raise UserError("no judges")

    monkeypatch.setitem(sys.modules, "distgan.evaluation.evaluate", Fake)
    with pytest.raises(UserError, match=r"no judges\n.*allowed: --no-eval"):
        run_command("report", str(make_run(tmp_path / "run")))


def test_a_part_of_an_epoch_has_two_digits(tmp_path: Path) -> None:
    quality = quality_of()
    source = quality.source.model_copy(update={"epoch": 0.255864})
    text = page(make_run(tmp_path / "run", quality=quality.model_copy(update={"source": source})))
    assert "after epoch 0.26" in text


@pytest.mark.parametrize("name", ["environment.json", "status.json", "metrics.jsonl", "samples/epoch-0001.png"])
@pytest.mark.parametrize(
    "contents", [b"", b"\xff\xfe\x00", b'{"a": ', b"[1, 2]", b"[" * 100_000, b"null", b'{"data": 3, "git": [1]}']
)  # fmt: skip
def test_a_damaged_file_leaves_a_page(tmp_path: Path, name: str, contents: bytes) -> None:
    run = make_run(tmp_path / "run", quality=quality_of())
    (run / name).write_bytes(contents)
    text = page(run)
    assert "Digit by digit" in text
    if name == "samples/epoch-0001.png":
        assert "is no whole PNG" in text
        assert "object at 0x" not in text
    run_command("compare", str(run), str(make_run(tmp_path / "other")), "--no-eval")


@pytest.mark.parametrize(
    "line",
    [
        {"step": 1}, {"step": 1, "epoch": "x"}, {"step": 10**400, "epoch": 1}, {"step": True, "epoch": 1},
        {"step": 1, "epoch": float("nan"), "d_loss": 1}, {"step": 1, "epoch": 1, "d_loss": float("inf")},
        {"step": 1, "epoch": 1, "d_loss": [1], "images_per_s": "fast", "alarms": "x", "raw_digits": 3},
        {"step": 1, "epoch": 1, "raw_fcd": 1, "raw_fcd_low": None, "raw_digits": [1] * 9, "alarms": [3, None]},
        {"step": 1, "epoch": 1, "raw_fcd": -3, "ema_fcd": 0, "eval_n": "x", "fcd_floor": {}},
    ],
)  # fmt: skip
def test_a_line_of_nonsense_leaves_a_page(tmp_path: Path, line: dict[str, Any]) -> None:
    run = make_run(tmp_path / "run", lines=[line])
    (run / "status.json").write_text('{"state": {}, "step": "x", "reason": 3}')
    page(run)
    page(make_run(tmp_path / "more", lines=[line, *training_lines(6)]))
    run_command("compare", str(run), str(tmp_path / "more"), "--no-eval")


def test_lost_files_leave_a_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for name in ("environment.json", "status.json", "metrics.jsonl"):
        (run / name).unlink()
    shutil.rmtree(run / "samples")
    assert "What could not be read" in page(run)


def test_damaged_weights_are_told_in_the_comparison(pair: tuple[Path, Path]) -> None:
    (pair[0] / "weights" / "generator.safetensors").write_bytes(b"nonsense")
    subjects, rows = table_of(*pair)
    assert rows["input"].cells[0].value == "not measured"
    assert any("safetensors" in note for note in notes_on(subjects))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:100], lambda text: "[]", lambda text: text.replace('"format":1', '"format":99'),
        lambda text: text.replace('"jury_matrix":[[', '"jury_matrix":[[1,'), lambda text: "\x00",
        lambda text: text.replace('"digit":3', '"digit":4'),
    ],
)  # fmt: skip
def test_a_damaged_evaluation_is_named(tmp_path: Path, change: Callable[[str], str]) -> None:
    run = make_run(tmp_path / "run", quality=quality_of())
    path = run / "eval" / "eval.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError, match="--no-eval") as error:
        run_command("report", str(run))
    assert str(path) in str(error.value)
    text = page(run)
    assert "What could not be read" in text
    assert str(path) in text


def test_mistakes_are_named(tmp_path: Path, distgan: Command) -> None:
    run, other = make_run(tmp_path / "run"), make_run(tmp_path / "other")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    assert_user_error(distgan("report"), "RUN")
    assert_user_error(distgan("report", tmp_path / "none"), "is not there", "allowed: the folder of a run")
    assert_user_error(distgan("report", tmp_path / "file"), "is no folder")
    assert_user_error(distgan("report", tmp_path / "empty"), "no config.json")
    assert_user_error(distgan("report", run / "weights"), "is a part of a run")
    assert_user_error(distgan("report", run, "--no-eval", "--out", "x.pdf"), "--out: ... (x.pdf) ... .html")
    assert_user_error(distgan("report", run, "--no-eval", "--out", "no/x.html"), "--out: ... no ... (no/x.html)")
    (tmp_path / "mine.html").write_text("precious")
    result = distgan("report", run, "--no-eval", "--out", "mine.html")
    assert_user_error(result, "--out: ... (mine.html) ... [output-exists]")
    assert (tmp_path / "mine.html").read_text() == "precious"
    for _ in range(2):
        distgan.ok("report", run, "--no-eval", "--out", "page.html")
    assert_user_error(distgan("compare", run), "two or more", code="missing-value")
    assert_user_error(distgan("compare", run, run), code="conflicting-settings")
    assert_user_error(distgan("compare", run, other, "--num", "0"), "--num", "1 or more")
    (run / "config.json").write_text('{"model": {"name": "dcgan"}}')
    assert_user_error(distgan("report", run, "--no-eval"), str(run / "config.json"), "dcgan", "vanilla, cgan")
    (run / "config.json").write_text("{")
    assert_user_error(
        distgan("compare", run, other, "--no-eval"), str(run / "config.json"), "JSON", code="bad-config-file"
    )


def test_flags_and_runs_in_any_order_that_help_shows(tmp_path: Path, distgan: Command) -> None:
    run, other = make_run(tmp_path / "run"), make_run(tmp_path / "other")
    assert distgan.ok("compare", "--no-eval", "--out", "x.html", run, other).stdout.endswith("report: x.html\n")
    for command in ("report", "compare"):
        shown = distgan(command, "--help").stdout
        assert "exit codes: 0 done" in shown
        for flag in ("--out", "--eval, --no-eval", "--num", "--data-dir", "--device", "--debug"):
            assert flag in shown


def test_the_floor_of_the_digits_is_shown_in_bars() -> None:
    view = view_of(quality_of("GAN", shares=[about(0.1, 0.01)] * 10))
    assert view.bar_end == "20 %"
    assert view.bar_due == 50
    assert {row.bar.value for row in view.digits} != {0}
