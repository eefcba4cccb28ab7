"""Seconds from the command to distgan's first step, and where they go.

The phases are distgan's own, from its run folder; "whole command" is seen from outside, with the
launcher before the first phase and the last samples and checkpoint after the first step.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import harness
from rich.console import Console
from rich.table import Table

LAUNCHES = {
    "python": "-m distgan train",
    "accelerate launch": "-m accelerate.commands.launch --num_processes 1 distgan/train.py",
}


def measure(launch: str, model: str, data_dir: str) -> dict:
    """One fresh start, for one step."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "run")
        words = f"{LAUNCHES[launch]} --model {model} --data mnist --max-steps 1 --tracker none".split()
        command = [sys.executable, *words, "--data-dir", data_dir, "--out", str(out), "--sample-epochs", ""]
        start = time.perf_counter()
        harness.run(command)
        whole_s = time.perf_counter() - start
        phases = json.loads((out / "environment.json").read_text())["startup_s"]
    return {"command": harness.shown(command), "phases": phases | {"whole command": whole_s}}


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--model", choices=["vanilla", "cgan"], default="vanilla")
    parser.add_argument("--repeats", type=int, default=5, help="starts of each launch, in turn")
    args = parser.parse_args()

    facts = harness.machine()
    runs: list[dict] = []
    for _ in range(args.repeats):
        for launch in LAUNCHES:
            runs.append({"launch": launch} | measure(launch, args.model, args.data_dir))

    made = Table("phase", *LAUNCHES, title=f"{args.model}: seconds, median (min-max) of {args.repeats}")
    for phase in dict.fromkeys(phase for run in runs for phase in run["phases"]):
        by_launch = (
            [run["phases"][phase] for run in runs if run["launch"] == launch and phase in run["phases"]]
            for launch in LAUNCHES
        )
        made.add_row(phase, *map(harness.spread, by_launch))
    Console().print(made)
    harness.write_json(args.json, facts, runs)


if __name__ == "__main__":
    main()
