"""`distgan bench plan`: a model of the step fitted on one process, held against what it was not fitted on, and beyond.

T(W) = a + b B + sum over G and D of max(0, all-reduce - overlap) + the all-reduces of BatchNorm: seconds per step, for
B images a process. `a` and `b` (neither negative) have the least relative squares over the batch sizes that were
measured on one process. The all-reduces are as measured alone where they were; else interconnects.py predicts them.
"""

from functools import partial
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.table import Table

from distgan.benchmark import results
from distgan.benchmark.interconnects import FABRICS, AllReduce, check_nodes, measured_ring, nccl
from distgan.benchmark.options import PlanConfig
from distgan.benchmark.results import Results
from distgan.benchmark.scaling_report import STYLE, Cell, all_reduces, save_panels
from distgan.errors import UserError, print_line
from distgan.utils.terminal import TerminalConsole

PLOT = "plan.png"


def print_tables(found: Results) -> None:
    """The fit, its errors where it can be checked, and what it predicts."""
    facts, console = found.facts, TerminalConsole()
    console.print_table(_held_out_table(_rows(found, "held out")))
    console.print_table(_predicted_table(found))
    batches = [int(size) for size in facts["points"]]
    console.print(
        f"predicted by {facts['formula']};\na = {facts['a_s'] * 1e3:.3g} ms, b = {facts['b_s_per_image'] * 1e6:.3g} "
        f"microseconds an image, fitted on 1 process of {facts['measured']['device']} at {len(batches)} batch sizes "
        f"from {min(batches)} to {max(batches)}.\nall-reduce, predicted by {facts['all_reduce']}.\noverlap: "
        f"{facts['config']['overlap']:g} microseconds. * batch size per rank beyond those measured."
    )


def _rows(found: Results, what: str, mode: str | None = None) -> list[Cell]:
    return [cell for cell in found.cells if cell["what"] == what and (mode is None or cell["mode"] == mode)]


def _held_out_table(rows: list[Cell]) -> Table:
    table = Table("processes", "images per step", "predicted ms/step", "measured ms/step", "error %", "held out",
                  title="held out: predicted against measured", **STYLE)  # fmt: skip
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
    table = Table("scaling", "nodes x each", "images per step", "per rank", "predicted ms/step", "predicted images/s",
                  "predicted s/epoch", "predicted efficiency", title=_title(found), **STYLE)  # fmt: skip
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


def plot(found: Results, path: Path) -> None:
    """Rates and efficiencies, predicted, and the held-out errors."""
    panels = [
        partial(_draw, found=found, key="predicted_images_per_s", label="images/s, predicted"),
        partial(_draw, found=found, key="predicted_efficiency", label="efficiency, predicted"),
        partial(_draw_fit, found=found),
        partial(_draw_errors, rows=_rows(found, "held out")),
    ]
    save_panels(path, panels, _title(found))


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
    axes.set(title="the fit, on 1 process", xlabel="batch size", ylabel="ms per step")
    axes.set_ylim(bottom=0)


def _draw_errors(axes: Any, rows: list[Cell]) -> None:
    names = [f"{row['world_size']} x {row['batch_size'] // row['world_size']}" for row in rows]
    axes.bar(range(len(rows)), [row["error_percent"] for row in rows], label="predicted against measured")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(rows)), names, rotation=30)
    axes.set(title="held out: signed error", xlabel="processes x images each", ylabel="error, %")


# -- The model, its fit, and its predictions --

FORMULA = "T = a + b B + sum over G, D of max(0, all-reduce - overlap) + all-reduces of BatchNorm"
_FEWEST = 3
_FACTS = ("config", "device", "device_type", "cores", "threads")
_CELL = ("world_size", "batch_size", "width", "runs")


class Model(NamedTuple):
    """Seconds per step on one process: `a_s`, and `b_s` for each image."""

    a_s: float
    b_s: float

    def __call__(self, batch_size: float) -> float:
        return self.a_s + self.b_s * batch_size


