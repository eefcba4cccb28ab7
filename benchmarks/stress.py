"""Kills runs at random instants and damages checkpoints at random places, and counts what is lost.

A killed run is started again until it ends; then its checkpoint, metrics and samples are compared to the bit
with those of a run that was never killed. Writes stress.txt and stress.json into --out.
"""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from pathlib import Path
from statistics import median

import harness
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from distgan.checkpoint.format import Damaged, read_checkpoint
from distgan.checkpoint.resume import checkpoints_in, newest_valid
from distgan.cli import main as main_of_distgan
from distgan.errors import UserError
from distgan.runs.run_dir import read_status
from distgan.utils.files import read_metrics

ROOT = Path(__file__).resolve().parent.parent
# Networks of a few milliseconds per step; a line of metrics.jsonl and a checkpoint seldom fall together.
RUN = [
    *("--preset", "cgan-quick", "--width", "0.05", "--batch-size", "128", "--threads", "1", "--tracker", "none"),
    *("--log-every", "3", "--save-every-steps", "7", "--sample-epochs", "0,1"),
]
PYTHON = [sys.executable, "-m", "distgan", "train"]
TORCHRUN = [
    *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"),
    str(ROOT / "distgan" / "train.py"),
]
OWN_IMAGES = "the process, own images"
# kind -> its command, what is killed, and its share of all kills
KINDS = {
    "the process": (PYTHON, 0.3),
    OWN_IMAGES: (PYTHON, 0.1),
    "the process, in a save": (PYTHON, 0.3),
    "one of two ranks": (TORCHRUN, 0.17),
    "the launcher of two": (TORCHRUN, 0.13),
}


