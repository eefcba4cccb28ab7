"""Prove a refactor: train the same recipes with an older revision and with this tree, and compare them bit for bit.

    make same-as REV=main            narrow networks, digits, 50 steps a recipe; under 5 minutes on two cores
    make same-as REV=main FULL=1     full width and the presets' own data (DISTGAN_DATA), 50 steps

Both trees are driven by their command line alone, on this machine, with one thread a process. Compared are metrics
(but for times), every tensor of weights and checkpoints by its name, every pixel of the pictures, and what `sample`,
`eval`, `report`, `compare` and `checkpoint` say of the older tree's runs. For the recipes marked `resumed` the older
tree also stops halfway and this tree resumes its checkpoint: it must end with the bits of the unbroken older run.
Exit code 1 if anything differs.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence
from safetensors import safe_open

from distgan.config.renames import with_current_names

ROOT = Path(__file__).resolve().parents[1]
# What depends on the clock, the process or the folder, by the name of its key.
VOLATILE = {
    "images_per_s", "elapsed_s", "peak_memory_gib", "pid", "launcher", "at", "out", "resume", "host", "seconds",
}  # fmt: skip

# Old spellings in what commands print, each with the current one: the recipes have the old ones, which both trees read.
NEW_NAMES = (
    (r"\breuse\b", "alternating"), (r"(?<!-)\bfresh\b", "alternating-fresh"),
    (r"\bseed (networks|family)", r"report2023 \1"), (r"\bsmall (networks|family)", r"dcgan \1"),
    (r"precision (no|float32)\b", "precision fp32"), (r"<dd>(float32|no)<", "<dd>fp32<"),
    (r"<dd>seed<", "<dd>report2023<"), (r"<dd>small<", "<dd>dcgan<"), (r"<dt>accumulate<", "<dt>d_microbatches<"),
    (r"by a jury of (\d+) ([\w ]+?) networks trained", r"by an ensemble of \1 \2 networks (the judges), trained"),
    ("the jury reads", "the judges read"), ("the jury itself confuses", "the judges themselves confuse"),
    ("the jury gives", "the judges give"), ("(?<=[Tt]he )jury is", "judges are"),
    (r"jury('|&#39;)s own", r"judges\1 own"),
    (r"\bjury\b", "judges"),
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    name: str
    flags: str
    resumed: bool = False
    processes: int = 1


RECIPES = (
    Recipe("vanilla", "--preset vanilla", resumed=True),
    Recipe("cgan", "--preset cgan"),
    Recipe("vanilla-fast", "--preset vanilla-fast --precision no"),
    Recipe("cgan-fast", "--preset cgan-fast --precision no", resumed=True),
    Recipe("cgan-quick", "--preset cgan-quick"),
    Recipe("vanilla-r1", "--preset vanilla --loss r1 --order simultaneous"),
    Recipe("cgan-wgan-gp", "--preset cgan --loss wgan-gp --order fresh --accumulate 2"),
    Recipe("vanilla-hinge-noise-map", "--preset vanilla --loss hinge --stem noise-map --lr-schedule linear"),
    Recipe("cgan-quick-bf16", "--preset cgan-quick --precision bf16 --drop-last"),
    Recipe("vanilla-two-ranks", "--preset vanilla --ema-decay 0.99 --processes 2", processes=2),
    Recipe("cgan-zero2", "--preset cgan --zero-stage 2 --processes 2", resumed=True, processes=2),
)
SETTING = re.compile(r"<div><dt>([^<]*)</dt><dd>([^<]*)</dd></div>\n")  # of a page
NARROW = "--data digits --width 0.1 --batch-size 384 --epochs 2 --save-every-steps 25 --sample-epochs 0,1"
FULL = "--sample-epochs 0 --save-every-steps 25"


class Tree:
    """A checkout, driven by its command line alone."""

    def __init__(self, root: Path):
        self.root = root
        # The package of this tree comes before an installed one.
        self.env = os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200"}

    def run(self, *arguments: str, cwd: Path, may_fail: bool = False) -> str:
        """Run `distgan ARGUMENTS` in `cwd` and return its stdout. Raises RuntimeError with its last words."""
        command = [sys.executable, "-m", "distgan", *arguments]
        done = subprocess.run(command, cwd=cwd, env=self.env, capture_output=True, text=True, timeout=1800)
        if done.returncode and not may_fail:
            raise RuntimeError(f"{self.root.name}: distgan {' '.join(arguments)}\n{done.stderr[-2000:]}")
        return done.stdout

    def check_import(self, cwd: Path) -> None:
        code = "import distgan; print(distgan.__file__)"
        where = subprocess.run(
            [sys.executable, "-c", code], cwd=cwd, env=self.env, check=True, capture_output=True, text=True
        )
        assert Path(where.stdout.strip()).is_relative_to(self.root), where.stdout


def checkout(rev: str, folder: Path) -> Path:
    """The files of an older revision in a new folder; the repository knows nothing of it, however this ends."""
    archive = subprocess.run(["git", "archive", rev], cwd=ROOT, capture_output=True)
    if archive.returncode:
        sys.exit(f"REV {rev}: {archive.stderr.decode().splitlines()[0]}. Expected: a revision of this repository")
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


# -- comparing ----------------------------------------------------------------------------------------


def stable(value: Any) -> Any:
    """Return JSON data by its current names, without what depends on the clock, the process or the folder."""
    if isinstance(value, dict):
        return {key: stable(item) for key, item in with_current_names(value).items() if key not in VOLATILE}
    return [stable(item) for item in value] if isinstance(value, list) else value


def pixels(path: Path) -> list[Any]:
    with Image.open(path) as image:
        return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]


def tensors(path: Path) -> dict[str, Any]:
    """Each tensor's dtype, shape and bytes, by its name."""
    with safe_open(path, "pt") as file:
        return {
            key: (str(value.dtype), tuple(value.shape), value.contiguous().view(-1).numpy().tobytes())
            if str(value.dtype) != "torch.bfloat16"
            else (str(value.dtype), tuple(value.shape), value.float().numpy().tobytes())
            for key in file.keys()  # noqa: SIM118  (safe_open is no mapping)
            for value in [file.get_tensor(key)]
        }