def run(where: Path, config: PlanConfig) -> None:
    """Predicts from the results of bench scaling at `where`; prints, and leaves results.json and plan.png.

    Raises UserError for other results, too few points, and a fabric that does not fit.
    """
    check_nodes(config.fabric, config.nodes)
    measured = results.read(where, "scaling")
    try:
        cells = base_cells(measured, where)
        points = one_process(cells, where)
        model = fit(points)
        all_reduce, source = _all_reduce(measured, cells, config)
        held_out = leave_one_out(points) + larger_worlds(model, measured, cells, config.overlap / 1e6)
        predicted = predictions(model, points, cells, all_reduce, measured.facts["config"], config)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError, ZeroDivisionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{where}: is damaged, or not by this distgan's bench scaling ({reason})", code="bad-data"
        ) from error
    folder = results.new_folder(config.out, "plan")
    facts = results.facts(torch.device("cpu")) | {
        "config": config.model_dump(mode="json"),
        "formula": FORMULA,
        "a_s": model.a_s,
        "b_s_per_image": model.b_s,
        "points": points,
        "all_reduce": source,
        "measured": measured.facts,
    }
    path = folder / results.FILE
    results.write(path, "plan", facts, held_out + predicted)
    found = results.read(path, "plan")
    print_tables(found)
    pictures = results.drawn(lambda: plot(found, folder / PLOT), folder / PLOT)
    print_line(f"predicted results: {', '.join(map(str, [path, *pictures]))}")


def base_cells(measured: Results, where: Path) -> list[Cell]:
    """Those that were measured at the width of the scaling. Raises UserError for a file that lacks something."""
    for what, needed, tables in (("facts", _FACTS, [measured.facts]), ("cells", _CELL, measured.cells)):
        if lacking := [key for table in tables for key in needed if key not in table]:
            raise UserError(f"{where}: is damaged: its {what} lack {lacking[0]}", code="bad-data")
    width = measured.facts["config"]["width"]
    return [cell for cell in measured.cells if cell["runs"] and cell["width"] == width]


def one_process(cells: list[Cell], where: Path) -> dict[int, float]:
    """Median seconds per step by batch size. Raises UserError where there are too few to fit and hold one out."""
    points = {
        cell["batch_size"]: median(each for run in cell["runs"] for each in run["step_s"])
        for cell in sorted(cells, key=lambda cell: cell["batch_size"])
        if cell["world_size"] == 1
    }
    if len(points) < _FEWEST:
        raise UserError(
            f"{where}: has {len(points)} batch sizes on one process; allowed: {_FEWEST} or more, as a fit has two "
            "constants and one has to be held out (distgan bench scaling --work-batch-size 64,128,256)",
            code="bad-data",
        )
    return points


def fit(points: dict[int, float]) -> Model:
    """The least relative squares; where one constant would be negative, that one is 0."""
    sizes, seconds = np.array(list(points), dtype=float), np.array(list(points.values()))
    columns = np.stack([1 / seconds, sizes / seconds], axis=1)
    (a, b), *_ = np.linalg.lstsq(columns, np.ones(len(seconds)), rcond=None)
    if a >= 0 and b >= 0:
        return Model(float(a), float(b))
    alone = [float(column.sum() / column.dot(column)) for column in columns.T]
    left = [float(np.square(column * value - 1).sum()) for column, value in zip(columns.T, alone, strict=True)]
    return Model(alone[0], 0.0) if left[0] < left[1] else Model(0.0, alone[1])


def _error(name: str, world_size: int, batch_size: int, predicted_s: float, measured_s: float) -> Cell:
    """Signed, in percent of what was measured: above 0 where the model is too slow."""
    return {
        "what": "held out",
        "held_out": name,
        "world_size": world_size,
        "batch_size": batch_size,
        "predicted_step_s": predicted_s,
        "measured_step_s": measured_s,
        "error_percent": 100 * (predicted_s - measured_s) / measured_s,
    }


def leave_one_out(points: dict[int, float]) -> list[Cell]:
    """Each batch size predicted by a fit on all the others."""
    return [
        _error("fitted on the other sizes", 1, size, fit({k: v for k, v in points.items() if k != size})(size), seconds)
        for size, seconds in points.items()
    ]


