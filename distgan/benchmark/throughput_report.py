"""The tables and the plot of `distgan bench throughput`."""

from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from distgan.benchmark.matrix import Cell
from distgan.benchmark.results import fallback_in, print_fallbacks
from distgan.utils.figures import figure_text, new_figure, save_png
from distgan.utils.terminal import TerminalConsole

PLOT = "throughput.png"

_AXES = ("engine", "precision", "batch_size", "order")
_PHASES = ("compile", "capture", "check", "race")
_LOOPS = {"pytorch": "plain PyTorch", "accelerate": "plain Accelerate"}
_COLOURS = {"distgan": "#1f5f8b", "pytorch": "#c4773a", "accelerate": "#d9a441"}


def show(facts: dict[str, Any], cells: list[Cell], console: TerminalConsole | None = None) -> None:
    """Print engine fallbacks, speeds, start-up times with gate results, ratios to the plain loops, and failures."""
    console = console or TerminalConsole()
    print_fallbacks(console, ((name(cell, cells), fallback_in(cell)) for cell in cells))
    measured = [cell for cell in cells if cell["status"] == "ok"]
    if measured:
        console.print_table(_speeds(facts, cells, measured))
    if ours := [cell for cell in cells if cell["runs"] and cell["contender"] == "distgan"]:
        console.print_table(_starts(cells, ours))
    if held := [cell for cell in measured if cell.get("against")]:
        console.print_table(_ratios(cells, held))
    for cell in cells:
        if cell["status"] in ("error", "gate failed"):
            console.print(f"{name(cell, cells)}: {cell['status']}: {cell['why']}", style="red")
        if cell["status"] == "ok" and cell["contender"] == "distgan":
            device_s, host_s = cell["epoch_s"]["median"], cell["host_epoch_s"]["median"]
            if host_s > 1.1 * device_s:
                words = f"{_short(host_s)} s per epoch by the host's clock, {_short(device_s)} by the device's events"
                console.print(f"{name(cell, cells)}: {words}", style="yellow")
    peaks, copied = facts["roofline"]["peak_flops"], facts["roofline"]["copy_bytes_per_s"]
    reached = ", ".join(f"{kind} {_si(value)}FLOP/s" for kind, value in peaks.items())
    console.print(f"{facts['device']} reaches {reached}; copy {_si(copied)}B/s")


def name(cell: Cell, cells: list[Cell]) -> str:
    """What tells the cell from the others: its model, and each setting of which there are several."""
    own = [each for each in cells if each["contender"] == "distgan"]
    parts = [cell["model"]]
    if cell["contender"] != "distgan":
        parts.append(_LOOPS[cell["contender"]])
    for axis in _AXES:
        if len({each[axis] for each in own}) > 1 and cell[axis] is not None:
            parts.append(str(cell[axis]))
    return " ".join(parts)


def _common(cells: list[Cell]) -> str:
    """The settings that all cells share, for a title."""
    shared = [
        f"{axis.replace('_size', '')} {own.pop()}"
        for axis in _AXES[1:]
        if len(own := {cell[axis] for cell in cells if cell["contender"] == "distgan"}) == 1
    ]
    return ", ".join(shared).replace("precision ", "")


