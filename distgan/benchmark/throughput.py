"""`distgan bench throughput`: the cells of a matrix and plain loops take turns, each turn in a fresh process."""

import json
import shlex
import sys
from itertools import product
from statistics import median
from typing import Any

from distgan.benchmark import results
from distgan.benchmark.flops import FORMULA
from distgan.benchmark.matrix import Cell, Pace, command, plan
from distgan.benchmark.options import ThroughputConfig
from distgan.benchmark.results import check_runs_on_cpu, say, summary
from distgan.benchmark.throughput_report import PLOT, save_plot, show
from distgan.config.registry import ENGINES, PRECISIONS
from distgan.distributed.env import is_launched
from distgan.errors import CommandFailed, UserError, print_line
from distgan.utils.child_process import ChildFailed, own_modules, run_json
from distgan.utils.devices import device_named
from distgan.utils.parts_progress import PartsProgress

# For the reader of results.json.
NOTES = {
    "repeats": "a repeat is the next steps of the training; the order of a new epoch and its short last batch are "
    "part of them; seconds by the device's events on a GPU, else by the host's clock, host_s by the host's",
    "epoch_s": "seconds of a repeat * images of an epoch / images of the repeat; host_epoch_s by the host's clock; "
    "images_per_s: images of an epoch / epoch_s",
    "kernels_per_step": "on a GPU, copies and fills not counted, by torch's profiler over a few steps",
    "mfu": "flops_per_image * images_per_s / the FLOP/s that this device was measured to reach in such numbers "
    "(roofline.peak_flops, in mfu_peak's); what a convolution multiplies with padding counts, though libraries skip it",
    "gate": "losses and weights: the largest relative differences to the eager engine after `steps`",
    "peak_memory_gib": "on a GPU of torch's allocator, after the gate; on a CPU of the whole process, gate included",
    "operators_per_step": "those that reach a CPU below autograd, views among them; not known of an engine that "
    "compiles",
    "against": "seconds an image of the plain loop / those of the cell: medians of a round, over the rounds; the plain "
    "loops leave TF32 as torch has it, on in cuDNN's convolutions and off in matmuls",
}
_DIGESTED = (
    "step_s", "step_ms", "images_per_s", "epoch_s", "host_epoch_s", "peak_memory_gib", "mfu", "mfu_peak", "against",
)  # fmt: skip


def digest(cell: Cell, roofline: dict[str, Any]) -> None:
    """Adds what the cell's runs so far come to, or takes every speed away from a cell that has failed."""
    runs = cell["runs"]
    if cell["status"] != "ok":
        for run in runs:
            for key in ("repeats", "warmup", "peak_memory_gib", "kernels_per_step", "operators_per_step"):
                run.pop(key, None)
        for key in _DIGESTED:
            cell.pop(key, None)
        return
    epoch_images, repeats = runs[-1]["epoch_images"], [each for run in runs for each in run["repeats"]]
    cell["step_s"] = [[each["seconds"] / each["steps"] for each in run["repeats"]] for run in runs]
    cell["step_ms"] = summary([1e3 * each["seconds"] / each["steps"] for each in repeats])
    cell["epoch_s"] = of = summary([epoch_images * each["seconds"] / each["images"] for each in repeats])
    # Of the same repeats as the seconds: with an even number of them a median of rates is another one's.
    rates = {"median": of["median"], "p5": of["p95"], "p95": of["p5"]}
    cell["images_per_s"] = {key: epoch_images / seconds for key, seconds in rates.items()} | {"num": of["num"]}
    if cell["contender"] == "distgan":
        cell["host_epoch_s"] = summary([epoch_images * each["host_s"] / each["images"] for each in repeats])
        cell["peak_memory_gib"] = max(run["peak_memory_gib"] for run in runs)
        cell["mfu"], cell["mfu_peak"] = _mfu(cell, roofline)


def _mfu(cell: Cell, roofline: dict[str, Any]) -> tuple[float | None, str]:
    """The part of the device's own matmul speed that the formula's FLOP reach, and in which numbers that was."""
    run = cell["runs"][-1]
    peak = cell["precision"]
    flops = run["flops_per_image"]
    if flops is None:
        return None, peak
    return flops * cell["images_per_s"]["median"] / roofline["peak_flops"][peak], peak


def hold_against_peers(cells: list[Cell]) -> None:
    """By plain loop and its precision: how many times its seconds an image are a cell's, round by round."""
    for cell in cells:
        if cell["contender"] != "distgan" or cell["status"] != "ok":
            continue
        found = {}
        for peer in cells:
            is_pair = all(peer[key] == cell[key] for key in ("model", "batch_size", "order"))
            if is_pair and peer["contender"] != "distgan" and peer["status"] == "ok":
                pairs = zip(peer["runs"], cell["runs"], strict=False)  # the last round may not be over
                ratios = [_image_s(theirs) / _image_s(ours) for theirs, ours in pairs]
                found[f"{peer['contender']} {peer['precision']}"] = summary(ratios) | {
                    "min": min(ratios),
                    "max": max(ratios),
                }
        cell["against"] = found


