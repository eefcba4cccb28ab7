"""Seconds from the command to distgan's first step, and where they go.

The phases are distgan's own, from its run folder; "launch to first step" and "complete command" are seen from
outside, with the launcher before the first phase, and the latter with the last samples and checkpoint too.
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
    "--processes 2": "-m distgan train --processes 2",
    "torchrun, 2": "-m torch.distributed.run --standalone --nproc-per-node 2 distgan/train.py",
    "launch/multi_gpu.yaml, 2": "-m accelerate.commands.launch --config_file launch/multi_gpu.yaml distgan/train.py",
    "launch/deepspeed_zero2.yaml, 2": (
        "-m accelerate.commands.launch --config_file launch/deepspeed_zero2.yaml distgan/train.py"
    ),
}


def measure(launch: str, model: str, data_dir: str) -> dict:
    """One fresh start, for one step."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "run")
        words = f"{LAUNCHES[launch]} --model {model} --data mnist --max-steps 1 --tracker none".split()
        command = [sys.executable, *words, "--data-dir", data_dir, "--out", str(out), "--sample-epochs", ""]
        start = time.time()
        harness.run(command)
        seen = {
            # Its only line is written after the only step.
            "launch to first step": (out / "metrics.jsonl").stat().st_mtime - start,
            "complete command": time.time() - start,
        }
        phases = json.loads((out / "environment.json").read_text())["startup_s"]
    return {"command": harness.shown(command), "phases": phases | seen}


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

    phases = list(dict.fromkeys(phase for run in runs for phase in run["phases"]))
    made = Table("launch", *phases, title=f"{args.model}: seconds, median (min-max) of {args.repeats}")
    for launch in LAUNCHES:
        own = [run["phases"] for run in runs if run["launch"] == launch]
        made.add_row(launch, *(harness.spread([each[phase] for each in own]) for phase in phases))
    Console(width=160).print(made)
    harness.write_json(args.json, facts, runs)


if __name__ == "__main__":
    main()
