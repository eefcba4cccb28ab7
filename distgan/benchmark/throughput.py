"""`distgan bench throughput`: the cells of a matrix and plain loops take turns, each turn in a fresh process."""

import json
import os
import shlex
import subprocess
import sys
from contextlib import suppress
from typing import Any

import torch

from distgan.benchmark import results
from distgan.benchmark.aggregate import NOTES, digest, hold_against_peers
from distgan.benchmark.flops import FORMULA
from distgan.benchmark.matrix import PEERS_FOLDER, Cell, Pace, command, plan
from distgan.benchmark.options import ThroughputConfig
from distgan.benchmark.results import refuse_on_cpu
from distgan.benchmark.throughput_report import PLOT, save_plot, show
from distgan.distributed.env import is_launched
from distgan.errors import CommandFailed, UserError
from distgan.utils.process import last_words, own_modules


def run(config: ThroughputConfig) -> None:
    """Measures, prints tables, and leaves results.json, throughput.png and traces in a new folder.

    results.json is whole after each turn. Raises UserError, and CommandFailed where a cell has no speed.
    """
    if is_launched():
        raise UserError("bench throughput: measures one process; allowed: without a launcher")
    device = _device(config.device)
    is_cuda = device.type == "cuda"
    if not is_cuda:
        refuse_on_cpu("--engines", config.engines, ("graph", "graph-compiled"))
        refuse_on_cpu("--precisions", config.precisions, ("tf32", "fp16"))
    cells = plan(config)
    pace = Pace(
        (30 if is_cuda else 2) if config.warmup is None else config.warmup,
        (200 if is_cuda else 8) if config.steps is None else config.steps,
        config.repeats,
    )
    folder = results.new_folder(config.out, "throughput")
    facts = results.facts(device) | {"settings": config.model_dump(), "pace": pace._asdict()}
    facts |= {"flop_formula": FORMULA, "notes": NOTES}
    if facts["load"] > 0.2 * facts["cores"]:
        _say(
            f"note: other programs keep {facts['load']:.1f} of {facts['cores']} cores busy, which figures suffer from"
        )
    _say("roofline: what this device reaches in a matmul and a copy")
    peaks = {"run": {"device": device.type, "threads": config.threads}}
    facts["roofline"] = _outcome(
        [sys.executable, "-m", "distgan.benchmark.roofline", json.dumps(peaks)], config, is_cuda=is_cuda
    )
    if "error" in facts["roofline"]:
        raise CommandFailed(f"roofline: {facts['roofline']['error']}")
    path = folder / results.FILE
    try:
        for turn in range(1, config.rounds + 1):
            for cell in cells:
                if cell["status"] not in ("waits", "ok"):
                    continue
                trace = folder / f"trace-{cell['id'].replace('/', '-')}.json" if config.profile else None
                words = command(cell, config, device.type, pace, trace)
                _add(cell, words, _outcome(words, config, is_cuda=is_cuda))
                digest(cell, facts["roofline"])
                hold_against_peers(cells)
                results.write(path, "throughput", facts, cells)
                _say(f"round {turn}/{config.rounds}, {cell['id']}: {_said(cell)}")
    finally:  # after a Ctrl-C too
        if path.exists():
            save_plot(folder / PLOT, facts, cells)
            show(facts, cells)
            print(", ".join(str(each) for each in (path, folder / PLOT) if each.exists()))
    if failed := [cell["id"] for cell in cells if cell["status"] != "ok"]:
        raise CommandFailed(f"{len(failed)} of {len(cells)} cells have no speed: {', '.join(failed)}")


def _device(name: str) -> torch.device:
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise UserError("--device cuda: there is no CUDA device here; allowed here: cpu, auto")
    return torch.device("cuda" if has_cuda and name != "cpu" else "cpu")


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
    # A plain loop is a script, whose folder PYTHONSAFEPATH would hide from it.
    environment["PYTHONPATH"] += f"{os.pathsep}{PEERS_FOLDER}"
    if not is_cuda:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    if config.threads:
        environment["OMP_NUM_THREADS"] = str(config.threads)
    try:
        done = subprocess.run(words, capture_output=True, env=environment, timeout=config.timeout)
    except subprocess.TimeoutExpired:
        return {"error": f"has not ended after --timeout {config.timeout:g} s"}
    lines = done.stdout.decode(errors="replace").strip().splitlines()
    if done.returncode == 0 and lines:
        with suppress(ValueError):
            found = json.loads(lines[-1])
            if isinstance(found, dict):
                return found
    return {"error": last_words(done.returncode, done.stderr)}


def _said(cell: Cell) -> str:
    if cell["status"] != "ok":
        return f"{cell['status']}: {cell['why']}"
    last = results.summary([1e3 * each for each in cell["step_s"][-1]])
    return f"{last['median']:,.2f} ms a step ({last['p5']:,.2f} to {last['p95']:,.2f})"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
