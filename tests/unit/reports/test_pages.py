"""Reports and comparisons of made-up runs: known answers, damaged files, and nothing that runs or reaches out."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from helpers.made_up_runs import (
    about,
    environment_of,
    make_run,
    picture,
    quality_of,
    read,
    sample_of,
    table_of,
    training_lines,
)
from helpers.runs import Capture, MonkeyPatch, assert_user_error, expect_user_error, fits
from helpers.runs import Run as Command

from distgan.cli import run_command
from distgan.config.command_settings import EvalConfig
from distgan.errors import UserError
from distgan.evaluation.inputs import out_folder
from distgan.evaluation.schema import Verdict
from distgan.evaluation.scores import estimate_proportion
from distgan.reports.charts import Level, Point, Series, chart
from distgan.reports.eval_terminal import show as show_evaluation
from distgan.reports.number_format import format_number, percent
from distgan.reports.quality_view import build_view
from distgan.reports.run_data import pictures
from distgan.reports.training_curves import build_curves, when
from distgan.utils.figures import grid

ATTACK = "<script>alert(1)</script>"


def page(folder: Path, *flags: str) -> str:
    run_command("report", str(folder), "--no-eval", *flags)
    return (folder / "report.html").read_text()


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
    curves = build_curves(run := read(make_run(tmp_path / "run")))
    assert when(run.history.alarms) == [("digit 8 is missing", "epochs 1, 2 and 3")]
    assert all(len(drawn.marks) == 3 for drawn in curves.quality)
    assert [drawn.key for drawn in curves.quality][:2] == ["q-fcd", "q-agreement"]
    assert curves.quality[0].levels[0].text == "two sets of real images: 0.210"


def test_small_numbers_in_words() -> None:
    assert [format_number(value) for value in (0, 0.0312, 1.386, 23.44, 999.6, 12345.6, -0.5, 0.00001)] == [
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
    assert ("requested ↓" in text) == (kind == "C-GAN")
    assert text.count('<table class="heat">') == (2 if kind == "C-GAN" else 1)
    # A cell of the matrix, and one of the judges'.
    assert ("4 read as 9: 292 of 1,000" in text) == (kind == "C-GAN")
    headings = [int(level) for level in re.findall(r"<h(\d)", text)]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(headings))


@pytest.mark.parametrize("kind", ["GAN", "C-GAN"])
@pytest.mark.parametrize("num", [2, 10, 37, 100])
def test_a_page_has_room_for_every_class(
    tmp_path: Path, num: int, kind: str, capsys: Capture, monkeypatch: MonkeyPatch
) -> None:
    """In the tables, the matrices, the bars and the grids, also in colour; and on a terminal of 80 columns."""
    quality = quality_of(kind, num_classes=num, source={"data": "own", "judged_by": "own", "reference": "own"})
    environment = environment_of(data={"name": "own", "num_images": 500})
    lines = [line | {"alarms": []} for line in training_lines(6, kind=kind, num_classes=num)]
    run = make_run(tmp_path / "run", kind, quality=quality, environment=environment, lines=lines, num_samples=0)
    colours = np.random.default_rng(0).integers(0, 255, (2 * num, 32, 24, 3), dtype=np.uint8)
    (run / "samples").mkdir()
    grid(colours, num, heads=range(num) if kind == "C-GAN" else ()).save(run / "samples" / "epoch-0001.png")
    text = page(run)
    assert "digit" not in re.sub(r"<(style|script)>.*?</\1>", "", text, flags=re.S)
    classes, *matrices = re.findall(r'<table class="(?:classes|heat).*?</table>', text, flags=re.S)
    assert classes.count('<th scope="row">') == num
    for matrix in matrices:
        cells = re.findall(r'<td class="(hit|miss)\d', matrix)
        assert (cells.count("hit"), len(cells)) == (num, num**2)
        assert matrix.count('<th scope="col"') == num + 2
    assert len(matrices) == (2 if kind == "C-GAN" else 1)
    width, height = (int(size) for size in re.findall(r'<img src="[^"]*" width="(\d+)" height="(\d+)"', text)[0])
    assert (width, height) == (num * 50 + 2, 2 * 66 + 2 + 22 * (kind == "C-GAN"))
    assert bool(re.search(r'<img [^>]* class="wide"', text)) == (num > 20)
    view = build_view(quality)
    assert view.bar_due == ("" if kind == "C-GAN" else "an equal share")
    assert {row.bar.due for row in view.classes} == {None if kind == "C-GAN" else 50}
    assert (f"by chance: {percent(1 / num)}" in text) == (kind == "C-GAN")
    monkeypatch.setenv("COLUMNS", "80")
    capsys.readouterr()
    show_evaluation(quality, run)
    shown = capsys.readouterr().out
    assert len(re.findall(r"^ *\d+ .*made (?:well|poorly)", shown, flags=re.M)) == num + len(
        [each for each in quality.per_digit if each.verdict == "made poorly"]
    )
    assert "digit" not in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_the_larger_evaluation_is_shown_and_the_others_are_named(tmp_path: Path) -> None:
    """`distgan eval --num 70` leaves eval/ as it is and writes to eval-70/ (`evaluation/inputs.out_folder`)."""
    run = make_run(tmp_path / "run", quality=quality_of(n=10_000, fcd=1.25))
    assert out_folder(str(run), EvalConfig(num=70), 70) == run / "eval-70"
    (run / "eval-70").mkdir()
    (run / "eval-70" / "eval.json").write_text(quality_of(n=70, fcd=7.75).model_dump_json())
    text = page(run)
    assert "Measured on 10,000 images of weights/generator.safetensors" in text
    assert "All results are in eval/eval.json. Other results of this run are in eval-70." in text
    assert "1.25" in text
    assert "7.75" not in text


def test_the_heat_map_tells_right_answers_from_errors() -> None:
    heat = build_view(quality_of()).matrices[0]
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
    quality = quality_of(notices=[f"trained on {data['notice']}"])  # as `distgan eval` records it
    text = page(make_run(tmp_path / "run", environment=environment_of(data=data), quality=quality))
    assert text.index("not MNIST") < text.index("<nav")
    assert text[: text.index("<nav")].count("not MNIST") == 1
    # By the metrics alone, where the environment is lost.
    run = make_run(tmp_path / "two", lines=training_lines(data="other digits"))
    (run / "environment.json").unlink()
    assert "trained on other digits" in page(run)


def test_an_older_evaluation_is_said_to_be_old(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", lines=training_lines(450), quality=quality_of())
    assert "measured at step 12,000, but the run is now at step 35,100" in page(run)


def test_of_very_many_samples_some_are_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", num_samples=90)
    picture(run / "samples" / "epoch-0003-step-0000123.png", 7)
    text = page(run)
    assert text.count('<figure class="frame"') == 40
    assert "40 of 91 pictures are shown" in text
    assert [when for when, _ in pictures(read(run))][:3] == ["epoch 1", "step 123", "epoch 11"]
    assert 'data-when="epoch 1"' in text
    assert 'data-when="epoch 891"' in text


@pytest.mark.parametrize("verdict", get_args(Verdict))
def test_every_verdict_is_shown(tmp_path: Path, verdict: Verdict, capsys: Capture, monkeypatch: MonkeyPatch) -> None:
    """Also for digits that nobody requested: the images of an .npz are what they are."""
    each = quality_of().per_digit[3]
    absent = {"agreement": estimate_proportion(0, 0), "sample": None, "n": 0} if verdict == "not asked for" else {}
    digits = [*quality_of().per_digit[:3], each.model_copy(update={"verdict": verdict, "why": "a reason"} | absent)]
    wide = {"sample": sample_of(113.44), "real": sample_of(12.345), "agreement": about(0.953, 0.02)}
    rest = [digit.model_copy(update=wide) for digit in quality_of().per_digit[4:]]
    found = quality_of(per_digit=digits + rest)
    monkeypatch.setenv("COLUMNS", "80")
    show_evaluation(found, tmp_path)
    text = capsys.readouterr().out
    shown = "not requested" if absent else verdict
    assert shown in text
    assert "…" not in text
    if absent:
        assert ": 3 0.0%" not in " ".join(text.split()), "the digit least often read as requested was requested"
    run = make_run(tmp_path / "run", quality=found)
    assert shown in page(run)
    assert table_of(run, make_run(tmp_path / "other", "GAN"))


# -- young, killed and damaged runs -----------------------------------------------------------------------


def test_a_young_run_has_a_page_that_says_what_is_missing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", lines=[], num_samples=0, weights=False, state="running")
    text = page(run)
    for words in ("no samples yet", "no curves:", "no weights yet", "without --eval-every", "or killed"):
        assert words in text
    assert f"distgan eval {run}" in text
    # Nothing to measure: the same without --no-eval.
    run_command("report", str(run))


def test_a_run_that_was_not_measured_is_measured_first(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    run = make_run(tmp_path / "run")
    requested: list[Any] = []

    class Fake:
        @staticmethod
        def evaluate(where: str, config: Any) -> tuple[Any, Path]:
            requested.append((where, config.num, config.device))
            return quality_of(), tmp_path / "run" / "eval"

    monkeypatch.setitem(sys.modules, "distgan.evaluation.evaluate", Fake)
    run_command("report", str(run), "--num", "500", "--device", "cpu")
    assert requested == [(str(run), 500, "cpu")]
    assert "95.3 %" in (run / "report.html").read_text()
    (run / "eval").mkdir()
    (run / "eval" / "eval.json").write_text(quality_of(fcd=7.77).model_dump_json())
    run_command("report", str(run))
    assert len(requested) == 1
    assert "7.77" in (run / "report.html").read_text()


def test_page_that_can_not_be_written_is_rejected_before_the_run_is_measured(
    tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    def evaluate(where: str, config: object) -> None:
        pytest.fail("measured first")

    monkeypatch.setattr("distgan.evaluation.evaluate.evaluate", evaluate)
    runs = [str(make_run(tmp_path / name, kind)) for name, kind in (("run", "C-GAN"), ("other", "GAN"))]
    for words in (["report", runs[0]], ["compare", *runs]):
        with expect_user_error("--out: ... /proc/page.html", code="unwritable"):
            run_command(*words, "--out", "/proc/page.html")
    (tmp_path / "run" / "report.html").write_text("precious")
    with expect_user_error("report.html", code="exists"):
        run_command("report", runs[0])
    (tmp_path / "run" / "report.html").unlink()
    (tmp_path / "run" / "report.html").symlink_to("/proc/page.html")
    with expect_user_error("report.html", code="unwritable"):
        run_command("report", runs[0])


def test_page_is_written_behind_a_link(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "report.html").symlink_to(tmp_path / "page.html")
    for _ in range(2):
        page(run)
        assert (run / "report.html").is_symlink()
        assert (tmp_path / "page.html").read_bytes().startswith(b"<!doctype html>")


def test_what_can_not_be_measured_is_reported_with_a_way_out(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    class Fake:
        @staticmethod
        def evaluate(where: str, config: Any) -> None:
            raise UserError("no disk")

    monkeypatch.setitem(sys.modules, "distgan.evaluation.evaluate", Fake)
    with expect_user_error("no disk; --no-eval ... run"):
        run_command("report", str(make_run(tmp_path / "run")))


def test_runs_that_cannot_be_measured_have_pages_that_say_so(
    tmp_path: Path, monkeypatch: MonkeyPatch, capsys: Capture
) -> None:
    class Fake:
        @staticmethod
        def evaluate(where: str, config: Any) -> None:
            raise UserError("photos: too few images", code="not-measurable")

    monkeypatch.setitem(sys.modules, "distgan.evaluation.evaluate", Fake)
    runs = [str(make_run(tmp_path / name)) for name in ("run", "other")]
    run_command("report", runs[0])
    assert fits(f"{runs[0]}: ... photos: too few images", capsys.readouterr().err)
    assert "can't be measured: photos: too few images" in (tmp_path / "run" / "report.html").read_text()
    run_command("compare", *runs, "--out", str(tmp_path / "page.html"))
    for text in (capsys.readouterr().out, (tmp_path / "page.html").read_text()):
        assert "not measured" in text
        assert "run: its quality is not measured: photos: too few images" in text


def test_a_part_of_an_epoch_has_two_digits(tmp_path: Path) -> None:
    quality = quality_of()
    source = quality.source.model_copy(update={"epoch": 0.255864})
    text = page(make_run(tmp_path / "run", quality=quality.model_copy(update={"source": source})))
    assert "(epoch 0.26)" in text


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
        assert "not a valid PNG" in text
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
    for name in ("none", "file", "empty"):
        assert_user_error(distgan("report", tmp_path / name), f"{name}: ... Expected", code="no-run")
    assert_user_error(distgan("report", run / "weights"), "weights: ... Expected", code="no-run")
    assert_user_error(distgan("report", run, "--no-eval", "--out", "x.pdf"), "--out: ... (x.pdf) ... .html")
    assert_user_error(distgan("report", run, "--no-eval", "--out", "no/x.html"), "--out: ... no ... (no/x.html)")
    (tmp_path / "mine.html").write_text("precious")
    result = distgan("report", run, "--no-eval", "--out", "mine.html")
    assert_user_error(result, "--out: ... (mine.html) ... [output-exists]")
    assert (tmp_path / "mine.html").read_text() == "precious"
    for _ in range(2):
        distgan.ok("report", run, "--no-eval", "--out", "page.html")
    assert_user_error(distgan("compare", run), code="missing-value")
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
    view = build_view(quality_of("GAN", shares=[about(0.1, 0.01)] * 10))
    assert view.bar_end == "20 %"
    assert {row.bar.due for row in view.classes} == {50}
    assert {row.bar.value for row in view.classes} != {0}
