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
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from itertools import groupby, pairwise
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from distgan.benchmark.plots import save_panels
from distgan.checkpoint.format import read_state
from distgan.evaluation.schema import Estimate, Quality
from distgan.evaluation.targets import SETS, Evaluation, detect, list_targets, read_targets
from distgan.reports.report2023 import check_claims
from distgan.utils.figures import TEXT_HEIGHT, draw_timeline, grid
from distgan.utils.files import read_metrics

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "report_2023.md"
PART = re.compile(r"(?<=<!-- measured: )([\w-]+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)
TITLES = {"gan": "GAN", "cgan": "C-GAN", "gan-fast": "GAN, fast recipe", "cgan-fast": "C-GAN, fast recipe"}
COLOURS = {"gan": "#c4773a", "cgan": "#1f5f8b", "gan-fast": "#e0b58f", "cgan-fast": "#86b3d1"}
# The epochs that are evaluated beside every tenth: those that the report speaks of, and early ones.
EPOCHS = {
    "gan": (1, 2, 5, 20, 42, 60, 82, 120, 150),
    "cgan": (1, 2, 5, 13, 42, 80, 82, 120, 150),
    "gan-fast": (1, 2, 3, 4, 5, 6),
    "cgan-fast": (1, 2, 3, 4, 5, 6),
}
# The epochs of its pictures; the C-GAN's first is added.
SHOWN = {"gan": (1, 20, 42, 81, 120, 129, 149), "cgan": (1, 13, 42, 81, 120, 129, 149)}
EVERY = 10  # further epochs
NUM_EPOCHS = 150
MEANS = ("d_loss", "g_loss", "real_logits", "fake_logits")
NUM_SAMPLES = 2000
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
    for epoch in SHOWN[name]:
        checkpoint = run / "checkpoints" / f"step-{epoch * per_epoch:08d}"
        if checkpoint.exists():
            run_distgan("sample", str(checkpoint), "--num", "100", "--out", str(folder / f"{name}-{epoch:03d}.png"))
    drawn = run / "samples.npz"
    run_distgan("sample", str(run), "--num", str(NUM_SAMPLES), "--out", str(drawn))
    with np.load(drawn) as arrays:
        np.savez_compressed(folder / f"{name}.npz", **arrays)


def run_distgan(*words: str) -> str:
    """Run a command of distgan and return what it prints. Its own message stands above an exit with its code."""
    done = subprocess.run([sys.executable, "-m", "distgan", *words], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    return done.stdout


def read_qualities(path: Path) -> list[Quality]:
    """Return the evaluations of a file by step, [] if there is none."""
    lines = path.read_text().splitlines() if path.exists() else []
    return sorted(map(Quality.model_validate_json, lines), key=lambda quality: quality.source.step or 0)


# -- What the files say of a training --


class Row(NamedTuple):
    """A line of NAME-epochs.csv: means over an epoch. `elapsed_s`: seconds of training since the start."""

    epoch: int
    d_loss: float
    g_loss: float
    real_logits: float
    fake_logits: float
    elapsed_s: float
    peak_memory_gib: float


class Training:
    """The files of a training in `folder`."""

    def __init__(self, name: str, folder: Path):
        self.name, self.folder, self.title = name, folder, TITLES[name]
        self.is_conditional = name.startswith("cgan")

    @cached_property
    def rows(self) -> list[Row]:
        with (self.folder / f"{self.name}-epochs.csv").open() as file:
            lines = list(csv.reader(file))[1:]
        return [Row(int(line[0]), *map(float, line[1:])) for line in lines]

    @cached_property
    def qualities(self) -> list[Quality]:
        return read_qualities(self.folder / f"{self.name}-quality.jsonl")

    @property
    def last(self) -> Quality:
        return self.qualities[-1]

    @property
    def title_at_last(self) -> str:
        return f"{self.title}, epoch {epoch_of(self.last):g}"

    @property
    def is_complete(self) -> bool:
        return epoch_of(self.last) >= NUM_EPOCHS

    def at(self, epoch: int) -> Quality | None:
        return next((quality for quality in self.qualities if epoch_of(quality) == epoch), None)

    @cached_property
    def epoch_seconds(self) -> list[float]:
        """Seconds of training of each epoch, as the clock had it."""
        return [end - start for start, end in pairwise([0.0, *(row.elapsed_s for row in self.rows)])]

    @property
    def epoch_quarters(self) -> list[float]:
        """The median of `epoch_seconds` between the ends of their middle half, which leaves out most of what waited."""
        seconds = self.epoch_seconds
        return quantiles(seconds, n=4) if len(seconds) > 1 else 3 * seconds

    def seconds_at(self, epoch: float) -> float:
        """Return the seconds of training up to an epoch, had each taken the median: some ran beside other work."""
        return epoch * self.epoch_quarters[1]

    @property
    def evaluations(self) -> list[Evaluation]:
        return [
            Evaluation(
                quality.source.step or 0, epoch_of(quality), self.seconds_at(epoch_of(quality)), 0.0,
                quality.fcd.value, quality.recognisable.value,
                [score_of(digit, self.is_conditional) for digit in quality.per_digit],
                [digit.sample.coverage.value if digit.sample else None for digit in quality.per_digit],
            )
            for quality in self.qualities
        ]  # fmt: skip


def epoch_of(quality: Quality) -> float:
    return round(quality.source.epoch or 0.0, 3)


def score_of(digit: Any, is_conditional: bool) -> float | None:
    """Return the share read as requested or, without labels, the digit's share of all images."""
    if not is_conditional:
        return float(digit.share.value)
    return float(digit.agreement.value) if digit.agreement else None


def made_well(quality: Quality) -> list[int]:
    return [digit.digit for digit in quality.per_digit if digit.verdict == "made well"]


def overlap(one: Estimate, other: Estimate) -> bool:
    return one.low <= other.high and other.low <= one.high


# -- The report's sentences on single epochs --


class Sentence(NamedTuple):
    """`holds` judges the evaluation at `epoch`; `rule` says how. `until`: a second epoch, for what stays as it is."""

    name: str
    epoch: int
    text: str
    rule: str
    holds: Callable[[Quality], bool]
    until: int | None = None


def is_noise(quality: Quality) -> bool:
    return quality.coverage.high < 0.1


SENTENCES = (
    Sentence("gan", 1, "noise in the centre", "coverage of the real images below 0.1", is_noise),
    Sentence("gan", 20, "first shapes of 0 and 4", "0 and 4 not missing", lambda q: not {0, 4} & missing(q)),
    Sentence("gan", 42, "smooth 2, 3, 9", "2, 3 and 9 made well", lambda q: {2, 3, 9} <= set(made_well(q))),
    Sentence("gan", 42, "stable from 42 to 82", "intervals of FCD overlap", lambda q: True, 82),
    Sentence("gan", 120, "most digits", "at least 6 of 10 digits made well", lambda q: len(made_well(q)) >= 6),
    Sentence("cgan", 1, "noise", "coverage of the real images below 0.1", is_noise),
    Sentence("cgan", 13, "digits form in the middle", "read as the requested digit more often than by chance",
             lambda q: q.agreement is not None and q.agreement.low > 0.1),
    Sentence("cgan", 42, "a part of the digits", "1 to 9 digits made well", lambda q: 0 < len(made_well(q)) < 10),
    Sentence("cgan", 82, "digits clearly by their label", "at least 90 % read as the requested digit",
             lambda q: q.agreement is not None and q.agreement.low >= 0.9),
    Sentence("cgan", 120, "most labels well", "at least 6 of 10 digits made well", lambda q: len(made_well(q)) >= 6),
)  # fmt: skip


def pair_of(trainings: dict[str, Training]) -> list[Training]:
    """Return the trainings of the report's presets."""
    return [trainings[name] for name in ("gan", "cgan") if name in trainings]


def missing(quality: Quality) -> set[int]:
    return {digit.digit for digit in quality.per_digit if digit.verdict == "missing"}


def verdict(holds: bool | None) -> str:
    return {True: "yes", False: "**no**", None: "undecided"}[holds]


def percent(estimate: Estimate) -> str:
    return f"{estimate.value:.1%} ({estimate.low:.1%} to {estimate.high:.1%})"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows))


