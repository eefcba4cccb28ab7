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

import numpy as np
import torch
from report_2023_files import (
    NUM_EPOCHS,
    TITLES,
    UNREADABLE,
    SameZ,
    Training,
    epoch_of,
    missing,
    name_confusion,
    overlap,
    pair_of,
    read_qualities,
    read_trainings,
    score,
)
from report_2023_pictures import SHOWN, draw
from report_2023_sentences import percent, table, verdict, write_sentences
from report_2023_summary import write_summary

from distgan.checkpoint.format import read_state
from distgan.evaluation.ensemble import SURE, load_ensemble
from distgan.evaluation.schema import Estimate, Quality
from distgan.evaluation.scores import estimate_proportion, mean
from distgan.evaluation.targets import SETS, detect, list_targets, read_targets
from distgan.utils.files import read_metrics

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "report_2023.md"
PART = re.compile(r"(?<=<!-- measured: )([\w-]+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)
# The epochs that are evaluated beside every tenth: those that the report speaks of, and early ones.
EPOCHS = {
    "gan": (1, 2, 5, 20, 42, 60, 82, 120, 150),
    "cgan": (1, 2, 5, 13, 42, 80, 82, 120, 150),
    "gan-fast": (1, 2, 3, 4, 5, 6),
    "cgan-fast": (1, 2, 3, 4, 5, 6),
}
EVERY = 10  # further epochs
MEANS = ("d_loss", "g_loss", "real_logits", "fake_logits")
NUM_SAMPLES = 2000
NUM_SAME_Z = 10_000
MINUTES = (1, 2, 5, 10, 20, 40, 80, 160, 320)


# -- Measure --


def measure(name: str, run: Path, folder: Path, flags: Sequence[str]) -> None:
    """Write the metrics by epoch, an evaluation of each epoch of the report and every tenth, and for SHOWN samples."""
    folder.mkdir(parents=True, exist_ok=True)
    per_epoch = read_state(run / "checkpoints" / "latest").steps_per_epoch
    lines = [line for line in read_metrics(run / "metrics.jsonl") if "d_loss" in line]
    with (folder / f"{name}-epochs.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("epoch", *MEANS, "elapsed_s", "peak_memory_gib"))
        for epoch, part in groupby(lines, lambda line: -(-line["step"] // per_epoch)):
            values = list(part)
            means = [f"{fmean(line[key] for line in values):.4f}" for key in MEANS]
            rows.writerow((epoch, *means, f"{values[-1]['elapsed_s']:.1f}", values[-1].get("peak_memory_gib")))
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
        for key, pixels in (("border", images[:, is_border]), ("middle", images[:, ~is_border])):
            brightness = mean(pixels.double().mean(1) / 255)
            rows[key].append((brightness.value, brightness.low, brightness.high))
    np.savez_compressed(out, epochs=np.array(list(paths)), **{key: np.array(values) for key, values in rows.items()})


def run_distgan(*words: str) -> str:
    """Run a command of distgan and return what it prints. Its own message stands above an exit with its code."""
    done = subprocess.run([sys.executable, "-m", "distgan", *words], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    return done.stdout


# -- Parts of the page --


def write_losses(trainings: dict[str, Training]) -> str:
    """Return the table of the losses' directions, from the first to the last tenth of the epochs."""
    rows = []
    for training in pair_of(trainings):
        part = max(1, len(training.rows) // 10)
        first, last = training.rows[:part], training.rows[-part:]
        means = {key: [fmean(getattr(row, key) for row in rows) for rows in (first, last)] for key in MEANS[:2]}
        rises, falls = means["d_loss"][1] > means["d_loss"][0], means["g_loss"][1] < means["g_loss"][0]
        for key, holds, text in (("d_loss", rises, "D's loss rises"), ("g_loss", falls, "G's loss falls")):
            one, other = means[key]
            rows.append((training.title, text, verdict(holds), f"{one:.3f} to {other:.3f}", f"1 to {last[-1].epoch}"))
    return table(("network", "the report", "holds", "mean of the first tenth to that of the last", "epochs"), rows)


def write_visible(trainings: dict[str, Training]) -> str:
    """Return the table of what the same z give at the epochs that the report shows."""
    rows = []
    for training in pair_of(trainings):
        for epoch, images in training.same_z.items():
            num = int((images.digits != UNREADABLE).sum())
            recognisable = percent(estimate_proportion(num, len(images.digits)))
            rows.append((training.title, epoch, recognisable, percent(images.border), percent(images.middle)))
    head = ("network", "epoch", "recognisable", "brightness of the outer 4 pixels", "of the middle")
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
    targets = read_targets(SETS["mnist"])
    rows = []
    for training in pair_of(trainings):
        claimed = 80 if training.is_conditional else 60
        evaluations, last = training.evaluations, training.last
        wanted = list_targets(targets.cgan if training.is_conditional else targets.vanilla)
        by_targets = detect(evaluations, wanted, 1)
        met = evaluations[by_targets.reached].epoch if by_targets.reached is not None else None
        end = f"not in {epoch_of(last):g}" + " so far" * (not training.is_complete)
        why = f" ({by_targets.why}; missed: {', '.join(by_targets.targets)})" if met is None else ""
        others = ("not reached", "not reached")
        if training.is_complete:
            others = (f"{training.first_near_best:g}", f"{training.first_like_last:g}")
        rows.append((training.title, claimed, f"{met:g}" if met is not None else end + why, *others))
    head = ("network", "the report", "targets of convergence.md, held once more", "FCD within 10 % of its best",
            "as often recognised as at the end")  # fmt: skip
    return table(head, rows)


def write_comparison(trainings: dict[str, Training]) -> str:
    """Return the report's comparison of its two networks, at the last epoch at which both were evaluated.

    A training is faster if the middle halves of its seconds per epoch do not overlap.
    """
    if len(pair := pair_of(trainings)) < 2:
        return "The GAN was not measured."
    of_both = set.intersection(*({epoch_of(quality) for quality in training.qualities} for training in pair))
    if not of_both:
        return "No epoch was evaluated of both."
    epoch = max(of_both)
    at = [quality for training in pair for quality in training.qualities if epoch_of(quality) == epoch]
    seconds = [training.epoch_quarters for training in pair]
    target = max(min(quality.fcd.value for quality in training.qualities) for training in pair)
    minutes = [training.minutes_to(target) for training in pair]
    fcd, recognisable, coverage = ([getattr(q, key) for q in at] for key in ("fcd", "recognisable", "coverage"))
    rows = (
        ("the GAN's images are better", verdict(less(*fcd)), "FCD", *(f"{each:.1f}" for each in fcd)),
        ("the C-GAN's are recognisable", verdict(less(*recognisable)), "share recognisable, above the GAN's",
         *map(percent, recognisable)),
        ("the GAN trains faster", verdict(seconds[0][2] < seconds[1][0]), "seconds per epoch, median",
         *map(middle_half, seconds)),
        ("the condition can make training converge faster", verdict(less(minutes[1], minutes[0])),
         f"minutes to FCD {target:.1f}, which both reach", *(f"{each:.0f}" for each in minutes)),
        ("the GAN does not hold all digits", verdict(bool(missing(at[0]))), "missing digits", *map(digits_missing, at)),
        ("the C-GAN holds all digits", verdict(not missing(at[1])), "missing digits", *map(digits_missing, at)),
        ("the C-GAN is more diverse", verdict(less(*coverage)), "coverage of the real images", *map(percent, coverage)),
    )  # fmt: skip
    return table(("the report", "holds", "measured as", *(f"{each.title}, epoch {epoch:g}" for each in pair)), rows)


def less(one: Estimate, other: Estimate) -> bool | None:
    """Return if `one` is less than `other`, None where their intervals overlap."""
    return None if overlap(one, other) else one.value < other.value


def middle_half(quarters: Sequence[float]) -> str:
    low, middle, high = quarters
    return f"{middle:.0f} ({low:.0f} to {high:.0f})"


def digits_missing(quality: Quality) -> str:
    return ", ".join(map(str, sorted(missing(quality)))) or "none"


def write_cost(trainings: dict[str, Training]) -> str:
    """Return seconds per epoch and memory of each training."""
    rows = []
    for training in trainings.values():
        quarters, memory = training.epoch_quarters, max(row.peak_memory_gib for row in training.rows)
        hours = f"{len(training.rows) * quarters[1] / 3600:.2f}"
        rows.append((training.title, f"{epoch_of(training.last):g}", middle_half(quarters), hours, f"{memory:.2f}"))
    head = (
        "network",
        "epochs",
        "seconds per epoch, median (middle half)",
        "hours in all by the median",
        "peak memory, GiB",
    )
    return table(head, rows)


def write_time(trainings: dict[str, Training]) -> str:
    """Return the quality of each training after equal times."""
    rows = []
    for minutes in MINUTES:
        cells = []
        for training in trainings.values():
            done = [q for q in training.qualities if training.seconds_at(epoch_of(q)) <= 60 * minutes]
            if not done or training.seconds_at(training.rows[-1].epoch) < 60 * minutes:
                cells.append("")
                continue
            cells.append(f"FCD {done[-1].fcd.value:.1f}, {score(done[-1]).value:.0%} (epoch {epoch_of(done[-1]):g})")
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
    if options.action == "measure":
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
    draw(trainings, folder)
    options.page.write_text(fill_page(text, trainings))


if __name__ == "__main__":
    main()
