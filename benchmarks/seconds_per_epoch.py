"""Seconds per MNIST epoch of distgan and of plain loops with the same networks, batch and data.

The contenders take turns, each in a fresh process, and ratios are taken within a round: a machine that
slows down for a while then slows both sides of a ratio.
"""

import argparse
import json
import sys
import tempfile
from itertools import pairwise
from math import ceil
from pathlib import Path
from statistics import median

import harness
from rich.console import Console
from rich.table import Table

CONTENDERS = ["distgan no", "distgan bf16", "pytorch no", "accelerate no", "accelerate bf16"]
BASES = ["distgan no", "distgan bf16"]
NUM_IMAGES = 60_000


def run_distgan(model: str, precision: str, args: argparse.Namespace) -> dict:
    """distgan by its own command; its clock leaves out samples and checkpoints, which no peer makes."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "run")
        words = f"-m distgan train --model {model} --data mnist --batch-size {args.batch_size} "
        words += f"--max-steps {args.warmup + args.steps} --precision {precision} "
        words += f"--log-every {args.log_every} --tracker none"
        places = ["--data-dir", args.data_dir, "--out", str(out), "--sample-epochs", ""]
        command = [sys.executable, *words.split(), *places]
        harness.run(command)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        environment = json.loads((out / "environment.json").read_text())
    marks = [(0, 0.0)] + [(line["step"], line["elapsed_s"]) for line in lines]
    counted = [mark for mark in marks if mark[0] >= args.warmup]
    step_s = [(end - start) / (last - first) for (first, start), (last, end) in pairwise(counted)]
    return {"command": harness.shown(command), "step_s": step_s, "environment": environment}


def run_peer(name: str, model: str, precision: str, args: argparse.Namespace) -> dict:
    words = f"benchmarks/peers/{name}_loop.py --model {model} --precision {precision} "
    words += f"--steps {args.steps} --warmup {args.warmup} --batch-size {args.batch_size}"
    command = [sys.executable, *words.split(), "--data-dir", args.data_dir]
    return {"command": harness.shown(command)} | json.loads(harness.run(command).splitlines()[-1])


def measure(contender: str, model: str, args: argparse.Namespace) -> dict:
    """One contender's turn. One that fails says why and leaves the others their turns."""
    name, precision = contender.split()
    try:
        if name == "distgan":
            return run_distgan(model, precision, args)
        return run_peer(name, model, precision, args)
    except (RuntimeError, OSError, KeyError, ValueError) as error:
        return {"error": f"{type(error).__name__}: {error}"}


def table(model: str, runs: list[dict], args: argparse.Namespace) -> Table:
    medians = {
        (run["contender"], run["round"]): median(run["step_s"])
        for run in runs
        if run["model"] == model and run.get("step_s")
    }
    num_steps = ceil(NUM_IMAGES / args.batch_size)
    title = f"{model}: s/epoch, from {args.steps} counted steps: median (min-max) of {args.rounds} rounds"
    made = Table("contender", "s/epoch", *(f"/ {base}" for base in BASES), title=title)
    for contender in CONTENDERS:
        mine = {turn: step_s for (name, turn), step_s in medians.items() if name == contender}
        ratios = (
            harness.spread([s / medians[base, turn] for turn, s in mine.items() if (base, turn) in medians])
            for base in BASES
        )
        made.add_row(contender, harness.spread([s * num_steps for s in mine.values()], 1), *ratios)
    return made


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--models", nargs="+", choices=["vanilla", "cgan"], default=["vanilla", "cgan"])
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender")
    parser.add_argument("--steps", type=int, default=20, help="counted steps of a turn")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them that are not counted")
    parser.add_argument("--batch-size", type=int, default=256)
    log_help = "steps between distgan's clock readings, each of which waits for a GPU: there take 50 or more"
    parser.add_argument("--log-every", type=int, default=1, help=log_help)
    args = parser.parse_args()
    if args.warmup % args.log_every or args.steps % args.log_every:
        parser.error("--log-every must divide --warmup and --steps")

    facts = harness.machine()
    runs: list[dict] = []
    for model in args.models:
        for turn in range(1, args.rounds + 1):
            for contender in CONTENDERS:
                result = measure(contender, model, args)
                runs.append({"model": model, "round": turn, "contender": contender} | result)
                said = f"{median(result['step_s']):.4f} s/step" if result.get("step_s") else result["error"]
                print(f"{model} round {turn}/{args.rounds} {contender}: {said}", file=sys.stderr, flush=True)
        Console().print(table(model, runs, args))
    harness.write_json(args.json, facts, runs)
    sys.exit(any("error" in run for run in runs))


if __name__ == "__main__":
    main()