# -- Parts of the page --


def write_sentences(trainings: dict[str, Training]) -> str:
    """Return the table of the report's sentences: those on an epoch, then those on the end."""
    rows: list[tuple[object, ...]] = []
    for each in SENTENCES:
        quality, until = (
            trainings[each.name].at(epoch) if epoch and each.name in trainings else None
            for epoch in (each.epoch, each.until)
        )
        at = f"{each.epoch} to {each.until}" if each.until else str(each.epoch)
        if quality is None or (each.until and until is None):
            rows.append((TITLES[each.name], at, each.text, each.rule, "not reached", ""))
            continue
        holds = overlap(quality.fcd, until.fcd) if until else each.holds(quality)
        evidence = f"FCD {quality.fcd:.1f}" + (f", then {until.fcd:.1f}" if until else "")
        if not until:
            agreement = f", read as requested {percent(quality.agreement)}" if quality.agreement else ""
            well = ", ".join(map(str, made_well(quality))) or "none"
            evidence += f", recognisable {percent(quality.recognisable)}{agreement}; made well: {well}"
        rows.append((TITLES[each.name], at, each.text, each.rule, verdict(holds), evidence))
    for training in pair_of(trainings):
        for claim in check_claims(training.last):
            found = (verdict(claim.holds), claim.evidence) if training.is_complete else ("not reached", "")
            rows.append((training.title, NUM_EPOCHS, claim.sentence, "as `distgan report`", *found))
    return table(("network", "epoch", "the report", "measured as", "holds", "measured"), rows)


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