def _table(title: str, *columns: str, may_wrap: bool = False) -> Table:
    """A column for the cells, and one for each of these numbers; 80 characters have to do."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column("cell", min_width=14)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=not may_wrap)
    return table


def _speeds(facts: dict[str, Any], cells: list[Cell], measured: list[Cell]) -> Table:
    launched, short = ("kernels", "kernels") if facts["device_type"] == "cuda" else ("operators", "ops")
    repeats = max(cell["epoch_s"]["num"] for cell in measured)
    rounds = max(len(cell["runs"]) for cell in measured)
    steps = facts["pace"]["steps"]
    title = f"{_common(cells)}: median (p5–p95) of {repeats} repeats of {steps} steps, rounds: {rounds}"
    table = _table(title, "ran", "images/s", "ms/step", "s/epoch", "MFU %", "GiB", short)
    for cell in measured:
        run, epoch_s = cell["runs"][-1], {key: _short(value) for key, value in cell["epoch_s"].items()}
        num = run.get(f"{launched}_per_step")
        table.add_row(
            name(cell, cells),
            run["engine"]["name"] if "engine" in run else "-",
            _short(cell["images_per_s"]["median"]),
            _short(cell["step_ms"]["median"]),
            f"{epoch_s['median']} ({epoch_s['p5']}–{epoch_s['p95']})",
            "-" if cell.get("mfu") is None else f"{100 * cell['mfu']:.1f}",
            f"{cell['peak_memory_gib']:.2f}" if "peak_memory_gib" in cell else "-",
            "-" if num is None else f"{num:.0f}",
        )
    return table


def _starts(cells: list[Cell], ours: list[Cell]) -> Table:
    title = "before the clock, seconds; the gate's differences in losses and in weights"
    table = _table(title, "build", *_PHASES, "gate", "warm-up", "verdict")
    for cell in ours:
        run, gate = cell["runs"][0], cell["runs"][-1]["gate"]
        off = (each if isinstance(each, str) else f"{each:.0e}" for each in (gate["losses"], gate["weights"]))
        table.add_row(
            name(cell, cells),
            f"{sum(run['build_s'].values()) - sum(run['start_s'].values()):.1f}",
            *(f"{run['start_s'][key]:.1f}" if key in run["start_s"] else "-" for key in _PHASES),
            f"{run['gate']['seconds']:.1f}",
            f"{run['warmup']['seconds']:.1f}" if "warmup" in run else "-",
            f"{'passed' if gate['passed'] else 'FAILED'} {' '.join(off)}",
        )
    return table


def _ratios(cells: list[Cell], held: list[Cell]) -> Table:
    loops = list(dict.fromkeys(loop for cell in held for loop in cell["against"]))
    title = "plain loop / cell, in time: median (min–max) of the rounds"
    table = _table(title, *(_loop(loop) for loop in loops), may_wrap=True)
    for cell in held:
        table.add_row(name(cell, cells), *(_times(cell["against"].get(loop)) for loop in loops))
    return table


def _loop(name: str) -> str:
    peer, precision = name.split()
    return f"{_LOOPS[peer].split()[1]} {precision}"


def _times(ratio: dict[str, Any] | None) -> str:
    if ratio is None:
        return "-"
    return f"{ratio['median']:.2f} ({ratio['min']:.2f}–{ratio['max']:.2f})"


def _short(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:#.3g}"


def _si(value: float) -> str:
    for factor, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:.3g} {letter}"
    return f"{value:.3g} "


def save_plot(path: Path, facts: dict[str, Any], cells: list[Cell]) -> None:
    """Seconds per epoch, a bar for each cell with its p5 to p95, a panel for each model. Nothing where none has any."""
    models = [m for m in dict.fromkeys(cell["model"] for cell in cells) if any(_has(cell, m) for cell in cells)]
    if not models:
        return
    own = {model: [cell for cell in cells if cell["model"] == model and cell["status"] != "waits"] for model in models}
    heights = [len(own[model]) + 1.2 for model in models]
    figure = new_figure(9, 0.38 * sum(heights) + 1.2, facecolor="white")
    panels = figure.subplots(len(models), 1, squeeze=False, height_ratios=heights)[:, 0]
    for panel, model in zip(panels, models, strict=True):
        longest = max(cell["epoch_s"]["p95"] for cell in own[model] if _has(cell, model))
        for place, cell in enumerate(own[model]):
            if cell["status"] != "ok":
                panel.text(
                    0.01 * longest, place, f"no speed: {cell['status']}", va="center", fontsize=9, color="#a01010"
                )
                continue
            of = cell["epoch_s"]
            whiskers = [[of["median"] - of["p5"]], [of["p95"] - of["median"]]]
            colour = _COLOURS[cell["contender"]]
            panel.barh(place, of["median"], height=0.62, color=colour, xerr=whiskers, ecolor="#222222", capsize=3)
            ran = f", {cell['runs'][-1]['engine']['name']}" if cell["contender"] == "distgan" else ""
            text = f"{_short(of['median'])} s, {_short(cell['images_per_s']['median'])} images/s{ran}"
            panel.text(of["p95"] + 0.015 * longest, place, text, va="center", fontsize=9, color="#222222")
        panel.set_yticks(range(len(own[model])), [name(cell, cells) for cell in own[model]], fontsize=9)
        panel.invert_yaxis()
        panel.set_xlim(0, 1.42 * longest)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="x", alpha=0.25)
        panel.set_axisbelow(True)
    panels[-1].set_xlabel("seconds per epoch: median, p5 to p95")
    figure.suptitle(figure_text(f"{facts['device']}\n{_common(cells)}"), fontsize=11)
    save_png(figure, path)


def _has(cell: Cell, model: str) -> bool:
    return cell["model"] == model and cell["status"] == "ok"
