"""The tables of `distgan bench`: speeds, ratios, scaling, comparisons, predictions and convergence."""

from collections.abc import Callable, Iterable, Sequence
from statistics import median

from rich import box
from rich.table import Table

from distgan.benchmark.convergence_results import MEASURES, ConvergenceFacts, ConvergenceResults, Summary, TrialResult
from distgan.benchmark.measurement import Measurement, Spread, engine_notices
from distgan.benchmark.ratios import BATCH_SIZE, STRONG, WEAK, WIDTH, of_axis
from distgan.benchmark.results import HeldOut, PlanResults, Predicted, SpeedResults
from distgan.training.engines.selection import fallback_notice
from distgan.utils.terminal import TerminalConsole

TITLES = {
    STRONG: "strong scaling: one batch, shared by the processes",
    WEAK: "weak scaling: one batch for each process",
    BATCH_SIZE: "growing work, 1 process: batch size",
    WIDTH: "growing work, 1 process: width",
}
MESSAGES = {
    "tiny": "one number",
    "generator": "G's gradients",
    "discriminator": "D's gradients",
    "batch_norm": "BatchNorm's sums, all of a step",
}
_LOOPS = {"pytorch": "plain PyTorch", "accelerate": "plain Accelerate"}
_PHASES = ("compile", "capture", "check", "race")
# How each setting is said, of those in which cells differ.
_SETTINGS: dict[str, Callable[[Measurement], str]] = {
    "engine": lambda cell: cell.engine or "",
    "precision": lambda cell: "float32" if cell.precision == "no" else cell.precision,
    "batch_size": lambda cell: f"batch {cell.batch_size:,}",
    "order": lambda cell: f"order {cell.order}",
    "width": lambda cell: f"width {cell.width:g}",
    "world_size": lambda cell: "1 process" if cell.world_size == 1 else f"{cell.world_size} processes",
}


def table(title: str, *columns: str, left: int = 1, may_wrap: bool = False) -> Table:
    """`left`: how many columns have text, and are on the left; the others have numbers. 80 characters have to do."""
    style = {"title_justify": "left", "caption_justify": "left", "box": box.SIMPLE_HEAD}
    made = Table(title=title, pad_edge=False, padding=0, **style)  # type: ignore[arg-type]  # names of each type
    for number, column in enumerate(columns):
        is_text = number < left
        made.add_column(column, justify="left" if is_text else "right", no_wrap=not (is_text or may_wrap))
    return made


def short(value: float | None, unknown: str = "-") -> str:
    """Return three digits, or all before the point."""
    if value is None:
        return unknown
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def spread(found: Spread | None, form: Callable[[float], str] = short, factor: float = 1.0) -> str:
    """Median (p5–p95), times a factor that makes the unit; `-` for nothing."""
    if not found:
        return "-"
    middle, low, high = (form(factor * value) for value in (found.median, found.p5, found.p95))
    return f"{middle} ({low}–{high})"


def _two(value: float) -> str:
    return f"{value:.2f}"


def print_fallbacks(console: TerminalConsole, notices: Iterable[tuple[str, str]]) -> None:
    """Print above the tables which cells, by name, ran another engine than requested, and why."""
    for name, notice in notices:
        console.print(f"!! {name}: {notice} !!", style="bold yellow")


# -- bench throughput and bench scaling --