def write_digits(trainings: dict[str, Training]) -> str:
    """Return the table of each digit at the last epoch."""
    rows = []
    for digit in range(10):
        cells = []
        for training in pair_of(trainings):
            found = training.last.per_digit[digit]
            cells += [found.verdict, percent(found.share)]
            if found.agreement:
                cells.append(percent(found.agreement))
        rows.append((digit, *cells))
    head = ["digit"]
    for training in pair_of(trainings):
        head += [training.title_at_last, "share of the images", *["read as requested"] * training.is_conditional]
    return table(head, rows)


def write_confusions(trainings: dict[str, Training]) -> str:
    """Return the ten most frequent confusions of the C-GAN's digits."""
    rows = [
        (f"{each.asked} as {each.read}", percent(each.share), percent(each.jury), each.seen_by)
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
        best = min(quality.fcd.value for quality in training.qualities)
        near_best = next((epoch_of(q) for q in training.qualities if q.fcd.value <= 1.1 * best), None)
        same = next((epoch_of(q) for q in training.qualities if overlap(score(q), score(last))), None)
        end = f"not in {epoch_of(last):g}" + " so far" * (not training.is_complete)
        why = f" ({by_targets.why}; missed: {', '.join(by_targets.targets)})" if met is None else ""
        others = (number(near_best), number(same)) if training.is_complete else ("not reached", "not reached")
        rows.append((training.title, claimed, f"{met:g}" if met is not None else end + why, *others))
    head = ("network", "the report", "targets of convergence.md, held once more", "FCD within 10 % of its best",
            "as often recognised as at the end")  # fmt: skip
    return table(head, rows)


def number(epoch: float | None) -> str:
    return "" if epoch is None else f"{epoch:g}"


def score(quality: Quality) -> Estimate:
    return quality.agreement or quality.recognisable


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
    fcd, recognisable, coverage = ([getattr(q, key) for q in at] for key in ("fcd", "recognisable", "coverage"))
    rows = (
        ("the GAN's images are better", verdict(less(*fcd)), "FCD", *(f"{each:.1f}" for each in fcd)),
        ("the C-GAN's are recognisable", verdict(less(*recognisable)), "share recognisable, above the GAN's",
         *map(percent, recognisable)),
        ("the GAN trains faster", verdict(seconds[0][2] < seconds[1][0]), "seconds per epoch, median",
         *map(middle_half, seconds)),
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
    "sentences": write_sentences,
    "losses": write_losses,
    "digits": write_digits,
    "confusions": write_confusions,
    "convergence": write_convergence,
    "comparison": write_comparison,
    "cost": write_cost,
    "time": write_time,
}


# -- Pictures --


def draw_curves(axes: Any, trainings: Iterable[Training], key: str, title: str) -> None:
    for training in trainings:
        epochs = [row.epoch for row in training.rows]
        axes.plot(
            epochs, [getattr(row, key) for row in training.rows], color=COLOURS[training.name], label=training.title
        )
    axes.set(title=title, xlabel="epoch")


def draw_quality(axes: Any, trainings: Iterable[Training], pick: Callable[[Quality], Estimate], title: str) -> None:
    for training in trainings:
        epochs = [epoch_of(quality) for quality in training.qualities]
        values = [pick(quality) for quality in training.qualities]
        bars = [[each.value - each.low for each in values], [each.high - each.value for each in values]]
        colour = COLOURS[training.name]
        axes.errorbar(
            epochs, [each.value for each in values], yerr=bars, color=colour, label=training.title, marker="."
        )
    axes.set(title=title, xlabel="epoch")


def draw_digits(axes: Any, training: Training) -> None:
    """Draw a map of digits by epochs: agreement or, without labels, the share of all images."""
    values = np.array(
        [[score_of(digit, training.is_conditional) or 0.0 for digit in q.per_digit] for q in training.qualities]
    )
    picture = axes.imshow(values.T, aspect="auto", vmin=0, vmax=1 if training.is_conditional else 0.2, cmap="viridis")
    axes.set_xticks(range(len(values)), [f"{epoch_of(q):g}" for q in training.qualities], fontsize=7)
    axes.set_yticks(range(10), range(10))
    axes.grid(visible=False)
    about = "share read as requested" if training.is_conditional else "share of all images (0.1 each would be equal)"
    axes.set(title=f"{training.title}: {about}", xlabel="epoch", ylabel="digit")
    axes.figure.colorbar(picture, ax=axes)


def draw_matrix(axes: Any, quality: Quality) -> None:
    """Draw the confusion matrix of the last evaluation: requested by read, in per cent of the requested."""
    assert quality.matrix is not None
    shares = np.array(quality.matrix, dtype=float)
    shares = 100 * shares / shares.sum(1, keepdims=True)
    axes.imshow(shares, vmin=0, vmax=100, cmap="Blues")
    for (row, column), value in np.ndenumerate(shares):
        if round(value) >= 1:
            axes.text(
                column,
                row,
                f"{value:.0f}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if value > 50 else "black",
            )
    axes.set_xticks(range(10), range(10))
    axes.set_yticks(range(10), range(10))
    axes.grid(visible=False)
    axes.set(title="C-GAN at its last epoch, per cent", xlabel="read as (three judges)", ylabel="requested")


def draw_side_by_side(trainings: Iterable[Training]) -> Image.Image:
    """Return 50 of the last samples of each network beside each other; the C-GAN's by digit."""
    pictures = []
    for training in trainings:
        with np.load(training.folder / f"{training.name}.npz") as arrays:
            images = arrays["images"]
            if "labels" in arrays:
                order = [np.flatnonzero(arrays["labels"] == digit)[:5] for digit in range(10)]
                images = images[np.stack(order, axis=1).reshape(-1)]
        pictures.append(grid(images[:50], 10, caption=training.title_at_last))
    gap = 16
    sheet = Image.new("RGB", (sum(p.width for p in pictures) + gap * (len(pictures) - 1), pictures[0].height), "white")
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width + gap
    return sheet


def draw(trainings: dict[str, Training], out: Path) -> None:
    """Draw the page's pictures into `out`."""
    pair = pair_of(trainings)
    losses = [partial(draw_curves, trainings=pair, key=key, title=title) for key, title in (
        ("d_loss", "D's loss"), ("g_loss", "G's loss"),
        ("real_logits", "D's logits of real images"), ("fake_logits", "D's logits of generated images"),
    )]  # fmt: skip
    save_panels(out / "curves.png", losses, "Means by epoch")
    picks: tuple[tuple[Callable[[Quality], Estimate], str], ...] = (
        (lambda quality: quality.fcd, "FCD, lower is better"),
        (lambda quality: quality.recognisable, "share recognisable"),
        (score, "share read as requested"),
        (lambda quality: quality.coverage, "coverage"),
    )
    panels = [
        partial(draw_quality, trainings=pair[-1:] if pick is score else pair, pick=pick, title=title)
        for pick, title in picks
    ]
    save_panels(out / "quality.png", panels, "Measured at checkpoints; bars: 95 % intervals")
    save_panels(out / "digits.png", [partial(draw_digits, training=each) for each in pair], "Digits over the epochs",
                heights=[3.2] * len(pair), width=9)  # fmt: skip
    save_panels(out / "confusion.png", [partial(draw_matrix, quality=trainings["cgan"].last)], "", heights=[5.0])
    draw_side_by_side(pair).save(out / "side-by-side.png")
    for training in pair:
        draw_stages(training).save(out / f"{training.name}-timeline.png")


def draw_stages(training: Training) -> Image.Image:
    """Return the first two rows of the grid of each epoch of SHOWN, below one another."""
    frames = []
    for epoch in SHOWN[training.name]:
        path = training.folder / f"{training.name}-{epoch:03d}.png"
        if path.exists():
            with Image.open(path) as picture:
                heads = TEXT_HEIGHT * training.is_conditional
                rows = picture.crop((0, 0, picture.width, heads + 2 * (picture.height - heads) // 10))
                frames.append((f"epoch {epoch}", rows.convert("RGB")))
    return draw_timeline(frames, per_row=1)


def written(text: str, trainings: dict[str, Training]) -> str:
    """Return the page with its measured parts replaced."""
    return PART.sub(lambda part: f"{part[1]}{part[2]}\n{PARTS[part[1]](trainings)}\n\n", text)


def read_trainings(folder: Path) -> dict[str, Training]:
    return {name: Training(name, folder) for name in TITLES if (folder / f"{name}-quality.jsonl").exists()}


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
    options.page.write_text(written(text, trainings))


if __name__ == "__main__":
    main()