class Attempt:
    """One start of a run; `seen` are the ranks of its launcher, if it has one."""

    def __init__(self, command: list[str], out: Path):
        self.out, self.last_pid = out, read_status(out).get("pid")
        found = checkpoints_in(out / "checkpoints")
        self.first_step = int(found[0].name[5:]) if found else 0
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.seen: list[int] = []
        self.process = subprocess.Popen(
            [*command, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            start_new_session=True, env=environment, cwd=ROOT,
        )  # fmt: skip

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def is_training(self) -> bool:
        """True if it has taken steps: a process is at its first one for as long as at a hundred others."""
        status = read_status(self.out)
        if status.get("state") != "running" or status.get("pid") == self.last_pid:
            return False
        lines = read_metrics(self.out / "metrics.jsonl")
        return bool(lines) and lines[-1]["step"] > self.first_step

    def ranks(self) -> list[int]:
        """A launcher's children, each of which it puts into its own session."""
        found = subprocess.run(["pgrep", "-P", str(self.process.pid), "-f", "train.py"], capture_output=True, text=True)
        self.seen = [int(pid) for pid in found.stdout.split()]
        return self.seen

    def end(self, timeout_s: float = 90) -> str:
        """Wait until every process of the attempt has ended by itself. Return its stderr."""
        err = self.process.communicate(timeout=timeout_s)[1].decode(errors="replace")
        end = time.monotonic() + timeout_s
        while any(Path(f"/proc/{pid}").exists() for pid in self.seen):
            if time.monotonic() > end:
                raise RuntimeError("a rank stayed after its launcher was gone")
            time.sleep(0.01)
        return err

    def clean_up(self) -> None:
        for pid in (self.process.pid, *self.seen):
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


def wait(attempt: Attempt, condition: Callable[[], bool], timeout_s: float, poll_s: float = 0.01) -> None:
    """Until the condition, the end of the attempt, or the time-out."""
    end = time.monotonic() + timeout_s
    while not (attempt.has_ended() or condition() or time.monotonic() > end):
        time.sleep(poll_s)


def write_images(place: Path) -> list[str]:
    """600 images in three class folders; the flags that train on them for as many steps as on other data."""
    pixels, folder = torch.randint(256, (600, 16, 16, 3), dtype=torch.uint8).numpy(), place / "images"
    for index, image in enumerate(pixels):
        path = folder / f"class {index % 3}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return ["--data", str(folder), "--cache-dir", str(place / "cache"), "--epochs", "1000"]


def kill(attempt: Attempt, kind: str, rng: random.Random) -> str | None:
    """Kills what `kind` says at a random instant; the instant in words, or None for a run that ended first."""
    if kind == "the process" and rng.random() < 0.15:
        wait(attempt, lambda: False, rng.uniform(0, 5))
        instant = "start-up"
    else:
        wait(attempt, attempt.is_training, 60)
        wait(attempt, lambda: False, rng.uniform(0, 2))
        instant = "training"
        if kind == "the process, in a save":
            saves = attempt.out / "checkpoints"
            wait(attempt, lambda: any(saves.glob(".step-*")), 10, 0.0002)
            time.sleep(rng.uniform(0, 0.015))
    if attempt.has_ended():
        return None
    ranks = attempt.ranks()
    victim = rng.choice(ranks) if kind == "one of two ranks" else attempt.process.pid
    with suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
    attempt.end()
    return "save" if any((attempt.out / "checkpoints").glob(".step-*")) else instant


def differences(run: Path, reference: Path) -> list[str]:
    """Return what differs between two finished runs, compared bit by bit."""
    found = [newest_valid(folder / "checkpoints") for folder in (run, reference)]
    if None in found:
        return ["no checkpoint"]
    ours, theirs = (each[1] for each in found if each)
    apart = [key for key in theirs.tensors if not torch.equal(ours.tensors.get(key), theirs.tensors[key])]
    keys = ("step", "d_loss", "g_loss", "real_logits", "fake_logits")
    lines = [
        [[line[key] for key in keys] for line in read_metrics(folder / "metrics.jsonl")] for folder in (run, reference)
    ]
    apart += ["metrics.jsonl"] * (lines[0] != lines[1])
    pictures = [
        {path.name: path.read_bytes() for path in (folder / "samples").iterdir()} for folder in (run, reference)
    ]
    return apart + ["samples"] * (pictures[0] != pictures[1])


def kill_runs(kind: str, num: int, data: list[str], num_steps: int, place: Path, rng: random.Random) -> dict:
    """Kills of one kind, over as many runs as they take."""
    command = [*KINDS[kind][0], *RUN, *data, "--max-steps", str(num_steps)]
    reference = place / f"unbroken, {kind}"
    attempt = Attempt(command, reference)
    err = attempt.end(600)
    if attempt.process.returncode:
        raise RuntimeError(f"the unbroken run ended with {attempt.process.returncode}:\n{err[-3000:]}")
    result = {"kind": kind, "kills": 0, "runs": 0, "equal_runs": 0, "equal_kills": 0, "lost": 0, "damaged": 0,
              "repeated": [], "instants": Counter(), "differences": []}  # fmt: skip
    while result["kills"] < num:
        run, kills = place / f"run-{rng.getrandbits(40):x}", 0
        newest = -1
        for _ in range(200):
            attempt = Attempt(command, run)
            try:
                # The last kill of all is behind: let the run end.
                instant = kill(attempt, kind, rng) if result["kills"] + kills < num else None
                if instant is None:
                    err = attempt.end(600)
            finally:
                attempt.clean_up()
            if instant is None:
                if attempt.process.returncode:
                    raise RuntimeError(f"a run that was not killed ended badly:\n{err[-3000:]}")
                break
            kills += 1
            result["instants"][instant] += 1
            try:
                found = newest_valid(run / "checkpoints")
            except UserError:
                found = None
                result["lost"] += 1
            step = found[1].state.step if found else -1
            result["lost"] += step < newest
            result["damaged"] += len(found[2]) if found else 0
            newest = step
            if found and (lines := read_metrics(run / "metrics.jsonl")):
                result["repeated"].append(max(0, int(lines[-1]["step"]) - step))
        apart = differences(run, reference)
        result["runs"] += 1
        result["kills"] += kills
        result["equal_runs"] += not apart
        result["equal_kills"] += kills * (not apart)
        result["differences"] += apart[:3]
        shutil.rmtree(run)
        print(
            f"{kind}: {result['kills']} kills, {result['equal_runs']} of {result['runs']} runs equal {apart[:3]}",
            flush=True,
        )
    result["instants"] = dict(result["instants"])
    return result


# -- the first moments -------------------------------------------------------------------------------------

# Of a process that has imported everything and is forked, so that a start takes a second.
CONTEXT = multiprocessing.get_context("forkserver")
CHANGES = ("open", "os.mkdir", "os.rename", "os.symlink", "os.remove")
NUM_CHANGES = 45  # of files, up to the first lines of metrics.jsonl


def start(words: list[str], out: Path, change: int = 0, delay_s: float = 0.0) -> None:
    """Train, and be killed before the n-th change of a file in the run's folder, or that long after it; 0: not."""
    left, silence = [change], os.open(os.devnull, os.O_RDWR)
    os.dup2(silence, 1)
    os.dup2(silence, 2)

    def die() -> None:
        time.sleep(delay_s)
        os.kill(os.getpid(), signal.SIGKILL)

    def look(event: str, arguments: tuple) -> None:
        if event in CHANGES and str(out) in str(arguments[:2]):
            left[0] -= 1
            if left[0] == 0:
                threading.Thread(target=die, daemon=True).start() if delay_s else die()

    sys.addaudithook(look)
    sys.exit(main_of_distgan(["train", *words, "--out", str(out)]))


def exit_code_of(*arguments: object) -> int | None:
    process = CONTEXT.Process(target=start, args=arguments)
    process.start()
    process.join(300)
    process.kill()
    return process.exitcode


def kill_starts(num: int, data: list[str], place: Path, workers: int, rng: random.Random) -> dict:
    """Kill as many runs before they have taken a step, and start each again with the same command."""
    words, reference = [*RUN, *data, "--max-steps", "9"], place / "start, unbroken"
    if exit_code_of(words, reference):
        raise RuntimeError("the unbroken run of a few steps ended badly")

    def kill_one(index: int, delay_s: float) -> tuple[int, int, list[str]]:
        run = place / f"start-{index}"
        if exit_code_of(words, run, 1 + index % NUM_CHANGES, delay_s) != -signal.SIGKILL:
            raise RuntimeError("a run ended before it was killed")
        lost = int(exit_code_of(words, run) != 0)
        apart = ["does not start again"] if lost else differences(run, reference)
        shutil.rmtree(run)
        return lost, int(not apart), apart[:3]

    # Each change once, at its very instant; then a little later.
    delays = [0.0 if index < NUM_CHANGES else rng.uniform(0, 0.004) for index in range(num)]
    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(kill_one, range(num), delays))
    equal = sum(row[1] for row in found)
    print(f"the process, at start-up: {num} kills, {equal} of {num} runs equal", flush=True)
    return {
        "kind": "the process, at start-up", "kills": num, "runs": num, "equal_runs": equal, "equal_kills": equal,
        "lost": sum(row[0] for row in found), "damaged": 0, "repeated": [], "instants": {"start-up": num},
        "differences": [text for row in found for text in row[2]][:9],
    }  # fmt: skip