def print_speeds(found: SpeedResults, console: TerminalConsole | None = None) -> None:
    """Print engine fallbacks, speeds, start-up times with gate results, ratios, what scales how, and failures."""
    console, cells, facts = console or TerminalConsole(), found.cells, found.facts
    print_fallbacks(console, ((name_of(cell, cells), notice) for cell, notice in engine_notices(cells)))
    if found.is_partial:
        console.print("!! PARTIAL: it was interrupted; cells may have fewer rounds, or none !!", style="bold yellow")
    if measured := [cell for cell in cells if cell.measured]:
        console.print_table(_speeds(measured, cells, facts.device_type))
    if started := [cell for cell in cells if cell.runs and cell.runs[-1].gate]:
        console.print_table(_starts(started, cells))
    if loops := list(dict.fromkeys(loop for cell in measured for loop in cell.against)):
        console.print_table(_ratios([cell for cell in measured if cell.against], cells, loops))
    for axis in (STRONG, WEAK):
        if len(of_axis(cells, axis)) > 1:
            console.print_table(_scaling(of_axis(cells, axis), axis))
    if any(run.all_reduce_s for cell in measured for run in cell.measured):
        console.print_table(_all_reduces(cells))
    for axis in (BATCH_SIZE, WIDTH):
        if len(of_axis(cells, axis)) > 1:
            console.print_table(_growth(of_axis(cells, axis), axis))
    for cell in cells:
        if cell.status in ("error", "gate failed"):
            console.print(f"{name_of(cell, cells)}: {cell.status}: {cell.why}", style="red")
        if cell.epoch_s and cell.host_epoch_s and cell.host_epoch_s.median > 1.1 * cell.epoch_s.median:
            device_s, host_s = short(cell.epoch_s.median), short(cell.host_epoch_s.median)
            words = f"{host_s} s per epoch by the host's clock, {device_s} by the device's events"
            console.print(f"{name_of(cell, cells)}: {words}", style="yellow")
    reasons = {f"{run.engine.name} ({run.engine.why})" for cell in cells for run in cell.runs if run.engine}
    console.print(f"engine: {', '.join(sorted(reasons)) or '-'}")
    if facts.roofline:
        reached = ", ".join(f"{kind} {_si(value)}FLOP/s" for kind, value in facts.roofline.peak_flops.items())
        console.print(f"{facts.device} reaches {reached}; copy {_si(facts.roofline.copy_bytes_per_s)}B/s")
    else:
        console.print(f"{facts.device}; {facts.note or ''}")


def name_of(cell: Measurement, cells: Sequence[Measurement]) -> str:
    """What tells the cell from the others: its model, and each setting of which there are several."""
    ours = [each for each in cells if each.is_ours]
    parts = [cell.model, _LOOPS.get(cell.contender, "")]
    parts += [say(cell) for key, say in _SETTINGS.items() if len({getattr(each, key) for each in ours}) > 1]
    return " ".join(filter(None, parts))


def common_settings(cells: Sequence[Measurement]) -> str:
    """The settings that all cells share, for a title."""
    ours = [cell for cell in cells if cell.is_ours]
    shared = [say(ours[0]) for key, say in _SETTINGS.items() if len({getattr(cell, key) for cell in ours}) == 1]
    return ", ".join(filter(None, shared))


def _speeds(measured: Sequence[Measurement], cells: Sequence[Measurement], device_type: str) -> Table:
    launched, head = ("kernels_per_step", "kernels") if device_type == "cuda" else ("operators_per_step", "ops")
    repeats = max(sum(len(run.repeats) for run in cell.measured) for cell in measured)
    rounds, steps = max(len(cell.measured) for cell in measured), measured[0].measured[0].repeats[0].steps
    title = f"{common_settings(cells)}: median (p5–p95) of {repeats} repeats of {steps} steps, rounds: {rounds}"
    made = table(title, "cell", "ran", "images/s", "ms/step", "s/epoch", "MFU %", "GiB", head, left=2)
    for cell in measured:
        num = getattr(cell.measured[-1], launched)
        assert cell.images_per_s
        assert cell.step_s
        made.add_row(
            name_of(cell, cells),
            ", ".join(cell.engines) or "-",
            short(cell.images_per_s.median),
            short(1e3 * cell.step_s.median),
            spread(cell.epoch_s),
            "-" if cell.mfu is None else f"{100 * cell.mfu:.1f}",
            "-" if cell.peak_memory_gib is None else f"{cell.peak_memory_gib:.2f}",
            "-" if num is None else f"{num:.0f}",
        )
    return made