def differences(old: Path, new: Path) -> list[str]:
    """Return what differs between two files of the same name, a line each; empty if nothing does."""
    kind = old.suffix
    if kind == ".safetensors":
        before, after = tensors(old), tensors(new)
        return [f"tensor {key}" for key in before.keys() | after.keys() if before.get(key) != after.get(key)]
    if kind in (".png", ".gif"):
        before, after = pixels(old), pixels(new)
        same = len(before) == len(after) and all(map(np.array_equal, before, after))
        return [] if same else ["pixels"]
    if kind == ".npz":
        with np.load(old) as before, np.load(new) as after:
            names = set(before.files) | set(after.files)
            return [f"array {key}" for key in names if not np.array_equal(before[key], after[key])]
    if kind == ".jsonl":
        before, after = ([json.loads(line) for line in path.read_text().splitlines()] for path in (old, new))
        return [] if stable(before) == stable(after) else ["lines"]
    if kind == ".json":
        before, after = stable(json.loads(old.read_text())), stable(json.loads(new.read_text()))
        if new.name == "config.json":
            after = without_new_settings(before, after)
        return [f"key {key}" for key in before.keys() | after.keys() if before.get(key) != after.get(key)]
    return [] if old.read_bytes() == new.read_bytes() else ["bytes"]


def without_new_settings(before: Any, after: Any) -> Any:
    """Return `after` without the settings that the older tree lacks: by their defaults they change nothing."""
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return after
    return {key: without_new_settings(before[key], value) for key, value in after.items() if key in before}


def without_new_rows(before: str, after: str) -> tuple[str, list[str]]:
    """Return a page without the rows of settings that the older one lacks, and each of these as `name: value`."""
    rows = [row for row in SETTING.finditer(after) if f"<dt>{row[1]}</dt>" not in before]
    for row in rows:
        after = after.replace(row[0], "")
    return after, [f"{row[1]}: {row[2]}" for row in rows]


def compare_runs(old: Path, new: Path, only: Callable[[Path], bool] = lambda path: True) -> list[str]:
    """Differences between two run folders; TensorBoard's file, the environment and manifests of sizes aside."""
    skipped = {"environment.json", "lock", "manifest.json", "latest", "best"}

    def files(folder: Path) -> set[Path]:
        return {
            path.relative_to(folder)
            for path in folder.rglob("*")
            if path.is_file() and path.name not in skipped and "tfevents" not in path.name
            and "latest" not in path.parts and "best" not in path.parts
        }  # fmt: skip

    before, after = files(old), files(new)
    found = [f"{path}: only in one of the two" for path in sorted(before ^ after) if only(path)]
    for path in sorted(before & after):
        if only(path):
            found += [f"{path}: {what}" for what in differences(old / path, new / path)]
    return found


# -- what is done with both trees ---------------------------------------------------------------------