# -- damage ------------------------------------------------------------------------------------------------


def flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def truncate(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def zero_tail(path: Path, rng: random.Random) -> None:
    data = path.read_bytes()
    kept = rng.randrange(len(data.rstrip(b"\0")))
    path.write_bytes(data[:kept] + bytes(len(data) - kept))


def swap_inside(path: Path, rng: random.Random) -> None:
    other = rng.choice([each for each in path.parent.iterdir() if each.read_bytes() != path.read_bytes()])
    ours, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(ours)


def from_older(path: Path, rng: random.Random) -> None:
    older = checkpoints_in(path.parent.parent)[-1]
    names = [each.name for each in path.parent.iterdir() if each.name not in ("config.json", "random.safetensors")]
    name = rng.choice(names)
    shutil.copy(older / name, path.with_name(name))


def delete(path: Path, rng: random.Random) -> None:
    path.unlink()


def swap_names(path: Path, rng: random.Random) -> None:
    newer, older = checkpoints_in(path.parent.parent)[:2]
    aside = newer.with_name("aside")
    newer.rename(aside)
    older.rename(newer)
    aside.rename(older)


DAMAGES = {
    "one bit flipped": (flip, 0.4),
    "cut short": (truncate, 0.15),
    "a tail of zeros": (zero_tail, 0.1),
    "two files swapped": (swap_inside, 0.1),
    "a file of an older checkpoint": (from_older, 0.1),
    "a file missing": (delete, 0.1),
    "two folders' names swapped": (swap_names, 0.05),
}


def damage(kind: str, num: int, num_commands: int, source: Path, place: Path, rng: random.Random) -> dict:
    """`num` damages of the newest of two checkpoints, `num_commands` of them seen by the command line too."""
    result = {"kind": kind, "tried": 0, "accepted": 0, "tracebacks": 0, "fell_back": 0, "reasons": Counter()}
    for index in range(num):
        copy = place / "damaged"
        shutil.copytree(source, copy, symlinks=True)
        newest = checkpoints_in(copy)[0]
        DAMAGES[kind][0](rng.choice(sorted(newest.iterdir())), rng)
        result["tried"] += 1
        try:
            if kind == "two folders' names swapped":
                newest_valid(copy)
            else:
                read_checkpoint(newest)
            result["accepted"] += 1
        except Damaged as error:
            result["reasons"][str(error).split(": ", 1)[1][:24]] += 1
        except UserError:
            pass
        except Exception as error:
            result["tracebacks"] += 1
            result["reasons"][repr(error)[:60]] += 1
        with suppress(UserError):
            found = newest_valid(copy)
            result["fell_back"] += found is not None and found[0].name == checkpoints_in(copy)[1].name
        if index < num_commands:
            command = [sys.executable, "-m", "distgan", "checkpoint", "verify", str(copy)]
            seen = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
            # With its names swapped each checkpoint is valid in itself.
            expected = 0 if kind == "two folders' names swapped" else 1
            result["accepted"] += seen.returncode < expected
            result["tracebacks"] += "Traceback" in seen.stderr
        shutil.rmtree(copy)
    result["reasons"] = dict(result["reasons"].most_common(6))
    return result


# -- what a save costs -------------------------------------------------------------------------------------


def save_cost(model: str, num_steps: int, data: list[str], place: Path) -> dict:
    """The seed's network at full width, a checkpoint after every fourth step."""
    out = place / f"save-{model}"
    command = [*PYTHON, "--model", model, *data, "--tracker", "none", "--sample-epochs", "", "--log-every", "4"]
    command += ["--max-steps", str(num_steps), "--save-every-steps", "4", "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    facts = json.loads((out / "environment.json").read_text())["checkpoints"]
    found = newest_valid(out / "checkpoints")
    assert found is not None
    speeds = [line["images_per_s"] for line in read_metrics(out / "metrics.jsonl")][1:]
    num_images = found[1].state.steps_per_epoch * found[1].state.batch_size
    return {
        "model": model,
        "command": harness.shown(command),
        "epoch_s": num_images / median(speeds),
        "tensor_bytes": sum(tensor.nbytes for tensor in found[1].tensors.values()),
        **facts,
    }


# -- the table ---------------------------------------------------------------------------------------------


def report(kills: list[dict], damages: list[dict], costs: list[dict], console: Console) -> None:
    table = Table("kill -9 of", "kills", "in a save", "runs", "equal to the bit", "steps repeated", "checkpoints lost",
                  title="killed at random instants and started again")  # fmt: skip
    for row in [*kills, _sum(kills)] if kills else []:
        repeated = row["repeated"]
        steps = f"{median(repeated):.0f} (0 to {max(repeated)})" if repeated else "-"
        table.add_row(
            row["kind"], str(row["kills"]), str(row["instants"].get("save", 0)), str(row["runs"]),
            f"{row['equal_runs']} ({row['equal_kills']} kills)", steps, str(row["lost"] + row["damaged"]),
        )  # fmt: skip
    if kills:
        console.print(table)
    table = Table("damage", "tried", "accepted wrongly", "tracebacks", "older one taken", title="damaged checkpoints")
    names = ("tried", "accepted", "tracebacks", "fell_back")
    for row in damages:
        table.add_row(row["kind"], *(str(row[name]) for name in names))
    if damages:
        table.add_row("all", *(str(sum(row[name] for row in damages)) for name in names))
        console.print(table)
    table = Table("network", "MiB", "files / tensors", "training stands still, s", "until on the disk, s", "epoch, s",
                  "(both) / epoch", title="a checkpoint of the seed's networks")  # fmt: skip
    for row in costs:
        stall, write = row["stall_s"]["median"], row["write_s"]["median"]
        table.add_row(
            row["model"], f"{row['num_bytes'] / 2**20:.1f}", f"{row['num_bytes'] / row['tensor_bytes']:.4f}",
            f"{stall:.3f} (max {row['stall_s']['max']:.3f})", f"{write:.3f} (max {row['write_s']['max']:.3f})",
            f"{row['epoch_s']:.0f}", f"{100 * (stall + write) / row['epoch_s']:.2f} %",
        )  # fmt: skip
    if costs:
        console.print(table)


def _sum(rows: list[dict]) -> dict:
    total: dict = {"kind": "all", "repeated": list(chain.from_iterable(row["repeated"] for row in rows))}
    total["instants"] = dict(sum((Counter(row["instants"]) for row in rows), Counter()))
    for key in ("kills", "runs", "equal_runs", "equal_kills", "lost", "damaged"):
        total[key] = sum(row[key] for row in rows)
    return total


def main() -> int:
    parser = harness.parser(__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--start-kills", type=int, default=100, help="kills before the first step, file by file")
    parser.add_argument("--damages", type=int, default=2000)
    parser.add_argument("--commands", type=int, default=2, help="damages of each kind that `checkpoint verify` sees")
    parser.add_argument("--steps", type=int, default=24, help="steps to take the cost of a save from; 0: none")
    parser.add_argument("--run-steps", type=int, default=500, help="length of the runs that are killed")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="runs that are killed at the same time")
    parser.add_argument("--kinds", nargs="*", choices=list(KINDS), default=list(KINDS), help="what to kill")
    parser.add_argument("--networks", type=Path, help="a file of networks to train, in place of the preset's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("stress"))
    args = parser.parse_args()
    CONTEXT.set_forkserver_preload(["distgan.train", "matplotlib.backends.backend_agg", "torch._dynamo"])
    facts, rng = harness.machine(), random.Random(args.seed)
    has_mnist = (Path(args.data_dir) / "MNIST").exists()
    data = ["--data", "mnist", "--data-dir", str(Path(args.data_dir).resolve())] if has_mnist else ["--data", "digits"]
    networks = ["--networks", str(args.networks.resolve())] if args.networks else ["--dropout", "0.3"]
    data += networks
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        own = write_images(place) + networks
        with ThreadPoolExecutor(args.workers) as pool:  # the work is done by the runs
            futures = [
                pool.submit(
                    kill_runs, kind, max(1, round(share * args.kills)), own if kind == OWN_IMAGES else data,
                    args.run_steps, place, random.Random(f"{args.seed}/{kind}"),
                )
                for kind, (_, share) in KINDS.items()
                if args.kills and kind in args.kinds
            ]  # fmt: skip
            kills = [future.result() for future in futures]
        if args.start_kills:
            kills.append(kill_starts(args.start_kills, data, place, args.workers or 1, rng))
        source = next(place.glob("unbroken, *"), None)
        if source is None:
            source = place / "unbroken"
            Attempt([*PYTHON, *RUN, *data, "--max-steps", "20"], source).end(600)
        damages = [
            damage(kind, max(1, round(share * args.damages)), args.commands, source / "checkpoints", place, rng)
            for kind, (_, share) in DAMAGES.items()
        ]
        costs = [save_cost(model, args.steps, data, place) for model in ("vanilla", "cgan") if args.steps]
    with (args.out / "stress.txt").open("w") as file:
        for console in (Console(file=file, width=130), Console(width=130)):
            report(kills, damages, costs, console)
    harness.write_json(args.out / "stress.json", facts, [{"kills": kills, "damages": damages, "costs": costs}])
    total = _sum(kills)
    is_bad = total["equal_runs"] != total["runs"] or total["lost"] or total["damaged"]
    return int(bool(is_bad) or any(row["accepted"] or row["tracebacks"] for row in damages))


if __name__ == "__main__":
    sys.exit(main())