def _image_s(run: dict[str, Any]) -> float:
    return median(each["seconds"] / each["images"] for each in run["repeats"])


# -- The turns --


def run(config: ThroughputConfig) -> None:
    """Measures, prints tables, and leaves results.json, throughput.png and traces in a new folder.

    results.json is whole after each turn. Raises UserError, and CommandFailed where a cell has no speed.
    """
    if is_launched():
        raise UserError("bench throughput: measures one process; allowed: without a launcher", code="launch")
    device = device_named(config.device)
    is_cuda = device.type == "cuda"
    if not is_cuda:
        check_runs_on_cpu("--engine", config.engines, ENGINES)
        check_runs_on_cpu("--precision", config.precisions or [], PRECISIONS)
    cells = plan(config, is_cuda=is_cuda)
    pace = Pace(
        (30 if is_cuda else 2) if config.warmup is None else config.warmup,
        (200 if is_cuda else 8) if config.steps is None else config.steps,
        config.repeats,
    )
    folder = results.new_folder(config.out, "throughput")
    facts = results.facts(device) | {"settings": config.model_dump(), "pace": pace._asdict()}
    facts |= {"flop_formula": FORMULA, "notes": NOTES}
    if facts["load"] > 0.2 * facts["cores"]:
        say(f"note: other programs keep {facts['load']:.1f} of {facts['cores']} cores busy, which figures suffer from")
    say("roofline: what this device reaches in a matmul and a copy")
    peaks = {"run": {"device": device.type, "threads": config.threads}}
    facts["roofline"] = _outcome(
        [sys.executable, "-m", "distgan.benchmark.roofline", json.dumps(peaks)], config, is_cuda=is_cuda
    )
    if "error" in facts["roofline"]:
        raise CommandFailed(f"roofline: {facts['roofline']['error']}")
    path = folder / results.FILE
    try:
        with PartsProgress(config.rounds * len(cells), "turns") as progress:
            for turn, cell in product(range(1, config.rounds + 1), cells):
                if cell["status"] not in ("waits", "ok"):
                    progress.finish(f"round {turn}/{config.rounds}, {cell['id']}: left out")
                    continue
                trace = folder / f"trace-{cell['id'].replace('/', '-')}.json" if config.profile else None
                words = command(cell, config, device.type, pace, trace)
                _add(cell, words, _outcome(words, config, is_cuda=is_cuda))
                digest(cell, facts["roofline"])
                hold_against_peers(cells)
                results.write(path, "throughput", facts, cells)
                progress.finish(f"round {turn}/{config.rounds}, {cell['id']}: {_said(cell)}")
    finally:  # after a Ctrl-C too
        if path.exists():
            show(facts, cells)
            pictures = results.drawn(lambda: save_plot(folder / PLOT, facts, cells), folder / PLOT)
            print_line(", ".join(map(str, [path, *pictures])))
    if failed := [cell["id"] for cell in cells if cell["status"] != "ok"]:
        raise CommandFailed(f"{len(failed)} of {len(cells)} cells have no speed: {', '.join(failed)}")


def _add(cell: Cell, words: list[str], found: dict[str, Any]) -> None:
    """What a turn found to the cell, and whether it still has a speed."""
    if "error" in found:
        cell |= {"status": "error", "why": found["error"]}
        return
    cell["runs"].append({"command": shlex.join(["python", *words[1:]])} | found)
    gate = found.get("gate", {"passed": True})  # a plain loop is its own measure
    cell["status"] = "ok" if gate["passed"] else "gate failed"
    if not gate["passed"]:
        cell["why"] = gate["words"]


def _outcome(words: list[str], config: ThroughputConfig, *, is_cuda: bool) -> dict[str, Any]:
    """What a fresh process says in its last line of JSON, or {"error": why there is none}."""
    environment = own_modules()
    if not is_cuda:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    if config.threads:
        environment["OMP_NUM_THREADS"] = str(config.threads)
    try:
        return run_json(words, timeout_s=config.timeout, env=environment)
    except ChildFailed as error:
        return {"error": str(error)}


def _said(cell: Cell) -> str:
    if cell["status"] != "ok":
        return f"{cell['status']}: {cell['why']}"
    last = results.summary([1e3 * each for each in cell["step_s"][-1]])
    return f"{last['median']:,.2f} ms per step ({last['p5']:,.2f} to {last['p95']:,.2f})"
