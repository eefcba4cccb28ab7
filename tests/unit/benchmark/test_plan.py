"""bench plan: a fit that finds what made the numbers, errors with their sign, and the word on all that is predicted."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.measurements import a_round, measured, saved
from helpers.runs import Capture, MonkeyPatch, expect_user_error
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from distgan.benchmark import plan, plots, results, tables
from distgan.benchmark.interconnects import FABRICS, nccl_model, ring_model
from distgan.benchmark.measurement import Measurement
from distgan.benchmark.options import PlanConfig
from distgan.benchmark.plan import Model, fit, leave_one_out, list_world_shapes, predict_larger_worlds, run
from distgan.benchmark.results import PlanResults, SpeedResults

A_S, B_S = 2e-3, 1e-4
SENT = {"tiny": 1e-4, "generator": 5e-3, "discriminator": 1e-3, "batch_norm": 4e-4}
MESSAGES = {"tiny": [4], "generator": [9_221_888], "discriminator": [877_572], "batch_norm": [2048, 512]}


def cell(world_size: int, batch_size: int, seconds: float) -> Measurement:
    sent = {kind: [each] for kind, each in SENT.items()} if world_size > 1 else {}
    turn = a_round(seconds, images=batch_size, all_reduce_s=sent, messages_bytes=MESSAGES)
    settings: dict[str, Any] = {"id": f"{world_size}/{batch_size}", "axes": ["strong"], "epoch_images": 60_000}
    return measured(world_size=world_size, batch_size=batch_size, runs=[turn], **settings)


def scaling(path: Path, device_type: str = "cpu", sizes: tuple[int, ...] = (64, 128, 256), *, worlds: int = 2) -> Path:
    """Results of a machine that takes A_S + B_S a batch, and what SENT says for two processes."""
    cells = [cell(1, size, A_S + B_S * size) for size in sizes]
    cells.append(cell(2, 256, A_S + B_S * 128 + SENT["generator"] + SENT["discriminator"] + SENT["batch_norm"]))
    settings = {"batch_size": 256, "per_rank_batch_size": 64}
    facts: dict[str, Any] = {"device": "a made-up device", "device_type": device_type, "cores": 2, "threads": 1}
    chosen = [each for each in cells if each.world_size <= worlds]
    saved(path / results.FILE, *chosen, kind="scaling", settings=settings, **facts)
    return path


def predicted(folder: Path) -> list[dict[str, Any]]:
    cells = json.loads((folder / results.FILE).read_text())["cells"]
    return [each for each in cells if each["what"] == "predicted"]


def test_the_fit_finds_the_constants() -> None:
    assert fit({size: A_S + B_S * size for size in (64, 128, 256, 1024)}) == (pytest.approx(A_S), pytest.approx(B_S))


def test_no_constant_is_negative() -> None:
    assert fit({64: 0.5, 128: 1.1, 256: 2.3}).a_s == 0
    assert fit({64: 0.5, 128: 1.1, 256: 2.3}).b_s == pytest.approx(0.0086, rel=0.05)
    assert fit({64: 1.2, 128: 1.1, 256: 1.0}) == (pytest.approx(1.09, rel=0.02), 0.0)


def test_what_was_held_out_was_not_fitted_on_and_its_error_has_its_sign() -> None:
    """A middle point that took twice as long as the line: the model is too fast there, so the error is below 0."""
    points = {size: A_S + B_S * size for size in (64, 128, 256, 512)}
    slow = leave_one_out(points | {128: 2 * points[128]})[1]
    assert slow.error_percent == pytest.approx(-50)
    fast = leave_one_out(points | {128: points[128] / 2})[1]
    assert fast.error_percent == pytest.approx(100)


def test_several_processes_are_held_out(tmp_path: Path) -> None:
    found = results.read(scaling(tmp_path), SpeedResults)
    model = Model(A_S, B_S)
    (exact,) = predict_larger_worlds(model, found.facts, found.cells, 0.0)
    assert exact.error_percent == pytest.approx(0)
    # An overlap hides no more of a message than there is of it: 1 ms of D's and 2 of G's.
    (hidden,) = predict_larger_worlds(model, found.facts, found.cells, 2e-3)
    assert exact.predicted_step_s - hidden.predicted_step_s == pytest.approx(3e-3)
    shared = found.facts.model_copy(update={"threads": 2})
    assert not predict_larger_worlds(model, shared, found.cells, 0.0), "more threads than cores is another machine"


def test_known_predictions(tmp_path: Path) -> None:
    run(scaling(tmp_path, "cuda"), PlanConfig(nodes=2, gpus_per_node=4, fabric="ib", out=str(tmp_path / "plan")))
    rows = {(row["mode"], row["world_size"]): row for row in predicted(tmp_path / "plan")}
    assert list(rows) == [(mode, size) for mode in ("weak", "strong") for size in (1, 2, 4, 8)]
    assert rows["weak", 1]["predicted_step_s"] == pytest.approx(A_S + B_S * 64)
    assert rows["weak", 1]["predicted_efficiency"] == rows["strong", 1]["predicted_efficiency"] == 1
    last, ib = rows["strong", 8], nccl_model("ib")
    sent = sum(ib(size, 2, 4) for sizes in list(MESSAGES.values())[1:] for size in sizes)
    assert last["predicted_step_s"] == pytest.approx(A_S + B_S * 32 + sent)
    assert last["predicted_s_per_epoch"] == pytest.approx(60_000 / 256 * last["predicted_step_s"])
    assert last["predicted_efficiency"] == pytest.approx((A_S + B_S * 256) / 8 / last["predicted_step_s"])
    assert last["is_extrapolated"]
    assert not rows["strong", 4]["is_extrapolated"], "64 images a rank were measured"


def test_nothing_is_predicted_without_the_word(tmp_path: Path, capsys: Capture, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")  # a line is not broken at a path
    run(scaling(tmp_path, "cuda"), PlanConfig(out=str(tmp_path / "plan")))
    found = results.read(tmp_path / "plan", PlanResults)
    settings = {"nodes", "per_node", "world_size", "batch_size", "per_rank_batch_size"}
    for row in predicted(tmp_path / "plan"):
        bare = [key for key, value in row.items() if isinstance(value, float | dict) and "predicted" not in key]
        assert set(bare) <= settings, bare
    table = tables.predicted_table(found)
    assert "predicted" in str(table.title)
    assert [
        " ".join(str(column.header).split()) for column in table.columns if "predicted" not in str(column.header)
    ] == ["scaling", "nodes x each", "images per step", "per rank"]
    said = capsys.readouterr().out
    for line in said.splitlines():
        if line.startswith(("a = ", "all-reduce", "predicted results")):
            assert "predicted" in line or "fitted" in line, line
    figure = Figure()
    FigureCanvasAgg(figure)
    for key in ("predicted_images_per_s", "predicted_efficiency"):
        axes = figure.add_subplot()
        plots.draw_predicted(axes, found, key, f"{key}, predicted")
        assert "predicted" in axes.get_title()
        labels = axes.get_legend_handles_labels()[1]
        assert all("predicted" in label or "ideal" in label for label in labels)
    assert "predicted, not measured" in tables.title_of(found)
    assert (tmp_path / "plan" / "plan.png").is_file()


@pytest.mark.parametrize("columns", [40, 80])
def test_a_narrow_screen_cuts_nothing(tmp_path: Path, monkeypatch: MonkeyPatch, capsys: Capture, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(plan, "plot_plan", lambda found, path: 1 / 0)
    run(scaling(tmp_path, "cuda"), PlanConfig(out=str(tmp_path / "plan")))
    found = capsys.readouterr()
    assert "…" not in found.out
    heads = [line for line in found.out.splitlines() if line.count("predicted") >= 4]
    assert bool(heads) is (columns == 80), "a table, or paragraphs"
    assert "plan.png" in found.err, "a plot that fails is a warning"
    assert "ZeroDivisionError" in found.err


def test_nccl_costs_what_its_constants_say() -> None:
    """A ring of two GPUs by hand; and that more machines, more bytes and a slower fabric never cost less."""
    # LL of one number: 6.6 microseconds, and 2 (W - 1) hops of 1 on PCIe.
    assert nccl_model("pcie")(4, 1, 2) == pytest.approx(8.6e-6, rel=1e-3)
    # Simple of 1 GB: 8.4 + 2 * 5.7, and 2 (W - 1) / W of the bytes at 20 GB/s.
    assert nccl_model("pcie")(10**9, 1, 2) == pytest.approx(19.8e-6 + 0.05, rel=1e-3)
    for name in FABRICS:
        assert nccl_model(name)(10**6, 1, 1) == 0
        assert nccl_model(name)(10**6, 1, 8) < nccl_model(name)(10**8, 1, 8)
    for name in ("ib", "ethernet"):
        costs = [nccl_model(name)(10**7, nodes, 8) for nodes in (1, 2, 4, 16)]
        assert costs == sorted(costs)
    assert nccl_model("nvlink")(10**7, 1, 8) < nccl_model("pcie")(10**7, 1, 8)
    assert nccl_model("ib")(10**7, 2, 8) < nccl_model("ethernet")(10**7, 2, 8)


def test_a_measured_ring_gives_back_what_was_measured() -> None:
    ring = ring_model(4, 6e-4, 10**6, 3e-3, "ethernet")
    assert ring(0, 1, 4) == pytest.approx(6e-4)
    assert ring(10**6, 1, 4) == pytest.approx(3e-3)
    assert ring(10**6, 2, 4) > ring(10**6, 1, 4)
    assert ring(10**6, 1, 1) == 0


def test_world_shapes_end_at_the_requested_numbers() -> None:
    assert list_world_shapes(3, 6) == [(1, 1), (1, 2), (1, 4), (1, 6), (2, 6), (3, 6)]
    assert list_world_shapes(1, 1) == [(1, 1)]


@pytest.mark.parametrize(
    ("settings", "fragments"),
    [
        ({"fabric": "nvlink"}, ("--fabric: ... --nodes 2 (nvlink) ... ib, ethernet [conflicting-settings]",)),
        ({"fabric": "pcie"}, ("--fabric: ... --nodes 2 (pcie) ... ib, ethernet [conflicting-settings]",)),
        ({"fabric": "nvlink", "nodes": 1}, ("--fabric: ... CPU (nvlink) ... [setting-not-applicable]",)),
    ],
)
def test_a_fabric_that_does_not_fit(tmp_path: Path, settings: dict[str, Any], fragments: tuple[str, ...]) -> None:
    with expect_user_error(*fragments):
        run(scaling(tmp_path), PlanConfig(out=str(tmp_path / "plan"), **settings))
    assert not (tmp_path / "plan").exists()


def test_results_that_allow_no_plan(tmp_path: Path) -> None:
    with expect_user_error("(2) ... 3 or more", code="wrong-results"):
        run(scaling(tmp_path, sizes=(64, 128)), PlanConfig())
    saved(tmp_path / results.FILE, cell(1, 64, 1.0))
    with expect_user_error("(throughput) ... scaling", code="wrong-results"):
        run(tmp_path, PlanConfig())
    with expect_user_error("nowhere: ", code="no-results"):
        run(tmp_path / "nowhere", PlanConfig())
    with expect_user_error("--processes 1,2", code="wrong-results"):
        run(scaling(tmp_path, worlds=1), PlanConfig(fabric="ethernet"))
