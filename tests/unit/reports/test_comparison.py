"""The table of `distgan compare` and of its page, on made-up runs with known answers."""

import io
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.made_up_runs import environment_of, make_run, quality_of, read, table_of, training_lines
from helpers.runs import ROOT, Capture
from rich.console import Console

from distgan.cli import run_command
from distgan.evaluation.schema import Estimate
from distgan.evaluation.targets import SETS, EarlyStop, read_targets
from distgan.reports.comparison import notes_on, show
from distgan.reports.convergence import convergence_of
from distgan.reports.pairwise import ComparedRun, compared_runs, differing_conditions, epoch_seconds
from distgan.reports.report2023 import CLAIMS, summarise_agreement


def subjects_of(*folders: Path) -> list[ComparedRun]:
    return compared_runs([read(folder) for folder in folders])


# -- when a run had converged: by the targets of --stop-at --------------------------------------------------


def reaches(epoch: float, until: float = math.inf) -> Callable[[float], float]:
    """An fcd that meets the targets from one epoch on, and no longer from another."""
    return lambda at: 0.5 if epoch <= at < until else 9.0


@pytest.mark.parametrize(
    ("fcd", "num", "value", "agrees", "why"),
    [
        (reaches(80), 300, "epoch 80", True, "between epochs 79 and 83"),
        (reaches(78), 300, "epoch 78", True, "between epochs 77 and 81"),
        (reaches(76), 300, "epoch 76", False, "converged by epoch 79"),
        (reaches(20), 120, "epoch 20", False, "converged by epoch 23"),  # ended before 80, converged before
        (reaches(81), 300, "epoch 81", False, "not converged at epoch 80"),
        (reaches(200), 300, "not by epoch 100", False, "not converged at epoch 100"),
        (reaches(200), 120, "not by epoch 40", None, "the run ended at epoch 40"),
        (reaches(20, 22), 300, "not by epoch 100", False, "not converged at epoch 100"),
        (reaches(98), 300, "not by epoch 100", None, "the run ended at epoch 100"),  # too late to be confirmed
        (None, 120, "not measured", None, "without --eval-every"),
    ],
)
def test_epochs_to_converge(
    tmp_path: Path, fcd: Callable[[float], float] | None, num: int, value: str, agrees: bool | None, why: str
) -> None:
    run = make_run(tmp_path / "run", lines=training_lines(num, fcd=fcd))
    cell = table_of(run)["epochs to converge"].cells[0]
    assert cell.check is not None
    assert (cell.value, cell.check.agrees) == (value, agrees)
    assert why in cell.check.why
    assert cell.command == f"distgan train --config {run / 'config.json'} --eval-every 1"


def test_report_and_stop_at_find_the_same_step(tmp_path: Path) -> None:
    """One definition: what ends a run is what a page says of it."""
    lines = training_lines(90, fcd=reaches(20))
    stop = EarlyStop(read_targets(SETS["mnist"]), is_conditional=True)
    stop.add(*lines)
    found = convergence_of(read(make_run(tmp_path / "run", lines=lines)))
    assert stop.detected.reached is not None
    assert found.at == stop.evaluations[stop.detected.reached].epoch == 20


