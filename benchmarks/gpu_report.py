"""All measurements on a GPU in one command, within --budget-s: `make gpu-report OUT=DIR`.

Parts run in the order of their value. Results are written every few seconds and at the end of each part: if it is
interrupted, report.json and report.md have what was measured until then, and are complete files at any time. Besides
them it writes throughput.json and more.tar (pictures, a trace, logs).

Only the standard library is imported before the first report is written. Packages that a machine without a network
lacks are imported from the folder that `make gpu-wheels` fills on another machine.
"""

import argparse
import gzip
import importlib.util
import inspect
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import accumulate, product
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
WHEELS = ROOT / ".gpu-wheels"
# The packages are for the version of Python in the Makefile.
IMPORT_PATHS = [str(ROOT), *([str(WHEELS)] if WHEELS.is_dir() and sys.version_info[:2] == (3, 12) else [])]
sys.path[:0] = IMPORT_PATHS

START = time.monotonic()  # of the budget, which includes torch's first import
BUDGET_S = 480.0  # without --budget-s
MARK, RUNNING = "GPU_REPORT_CHILD", "running, or killed"
TICK_S, RESERVE_S, MAX_TRACE = 5.0, 4.0, 10 * 2**20
# Needs torch only, so that it works where other packages are missing.
FACTS = """
import json, platform, subprocess, sys, torch
def read(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except Exception:
        return None
is_cuda = sys.argv[1] == "cuda"
facts = {
    "device": torch.cuda.get_device_name() if is_cuda else platform.processor() or platform.machine(),
    "gpus": read("nvidia-smi", "--query-gpu=name,driver_version,clocks.max.sm,clocks.max.mem,power.limit,memory.total",
                 "--format=csv,noheader") if is_cuda else None,
    "capability": torch.cuda.get_device_capability() if is_cuda else None,
    "torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
    "python": platform.python_version(),
    "revision": read("git", "-C", sys.argv[2], "rev-parse", "HEAD"),
    "is_dirty": bool(read("git", "-C", sys.argv[2], "status", "--porcelain", "--untracked-files=no")),
}
print(json.dumps(facts))
"""
PYTHON = sys.executable


class Interrupted(BaseException):
    """A signal has ended the report."""


class Part(NamedTuple):
    """A part starts if `least_s` are left, and is ended after `most_s`, scaled up with a larger budget.

    It may use time that earlier parts did not, up to twice `most_s`. `collect` is called repeatedly, and returns the
    results so far.
    """

    least_s: float
    most_s: float
    commands: Callable[["Report"], list[list[str]]]
    collect: Callable[["Report", str], dict[str, Any]]


