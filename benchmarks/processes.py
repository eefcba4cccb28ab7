"""One run on 1, 2 and 4 processes of this machine: do they end alike, how fast, and what the all-reduce costs.

Each number of processes takes its turn in each round, in fresh processes, and ratios are taken within a round.
"Same batch" has the seed's 256 images over all processes, "same share" 64 images for each of them.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import harness
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file

from distgan.batches import Batches
from distgan.config import Config, DataConfig, ModelConfig, OptimConfig, RunConfig
from distgan.data import load_dataset
from distgan.gan import build_gan
from distgan.runtime import Runtime
from distgan.steps import build_step

WORLD_SIZES = [1, 2, 4]
SHARE, BATCH = 64, 256
# What is compared: the steps, the factor on the widths, and the batch.
PARITY = {"width 0.1, 20 steps of 64": (0.1, 20, 64), "full width, 12 steps of 256": (1.0, 12, 256)}


def work(args: argparse.Namespace) -> None:
    """One of the processes; the first writes what was measured to --json and the weights beside it."""
    runtime = Runtime(Config(run=RunConfig(device="cpu")))
    dataset = load_dataset(DataConfig(dir=args.data_dir))

    def training(width: float, batch_size: int, steps: int):
        torch.set_grad_enabled(True)
        gan = build_gan(ModelConfig(name=args.model, width=width), OptimConfig(), 0, runtime)
        step = build_step(gan, OptimConfig(), 0, runtime, steps)
        batches = Batches(dataset, batch_size, gan.share, drop_last=False, seed=0, device=runtime.device,
                          fewest=runtime.world_size)  # fmt: skip
        return gan, step, batches

    for index, (width, steps, size) in enumerate(PARITY.values()):
        gan, step, batches = training(width, size, steps)
        for _ in range(steps):
            step(*next(batches))
        if runtime.is_main:
            save_file(gan.state(), args.json.with_suffix(f".{index}.safetensors"))

    found: dict[str, float] = {}
    for name, size in (("same batch", BATCH), ("same share", SHARE * runtime.world_size)):
        _, step, batches = training(1.0, size, 10**6)
        for _ in range(args.warmup):
            step(*next(batches))
        times = []
        for _ in range(args.steps):
            start = time.perf_counter()
            step(*next(batches))
            times.append(time.perf_counter() - start)
        found[f"{name}, images/s"] = size / median(times)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            start = time.perf_counter()
            for _ in range(3):
                step(*next(batches))
            profiled_s = time.perf_counter() - start
        spent = sum(
            event.cpu_time_total for event in profile.key_averages() if event.key == "gloo:all_reduce"
        )
        found[f"{name}, all-reduce"] = spent / 1e6 / profiled_s
    found["memory, GiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if runtime.is_main:
        args.json.write_text(json.dumps(found))
    runtime.close()


def measure(world_size: int, args: argparse.Namespace, folder: Path) -> dict:
    door = f"-m torch.distributed.run --standalone --nproc-per-node {world_size} {__file__} --worker"
    words = f"--model {args.model} --steps {args.steps} --warmup {args.warmup}"
    out = folder / f"{world_size}.json"
    command = [sys.executable, *door.split(), *words.split(), "--data-dir", args.data_dir, "--json", str(out)]
    harness.run(command)
    return {"command": harness.shown(command), "found": json.loads(out.read_text())}


def difference(folder: Path, index: int, world_size: int) -> float:
    """Of all weights together, relative to the norm of one process's."""
    one, other = (load_file(folder / f"{num}.{index}.safetensors") for num in (1, world_size))
    keys = [key for key in one if key.startswith(("generator", "discriminator"))]
    squared = sum(float((one[key].double() - other[key].double()).square().sum()) for key in keys)
    return (squared / sum(float(one[key].double().square().sum()) for key in keys)) ** 0.5


def main() -> None:
    os.environ.setdefault("PYTHONPATH", str(Path(__file__).resolve().parent.parent))
    parser = harness.parser(__doc__)
    parser.add_argument("--model", choices=["vanilla", "cgan"], default="cgan")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each number of processes")
    parser.add_argument("--steps", type=int, default=10, help="counted steps of a turn")
    parser.add_argument("--warmup", type=int, default=2, help="steps before them that are not counted")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args)
        return

    facts, runs = harness.machine(), []
    with tempfile.TemporaryDirectory() as place:
        for turn in range(args.rounds):
            for world_size in WORLD_SIZES:
                result = measure(world_size, args, Path(place))
                runs.append({"world_size": world_size, "round": turn} | result)
                print(
                    f"round {turn + 1}/{args.rounds} W={world_size}: {result['found']}",
                    file=sys.stderr,
                    flush=True,
                )
        parity = {
            name: [0.0 if num == 1 else difference(Path(place), index, num) for num in WORLD_SIZES]
            for index, name in enumerate(PARITY)
        }
    title = f"{args.model}, {facts['cores']} cores: median (min-max) of {args.rounds} rounds"
    table = Table("processes", *map(str, WORLD_SIZES), title=title)
    for name, values in parity.items():
        table.add_row(f"weights, relative difference: {name}", *(f"{value:.1e}" for value in values))
    for name in runs[0]["found"]:
        columns = ([run["found"][name] for run in runs if run["world_size"] == num] for num in WORLD_SIZES)
        digits = 0 if "images/s" in name else 3
        table.add_row(name, *(harness.spread(values, digits) for values in columns))
    Console(width=120).print(table)
    harness.write_json(args.json, facts | {"parity": parity}, runs)


if __name__ == "__main__":
    main()