def test_targets_of_a_run_are_those_that_it_was_stopped_at(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(re.sub("(max_fcd|min_agreement|min_coverage) = .*", r"\1 = 0.5", SETS["mnist"].read_text()))
    own.write_text(own.read_text().replace("max_fcd = 0.5", "max_fcd = 10.0"))
    lines = training_lines(fcd=lambda epoch: 9.0)
    for stop_at, at in ((None, None), ("mnist", None), (str(own), 1)):
        run = make_run(tmp_path / f"run-{stop_at == 'mnist'}-{at}", lines=lines, config={"run": {"stop_at": stop_at}})
        assert convergence_of(read(run)).at == at
    recorded = environment_of(targets=read_targets(own).model_dump(mode="json"))
    kept = make_run(tmp_path / "kept", lines=lines, environment=recorded, config={"run": {"stop_at": str(own)}})
    own.unlink()
    assert convergence_of(read(kept)).at == 1, "whatever became of the file since"
    gone = make_run(tmp_path / "gone", config={"run": {"stop_at": str(tmp_path / "gone.toml")}})
    assert "neither a file nor a set of targets" in convergence_of(read(gone)).why


def test_a_log_that_lacks_a_number_tells_of_no_convergence(tmp_path: Path) -> None:
    """As of runs that were evaluated before coverage was measured by digit: not the same as never met."""
    lines = [line | {"ema_coverage_digits": None} for line in training_lines(90)]
    found = convergence_of(read(make_run(tmp_path / "run", lines=lines)))
    assert (found.at, found.why) == (None, "its log lacks worst coverage")


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
    rows = table_of(*pair)
    assert list(rows) == [
        "labels", "input", "image quality", "training speed", "epochs to converge", "diversity",
    ]  # fmt: skip
    for row in rows.values():
        assert len(row.cells) == 2
        for kind, cell in zip(("GAN", "C-GAN"), row.cells, strict=True):
            assert cell.value
            assert cell.command.startswith("distgan ")
            assert cell.check.claim == CLAIMS[row.key][0][kind]
            assert cell.check.why


def test_a_label_enters_or_not(pair: tuple[Path, Path]) -> None:
    gan, cgan = table_of(*pair)["labels"].cells
    assert (gan.value, gan.check.agrees) == ("no label input", True)
    assert (cgan.value, cgan.interval, cgan.check.agrees) == ("95.3 %", "94.9 to 95.7 %", True)


@pytest.mark.parametrize(
    ("model", "labels", "given"),
    [
        ({"name": "vanilla", "family": "dcgan"}, "no label input", "100 of noise"),
        ({"name": "vanilla", "family": "clustered", "clusters": 7}, "no label input",
         "100 of noise and one of 7 clusters of images"),
        ({"name": "cgan", "family": "dcgan", "latent_dim": 64}, "95.3 %", "64 of noise and the label"),
        ({"name": "cgan", "family": "clustered", "clusters": 7}, "95.3 %",
         "100 of noise, the label and one of 7 clusters of its images"),
        ({"name": "vanilla", "stem": "noise-map"}, "no label input", "a map of noise"),
    ],
)  # fmt: skip
def test_labels_and_input_are_those_of_the_settings(
    tmp_path: Path, model: dict[str, Any], labels: str, given: str
) -> None:
    kind = "C-GAN" if model["name"] == "cgan" else "GAN"
    environment = environment_of(networks=None)  # as of older runs
    run = make_run(tmp_path / "run", kind, quality=quality_of(kind), config={"model": model}, environment=environment)
    rows = table_of(run)
    for name, value in (("labels", labels), ("input", given)):
        cell = rows[name].cells[0]
        assert cell.check is not None
        assert (cell.value, cell.check.agrees) == (value, True)
    clusters = " ".join(rows["labels"].cells[0].more)
    assert ("7 clusters of the training images" in clusters) == (kind == "GAN" and "clusters" in model)
    assert rows["input"].cells[0].more == ["number of parameters: not recorded"]


def test_size_of_the_networks_is_what_the_run_recorded(tmp_path: Path) -> None:
    """And never counted in its weights: of these made-up files they would be 1."""
    networks = {"g_parameters": 2_360_000, "d_parameters": 12, "latent_shape": [256, 7, 7]}
    run = make_run(tmp_path / "run", "GAN", environment=environment_of(networks=networks))
    cell = table_of(run)["input"].cells[0]
    assert cell.value == "256x7x7 of noise"
    assert cell.more == ["G 2,360,000 and D 12 parameters"]


@pytest.mark.parametrize(("low", "high", "agrees"), [(0.2, 0.3, True), (0.09, 0.12, None), (0.02, 0.08, False)])
def test_a_label_works_only_above_chance(tmp_path: Path, low: float, high: float, agrees: bool | None) -> None:
    found = quality_of(agreement=Estimate(value=(low + high) / 2, low=low, high=high))
    run = make_run(tmp_path / "run", quality=found)
    assert table_of(run)["labels"].cells[0].check.agrees is agrees


@pytest.mark.parametrize(("fcd", "gan", "cgan"), [(0.4, True, True), (9.0, False, False), (1.35, None, None)])
def test_image_quality_goes_by_intervals(tmp_path: Path, fcd: float, gan: bool | None, cgan: bool | None) -> None:
    runs = [
        make_run(tmp_path / "gan", "GAN", quality=quality_of("GAN", fcd=fcd)),
        make_run(tmp_path / "cgan", quality=quality_of(fcd=1.3)),
    ]
    cells = table_of(*runs)["image quality"].cells
    assert [cell.check.agrees for cell in cells] == [gan, cgan]


def test_evaluations_of_another_size_are_not_compared(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "gan", "GAN", quality=quality_of("GAN", fcd=0.2, n=2000)),
        make_run(tmp_path / "cgan", quality=quality_of()),
    ]
    for cell in table_of(*runs)["image quality"].cells:
        assert cell.check.agrees is None
        assert "2,000" in cell.check.why
        assert "10,000" in cell.check.why
    assert any("2,000" in note for note in notes_on(subjects_of(*runs)))


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