def _starts(started: Sequence[Measurement], cells: Sequence[Measurement]) -> Table:
    title = "before the clock, seconds; the gate's differences in losses and in weights"
    made = table(title, "cell", "build", *_PHASES, "gate", "warm-up", "verdict")
    for cell in started:
        run, gate = cell.runs[0], cell.runs[-1].gate
        assert gate
        off = (each if isinstance(each, str) else f"{each:.0e}" for each in (gate.losses, gate.weights))
        made.add_row(
            name_of(cell, cells),
            f"{sum(run.build_s.values()) - sum(run.start_s.values()):.1f}",
            *(f"{run.start_s[key]:.1f}" if key in run.start_s else "-" for key in _PHASES),
            f"{gate.seconds:.1f}",
            "-" if run.warmup_s is None else f"{run.warmup_s:.1f}",
            f"{'passed' if gate.passed else 'FAILED'} {' '.join(off)}",
        )
    return made


def _ratios(held: Sequence[Measurement], cells: Sequence[Measurement], loops: Sequence[str]) -> Table:
    title = "plain loop / cell, in time: median (min–max) of the rounds"
    heads = [f"{_LOOPS[peer].split()[1]} {'float32' if kind == 'no' else kind}" for peer, kind in map(str.split, loops)]
    made = table(title, "cell", *heads, may_wrap=True)
    for cell in held:
        ratios = (cell.against.get(loop) for loop in loops)
        made.add_row(
            name_of(cell, cells),
            *("-" if of is None else f"{of.median:.2f} ({of.min:.2f}–{of.max:.2f})" for of in ratios),
        )
    return made


def _si(value: float) -> str:
    for factor, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:.3g} {letter}"
    return f"{value:.3g} "


def _scaling(chain: Sequence[Measurement], axis: str) -> Table:
    heads = ("processes", "images per step", "images/s", "s/epoch", "efficiency", "all-reduce's share", "GiB")
    made = table(TITLES[axis], *heads, left=0)
    for cell in chain:
        shares = [run.all_reduce_share for run in cell.measured if run.all_reduce_share is not None]
        made.add_row(
            str(cell.world_size),
            f"{cell.batch_size:,}",
            spread(cell.images_per_s),
            short(cell.epoch_s.median if cell.epoch_s else None),
            spread(cell.efficiency.get(axis), _two),
            f"{median(shares):.2f}" if shares else "-",
            f"{cell.peak_memory_gib or 0:.2f}",
        )
    return made


def all_reduces(cells: Sequence[Measurement], world_size: int) -> dict[str, tuple[Spread, int]]:
    """Of each kind of message: seconds over all cells of that many processes, and its bytes, the same in each."""
    runs = [run for cell in cells if cell.world_size == world_size for run in cell.measured]
    seconds: dict[str, list[float]] = {}
    for run in runs:
        for kind, values in run.all_reduce_s.items():
            seconds.setdefault(kind, []).extend(values)
    return {kind: (Spread.of(values), sum(runs[0].messages_bytes[kind])) for kind, values in seconds.items() if values}


def _all_reduces(cells: Sequence[Measurement]) -> Table:
    made = table("all-reduce alone, float32", "processes", "message", "bytes", "microseconds", "GB/s",
                 "part of a weak step", left=2)  # fmt: skip
    steps = {cell.world_size: cell.step_s.median for cell in of_axis(cells, WEAK) if cell.step_s}
    for size in sorted({cell.world_size for cell in cells}):
        for kind, (seconds, total) in all_reduces(cells, size).items():
            is_in_step = kind != "tiny"
            made.add_row(
                str(size),
                MESSAGES[kind],
                f"{total:,}",
                spread(seconds, lambda value: f"{value:,.0f}", 1e6),
                f"{total / seconds.median / 1e9:.2f}" if is_in_step else "-",
                f"{seconds.median / steps[size]:.3f}" if is_in_step and size in steps else "-",
            )
    return made