def train_both(recipe: Recipe, old: Tree, new: Tree, scratch: Path, common: str, steps: int) -> list[str]:
    flags = [*recipe.flags.split(), *common.split(), "--keep", "9", "--threads", "1", "--device", "cpu"]

    def train(tree: Tree, name: str, num: int) -> Path:
        out = scratch / recipe.name / name
        tree.run("train", *flags, "--max-steps", str(num), "--out", str(out), cwd=scratch)
        return out

    with ThreadPoolExecutor(2 if recipe.processes == 1 else 1) as pool:
        uninterrupted = pool.submit(train, old, "old", steps)
        again = pool.submit(train, new, "new", steps)
        half = pool.submit(train, old, "resumed", steps // 2) if recipe.resumed else None
        found = compare_runs(uninterrupted.result(), again.result())
        if half is not None:
            half.result()
            resumed = train(new, "resumed", steps)
            found += [f"resumed: {line}" for line in compare_runs(uninterrupted.result(), resumed, _is_final)]
    return found


def _is_final(path: Path) -> bool:
    """True for what a run that was stopped and resumed ends with: the samples at the stop are its own."""
    return path.name == "metrics.jsonl" or path.parts[0] == "weights"


def read_both(old: Tree, new: Tree, scratch: Path) -> list[str]:
    """Run every command that reads runs, with both trees, on the folders that the older one wrote."""
    found = []
    runs = [str(scratch / name / "old") for name in ("vanilla", "cgan")]
    fast = str(scratch / "cgan-fast" / "old")
    for run in runs:  # so that `compare` and `report` read what the older tree found
        old.run("eval", run, "--num", "400", "--threads", "1", cwd=scratch)
    commands = {
        "sample": lambda out: ["sample", runs[1], "--num", "200", "--out", f"{out}/sample.npz"],
        "sample-ema": lambda out: ["sample", fast, "--num", "40", "--out", f"{out}/sample.png"],
        "eval": lambda out: ["eval", runs[1], "--num", "400", "--json", "--threads", "1", "--out", f"{out}/eval"],
        "compare": lambda out: ["compare", *runs, "--out", f"{out}/compare.html"],
        "report": lambda out: ["report", runs[1], "--out", f"{out}/report.html"],
        "checkpoint ls": lambda out: ["checkpoint", "ls", runs[0]],
        "checkpoint diff": lambda out: ["checkpoint", "diff", runs[0], runs[1]],
    }
    for name, build in commands.items():
        said = []
        for tree, label in ((old, "read-old"), (new, "read-new")):
            out = scratch / label
            out.mkdir(exist_ok=True)
            text = tree.run(*build(out), cwd=scratch, may_fail=name == "checkpoint diff")
            if text.startswith("{"):
                text = json.dumps(stable(json.loads(text)), indent=1)
            said.append(_without_times(text.replace(label, "read")))
        if said[0] != said[1]:
            line = next(
                (f"{a!r} != {b!r}" for a, b in zip(*(s.splitlines() for s in said), strict=False) if a != b), "length"
            )
            found.append(f"{name}: says {line[:300]}")
    for page in ("compare.html", "report.html"):
        before, after = (_without_times((scratch / f"read-{tree}" / page).read_text()) for tree in ("old", "new"))
        before, after = before.replace("read-old", "read"), after.replace("read-new", "read")
        after, dropped = without_new_rows(before, after)
        for row in dropped:
            print(f"        {page}: new row, not compared: {row}", flush=True)
        if before != after:
            at = next(i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b)
            found.append(f"{page}: {before[at - 40 : at + 60]!r} != {after[at - 40 : at + 60]!r}")
    return found + compare_runs(scratch / "read-old", scratch / "read-new", lambda path: path.suffix != ".html")


def _without_times(text: str) -> str:
    text = re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\+00:00)?( UTC)?", "TIME", text)
    for pattern, name in NEW_NAMES:
        text = re.sub(pattern, name, text)
    return re.sub(r'("seconds\w*": )[\d.]+', r"\1S", re.sub(r"\b\d+(\.\d+)? s\b", "S s", text))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rev", help="the revision to compare with")
    parser.add_argument("--full", action="store_true", help="full width, the presets' own data")
    parser.add_argument("--only", default="", help="recipes whose name contains this")
    parser.add_argument("--keep", type=Path, help="leave the runs in this new folder")
    arguments = parser.parse_args()
    common, steps = (FULL, 50) if arguments.full else (NARROW, 50)
    start, failed = time.perf_counter(), 0
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        older = checkout(arguments.rev, scratch / "older")
        old, new = Tree(older), Tree(ROOT)
        for tree in (old, new):
            tree.check_import(scratch)
        print(f"{arguments.rev} against {ROOT.name}, {steps} steps, {common}", flush=True)
        parts: list[tuple[str, Callable[[], list[str]]]] = [
            (recipe.name, partial(train_both, recipe, old, new, scratch, common, steps))
            for recipe in RECIPES
            if arguments.only in recipe.name
        ]
        if not arguments.only:
            parts.append(("commands on older runs", lambda: read_both(old, new, scratch)))
        for name, part in parts:
            since = time.perf_counter()
            try:
                found = part()
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                found = [str(error)]
            failed += bool(found)
            print(f"{'DIFFERS' if found else 'same':8}{name:26}{time.perf_counter() - since:6.1f} s", flush=True)
            for line in found[:12]:
                print(f"        {line}", flush=True)
        if arguments.keep:
            shutil.copytree(scratch, arguments.keep, ignore=shutil.ignore_patterns("older"))
    print(f"{failed} of {len(parts)} differ; {time.perf_counter() - start:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
