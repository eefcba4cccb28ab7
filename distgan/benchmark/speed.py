"""`distgan bench throughput` and `bench scaling`: each configuration measured once per round.

Each measurement runs in fresh processes, and an engine is timed only if it first reproduces the eager engine's steps.
"""

import json
import shlex
import sys
from contextlib import suppress
from itertools import product
from typing import Any

import psutil
import torch

from distgan.benchmark import results
from distgan.benchmark.configurations import command, count_images, scaling_cells, throughput_cells
from distgan.benchmark.flops import FORMULA
from distgan.benchmark.measurement import Measurement, Roofline, Spread, TimedRun, TimingSettings
from distgan.benchmark.options import ScalingConfig, SpeedConfig, ThroughputConfig
from distgan.benchmark.plots import plot_speeds
from distgan.benchmark.ratios import summarise_cells
from distgan.benchmark.results import SpeedResults, say
from distgan.benchmark.tables import print_speeds
from distgan.config.schema import Config
from distgan.errors import CommandFailed
from distgan.utils.child_process import ChildFailed, build_child_env, run_json
from distgan.utils.devices import device_named
from distgan.utils.files import parse_model
from distgan.utils.hardware import count_gpus
from distgan.utils.operating_system import count_cores
from distgan.utils.parts_progress import PartsProgress
from distgan.utils.paths import user_path
from distgan.utils.text import pluralize

# For the reader of results.json.
NOTES = {
    "repeats": "the next steps of the training; the order of a new epoch and its short last batch are part of them; "
    "seconds by a GPU's events, else by the host's clock; of several processes those of the slowest",
    "epoch_s": "seconds of a repeat * images of an epoch / images of the repeat; images_per_s: the inverse",
    "kernels_per_step": "on a GPU, copies and fills not counted, by torch's profiler over a few steps",
    "operators_per_step": "those that reach a CPU below autograd, views among them; none of an engine that compiles",
    "mfu": "flops_per_image * images_per_s / the FLOP/s that this device was measured to reach in such numbers "
    "(roofline.peak_flops, in mfu_peak's); what a convolution multiplies with padding counts, though libraries skip it",
    "gate": "losses and weights: the largest relative differences to the eager engine after `steps`",
    "peak_memory_gib": "on a GPU of torch's allocator, after the gate; on a CPU of the process, gate included",
    "against": "seconds an image of the plain loop / those of the cell: medians of a round, over the rounds; the plain "
    "loops leave TF32 as torch has it, on in cuDNN's convolutions and off in matmuls",
    "efficiency": "strong: W0 T(W0) / (W T(W)) at one batch; weak: T(W0) / T(W) at one batch per process; by round",
    "growth": "of cost (seconds per step) and work (FLOP) since the cell before on the axis; by round",
}


def throughput(config: ThroughputConfig) -> None:
    """Measure, print tables, and write results.json (after each one), throughput.png and traces to a new folder.

    Raises UserError, and CommandFailed if a cell has no speed.
    """
    results.check_not_launched("throughput")
    device = device_named(config.device)
    results.check_runs_here(config.engines, config.precisions or [], is_cuda=device.type == "cuda")
    _measure("throughput", config, throughput_cells(config, device), device)


def scaling(config: ScalingConfig) -> None:
    """Measure, print tables, and write results.json (after each one) and scaling.png to a new folder.

    Raises UserError, and CommandFailed at the end if a cell could not be measured.
    """
    results.check_not_launched("scaling")
    device = device_named(config.device)
    results.check_runs_here([config.engine], [config.precision], is_cuda=device.type == "cuda")
    cells = scaling_cells(config, device)
    threads, most = Config.model_validate(cells[0].training).run.threads, max(cell.world_size for cell in cells)
    note = f"a GPU for each process, of {count_gpus()} here"
    if device.type == "cpu":
        per_process = f"{pluralize(threads or 1, 'CPU thread')} a process"
        note = f"{per_process}, on {count_cores()} cores, which share caches and memory"
        note += "; more threads than cores, so the ideal is out of reach" * (most * (threads or 1) > count_cores())
    note += "; ratios are over rounds, times over all repeats, and the slowest process counts"
    _measure("scaling", config, cells, device, threads=threads, note=note)