def test_speed_is_that_of_the_machine_on_record(tmp_path: Path) -> None:
    """For a resumed run that is the one that it resumed on: environment.json tells of the last start."""
    rates = {10: 1.0, 20: 1.0, 30: 1.0, 40: 5.0, 50: 100.0, 60: 100.0}  # the first after a start has its warm-up in it
    lines = [{"step": step, "epoch": step / 30, "images_per_s": rate} for step, rate in rates.items()]
    run = read(make_run(tmp_path / "run", lines=lines, environment=environment_of(resumed_from=30)))
    found = epoch_seconds(run)
    assert found is not None
    assert (found[0].low, found[0].high, found[1]) == (600, 600, 2)


def test_speeds_are_compared_on_the_same_hardware_only(pair: tuple[Path, Path], tmp_path: Path) -> None:
    gan, cgan = table_of(*pair)["training speed"].cells
    assert (gan.check.agrees, cgan.check.agrees) == (True, True)
    assert gan.value == "10.0 s"
    other = make_run(tmp_path / "other", environment=environment_of(device="Another", threads=7), quality=quality_of())
    assert differing_conditions(read(pair[0]), read(other)) == [
        "device A processor against Another",
        "threads 2 against 7",
    ]
    row = table_of(pair[0], other)["training speed"]
    for cell in row.cells:
        assert cell.check.agrees is None
        assert "Another" in cell.check.why
    assert "21.2 s" in row.note
    assert "13.6 s" in row.note


def test_another_batch_is_another_speed(pair: tuple[Path, Path], tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", config={"data": {"per_rank_batch_size": 64}})
    assert differing_conditions(read(pair[0]), read(other)) == ["batch 256 against 64"]


def test_diversity_counts_the_digits_that_are_there(pair: tuple[Path, Path], tmp_path: Path) -> None:
    gan, cgan = table_of(*pair)["diversity"].cells
    assert (gan.value, gan.check.agrees, gan.check.why) == ("9 of 10 digits", True, "missing: 6")
    assert (cgan.value, cgan.check.agrees) == ("10 of 10 digits", True)
    full = make_run(tmp_path / "full", "GAN", quality=quality_of("GAN"))
    poor = make_run(tmp_path / "poor", quality=quality_of(missing=[2, 3]))
    gan, cgan = table_of(full, poor)["diversity"].cells
    assert (gan.check.agrees, cgan.check.agrees) == (False, False)
    assert cgan.check.why == "missing: 2, 3"


def test_two_gans_alone_leave_the_comparison_open(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, "GAN", quality=quality_of("GAN")) for name in ("a", "b")]
    rows = table_of(*runs)
    for name in ("image quality", "training speed"):
        for cell in rows[name].cells:
            assert cell.check.agrees is None
            assert "no C-GAN to compare" in cell.check.why
    assert any("There is no C-GAN" in note for note in notes_on(subjects_of(*runs)))
    tally = summarise_agreement(list(rows.values()))
    assert tally == "Of 12 cells, 4 agree with the 2023 report, 4 disagree, 4 are undecided."


