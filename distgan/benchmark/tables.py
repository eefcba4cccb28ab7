"""Tables of `distgan bench`: speeds, ratios, scaling, predictions and convergence."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import median

from rich import box
from rich.table import Table

from distgan.benchmark.convergence_results import (
    MEASURES,
    ConvergenceFacts,
    ConvergenceResults,
    Summary,
    TimesSummary,
    TrialResult,
)
from distgan.benchmark.measurement import Measurement, Spread
from distgan.benchmark.ratios import BATCH_SIZE, STRONG, WEAK, WIDTH, cells_on_axis
from distgan.benchmark.results import HeldOut, PlanResults, Predicted, SpeedResults
from distgan.training.engines.selection import fallback_notice
from distgan.utils.terminal import TerminalConsole

Cells = Sequence[Measurement]

TITLES = {
    STRONG: "strong scaling: one batch, shared by the processes",
    WEAK: "weak scaling: one batch for each process",
    BATCH_SIZE: "growing work, 1 process: batch size",
    WIDTH: "growing work, 1 process: width",
}
_MESSAGES = {
    "tiny": "one number",
    "generator": "G's gradients",
    "discriminator": "D's gradients",
    "batch_norm": "BatchNorm's sums,\nall of a step",
}
_LOOPS = {"pytorch": "plain PyTorch", "accelerate": "plain Accelerate"}
_PHASES = ("compile", "capture", "check", "race")
# The text of each setting in which cells may differ.
_SETTINGS: dict[str, Callable[[Measurement], str]] = {
    "engine": lambda cell: cell.engine or "",
    "precision": lambda cell: cell.precision,
    "batch_size": lambda cell: f"batch {cell.batch_size:,}",
    "order": lambda cell: f"order {cell.order}",
    "width": lambda cell: f"width {cell.width:g}",
    "world_size": lambda cell: "1 process" if cell.world_size == 1 else f"{cell.world_size} processes",
}


def build_table(title: str, heads: str, rows: Iterable[Sequence[object]], *, left: Sequence[int] = (0,)) -> Table:
    """Build a table with `heads` separated by `|`; columns `left` have text, the others numbers. Fits 80 characters."""
    style = {"title_justify": "left", "caption_justify": "left", "box": box.SIMPLE_HEAD}
    made = Table(title=title, pad_edge=False, padding=0, **style)  # type: ignore[arg-type]  # each its own
    for number, head in enumerate(heads.split("|")):
        made.add_column(head, justify="left" if number in left else "right", no_wrap=number not in left)
    for row in rows:
        made.add_row(*map(str, row))
    return made


def fmt(value: float | None, unknown: str = "-") -> str:
    """Return three significant digits, or all digits before the point."""
    return unknown if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def fmt2(value: float | None) -> str:
    """Return a number with two decimals, `-` for None."""
    return "-" if value is None else f"{value:.2f}"


def fmt_spread(measured: Spread | None, form: Callable[[float], str] = fmt, factor: float = 1.0) -> str:
    """Return `median (p5–p95)`, multiplied by `factor` to change the unit; `-` for None."""
    if not measured:
        return "-"
    middle, low, high = (form(factor * value) for value in (measured.median, measured.p5, measured.p95))
    return f"{middle} ({low}–{high})"


def _fmt_median(measured: Spread | None, factor: float = 1.0) -> str:
    return fmt(factor * measured.median if measured else None)


def print_fallbacks(console: TerminalConsole, notices: Iterable[tuple[str, str | None]]) -> None:
    """Print which cells, by name, ran another engine than requested, and why."""
    for name, notice in notices:
        if notice:
            console.print(f"!! {name}: {notice} !!", style="bold yellow")


def print_notes(console: TerminalConsole, lines: Sequence[str]) -> None:
    """Print lines below the tables."""
    for line in lines:
        console.print(f"note: {line}", style="yellow")


def print_speeds(speeds: SpeedResults, console: TerminalConsole | None = None) -> None:
    """Print engine fallbacks, speeds, start-up times with gate results, ratios, scaling, and failures."""
    console, cells, facts = console or TerminalConsole(), speeds.cells, speeds.facts
    print_fallbacks(console, ((cell_name(cell, cells), notice) for cell in cells for notice in cell.notices))
    if speeds.is_partial:
        console.print("!! PARTIAL: it was interrupted; cells may have fewer rounds, or none !!", style="bold yellow")
    for made in _speed_tables(cells, is_cuda=facts.device_type == "cuda"):
        console.print_table(made)
    for cell in cells:
        if cell.status in ("error", "gate failed"):
            console.print(f"{cell_name(cell, cells)}: {cell.status}: {cell.why}", style="red")
        if cell.epoch_s and cell.host_epoch_s and cell.host_epoch_s.median > 1.1 * cell.epoch_s.median:
            by_host = f"{_fmt_median(cell.host_epoch_s)} s per epoch by the host's clock"
            times = f"{by_host}, {_fmt_median(cell.epoch_s)} by the device's events"
            console.print(f"{cell_name(cell, cells)}: {times}", style="yellow")
    reasons = {f"{run.engine.name} ({run.engine.why})" for cell in cells for run in cell.runs if run.engine}
    console.print(f"engine: {', '.join(sorted(reasons)) or '-'}")
    reached = f"; {facts.note}" if facts.note else ""
    if facts.roofline:
        peaks = (f"{kind} {_fmt_si(value)}FLOP/s" for kind, value in facts.roofline.peak_flops.items())
        reached = f" reaches {', '.join(peaks)}; copy {_fmt_si(facts.roofline.copy_bytes_per_s)}B/s"
    console.print(facts.device + reached)


def cell_name(cell: Measurement, cells: Cells) -> str:
    """Return a name that distinguishes the cell: its model, and each setting in which cells differ."""
    ours = [cell for cell in cells if cell.is_ours]
    parts = [cell.model, _LOOPS.get(cell.contender, "")]
    parts += [say(cell) for key, say in _SETTINGS.items() if len({getattr(other, key) for other in ours}) > 1]
    return " ".join(filter(None, parts))


def common_settings(cells: Cells) -> str:
    """Return the settings that all cells share, for a title."""
    ours = [cell for cell in cells if cell.is_ours]
    says = _SETTINGS | {"family": lambda cell: f"family {cell.family}"}
    shared = [say(ours[0]) for key, say in says.items() if len({getattr(cell, key) for cell in ours}) == 1]
    return ", ".join(filter(None, shared))


def _speed_tables(cells: Cells, *, is_cuda: bool) -> Iterator[Table]:
    if measured := [cell for cell in cells if cell.measured]:
        launched = "kernels_per_step" if is_cuda else "operators_per_step"
        repeats = max(sum(len(run.repeats) for run in cell.measured) for cell in measured)
        rounds, steps = max(len(cell.measured) for cell in measured), measured[0].measured[0].repeats[0].steps
        title = f"{common_settings(cells)}: median (p5–p95) of {repeats} repeats of {steps} steps, rounds: {rounds}"
        heads = f"cell|ran|images/s|ms/step|s/epoch|MFU %|GiB|{'kernels' if is_cuda else 'ops'}"
        yield build_table(title, heads, [
            (cell_name(cell, cells), ", ".join(cell.engines) or "-", _fmt_median(cell.images_per_s),
             _fmt_median(cell.step_s, 1e3), fmt_spread(cell.epoch_s), _fmt1(cell.mfu and 100 * cell.mfu),
             fmt2(cell.peak_memory_gib), fmt(getattr(cell.measured[-1], launched)))
            for cell in measured
        ], left=(0, 1))  # fmt: skip
    gates = [(cell, cell.runs[0], cell.runs[-1].gate) for cell in cells if cell.runs]
    if started := [(cell, run, gate) for cell, run, gate in gates if gate]:
        title = "before the clock, seconds; the gate's differences in losses and in weights"
        heads = "cell|build|compile|capture|check|race|gate|warm-up|verdict"
        yield build_table(title, heads, [
            (cell_name(cell, cells), _fmt1(sum(run.build_s.values()) - sum(run.start_s.values())),
             *(_fmt1(run.start_s.get(phase)) for phase in _PHASES), _fmt1(gate.seconds), _fmt1(run.warmup_s),
             f"{'passed' if gate.passed else 'FAILED'} {_fmt_deviation(gate.losses)} {_fmt_deviation(gate.weights)}")
            for cell, run, gate in started
        ])  # fmt: skip
    if loops := list(dict.fromkeys(loop for cell in measured for loop in cell.against)):
        names = [loop.replace(" no", " float32").split() for loop in loops]
        heads = "|".join(["cell", *(f"{_LOOPS[peer].split()[1]}\n{kind}" for peer, kind in names)])
        rows = [(cell, [cell.against.get(loop) for loop in loops]) for cell in measured if cell.against]
        yield build_table("plain loop / cell, in time: median (min–max) of the rounds", heads, [
            (cell_name(cell, cells), *(f"{of.median:.2f} ({of.min:.2f}–{of.max:.2f})" if of else "-" for of in ratios))
            for cell, ratios in rows
        ])  # fmt: skip
    yield from (_scaling(chain, axis) for axis in (STRONG, WEAK) if len(chain := cells_on_axis(cells, axis)) > 1)
    if any(run.all_reduce_s for cell in measured if cell.axes for run in cell.measured):
        yield _all_reduces(cells)
    yield from (_growth(chain, axis) for axis in (BATCH_SIZE, WIDTH) if len(chain := cells_on_axis(cells, axis)) > 1)


def _fmt1(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _fmt_deviation(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.0e}"


def _fmt_si(value: float) -> str:
    units = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (0.0, ""))
    factor, letter = next((factor or 1.0, letter) for factor, letter in units if value >= factor)
    return f"{value / factor:.3g} {letter}"


def _scaling(chain: Cells, axis: str) -> Table:
    rows = []
    for cell in chain:
        shares = [run.all_reduce_share for run in cell.measured if run.all_reduce_share is not None]
        rows.append((
            cell.world_size, f"{cell.batch_size:,}", fmt_spread(cell.images_per_s), _fmt_median(cell.epoch_s),
            fmt_spread(cell.efficiency.get(axis), fmt2), fmt2(median(shares) if shares else None),
            fmt2(cell.peak_memory_gib),
        ))  # fmt: skip
    heads = "processes|images\nper step|images/s|s/epoch|efficiency|all-reduce's\nshare|GiB"
    return build_table(TITLES[axis], heads, rows, left=())


def all_reduces(cells: Cells, world_size: int) -> dict[str, tuple[Spread, int]]:
    """Return seconds and bytes of each kind of message, over all cells with that number of processes."""
    runs = [run for cell in cells if cell.world_size == world_size for run in cell.measured]
    seconds = {kind: [value for run in runs for value in run.all_reduce_s.get(kind, [])] for kind in _MESSAGES}
    return {kind: (Spread.of(times), sum(runs[0].messages_bytes[kind])) for kind, times in seconds.items() if times}


def _all_reduces(cells: Cells) -> Table:
    steps = {cell.world_size: cell.step_s.median for cell in cells_on_axis(cells, WEAK) if cell.step_s}
    rows = []
    for size in sorted({cell.world_size for cell in cells}):
        for kind, (seconds, total) in all_reduces(cells, size).items():
            rate, part = total / seconds.median / 1e9, seconds.median / steps.get(size, float("inf"))
            of_step = ("-", "-") if kind == "tiny" else (fmt2(rate), f"{part:.3f}" if part else "-")
            microseconds = fmt_spread(seconds, lambda value: f"{value:,.0f}", 1e6)
            rows.append((size, _MESSAGES[kind], f"{total:,}", microseconds, *of_step))
    heads = "processes|message|bytes|microseconds|GB/s|part of a\nweak step"
    return build_table("isolated all-reduce, float32", heads, rows, left=(0, 1))


def _growth(chain: Cells, axis: str) -> Table:
    rows = []
    for cell in chain:
        of = getattr(cell, axis), fmt_spread(cell.step_s, factor=1e3), _fmt_median(cell.epoch_s)
        grown = cell.growth.get(axis)
        verdict = {True: "YES", False: "no", None: "-"}[grown.is_faster_than_work if grown else None]
        ratios = ("-",) * 3
        if grown:
            ratios = fmt2(grown.work), fmt_spread(grown.cost, fmt2), fmt_spread(grown.cost_per_work, fmt2)
        rows.append((*of, *ratios, verdict))
    heads = "|ms/step|s/epoch|work x|cost x|cost per work,\nfirst row = 1|faster than\nthe work?"
    return build_table(TITLES[axis], axis.replace("_", "\n") + heads, rows, left=())


def print_plan(plan: PlanResults) -> None:
    """Print the fit, its held-out errors, and its predictions."""
    facts, console = plan.facts, TerminalConsole()
    heads = "processes|images\nper step|predicted\nms/step|measured\nms/step|error %|held out"
    rows = [
        (row.world_size, f"{row.batch_size:,}", fmt(1e3 * row.predicted_step_s), fmt(1e3 * row.measured_step_s),
         f"{row.error_percent:+.1f}", row.held_out.replace(", ", ",\n"))
        for row in plan.cells if isinstance(row, HeldOut)
    ]  # fmt: skip
    console.print_table(build_table("held out: predicted against measured", heads, rows, left=(5,)))
    console.print_table(predicted_table(plan))
    sizes = list(facts.points)
    console.print(
        f"predicted by {facts.formula};\na = {facts.a_s * 1e3:.3g} ms, b = {facts.b_s_per_image * 1e6:.3g} "
        f"microseconds an image, fitted on 1 process of {facts.measured.device} at {len(sizes)} batch sizes "
        f"from {min(sizes)} to {max(sizes)}.\nall-reduce, predicted by {facts.all_reduce}.\noverlap: "
        f"{facts.settings['overlap']:g} microseconds. * batch size per rank beyond those measured."
    )


def predicted_table(plan: PlanResults) -> Table:
    """Return the table of the predictions."""
    heads = "scaling|nodes\nx each|images\nper step|per\nrank|predicted\nms/step|predicted\nimages/s|predicted\ns/epoch"
    rows = [
        (row.mode, f"{row.nodes} x {row.per_node}", f"{row.batch_size:,}",
         f"{row.per_rank_batch_size:,}{'*' * row.is_extrapolated}", fmt(1e3 * row.predicted_step_s),
         fmt(row.predicted_images_per_s), fmt(row.predicted_s_per_epoch), fmt2(row.predicted_efficiency))
        for row in plan.cells if isinstance(row, Predicted)
    ]  # fmt: skip
    return build_table(title_of(plan), f"{heads}|predicted\nefficiency", rows)


def title_of(plan: PlanResults) -> str:
    """Return the title of a prediction: model, device, machines and interconnect."""
    facts, settings = plan.facts, plan.facts.settings
    machines = f"{settings['nodes']} x {settings['gpus_per_node']}, {settings['fabric']}"
    return f"predicted, not measured: {facts.model} on {facts.measured.device}, {machines}"


def describe_outcome(cell: TrialResult) -> str:
    """Return `converged at epoch 3.5 (12 s of training)`, or why the run has not converged."""
    if cell.outcome == "converged":
        return f"converged at epoch {cell.epochs:.4g} ({fmt(cell.train_s)} s of training)"
    missed = f" (missed: {', '.join(cell.targets)})" if cell.outcome == "not converged" and cell.targets else ""
    return f"{cell.outcome}: {cell.why}{missed}" if cell.why else cell.outcome


def print_convergence(convergence: ConvergenceResults) -> None:
    """Print each run, the summary of each arm, the tests, and the targets."""
    console, facts, cells = TerminalConsole(), convergence.facts, convergence.cells
    print_fallbacks(console, ((cell.name, fallback_notice(dict(cell.engine or {}))) for cell in cells))
    if measured := [cell for cell in cells if cell.outcome not in ("unfinished", "error")]:
        console.print_table(_runs(measured, [target.name for target in facts.wanted]))
        console.print_table(_summaries(facts.summary))
    for cell in cells:
        if cell.outcome not in ("converged", "unfinished"):
            style = "red" if cell.outcome == "error" else "yellow"
            console.print(f"{cell.name}: {describe_outcome(cell)}", style=style)
    if left := sum(cell.outcome == "unfinished" for cell in cells):
        console.print(f"{left} of {len(cells)} runs are left: the same command resumes them", style="yellow")
    if facts.tests:
        title, tests = "comparison: ratio of medians, and log-rank test", facts.tests
        ratios = ("?" if test.ratio is None else fmt2(test.ratio) for test in tests)
        rows = [
            (MEASURES[test.measure], f"{test.b} / {test.a}", ratio, test.words)
            for test, ratio in zip(tests, ratios, strict=True)
        ]
        console.print_table(build_table(title, "of||ratio|verdict", rows, left=range(4)))
    console.print(f"{describe_targets(facts)}; on {facts.device}")
    if facts.notice:
        console.print(f"!! Trained on {facts.notice}. !!", style="bold yellow")


def describe_targets(facts: ConvergenceFacts) -> str:
    """Return the targets and the protocol in words."""
    targets, protocol = facts.identity.targets, facts.protocol
    limits = (f"{target.name} at {'most' if target.is_most else 'least'} {target.limit:g}" for target in facts.wanted)
    text = (
        f"targets of {targets.frozen}: {', '.join(limits)}; met {protocol.hold + 1} times in a row, "
        f"{protocol.evaluations_per_epoch} evaluations per epoch, {protocol.num:,} images each"
    )
    other = f" (another measure: the targets are for {targets.protocol.num:,})"
    return text + other * (protocol.num != targets.protocol.num)


def _runs(measured: Sequence[TrialResult], targets: Sequence[str]) -> Table:
    rows = []
    for cell in measured:
        has_converged = cell.outcome == "converged"
        clocks = [fmt(getattr(cell, measure), "?" if has_converged else "-") for measure in MEASURES]
        last = ["-" if (value := cell.last.get(name)) is None else f"{value:.3f}" for name in targets]
        met_last = "all at once" if len(cell.targets) == len(targets) else ", ".join(cell.targets)
        name = f"{cell.arm}, {cell.seed}{'*' * cell.resumed}"
        rows.append((name, *clocks, *last, met_last if has_converged else "-"))
    heads = ["preset, seed|epochs|training|with\nevals|from\nstart", *(name.replace(" ", "\n") for name in targets)]
    title = "epochs and seconds until the targets were met; the last evaluation"
    made = build_table(title, "|".join([*heads, "met last"]), rows, left=(0, 5 + len(targets)))
    if any(cell.resumed for cell in measured):
        made.caption = "* resumed after an interruption: its seconds from the start are not known"
    return made


def median_with_interval(summary: TimesSummary) -> str:
    """Return `median (low to high)`; NR: not reached."""
    median, low, high = (fmt(value, "NR") for value in (summary.median, summary.low, summary.high))
    return f"{median} ({low} to {high})"


def _summaries(summaries: dict[str, Summary]) -> Table:
    rows = []
    for arm, of in summaries.items():
        first = (arm, f"{of.converged} of {of.num} ({of.rate.low:.0%} to {of.rate.high:.0%})")
        for measure, quantity in MEASURES.items():
            if summary := getattr(of, measure):
                least, most = (fmt(end, "NR") for end in (summary.min, summary.max))
                rows.append((*first, quantity, median_with_interval(summary), f"{least} to {most}"))
                first = ("", "")
    title = "runs together, by Kaplan and Meier: a run that ended without is censored; NR: not reached"
    return build_table(title, "preset|converged (95%)|until then|median (95%)|min to max", rows, left=(0, 1, 2))
