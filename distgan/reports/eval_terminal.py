"""An evaluation on the terminal: headline, digit by digit, confusions, claims, files."""

from collections.abc import Callable
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from distgan.evaluation.schema import Digit, Estimate, Quality, Verdict
from distgan.reports.report2023 import NAME, claims_of
from distgan.utils.terminal import TerminalConsole

_COLOURS: dict[Verdict, str] = {
    "made well": "green",
    "made poorly": "yellow",
    "missing": "bold red",
    "not asked for": "dim",
}
_NUM_CONFUSIONS = 8


def show(quality: Quality, folder: Path) -> None:
    """Prints what was found, to be read at 80 columns."""
    console = TerminalConsole()

    def say(text: str, style: str = "") -> None:
        console.print(text, style=style)

    for notice in quality.notices:
        say(f"!! {notice} !!", "bold yellow")
    source = quality.source
    step = "" if source.step is None else f", step {source.step:,}"
    epoch = "" if source.epoch is None else f" (epoch {source.epoch:.4g})"
    which = {True: ", moving average", False: ", raw weights", None: ""}[source.ema]
    say(f"{quality.n:,} images of {source.weights or source.what}{step}{epoch}{which}")
    say(f"against {source.reference}", "dim")
    console.print_table(_headline(quality))
    console.print_table(_digits(quality))
    for each in quality.per_digit:
        if each.verdict != "made well":
            say(f"{each.digit} {each.verdict}: {each.why}")
    if quality.matrix is None:
        for pair in quality.ambiguities:
            say(f"unsure between {pair.first} and {pair.second}: {pair.share.value:.1%} of the images")
    else:
        _say_confusions(quality, say)
    for alarm in quality.alarms:
        say(f"alarm: {alarm}", "bold red")
    say(f"\nthe sentences of the {NAME}, here:", "bold")
    for claim in claims_of(quality):
        word = {True: "holds", False: "does not hold", None: "can't be told"}[claim.holds]
        say(f"  {claim.sentence}: {word.upper()} ({claim.evidence})")
    names = [path.name for path in sorted(folder.iterdir())]
    say(f"\nlook at {folder}/: {', '.join(names)}")


def _say_confusions(quality: Quality, say: Callable[[str], None]) -> None:
    for each in quality.confusions[:_NUM_CONFUSIONS]:
        say(
            f"{each.asked} read as {each.read}: {each.share:.1%}; real ones {each.jury.value:.1%}; seen by "
            f"{each.seen_by} of {len(quality.judges)} judges alone"
        )
    if left := len(quality.confusions[_NUM_CONFUSIONS:]):
        say(f"and {left} more such pairs")
    if not quality.confusions:
        say("no two digits are confused more often than the judges confuse real ones")


def _headline(quality: Quality) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("")
    for name in ("here", "95 % interval", "as many real ones"):
        table.add_column(name, justify="right", no_wrap=True)
    jury = sum(quality.jury_matrix[digit][digit] for digit in range(10)) / sum(map(sum, quality.jury_matrix))
    rows: list[tuple[str, Estimate | None, str, Estimate | float | None]] = [
        ("read as asked", quality.agreement, ".2%", jury),
        ("recognisable", quality.recognisable, ".2%", quality.real.recognisable),
        ("fcd", quality.fcd, ".3f", quality.fcd_floor),
        ("coverage", quality.coverage, ".3f", quality.real.coverage),
        ("density", quality.density, ".3f", quality.real.density),
        ("GAN-train accuracy", quality.gan_train, ".2%", quality.gan_train_real),
        ("shares: KL from uniform", quality.kl, ".4f", None),
        ("close to a training image", quality.copies, ".2%", 0.01),
    ]
    for name, here, form, real in rows:
        if here is not None:
            there = "" if real is None else f"{real.value if isinstance(real, Estimate) else real:{form}}"
            table.add_row(name, f"{here.value:{form}}", f"{here.low:{form}} to {here.high:{form}}", there)
    return table


def _digits(quality: Quality) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        title="digit by digit (as many real ones)",
        title_justify="left",
    )
    main = "share" if quality.matrix is None else "as asked"
    for name in ("", main, "95 % interval", "recogn.", "fcd", "coverage", "verdict"):
        side = "left" if name in ("", "verdict") else "right"
        table.add_column(name, justify=side, no_wrap=True)  # type: ignore[arg-type]
    for each in quality.per_digit:
        number = each.agreement or each.share
        interval = f"{number.low:.1%} to {number.high:.1%}"
        colour = _COLOURS[each.verdict]
        numbers = ("", "") if each.verdict == "not asked for" else (f"{number.value:.1%}", interval)
        verdict = each.verdict.removesuffix(" for")  # at 80 columns
        table.add_row(str(each.digit), *numbers, *_sample(each), Text(verdict, colour))
    return table


def _short(value: float) -> str:
    return f"{value:.2f}" if value < 99.995 else f"{value:.0f}"


def _sample(each: Digit) -> tuple[str, str, str]:
    if each.sample is None:
        return "", "", ""
    fcd, floor = ("" if fcd is None else _short(fcd.value) for fcd in (each.sample.fcd, each.real.fcd))
    floor = floor and f" ({floor})"
    coverage = f"{each.sample.coverage.value:.2f} ({each.real.coverage.value:.2f})"
    return f"{each.sample.recognisable.value:.1%}", fcd + floor, coverage