def larger_worlds(model: Model, measured: Results, cells: list[Cell], overlap_s: float) -> list[Cell]:
    """What several processes took, of which the fit saw none, with their all-reduces as measured alone.

    Left out are those that had more threads than there are cores: the model knows no others on a core.
    """
    found = []
    for cell in sorted(cells, key=lambda cell: (cell["world_size"], cell["batch_size"])):
        size, threads = cell["world_size"], measured.facts["threads"] or 1
        is_cpu = measured.facts["device_type"] == "cpu"
        if size == 1 or (is_cpu and size * threads > measured.facts["cores"]):
            continue
        alone = {kind: seconds["median"] for kind, (seconds, _) in all_reduces(cells, size).items()}
        predicted_s = _step_s(model, ceil(cell["batch_size"] / size), alone, overlap_s)
        name = "fitted on 1 process, all-reduce measured alone"
        found.append(_error(name, size, cell["batch_size"], predicted_s, cell["step_s"]["median"]))
    return found


def _step_s(model: Model, batch_size: float, all_reduce_s: dict[str, float], overlap_s: float) -> float:
    grads = sum(max(0.0, all_reduce_s[kind] - overlap_s) for kind in ("generator", "discriminator"))
    return model(batch_size) + grads + all_reduce_s.get("batch_norm", 0.0)


def _all_reduce(measured: Results, cells: list[Cell], config: PlanConfig) -> tuple[AllReduce, str]:
    """Predicts one, and where its constants come from."""
    source = FABRICS[config.fabric].source
    if measured.facts["device_type"] != "cpu":
        return nccl(config.fabric), f"NCCL's cost model (src/graph/tuning.cc); {source}"
    if config.fabric in ("nvlink", "pcie"):
        raise UserError(f"--fabric {config.fabric}: joins GPUs, and a CPU was measured; allowed: ib, ethernet")
    worlds = [cell["world_size"] for cell in cells if cell["world_size"] > 1]
    if not worlds:
        raise UserError(
            "a CPU's all-reduce is predicted from one that was measured, and there is none; allowed: results of "
            "distgan bench scaling --processes 1,2"
        )
    found = all_reduces(cells, max(worlds))
    (tiny, _), (seconds, size) = found["tiny"], found["generator"]
    ring = measured_ring(max(worlds), tiny["median"], size, seconds["median"], config.fabric)
    return ring, f"a ring of gloo's as measured over {max(worlds)} processes of one CPU; {source}"


def predictions(
    model: Model,
    points: dict[int, float],
    cells: list[Cell],
    all_reduce: AllReduce,
    scaling: dict[str, Any],
    config: PlanConfig,
) -> list[Cell]:
    """One process, then more on a node, then more nodes, weak and strong; each number says that it is predicted."""
    run = next(run for cell in cells for run in cell["runs"])
    strong = config.batch_size or scaling["batch_size"]
    weak = config.per_rank_batch_size or scaling["per_rank_batch_size"]
    found = []
    for mode in ("weak", "strong"):
        first = None
        for nodes, per_node in ladder(config.nodes, config.gpus_per_node):
            size = nodes * per_node
            total = weak * size if mode == "weak" else strong
            if total < size:  # some would have nothing to do
                continue
            alone = {
                kind: sum(all_reduce(num, nodes, per_node) for num in run["messages"][kind])
                for kind in ("generator", "discriminator", "batch_norm")
            }
            own = ceil(total / size)
            seconds = _step_s(model, own, alone, config.overlap / 1e6)
            rate = total / seconds
            first = first or rate
            found.append({
                "what": "predicted",
                "mode": mode,
                "nodes": nodes,
                "per_node": per_node,
                "world_size": size,
                "batch_size": total,
                "per_rank_batch_size": own,
                "predicted_step_s": seconds,
                "predicted_images_per_s": rate,
                "predicted_s_per_epoch": run["num_images"] / rate,
                "predicted_efficiency": rate / (size * first),
                "predicted_all_reduce_s": alone,
                "is_extrapolated": not min(points) <= own <= max(points),
            })  # fmt: skip
    return found


def ladder(nodes: int, per_node: int) -> list[tuple[int, int]]:
    """(nodes, GPUs of each): doubling within a node, then the nodes; the last is what was asked for."""
    within = [(1, num) for num in _doubling(per_node)]
    return within + [(num, per_node) for num in _doubling(nodes)[1:]]


def _doubling(limit: int) -> list[int]:
    return [2**exponent for exponent in range((limit - 1).bit_length())] + [limit]