def _growth(chain: Sequence[Measurement], axis: str) -> Table:
    made = table(TITLES[axis], axis.replace("_", " "), "ms/step", "s/epoch", "work x", "cost x",
                 "cost for the work, to the first", "faster than the work?", left=0)  # fmt: skip
    for cell in chain:
        grown = cell.growth.get(axis)
        made.add_row(
            f"{getattr(cell, axis):g}",
            spread(cell.step_s, factor=1e3),
            short(cell.epoch_s.median if cell.epoch_s else None),
            _two(grown.work) if grown and grown.work else "-",
            spread(grown.cost if grown else None, _two),
            spread(grown.cost_per_work if grown else None, _two),
            {True: "YES", False: "no", None: "-"}[grown.is_faster_than_work if grown else None],
        )
    return made


# -- bench plan --


def print_plan(found: PlanResults) -> None:
    """The fit, its errors where it can be checked, and what it predicts."""
    facts, console = found.facts, TerminalConsole()
    title = "held out: predicted against measured"
    heads = ("processes", "images\nper step", "predicted\nms/step", "measured\nms/step", "error %", "held out")
    made = table(title, *heads, left=0)
    made.columns[-1].justify = "left"
    for row in found.cells:
        if isinstance(row, HeldOut):
            milliseconds = (short(1e3 * each) for each in (row.predicted_step_s, row.measured_step_s))
            made.add_row(
                str(row.world_size),
                f"{row.batch_size:,}",
                *milliseconds,
                f"{row.error_percent:+.1f}",
                row.held_out.replace(", ", ",\n"),
            )
    console.print_table(made)
    console.print_table(predicted_table(found))
    sizes = list(facts.points)
    console.print(
        f"predicted by {facts.formula};\na = {facts.a_s * 1e3:.3g} ms, b = {facts.b_s_per_image * 1e6:.3g} "
        f"microseconds an image, fitted on 1 process of {facts.measured.device} at {len(sizes)} batch sizes "
        f"from {min(sizes)} to {max(sizes)}.\nall-reduce, predicted by {facts.all_reduce}.\noverlap: "
        f"{facts.settings['overlap']:g} microseconds. * batch size per rank beyond those measured."
    )


def predicted_table(found: PlanResults) -> Table:
    predicted = (f"predicted\n{unit}" for unit in ("ms/step", "images/s", "s/epoch", "efficiency"))
    made = table(title_of(found), "scaling", "nodes\nx each", "images\nper step", "per\nrank", *predicted)
    for row in found.cells:
        if isinstance(row, Predicted):
            made.add_row(
                row.mode,
                f"{row.nodes} x {row.per_node}",
                f"{row.batch_size:,}",
                f"{row.per_rank_batch_size:,}{'*' * row.is_extrapolated}",
                short(1e3 * row.predicted_step_s),
                short(row.predicted_images_per_s),
                short(row.predicted_s_per_epoch),
                _two(row.predicted_efficiency),
            )
    return made


def title_of(found: PlanResults) -> str:
    facts, settings = found.facts, found.facts.settings
    machines = f"{settings['nodes']} x {settings['gpus_per_node']}, {settings['fabric']}"
    return f"predicted, not measured: {facts.model} on {facts.measured.device}, {machines}"


# -- bench convergence --


def outcome(cell: TrialResult) -> str:
    """`converged at epoch 3.5 (12 s of training)`, or why it has not."""
    if cell.outcome == "converged":
        return f"converged at epoch {cell.epochs:.4g} ({short(cell.train_s)} s of training)"
    if cell.outcome == "not converged" and cell.targets:
        return f"not converged: {cell.why} (missed: {', '.join(cell.targets)})"
    return f"{cell.outcome}: {cell.why}" if cell.why else cell.outcome