def _measure(kind: str, config: SpeedConfig, cells: list[Measurement], device: torch.device, **more: object) -> None:
    is_cuda, has_roofline = device.type == "cuda", kind == "throughput"
    timing = TimingSettings(
        warmup=(30 if is_cuda else 2) if config.warmup is None else config.warmup,
        steps=(200 if is_cuda else config.CPU_STEPS) if config.steps is None else config.steps,
        counts=has_roofline,
        **config.model_dump(include={"gate_steps", "repeats", "whole_run"}),
    )
    count_images(cells)
    is_new = config.out is None or not user_path(config.out, "--out").exists()
    folder = results.new_folder(config.out, kind)
    settings = {"settings": config.model_dump(), "pace": timing.model_dump(), "flop_formula": FORMULA, "notes": NOTES}
    path = folder / results.FILE
    try:
        facts = results.collect_facts(device, **settings | more)
        if (load := psutil.getloadavg()[0]) > 0.2 * count_cores():
            say(f"note: other programs use {load:.1f} of {count_cores()} cores, which affects the measurements")
        if has_roofline:
            facts.roofline = _roofline(config, device)
        speeds = SpeedResults.model_validate({"kind": kind, "is_partial": True, "facts": facts, "cells": cells})
        with PartsProgress(config.rounds * len(cells), "measurements") as progress:
            for number, cell in product(range(config.rounds), speeds.cells):
                message = "skipped"
                if cell.status in ("waits", "ok"):
                    trace = folder / f"trace-{cell.id.replace('/', '-')}.json" if config.profile else None
                    message = _measure_cell(cell, number, command(cell, timing, trace), config)
                    summarise_cells(speeds.cells, facts.roofline)
                    speeds.write(path)
                progress.finish(f"round {number + 1}/{config.rounds}, {cell.id}: {message}")
        speeds.is_partial = False
        speeds.write(path)
    finally:  # after a Ctrl-C too
        if path.exists():
            results.publish(speeds, folder, print_speeds, plot_speeds)
        elif is_new:
            with suppress(OSError):  # not empty: a trace
                folder.rmdir()
    if failed := [cell for cell in speeds.cells if cell.status != "ok"]:
        names = ", ".join(cell.id for cell in failed)
        raise CommandFailed(f"{len(failed)} of {len(cells)} cells failed: {names}; the first: {failed[0].why}")


def _measure_cell(cell: Measurement, number: int, command: list[str], config: SpeedConfig) -> str:
    """Measure a cell in round `number`, add the result or the error to it, and return that in words."""
    try:
        timed_run = parse_model(TimedRun, _outcome(command, config, cell.world_size), "a worker")
    except ChildFailed as error:
        cell.status, cell.why = "error", str(error)
        return f"error: {error}"
    timed_run.number, timed_run.command = number, shlex.join(["python", *command[1:]])
    cell.runs.append(timed_run)
    if timed_run.gate and not timed_run.gate.passed:  # a plain loop has none: it is its own measure
        cell.status, cell.why = "gate failed", timed_run.gate.words
        for run in cell.runs:
            run.repeats, run.warmup_s, run.peak_memory_gib = [], None, None
            run.kernels_per_step = run.operators_per_step = None
        return f"{cell.status}: {cell.why}"
    cell.status = "ok"
    last = Spread.of(1e3 * seconds for seconds in timed_run.step_s)
    return f"{last.median:,.2f} ms per step ({last.p5:,.2f} to {last.p95:,.2f})"


def _roofline(config: SpeedConfig, device: torch.device) -> Roofline:
    say("roofline: measuring the peak of a matmul and a copy")
    peaks = {"run": {"device": device.type, "threads": config.threads}}
    try:
        outcome = _outcome([sys.executable, "-m", "distgan.benchmark.roofline", json.dumps(peaks)], config, 1)
    except ChildFailed as error:
        raise CommandFailed(f"roofline: {error}") from None
    return parse_model(Roofline, outcome, "roofline")


def _outcome(command: list[str], config: SpeedConfig, world_size: int) -> dict[str, Any]:
    """Run a command, and return the last line of its output, parsed as JSON. Raises ChildFailed."""
    environment = build_child_env()
    if config.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    if config.threads or world_size > 1:
        # torchrun would set it, and warn; a training sets its own threads.
        environment["OMP_NUM_THREADS"] = str(config.threads or 1)
    return run_json(command, timeout_s=config.timeout, env=environment)