def test_any_number_of_runs_is_compared_each_with_each(tmp_path: Path, capsys: Capture) -> None:
    """Also of one kind: the interval of each lies somewhere beside each other's."""
    runs = [
        make_run(tmp_path / name, quality=quality_of(fcd=fcd, n=num), lines=training_lines(rate=rate))
        for name, fcd, num, rate in (("a", 1.0, 100, 300), ("b", 2.0, 100, 200), ("c", 2.0, 100, 100), ("d", 1, 70, 50))
    ]
    run_command("compare", *map(str, runs), "--no-eval", "--out", str(tmp_path / "four.html"))
    text = capsys.readouterr().out
    for words in (
        "its interval lies below that of b, c", "its interval lies above that of a", "its interval overlaps that of c",
        "not to be compared with d: they were measured on 100 and 70 images",
        "not to be compared with a, b, c: they were measured on 70 and 100 images",
        "its interval lies below that of b, c, d",  # seconds per epoch
    ):  # fmt: skip
        assert f"    {words}\n" in text
    assert (tmp_path / "four.html").read_text().count('<th scope="col">') >= 5


def test_own_data_is_compared_without_the_2023_report(tmp_path: Path, capsys: Capture) -> None:
    own = [
        make_run(tmp_path / name, kind, quality=quality_of(kind, num_classes=7, source={"data": "own"}),
                 config={"model": {"name": "cgan" if kind == "C-GAN" else "vanilla", "family": "dcgan"}},
                 environment=environment_of(data={"name": "own", "num_images": 500}))
        for name, kind in (("own-1", "GAN"), ("own-2", "C-GAN"))
    ]  # fmt: skip
    page = tmp_path / "page.html"
    run_command("compare", *map(str, own), "--no-eval", "--out", str(page))
    for text in (capsys.readouterr().out, page.read_text()):
        assert "2023" not in text
        assert "7 of 7 classes" in text
    # Beside a run that it says something of, that one alone has what it says.
    mnist = make_run(tmp_path / "mnist", quality=quality_of())
    rows = table_of(*own, mnist)
    assert [[cell.check is not None for cell in row.cells] for row in rows.values()] == [[False, False, True]] * 6
    assert "no GAN to compare" in rows["image quality"].cells[2].check.why
    assert summarise_agreement(list(rows.values())).startswith("Of 6 cells")


def test_one_module_knows_the_2023_report() -> None:
    """Its name, its data, its sizes; no other module of `reports` may know MNIST, 28 pixels or ten classes."""
    known = re.compile(r"2023|MNIST|(?<![\w.])28(?![\w.])|range\(10\)|\b(?:ten|tenth)\b")
    for path in (ROOT / "distgan" / "reports").rglob("*"):
        if path.suffix in (".py", ".html", ".js") and path.stem != "report2023":
            text = path.read_text().replace("report2023", "").replace("power of ten", "").replace("powers of ten", "")
            assert not known.findall(text), path


def test_runs_of_one_name_are_distinguished_by_their_folders(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name / "run", "GAN") for name in ("a", "b")]
    assert [subject.name for subject in subjects_of(*runs)] == [str(run) for run in runs]


def test_one_that_was_not_measured_does_not_hide_the_others(pair: tuple[Path, Path], tmp_path: Path) -> None:
    third = make_run(tmp_path / "young", lines=[], weights=False)
    cells = table_of(*pair, third)["image quality"].cells
    assert cells[0].check.agrees is False
    assert cells[2].value == "not measured"
    assert cells[2].command == f"distgan eval {third}"


# -- on the screen ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [40, 80])
def test_the_table_fits_a_screen(pair: tuple[Path, Path], width: int) -> None:
    subjects, rows = subjects_of(*pair), table_of(*pair)
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