def print_convergence(found: ConvergenceResults) -> None:
    """Each run, what those of an arm say together, the tests, and what was asked of the runs."""
    console, facts, cells = TerminalConsole(), found.facts, found.cells
    engines = ((cell.name, cell.engine and fallback_notice(cell.engine.model_dump())) for cell in cells)
    print_fallbacks(console, ((name, notice) for name, notice in engines if notice))
    if measured := [cell for cell in cells if cell.outcome not in ("unfinished", "error")]:
        console.print_table(_runs(measured, [target.name for target in facts.wanted]))
        console.print_table(_summaries(facts.summary))
    for cell in cells:
        if cell.outcome not in ("converged", "unfinished"):
            console.print(f"{cell.name}: {outcome(cell)}", style="red" if cell.outcome == "error" else "yellow")
    if left := sum(cell.outcome == "unfinished" for cell in cells):
        console.print(f"{left} of {len(cells)} runs are left: the same command resumes them", style="yellow")
    if facts.tests:
        made = table("one against the other: ratio of medians, and log-rank test", "of", "", "ratio", "verdict", left=4)
        for test in facts.tests:
            ratio = "?" if test.ratio is None else _two(test.ratio)
            made.add_row(MEASURES[test.measure], f"{test.b} / {test.a}", ratio, test.words)
        console.print_table(made)
    console.print(f"{asked(facts)}; on {facts.device}")
    if facts.notice:
        console.print(f"!! Trained on {facts.notice}. !!", style="bold yellow")


def asked(facts: ConvergenceFacts) -> str:
    """The targets and the protocol in words."""
    own, protocol = facts.identity.targets, facts.protocol
    limits = (f"{target.name} at {'most' if target.is_most else 'least'} {target.limit:g}" for target in facts.wanted)
    text = (
        f"targets of {own.frozen}: {', '.join(limits)}; met {protocol.hold + 1} times in a row, "
        f"{protocol.evaluations_per_epoch} evaluations per epoch, {protocol.num:,} images each"
    )
    other = f" (another measure: the targets are for {own.protocol.num:,})"
    return text + other * (protocol.num != own.protocol.num)


def _runs(measured: Sequence[TrialResult], targets: Sequence[str]) -> Table:
    heads = ("epochs", "training", "with\nevals", "from\nstart", *(name.replace(" ", "\n") for name in targets))
    made = table("epochs and seconds until the targets were met; the last evaluation", "preset, seed", *heads)
    made.add_column("met last")
    if any(cell.resumed for cell in measured):
        made.caption = "* resumed after an interruption: its seconds from the start are not known"
    for cell in measured:
        has_converged = cell.outcome == "converged"
        names = "all at once" if len(cell.targets) == len(targets) else ", ".join(cell.targets)
        last = (cell.last.get(name) for name in targets)
        made.add_row(
            f"{cell.arm}, {cell.seed}{'*' * cell.resumed}",
            *(short(getattr(cell, measure), "?" if has_converged else "-") for measure in MEASURES),
            *("-" if value is None else f"{value:.3f}" for value in last),
            names if has_converged else "-",
        )
    return made


def _summaries(summaries: dict[str, Summary]) -> Table:
    title = "runs together, by Kaplan and Meier: a run that ended without is censored; NR: not reached"
    made = table(title, "preset", "converged (95%)", "until then", "median (95%)", "min to max", left=3)
    for arm, of in summaries.items():
        first = (arm, f"{of.converged} of {of.num} ({of.rate.low:.0%} to {of.rate.high:.0%})")
        for measure, words in MEASURES.items():
            if (found := getattr(of, measure)) is None:
                continue
            median, low, high, least, most = (
                short(value, "NR") for value in (found.median, found.low, found.high, found.min, found.max)
            )
            made.add_row(*first, words, f"{median} ({low} to {high})", f"{least} to {most}")
            first = ("", "")
    return made
