"""A plan as tables on the screen and as a picture, in which nothing predicted stands without that word."""

from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table

from distgan.benchmark.efficiency import Cell
from distgan.benchmark.results import Results
from distgan.benchmark.scaling_report import save_panels, wide_console


def print_tables(found: Results) -> None:
    """The fit, its errors where it can be checked, and what it predicts."""
    facts, print_here = found.facts, wide_console().print
    print_here(_held_out_table(_rows(found, "held out")))
    print_here(_predicted_table(found))
    batches = [int(size) for size in facts["points"]]
    print_here(
        f"predicted by {facts['formula']};\na = {facts['a_s'] * 1e3:.3g} ms, b = {facts['b_s_per_image'] * 1e6:.3g} "
        f"microseconds an image, fitted on 1 process of {facts['measured']['device']} at {len(batches)} batch sizes "
        f"from {min(batches)} to {max(batches)}.\nall-reduce, predicted by {facts['all_reduce']}.\noverlap: "
        f"{facts['config']['overlap']:g} microseconds. * batch size per rank beyond those measured.",
        markup=False,
    )


def _rows(found: Results, what: str, mode: str | None = None) -> list[Cell]:
    return [cell for cell in found.cells if cell["what"] == what and (mode is None or cell["mode"] == mode)]


def _held_out_table(rows: list[Cell]) -> Table:
    table = Table("processes", "images a step", "predicted ms/step", "measured ms/step", "error %", "held out",
                  title="held out: predicted against measured")  # fmt: skip
    for row in rows:
        table.add_row(
            str(row["world_size"]),
            f"{row['batch_size']:,}",
            f"{row['predicted_step_s'] * 1e3:,.3g}",
            f"{row['measured_step_s'] * 1e3:,.3g}",
            f"{row['error_percent']:+.1f}",
            row["held_out"],
        )
    return table


def _predicted_table(found: Results) -> Table:
    table = Table("scaling", "nodes x each", "images a step", "per rank", "predicted ms/step", "predicted images/s",
                  "predicted s/epoch", "predicted efficiency", title=_title(found))  # fmt: skip
    for row in _rows(found, "predicted"):
        table.add_row(
            row["mode"],
            f"{row['nodes']} x {row['per_node']}",
            f"{row['batch_size']:,}",
            f"{row['per_rank_batch_size']:,}{'*' * row['is_extrapolated']}",
            f"{row['predicted_step_s'] * 1e3:,.3g}",
            f"{row['predicted_images_per_s']:,.0f}",
            f"{row['predicted_s_per_epoch']:.3g}",
            f"{row['predicted_efficiency']:.2f}",
        )
    return table


def _title(found: Results) -> str:
    config, measured = found.facts["config"], found.facts["measured"]
    return (
        f"predicted, not measured: {measured['config']['model']} on {measured['device']}, "
        f"{config['nodes']} x {config['gpus_per_node']}, {config['fabric']}"
    )


def plot(found: Results, folder: Path) -> Path:
    """plan.png: rates and efficiencies, predicted, and the held-out errors."""
    path = folder / "plan.png"
    panels = [
        partial(_draw, found=found, key="predicted_images_per_s", label="images/s, predicted"),
        partial(_draw, found=found, key="predicted_efficiency", label="efficiency, predicted"),
        partial(_draw_fit, found=found),
        partial(_draw_errors, rows=_rows(found, "held out")),
    ]
    save_panels(path, panels, _title(found))
    return path


def _draw(axes: Any, found: Results, key: str, label: str) -> None:
    for mode, color in (("weak", "tab:blue"), ("strong", "tab:orange")):
        rows = _rows(found, "predicted", mode)
        places = [row["world_size"] for row in rows]
        style = {"linestyle": "--", "marker": "o", "markerfacecolor": "white", "color": color}
        axes.plot(places, [row[key] for row in rows], label=f"{mode}, predicted", **style)
        if key == "predicted_images_per_s" and rows:
            ideal = [rows[0][key] * place / places[0] for place in places]
            axes.plot(places, ideal, ":", linewidth=1, color=color, label=f"{mode}, ideal")
    axes.set(title=label, xlabel="ranks", ylabel=label, xscale="log")
    ticks = sorted({row["world_size"] for row in _rows(found, "predicted")})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    if key == "predicted_images_per_s":
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, 1.05)


def _draw_fit(axes: Any, found: Results) -> None:
    points = {int(size): seconds for size, seconds in found.facts["points"].items()}
    axes.plot(list(points), [1e3 * each for each in points.values()], "o", label="measured, 1 process")
    line = [1e3 * (found.facts["a_s"] + found.facts["b_s_per_image"] * size) for size in points]
    axes.plot(list(points), line, "--", color="gray", label="fit: a + b B")
    axes.set(title="the fit, on 1 process", xlabel="batch size", ylabel="ms a step")
    axes.set_ylim(bottom=0)


def _draw_errors(axes: Any, rows: list[Cell]) -> None:
    names = [f"{row['world_size']} x {row['batch_size'] // row['world_size']}" for row in rows]
    axes.bar(range(len(rows)), [row["error_percent"] for row in rows], label="predicted against measured")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(rows)), names, rotation=30)
    axes.set(title="held out: signed error", xlabel="processes x images each", ylabel="error, %")