class Report:
    """The results so far. `out`: the folder of the report. `work`: a temporary folder."""

    def __init__(self, args: argparse.Namespace, work: Path, token: str, start: float):
        self.args, self.out, self.work = args, args.out, work
        self.limits = limits(args.budget_s, args.parts)
        # Time that a part does not use is left to later ones: each ends when its limit and all before it have passed.
        self.ends = dict(zip(self.limits, accumulate(self.limits.values(), initial=start), strict=False))
        for name, limit in self.limits.items():
            self.ends[name] += limit
        self.kept = work / "kept"
        self.kept.mkdir()
        path = os.pathsep.join(filter(None, [*IMPORT_PATHS, os.environ.get("PYTHONPATH")]))
        caches = {
            "TMPDIR": str(work),
            "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor"),
        }  # so each compiles without a cache
        self.env = os.environ | caches | {MARK: token, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        self.token, self.parts = token, {}
        for name in PARTS:
            status = "not run: not started yet" if name in args.parts else "not run: not requested"
            self.parts[name] = {"status": status, "seconds": None, "commands": [], "found": {}, "text": ""}

    def save(self) -> None:
        about = {
            "command": _format_command([PYTHON, *sys.argv]),
            "budget_s": self.args.budget_s,
            "quick": self.args.quick,
        }
        report = {"format": 1, **about, "figures": figures(self), "parts": self.parts}
        for name, text in (("report.json", json.dumps(report, indent=1)), ("report.md", markdown(report))):
            write(self.out / name, f"{text}\n".encode())

    def keep(self, name: str, data: bytes | Path) -> None:
        """Put a file into more.tar: some systems fetch only a few files."""
        if isinstance(data, Path):
            if not data.is_file():
                return
            data = data.read_bytes()
        path = self.kept / name
        if path.is_file() and path.read_bytes() == data:
            return
        path.write_bytes(data)
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for file in sorted(self.kept.iterdir()):
                archive.add(file, file.name)
        write(self.out / "more.tar", packed.getvalue())

    def collect(self, name: str) -> str | None:
        """Store the results of a part so far. Return its problem, None if there is none."""
        try:
            results = PARTS[name].collect(self, name)
            json.dumps(results, allow_nan=False)
        except Exception as error:  # half-written files
            return f"{type(error).__name__}: {error}"
        self.parts[name] |= {"text": results.pop("text", ""), "found": results}
        self.save()
        return results.get("problem")

    def run_part(self, name: str) -> None:
        """Run the commands of a part within its time, and store its status and results."""
        part, entry = PARTS[name], self.parts[name]
        # A part that hangs does not use all the time left by others.
        most_s = 2 * part.most_s * max(1.0, self.args.budget_s / BUDGET_S)
        left = min(self.ends[name] - time.monotonic(), most_s)
        if left < part.least_s or left <= 0:
            entry["status"] = f"not run: no time left ({max(left, 0):.0f} s). Expected: {part.least_s:g} s"
            return
        limit, start, problems = left, time.monotonic(), []
        entry["status"] = RUNNING
        try:
            for number, arguments in enumerate(part.commands(self)):
                entry["commands"].append(command := {"command": _format_command(arguments), "seconds": None})
                self.save()
                log = self.work / f"{name}-{number}"
                code = self._run(arguments, log, limit - (time.monotonic() - start), command, name)
                if code:
                    from distgan.utils.child_process import summarise_error

                    problems.append(summarise_error(code, log.with_suffix(".err").read_bytes()))
                if code is None:
                    problems.insert(0, f"timed out after {limit:.0f} s, in command {number + 1}")
                    break
        except Interrupted as interrupt:
            problems = [f"interrupted by {interrupt}"]
            raise
        except Exception as error:  # the other parts still run
            problems.append(f"{type(error).__name__}: {error}")
        finally:
            entry["seconds"] = round(time.monotonic() - start, 2)
            problem = self.collect(name)
            problems += [problem] if problem else []
            is_failure = bool(problems) and not problems[0].startswith(("timed out", "interrupted"))
            entry["status"] = ("failed: " if is_failure else "") + ("; ".join(problems) or "done")
            self.save()

    def _run(self, arguments: list[str], log: Path, seconds: float, command: dict, name: str) -> int | None:
        """Run a command. Return its exit code, None if it timed out. All its processes have ended then."""
        with log.with_suffix(".out").open("wb") as out, log.with_suffix(".err").open("wb") as err:
            start = time.perf_counter()
            process = subprocess.Popen(
                arguments, cwd=ROOT, env=self.env, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                start_new_session=True,
            )  # fmt: skip
            try:
                while (left := seconds - (time.perf_counter() - start)) > 0:
                    with suppress(subprocess.TimeoutExpired):
                        return process.wait(min(TICK_S, left))
                    self.collect(name)
                return None
            finally:
                command["seconds"] = round(time.perf_counter() - start, 2)
                kill_all(MARK, self.token)
                process.wait()


def write(path: Path, data: bytes) -> None:
    """Write a file atomically: a reader sees the old content or the new one."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(data)
    temporary.replace(path)


def limits(budget_s: float, chosen: list[str]) -> dict[str, float]:
    """Return the seconds for each part, in their order until the budget is used, then 0."""
    scale, left = max(1.0, budget_s / BUDGET_S), budget_s - RESERVE_S
    seconds = {}
    for name, part in PARTS.items():
        limit = min(part.most_s * scale, left) if name in chosen else 0.0
        seconds[name] = limit if limit >= part.least_s else 0.0
        left -= seconds[name]
    return seconds


def kill_all(mark: str, token: str) -> None:
    """Kill each process with the token in its environment, in any process group and with any parent."""
    any_left, deadline = True, time.monotonic() + 10
    while any_left and time.monotonic() < deadline:
        any_left = False
        for path in Path("/proc").glob("[0-9]*/environ"):  # empty for a process that has ended
            with suppress(OSError):
                if f"{mark}={token}".encode() in path.read_bytes().split(b"\0"):
                    os.kill(int(path.parent.name), signal.SIGKILL)
                    any_left = True
        time.sleep(0.02)


# Waits for this process to end, also by SIGKILL, and then kills its children and removes its temporary folder.
GUARD = "import os, shutil, signal, sys, time\nfrom contextlib import suppress\nfrom pathlib import Path\n"
GUARD += inspect.getsource(kill_all)
GUARD += "sys.stdin.read()\nkill_all(*sys.argv[1:3])\nshutil.rmtree(sys.argv[3], ignore_errors=True)\n"


# -- the parts ---------------------------------------------------------------------------------------------


def _train(report: Report, model: str, name: str) -> list[list[str]]:
    flags = f"-m distgan train --model {model} --device {report.args.device} --save-every 1000000 --no-download "
    if report.args.quick:
        flags += "--data digits --width 0.1 --batch-size 32 --max-steps 6 --log-every 2 --threads 1 --tracker none"
    else:
        flags += "--data mnist --precision bf16 --engine auto --log-every 235"
    data = [] if report.args.quick else ["--data-dir", str(report.args.data_dir)]
    return [[PYTHON, *flags.split(), *data, "--out", str(report.work / name)]]


def _collect_run(report: Report, name: str) -> dict[str, Any]:
    folder = report.work / name
    lines, facts = _read_lines(folder / "metrics.jsonl"), _read(folder / "environment.json")
    report.keep(f"{name}.png", folder / "timeline.png")
    if not lines or not lines[-1]["epoch"]:
        return {}
    last, num = lines[-1], facts["data"]["num_images"]
    epoch_s = last["elapsed_s"] / last["epoch"]
    results = {"epochs": last["epoch"], "s_per_epoch": epoch_s, "images_per_s": num / epoch_s, "last": last}
    results["median_s_per_epoch"] = num / median(line["images_per_s"] for line in lines)
    keys = ("engine", "precision", "order", "startup_s", "checkpoints", "data")
    return results | {key: facts.get(key) for key in keys}


RUNS = ("run-vanilla", "run-cgan")


def _evaluate(report: Report) -> list[list[str]]:
    """Return the commands that evaluate both runs, as far as they exist."""
    quick = ["--num", "100", "--no-gan-train", "--threads", "1"]
    data = quick if report.args.quick else ["--data-dir", str(report.args.data_dir)]
    words = [PYTHON, "-m", "distgan", "eval", "--device", report.args.device, "--no-download", *data]
    return [[*words, str(report.work / name)] for name in RUNS if (report.work / name / "weights").is_dir()]


def _collect_evaluation(report: Report, name: str) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for run in RUNS:
        folder = report.work / run / "eval"
        for picture in ("digits", "matrix", "confusions", "neighbours"):
            report.keep(f"{run}-{picture}.png", folder / f"{picture}.png")
        if quality := _read(folder / "eval.json"):
            report.keep(f"{run}-eval.json", folder / "eval.json")
            keys = ("n", "agreement", "recognisable", "fcd", "fcd_floor", "coverage", "gan_train", "alarms", "seconds")
            results[run] = {key: quality[key] for key in keys}
    logs = sorted(report.work.glob(f"{name}-?.out"))
    text = "\n".join(log.read_text(errors="replace") for log in logs)
    return {"text": text} | results if results else {"problem": "there is no run to evaluate"}


def _bench(report: Report, *several: str, kind: str, name: str) -> list[list[str]]:
    quick = "--data digits --width 0.1 --rounds 1 --steps 1 --warmup 1 --threads 1"
    quick += {
        "throughput": " --batch-size 32 --model cgan --precision fp32 --gate-steps 1",
        "scaling": " --work-batch-size 32 --processes 1 --repeats 1",
    }[kind]
    full = "--data mnist --rounds 1 --repeats 5 --timeout 150"
    data = [] if report.args.quick else ["--data-dir", str(report.args.data_dir)]
    chosen = ["--profile" if name == "profile" else ""] if report.args.quick else several
    words = ["-m", "distgan", "bench", kind, "--device", report.args.device]
    words += (quick if report.args.quick else full).split() + data
    return [
        [PYTHON, *words, *flags.split(), "--out", str(report.work / f"{name}-{number}")]
        for number, flags in enumerate(chosen)
    ]


COMPILED = ("--model vanilla,cgan --engine graph-compiled --precision bf16 --steps 120",)
MATRIX = (  # what the figures need is first
    "--model vanilla,cgan --engine graph --precision bf16 --peers --steps 20 --warmup 10 --no-whole-run",
    "--model vanilla --engine graph,graph-compiled --precision bf16 --batch-size 2048 --steps 120 --no-whole-run",
    "--model vanilla,cgan --engine eager,graph --precision fp32,tf32,bf16 --steps 235 --no-whole-run",
)
PROFILE = "--model vanilla,cgan --engine graph --precision bf16 --steps 20 --profile --no-whole-run"
SCALING = "--processes 1 --precision bf16 --engine graph --steps 50 "
SCALING += "--work-batch-size 64,128,256,512,1024,2048,4096 --work-width 0.25,0.5,1,2,4"


def _collect_speeds(report: Report, name: str) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    cells: dict[str, dict[str, Any]] = {}
    for folder in sorted([*report.work.glob("compiled-?"), *report.work.glob("throughput-?")]):
        results = _read(folder / "results.json")
        merged = merged or results
        for cell in results.get("cells", []):
            old = cells.get(cell["id"], {})
            is_worse = cell["status"] != "ok" and old.get("status") == "ok"
            if cell["status"] != "waits" and not is_worse:
                cells[cell["id"]] = cell | {"against": cell.get("against") or old.get("against") or {}}
        report.keep(f"{folder.name}.png", folder / "throughput.png")
    if not cells:
        return {}
    # In the form of one `distgan bench throughput`, which `distgan bench compare` and `plan` read.
    merged = merged | {"cells": list(cells.values())}
    write(report.out / "throughput.json", f"{json.dumps(merged, indent=1)}\n".encode())
    for cell in cells.values():
        cell["ran"] = ", ".join(dict.fromkeys(run["engine"]["name"] for run in cell["runs"] if run.get("engine")))
        cell["start_s"] = next((run.get("start_s") for run in cell["runs"][-1:]), None)
        cell["fallback"] = next(filter(None, (_fallback(run.get("engine")) for run in cell["runs"])), None)
    kept = "ran fallback status why contender model precision batch_size epoch_s mfu against start_s".split()  # noqa: SIM905
    shown = {i: {key: cell.get(key) for key in kept} for i, cell in cells.items()}
    return {"text": "\n".join(_format_cell(i, cell) for i, cell in shown.items()), "cells": shown}


def _format_cell(name: str, cell: dict[str, Any]) -> str:
    if cell["status"] != "ok":
        return f"{name}: {cell['status']}: {cell['why']}"
    epoch_s = cell["epoch_s"]
    text = f"{name}: {epoch_s['median']:.4f} s per epoch ({epoch_s['p5']:.4f} to {epoch_s['p95']:.4f})"
    text += f", ran {cell['ran']}" if cell["ran"] else ""
    text += f", MFU {100 * cell['mfu']:.1f} %" if cell["mfu"] else ""
    return text + "".join(f"; {loop} / distgan: {ratio['median']:.2f}" for loop, ratio in cell["against"].items())


def _pytest(report: Report, name: str, chosen: str) -> list[list[str]]:
    words = ["-m", "pytest", "-v", "--tb=short", "-p", "no:cacheprovider", "tests/gpu", "-k", chosen]
    is_wide = importlib.util.find_spec("xdist") and (os.cpu_count() or 1) >= 8
    return [[PYTHON, *words, *(["-n", "4"] if is_wide else []), "--basetemp", str(report.work / "tests")]]


def _collect_tests(report: Report, name: str) -> dict[str, Any]:
    log = report.work / f"{name}-0.out"
    report.keep(f"{name}.log", log)
    text = log.read_text(errors="replace") if log.is_file() else ""
    plain = re.findall(r"^(\S+::\S+) (PASSED|FAILED|ERROR|SKIPPED)\b", text, re.M)
    spread = re.findall(r"^\[gw\d+\] \[ *\d+%\] (PASSED|FAILED|ERROR|SKIPPED) (\S+::\S+)", text, re.M)
    tests = dict(plain) | {test: outcome for outcome, test in spread}
    counts = Counter(tests.values())
    summary = ", ".join(f"{num} {outcome.lower()}" for outcome, num in counts.items()) or "no test has finished"
    is_ok = counts["PASSED"] and not {"FAILED", "ERROR"} & counts.keys()
    return {"text": summary, "tests": tests} | ({} if is_ok else {"problem": summary})


def _collect_profile(report: Report, name: str) -> dict[str, Any]:
    traces: dict[str, Any] = {}
    for number, path in enumerate(sorted(report.work.glob(f"{name}-?/trace-*.json"), reverse=True)):  # vanilla first
        text = path.read_bytes()
        events = [e for e in json.loads(text)["traceEvents"] if e.get("ph") == "X"]
        on_gpu = [e for e in events if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
        timed = on_gpu or [e for e in events if e.get("cat") == "cpu_op"]
        calls, us = Counter(e["name"] for e in timed), Counter()
        for event in timed:
            us[event["name"]] += event["dur"]
        span = max(e["ts"] + e["dur"] for e in timed) - min(e["ts"] for e in timed)
        rows = [{"name": n, "calls": calls[n], "us": t, "share": t / us.total()} for n, t in us.most_common(25)]
        kind = "on the GPU" if on_gpu else "CPU operators, nested ones counted twice"
        traces[path.stem] = {"of": kind, "us": us.total(), "span_us": span, "calls": calls.total(), "rows": rows}
        packed = gzip.compress(text, 6, mtime=0)
        if number == 0 and len(packed) < MAX_TRACE:
            report.keep("trace.json.gz", packed)
    lines, epochs, ran = [], {}, {}
    for path in sorted(report.work.glob(f"{name}-?/results.json")):
        for cell in _read(path).get("cells", []):
            if cell.get("status") == "ok":
                epochs[cell["id"]] = cell["epoch_s"]["median"]
                engine = cell["runs"][-1].get("engine") or {}
                ran[cell["id"]] = {"engine": engine, "fallback": _fallback(engine)}
                seconds = f"{cell['epoch_s']['median']:.3f} s per epoch, extrapolated from few steps"
                lines.append(f"{cell['id']}: {seconds}; ran {engine.get('name')}: {engine.get('why')}")
    for stem, trace in traces.items():
        total = f"{trace['us']:,.0f} us in {trace['calls']} calls, within {trace['span_us']:,.0f} us"
        lines.append(f"{stem}, {trace['of']}: {total}")
        lines += [
            f"{r['us']:10,.1f} us {100 * r['share']:5.1f} % {r['calls']:5} x {r['name'][:90]}" for r in trace["rows"]
        ]
    results = {"text": "\n".join(lines), "epoch_s": epochs, "cells": ran, "traces": traces}
    return results if traces else {"problem": "there is no trace"}


def _time_convolutions(report: Report) -> list[list[str]]:
    words = f"benchmarks/transposed_convolution.py --device {report.args.device}".split()
    words += ["--batch-size", "4", "--repeats", "3", "--threads", "1"] if report.args.quick else []
    return [[PYTHON, *words, "--json", str(report.work / "transposed.json")]]


def _collect_scaling(report: Report, name: str) -> dict[str, Any]:
    results = _read(report.work / f"{name}-0" / "results.json")
    return {"text": _stdout(report, name), "cells": results["cells"]} if results else {}


def _stdout(report: Report, name: str) -> str:
    return (report.work / f"{name}-0.out").read_text(errors="replace")


GRAPHS = "graph and not compile and not launch"  # the GPU tests that the graph engine depends on
PARTS = {  # the most valuable first, in case of an interrupt; together BUDGET_S
    "facts": Part(
        0, 16, lambda r: [[PYTHON, "-c", FACTS, r.args.device, str(ROOT)]], lambda r, n: json.loads(_stdout(r, n))
    ),
    "profile": Part(20, 40, lambda r: _bench(r, PROFILE, kind="throughput", name="profile"), _collect_profile),
    "parity": Part(20, 50, lambda r: _pytest(r, "parity", GRAPHS), _collect_tests),
    "compiled": Part(30, 80, lambda r: _bench(r, *COMPILED, kind="throughput", name="compiled"), _collect_speeds),
    "run-vanilla": Part(20, 70, lambda r: _train(r, "vanilla", "run-vanilla"), _collect_run),
    "run-cgan": Part(20, 55, lambda r: _train(r, "cgan", "run-cgan"), _collect_run),
    "throughput": Part(20, 80, lambda r: _bench(r, *MATRIX, kind="throughput", name="throughput"), _collect_speeds),
    "quality": Part(10, 25, _evaluate, _collect_evaluation),
    "scaling": Part(15, 25, lambda r: _bench(r, SCALING, kind="scaling", name="scaling"), _collect_scaling),
    "transposed": Part(5, 10, _time_convolutions, lambda r, n: _read(r.work / f"{n}.json") | {"text": _stdout(r, n)}),
    "other-tests": Part(15, 25, lambda r: _pytest(r, "other-tests", f"not ({GRAPHS})"), _collect_tests),
}


# -- figures and fallbacks ---------------------------------------------------------------------------------


def figures(report: Report) -> list[dict[str, Any]]:
    """Return for each aim the measured value, None if there is none, and whether it is reached."""
    rows: list[dict[str, Any]] = []

    def add(name: str, value: float | None, aim: float, unit: str, by: str, limit: float | None = None) -> None:
        value, is_more = None if report.args.quick else value, unit in ("x", "%")
        row = {"what": name, "value": value, "unit": unit, "by": by if value is not None else "-"}
        row["aim"] = f"{'more than' if is_more else 'at most'} {aim:g} {unit}" + (
            f", never over {limit:g}" if limit else ""
        )
        row["reached"] = None if value is None else value > aim if is_more else value <= aim
        rows.append(row | {"is_over": value is not None and limit is not None and value > limit})

    for model, aim, limit, command_s in (("vanilla", 0.12, 0.2, 30), ("cgan", 0.08, 0.14, 22)):
        part = report.parts[f"run-{model}"]
        results = part["found"]
        epochs = results.get("epochs", 0)
        by = f"{(results.get('engine') or {}).get('name')}, {results.get('precision')}, {epochs:g} epochs"
        add(f"{model}, an epoch of the run", results.get("s_per_epoch"), aim, "s", by, limit)
        is_complete = part["status"] == "done" and epochs >= 150
        seconds = part["commands"][0]["seconds"] if is_complete else None
        add(f"{model}, the complete command", seconds, command_s, "s", by)
    parts = [report.parts[name]["found"].get("cells", {}) for name in ("compiled", "throughput")]
    cells: dict[str, Any] = parts[0] | parts[1]
    ours = {i: c for i, c in cells.items() if c["status"] == "ok" and c["contender"] == "distgan"}
    large = [i for i in ours if i.startswith("vanilla/") and i.endswith("/bf16/2048/alternating")]
    best = min(large, key=lambda i: ours[i]["epoch_s"]["median"], default="-")
    fastest = ours.get(best, {"epoch_s": {"median": None}, "mfu": None, "ran": None})
    by = f"{best}, ran {fastest['ran']}"
    add("vanilla, batches of 2048, an epoch", fastest["epoch_s"]["median"], 0.08, "s", by)
    add("vanilla, batches of 2048, MFU", fastest["mfu"] and 100 * fastest["mfu"], 40, "%", by)
    for model, loop in product(("vanilla", "cgan"), ("pytorch bf16", "accelerate bf16")):
        cell = ours.get(key := f"{model}/graph/bf16/256/alternating", {"against": {}, "ran": None})
        ratio = cell["against"].get(loop, {}).get("median")
        add(f"{model}, plain loop ({loop}) / distgan", ratio, 20, "x", f"{key}, ran {cell['ran']}")
    return rows


def fallbacks(parts: dict[str, Any]) -> list[str]:
    """Return a line for each measurement by a fallback engine."""
    lines = []
    for name, part in parts.items():
        reason, cells = _fallback(part["found"].get("engine")), part["found"].get("cells", {})
        lines += [f"{name}: {reason}"] if reason else []
        if isinstance(cells, dict):
            lines += [f"{cell_name}: {cell['fallback']}" for cell_name, cell in cells.items() if cell.get("fallback")]
        else:  # of scaling: the engine of the last round
            engines = [cell["runs"][-1].get("engine") for cell in cells if cell.get("runs")]
            lines += [f"{name}: {reason}" for engine in engines if (reason := _fallback(engine))]
    return list(dict.fromkeys(lines))


def _fallback(engine: dict[str, Any] | None) -> str | None:
    return f"engine {engine['name']}: {engine['why']}" if engine and engine.get("is_fallback") else None


def markdown(report: dict[str, Any]) -> str:
    facts = report["parts"]["facts"]["found"]
    lines = [
        "# GPU report",
        "",
        *(f"**FALLBACK** {line}\n" for line in fallbacks(report["parts"])),
        f"{facts.get('device', 'unknown device')}; revision {facts.get('revision') or 'unknown'}",
    ]
    lines[-1] += " with changes" if facts.get("is_dirty") else ""
    lines += ["", "Quick: tiny networks, no figures."] if report["quick"] else []
    lines += ["", f"`{report['command']}`", "", "| figure | measured | by | aim | reached |", "|---|---|---|---|---|"]
    for row in report["figures"]:
        value = "not measured" if row["value"] is None else f"{row['value']:.3g} {row['unit']}"
        reached = {None: "-", True: "yes", False: "NO, and over the limit" if row["is_over"] else "no"}[row["reached"]]
        lines.append(f"| {row['what']} | {value} | {row['by']} | {row['aim']} | {reached} |")
    lines += ["", "| part | status | seconds |", "|---|---|---|"]
    for name, part in report["parts"].items():
        lines.append(f"| {name} | {part['status'].replace('|', '/')} | {part['seconds'] or '-'} |")
    for name, part in report["parts"].items():
        lines += ["", f"## {name}"] if part["commands"] else []
        lines += [f"\n    {c['command']}  # {c['seconds'] or '?'} s" for c in part["commands"]]
        scalars = {k: v for k, v in part["found"].items() if k not in ("cells", "tests", "traces", "rows", "facts")}
        lines += ["", "```json", json.dumps(scalars, indent=1), "```"] if scalars else []
        lines += ["", "```text", part["text"].rstrip(), "```"] if part["text"] else []
    return "\n".join(lines)


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON lines file, whose last line may be incomplete."""
    lines = []
    for text in path.read_text().splitlines() if path.is_file() else []:
        with suppress(ValueError):
            lines.append(json.loads(text))
    return lines


def _format_command(arguments: list[str]) -> str:
    return shlex.join(["python" if argument == PYTHON else argument for argument in arguments])


def find_usage_error(args: argparse.Namespace) -> str | None:
    """Return the message of a usage error, None if there is none."""
    if unknown := [name for name in args.parts if name not in PARTS]:
        return f"--parts: unknown ({','.join(unknown)}). Expected: {','.join(PARTS)}"
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        return f"--out: exists already and is not overwritten ({args.out}). Expected: a new folder, or an empty one"
    if args.device == "cuda" and not _count_gpus():
        return "--device: no CUDA device here (cuda). Expected here: --device cpu --quick"
    if args.device == "cpu" and not args.quick:
        return "--device: would take hours (cpu). Expected: --device cpu with --quick"
    if not args.quick and not (args.data_dir / "MNIST" / "raw").is_dir():
        return f"--data-dir: no MNIST/raw in it ({args.data_dir}). Expected: a folder that has it"
    return None


def _count_gpus() -> int:
    """Return the number of GPUs; 1 if torch does not import, so that the report has its error."""
    with suppress(Exception):  # a broken driver or library
        import torch

        return torch.cuda.device_count()
    return 1


def unpack_data(data_dir: Path, scratch: Path) -> Path:
    """Return a folder with MNIST's files unpacked, as the plain loops need: `data_dir`, or copies in `scratch`."""
    packed = sorted((data_dir / "MNIST" / "raw").glob("*-ubyte.gz"))
    if all(path.with_suffix("").is_file() for path in packed):
        return data_dir
    raw = scratch / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in (data_dir / "MNIST" / "raw").glob("*-ubyte"):
        (raw / path.name).symlink_to(path)
    for path in packed:
        if not (raw / path.stem).exists():
            (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    return scratch


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=lambda text: Path(text).absolute(), required=True, help="a new folder")
    data = os.environ.get("DISTGAN_DATA", "data")
    parser.add_argument("--data-dir", type=lambda text: Path(text).absolute(), default=data, help="holds MNIST/raw")
    parser.add_argument("--budget-s", type=float, default=BUDGET_S, help="seconds for all of it")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny networks: a test of this script, without figures")
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS), help=",".join(PARTS))
    args = parser.parse_args(argv)
    if message := find_usage_error(args):
        print(f"gpu_report: {message}", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    work, token = Path(tempfile.mkdtemp(prefix="gpu-report-")), uuid.uuid4().hex
    guard = subprocess.Popen(
        [PYTHON, "-c", GUARD, MARK, token, str(work)], stdin=subprocess.PIPE, start_new_session=True
    )

    def interrupt(signum: int, frame: object) -> None:
        for stop_signal in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(stop_signal, signal.SIG_IGN)
        raise Interrupted(signal.Signals(signum).name)

    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, interrupt)
    report = Report(args, work, token, START)
    try:
        report.save()
        plan = ", ".join(f"{name} {report.limits[name]:.0f} s" for name in PARTS if name in args.parts)
        print(f"gpu_report: at most {args.budget_s:g} s: {plan}", file=sys.stderr, flush=True)
        if not args.quick:
            try:
                args.data_dir = unpack_data(args.data_dir, work / "data")
            except (OSError, EOFError, zlib.error) as error:  # parts that need the files fail later
                print(f"gpu_report: --data-dir: not unpacked: {error} ({args.data_dir})", file=sys.stderr)
        for name in PARTS:
            if name in args.parts:
                report.run_part(name)
                report.save()
                print(f"{name}: {report.parts[name]['status']}", file=sys.stderr, flush=True)
    except Interrupted as error:
        for part in report.parts.values():
            part["status"] = part["status"].replace(RUNNING, f"interrupted by {error}")
        report.save()
        print(f"gpu_report: interrupted by {error}; the results so far are in {args.out}", file=sys.stderr)
        return 128 + signal.Signals[str(error)]
    finally:
        guard.stdin.close()
        guard.wait()
    return int(any(report.parts[name]["status"] != "done" for name in args.parts))


if __name__ == "__main__":
    sys.exit(main())
