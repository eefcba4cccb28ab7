"""Measure the trainings of the 2023 report's networks, and write the page about them from these measurements.

    python benchmarks/report_2023.py measure cgan=runs/cgan gan=runs/vanilla [--num N] [further flags of distgan eval]
    python benchmarks/report_2023.py page

`measure` reads runs that kept the checkpoint of each epoch (`--keep 200`) and writes what the page is made from into
docs/report_2023/. Names: gan, cgan, gan-fast, cgan-fast. An epoch is measured once.

`page` needs no run. It draws the pictures and replaces the parts of docs/report_2023.md that stand between
`<!-- measured: PART -->` and `<!-- end -->`.
"""

import argparse
import csv
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from report_2023_files import (
    MEANS,
    MINUTES,
    NUM_EPOCHS,
    TITLES,
    UNREADABLE,
    SameZ,
    Training,
    epoch_of,
    name_confusion,
    pair_of,
    read_qualities,
    read_trainings,
    score,
)
from report_2023_pictures import SHOWN, draw
from report_2023_sentences import middle_half, percent, table, write_comparison, write_losses, write_sentences
from report_2023_summary import write_summary
from torch import Tensor

from distgan.checkpoint.format import read_state
from distgan.evaluation.ensemble import SURE, load_ensemble
from distgan.evaluation.schema import Quality
from distgan.evaluation.scores import estimate_proportion, mean
from distgan.utils.files import read_metrics

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "report_2023.md"
PART = re.compile(r"(?<=<!-- measured: )([\w-]+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)
# The epochs that are evaluated beside every tenth: those that the report speaks of, and early ones.
EPOCHS = {
    "gan": (1, 2, 5, 20, 42, 60, 82, 120, 150),
    "cgan": (1, 2, 5, 13, 42, 80, 82, 120, 150),
    "gan-fast": (1, 2, 3, 4, 5, 7, 15),
    "cgan-fast": (1, 2, 3, 4, 5, 7, 15),
}
EVERY = 10  # further epochs
NUM_SAMPLES = 2000
NUM_SAME_Z = 10_000


# -- Measure --


def measure(name: str, run: Path, folder: Path, flags: Sequence[str]) -> None:
    """Write the metrics by epoch, an evaluation of each epoch of the report and every tenth, and for SHOWN samples."""
    folder.mkdir(parents=True, exist_ok=True)
    per_epoch = read_state(run / "checkpoints" / "latest").steps_per_epoch
    results = folder / f"{name}-quality.jsonl"
    known = {quality.source.step for quality in read_qualities(results)}
    wanted = {*EPOCHS.get(name, ()), *range(EVERY, NUM_EPOCHS + 1, EVERY)}
    for path in sorted((run / "checkpoints").glob("step-????????")):
        step = int(path.name[5:])
        epoch = step / per_epoch
        is_last = path.resolve() == (run / "checkpoints" / "latest").resolve()
        if step in known or not (epoch in wanted or is_last):
            continue
        printed = run_distgan("eval", str(path), "--json", "--out", str(run / f"eval-{step}"), *flags)
        quality = Quality.model_validate_json(printed)
        reference = re.sub(", /.*(?=, fingerprint)", "", quality.source.reference)
        without_paths = {"what": path.name, "path": None, "command": "", "weights": None, "reference": reference}
        source = quality.source.model_copy(update=without_paths)
        with results.open("a") as file:
            file.write(quality.model_copy(update={"source": source}).model_dump_json(exclude_defaults=True) + "\n")
        print(f"{name}: epoch {epoch:g} evaluated", flush=True)
    lines = [line for line in read_metrics(run / "metrics.jsonl") if "d_loss" in line]
    with (folder / f"{name}-epochs.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("epoch", *MEANS, "elapsed_s", "peak_memory_gib"))
        for epoch, part in groupby(lines, lambda line: -(-line["step"] // per_epoch)):
            values = list(part)
            means = [f"{fmean(line[key] for line in values):.4f}" for key in MEANS]
            rows.writerow((epoch, *means, f"{values[-1]['elapsed_s']:.1f}", values[-1].get("peak_memory_gib")))
    if name not in SHOWN:
        return
    paths = {epoch: run / "checkpoints" / f"step-{epoch * per_epoch:08d}" for epoch in SHOWN[name]}
    paths = {epoch: path for epoch, path in paths.items() if path.exists()}
    for epoch, path in paths.items():
        run_distgan("sample", str(path), "--num", "100", "--out", str(folder / f"{name}-{epoch:03d}.png"))
    measure_same_z(paths, run, folder / f"{name}-same-z.npz")
    drawn = run / "samples.npz"
    run_distgan("sample", str(run), "--num", str(NUM_SAMPLES), "--out", str(drawn))
    with np.load(drawn) as arrays:
        np.savez_compressed(folder / f"{name}.npz", **arrays)


def measure_same_z(paths: dict[int, Path], run: Path, out: Path) -> None:
    """Draw the same z from the checkpoint of each epoch, and write the fields of SameZ, (E, ...), to `out`."""
    ensemble = load_ensemble("mnist", torch.device("cpu"))
    is_border = torch.ones(28, 28, dtype=torch.bool)
    is_border[4:-4, 4:-4] = False
    rows: dict[str, list[Any]] = {key: [] for key in SameZ._fields}
    for path in paths.values():
        run_distgan("sample", str(path), "--num", str(NUM_SAME_Z), "--out", str(run / "same-z.npz"))
        with np.load(run / "same-z.npz") as arrays:
            images = torch.from_numpy(arrays["images"])
        parts = [ensemble.read(part) for part in images.split(1000)]
        digits = torch.cat([torch.where(part.confidence > SURE, part.classes, UNREADABLE) for part in parts])
        rows["digits"].append(digits.to(torch.uint8).numpy())
        measured = {"border": images[:, is_border].double().mean(1) / 255, "off_centre": distance_from_centre(images)}
        for key, values in measured.items():
            estimate = mean(values)
            rows[key].append((estimate.value, estimate.low, estimate.high))
    (run / "same-z.npz").unlink(missing_ok=True)
    np.savez_compressed(out, epochs=np.array(list(paths)), **{key: np.array(values) for key, values in rows.items()})


def distance_from_centre(images: Tensor) -> Tensor:
    """Return the distance of each centre of mass from the image's middle, in pixels, (N,), of uint8 (N, H, W)."""
    mass = images.double()
    total = mass.sum((1, 2)).clamp(min=1)
    away = [torch.arange(size) - (size - 1) / 2 for size in images.shape[1:]]
    return torch.hypot((mass.sum(2) * away[0]).sum(1) / total, (mass.sum(1) * away[1]).sum(1) / total)


def run_distgan(*words: str) -> str:
    """Run a command of distgan and return what it prints. Its own message stands above an exit with its code."""
    done = subprocess.run([sys.executable, "-m", "distgan", *words], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    return done.stdout


# -- Parts of the page --


def write_visible(trainings: dict[str, Training]) -> str:
    """Return the table of what the same z give at the epochs that the report shows."""
    rows = []
    for training in pair_of(trainings):
        for epoch, images in training.same_z.items():
            num = int((images.digits != UNREADABLE).sum())
            recognisable = percent(estimate_proportion(num, len(images.digits)))
            rows.append((training.title, epoch, recognisable, percent(images.border), f"{images.off_centre:.1f}"))
    head = ("network", "epoch", "recognisable", "brightness of the outer 4 pixels", "pixels off the centre")
    return table(head, rows)


def write_digits(trainings: dict[str, Training]) -> str:
    """Return the table of each digit at the last epoch."""
    rows = []
    for digit in range(10):
        cells = []
        for training in pair_of(trainings):
            found = training.last.per_digit[digit]
            cells += [found.verdict, percent(found.share), percent(found.sample.recognisable) if found.sample else ""]
            if found.agreement:
                cells.append(percent(found.agreement))
        rows.append((digit, *cells))
    head = ["digit"]
    for training in pair_of(trainings):
        head += [
            training.title_at_last,
            "share of the images",
            "recognisable",
            *["read as requested"] * training.is_conditional,
        ]
    return table(head, rows)


def write_confusions(trainings: dict[str, Training]) -> str:
    """Return the ten most frequent confusions of the C-GAN's digits."""
    rows = [
        (name_confusion(each), percent(each.share), percent(each.jury), each.seen_by)
        for each in trainings["cgan"].last.confusions[:10]
    ]
    return table(("requested, read", "share", "of real images", "judges that find it, of three"), rows)


def write_convergence(trainings: dict[str, Training]) -> str:
    """Return the epochs to convergence by three definitions."""
    rows = []
    for training in pair_of(trainings):
        claimed = 80 if training.is_conditional else 60
        met, why = training.convergence
        by_targets = f"not in {epoch_of(training.last):g}" + " so far" * (not training.is_complete) + f" ({why})"
        others = ("not reached", "not reached")
        if training.is_complete:
            others = (f"{training.first_near_best:g}", f"{training.first_like_last:g}")
        rows.append((training.title, claimed, by_targets if met is None else f"{met:g}", *others))
    head = ("network", "the report", "targets of convergence.md, held once more", "FCD within 10 % of its best",
            "as often recognised as at the end")  # fmt: skip
    return table(head, rows)


def write_cost(trainings: dict[str, Training]) -> str:
    """Return seconds per epoch and memory of each training."""
    rows = []
    for training in trainings.values():
        quarters, memory = training.epoch_quarters, max(row.peak_memory_gib for row in training.rows)
        hours = [len(training.rows) * quarters[1] / 3600, training.rows[-1].elapsed_s / 3600]
        cells = (f"{len(training.rows)}", middle_half(quarters), *(f"{each:.2f}" for each in hours), f"{memory:.2f}")
        rows.append((training.title, *cells))
    head = (
        "network",
        "epochs",
        "seconds per epoch, median (middle half)",
        "hours in all by the median",
        "by the clock",
        "peak memory, GiB",
    )
    return table(head, rows)


def write_time(trainings: dict[str, Training]) -> str:
    """Return the quality of each training after equal times."""
    rows = []
    for minutes in MINUTES:
        cells = []
        for training in trainings.values():
            cell = ""
            if quality := training.after(minutes):
                cell = f"FCD {quality.fcd.value:.1f}, {score(quality).value:.0%} (epoch {epoch_of(quality):g})"
            cells.append(cell)
        if any(cells):
            rows.append((minutes, *cells))
    return table(("minutes", *(training.title for training in trainings.values())), rows)


PARTS: dict[str, Callable[[dict[str, Training]], str]] = {
    "summary": write_summary,
    "sentences": write_sentences,
    "losses": write_losses,
    "visible": write_visible,
    "digits": write_digits,
    "confusions": write_confusions,
    "convergence": write_convergence,
    "comparison": write_comparison,
    "cost": write_cost,
    "time": write_time,
}


def fill_page(text: str, trainings: dict[str, Training]) -> str:
    """Return the page with its measured parts replaced."""
    return PART.sub(lambda part: f"{part[1]}{part[2]}\n{PARTS[part[1]](trainings)}\n\n", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("measure", "page"))
    parser.add_argument("runs", nargs="*", metavar="NAME=RUN")
    parser.add_argument("--page", type=Path, default=PAGE, help="the files are in a folder of its name beside it")
    options, flags = parser.parse_known_args()
    folder = options.page.with_suffix("")
    if options.action == "page" and (extra := [*options.runs, *flags]):
        parser.error(f"page: takes only --page ({' '.join(extra)}). Expected: page [--page FILE.md]")
    if options.action == "measure":
        if not options.runs:
            parser.error("measure: no run. Expected: measure NAME=RUN ...")
        runs = [(name, run) for name, _, run in (text.partition("=") for text in options.runs)]
        for name, run in runs:
            if name not in TITLES or not run:
                parser.error(f"NAME=RUN: unknown ({name}={run}). Expected: NAME of {', '.join(TITLES)}")
            if not (Path(run) / "checkpoints" / "latest").exists():
                parser.error(f"NAME=RUN: no checkpoints ({run}). Expected: a run trained with --keep 200")
            if not (Path(run) / "metrics.jsonl").exists():
                parser.error(f"NAME=RUN: no metrics.jsonl ({run}). Expected: the folder that training wrote")
        for name, run in runs:
            measure(name, Path(run), folder, flags)
        return
    trainings = read_trainings(folder)
    if "cgan" not in trainings or not options.page.exists():
        parser.error(f"--page: not there, or without measurements ({options.page}). Expected: measure cgan=RUN first")
    text = options.page.read_text()
    if unknown := {part for part, _ in PART.findall(text)} - PARTS.keys():
        parser.error(f"{options.page}: unknown parts ({', '.join(unknown)}). Expected: of {', '.join(PARTS)}")
    try:
        filled = fill_page(text, trainings)
        draw(trainings, folder)
    except (OSError, ValueError, BadZipFile) as error:
        parser.error(f"{folder}: damaged or incomplete ({str(error).splitlines()[0]}). Expected: what measure wrote")
    options.page.write_text(filled)


if __name__ == "__main__":
    main()
