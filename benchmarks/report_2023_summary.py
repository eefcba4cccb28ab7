"""Sum up in ten lines where the 2023 report is right or wrong; their figures come from the measurements."""

import textwrap
from functools import partial
from typing import Any, NamedTuple

from report_2023_files import MINUTES, Training, epoch_of, made_well, name_confusion, pair_of, recognisable_of
from report_2023_sentences import judge_comparison, judge_losses, judge_sentences


class Line(NamedTuple):
    """A line, and the sentences of the report that it sums up, by the verdict that its words rest on."""

    text: str
    yes: tuple[str, ...] = ()
    no: tuple[str, ...] = ()
    undecided: tuple[str, ...] = ()


LINES = (
    Line(
        "Right, of the first ten epochs: D's loss rises and G's falls, in both networks. After them both stay "
        "level, the C-GAN's D at 2 ln 2, the loss of guessing, while the images still improve.",
        yes=(
            "GAN: D's loss rises", "GAN: G's loss falls", "C-GAN: D's loss rises", "C-GAN: G's loss falls",
            "C-GAN: the images improve from 82 on",
        ),
    ),
    Line(
        "Right: noise at epoch 1, of the GAN right of the centre; in the C-GAN digits in the middle of a clean "
        "background at 13, still hard to recognise; in the GAN 0 and 4 at 20 and 2, 3, 9 at 42, with all other "
        "digits.",
        yes=(
            "GAN: noise", "C-GAN: noise", "C-GAN: a clean background", "C-GAN: digits form in the middle",
            "C-GAN: they are not yet recognisable", "GAN: first shapes of 0 and 4", "GAN: 2, 3 and 9 appear",
        ),
        no=("GAN: in the centre",),
    ),
    Line(
        "Wrong: that the GAN begins with 0 and 1, which then turn into 8 and 9, and 3 or 7. Its first digit is 3 "
        "({gan[early][3]:.0%} of all images at epoch 2 are recognisable as it, {gan[early][1]:.0%} as 1, "
        "{gan[early][0]:.0%} as 0), and of the z that give a recognisable 0 or 1 at epoch 20, {gan[kept][0]:.0%} "
        "and {gan[kept][1]:.0%} still do at 149; most of the others give nothing recognisable or a 6 or 7.",
        no=("GAN: circles and lines come first, so 0 and 1", "GAN: 0 turns into 8 and 9", "GAN: 1 turns into 3 or 7"),
    ),
    Line(
        "Too early: what is made well. At epoch 42 no digit is. Of the C-GAN's, {cgan[well][82]} is at 82 and "
        "{cgan[well][120]} are at 120, where the report sees most, but {cgan[well][130]} at 130 and "
        "{cgan[well][140]} at 140: it jumps from epoch to epoch ({cgan[agreement][80]:.0%} read as requested at "
        "80, {cgan[agreement][82]:.0%} at 82). Of the GAN's none is, not even at 150, and it is not stable from 42 "
        "to 82: its FCD falls from {gan[fcd][42]:.1f} to {gan[fcd][82]:.1f}, and to {gan[fcd][150]:.1f} at 150.",
        no=(
            "GAN: smooth 2, 3, 9", "GAN: most digits", "GAN: stable from 42 to 82", "C-GAN: a part of the digits",
            "C-GAN: digits clearly by their label", "C-GAN: most labels well",
        ),
    ),
    Line(
        "The GAN's digits: the report has 0, 1, 2, 3, 4, 5, 7 made well and 6, 8, 9 not. Here none is made well "
        "and none is missing. Least often recognisable are {gan[worst]}; 6 is number {gan[rank][6]} from the worst.",
        no=(
            "GAN: 0, 1, 2, 3, 4, 5, 7 are made well", "GAN: 6, 8, 9 are not made, and the others are",
            "GAN: It does not hold all digits",
        ),
    ),
    Line(
        "The C-GAN's digits: the report has 0, 1, 3, 8, 9 learnt well and 4, 2 badly. Here {cgan[well][150]} are "
        "made well, and the worst are {cgan[worst]}. 5 is not read as 6; 7 and 9 are confused, but it is 9 that is "
        "read as 7 ({cgan[confused][9 as 7]:.0%}), and seldom 7 as 9 ({cgan[confused][7 as 9]:.0%}). Also frequent "
        "are 8 as 3 ({cgan[confused][8 as 3]:.0%}) and 8 as 5 ({cgan[confused][8 as 5]:.0%}).",
        yes=("C-GAN: 4 and 2 are recognisable in a part of the images",),
        no=(
            "C-GAN: 0, 1, 3, 8, 9 are made well", "C-GAN: 5 is read as 6", "C-GAN: 7 is read as 9",
            "C-GAN: 4, 2 are learnt badly, worse than the others",
        ),
        undecided=("C-GAN: 5 and 7 are classified well",),
    ),
    Line(
        "Epochs to converge: the report has 60 for the GAN and 80 for the C-GAN. Here the package's targets give "
        "{gan[converged]} and {cgan[converged]}, FCD near its best {gan[near_best]:g} and {cgan[near_best]:g}, and "
        "the share at the end (recognisable; read as requested) {gan[like_last]:g} and {cgan[like_last]:g}; but "
        "the C-GAN falls back ({cgan[agreement][80]:.0%} at 80, {cgan[agreement][82]:.0%} at 82, "
        "{cgan[agreement][130]:.0%} at 130).",
    ),
    Line(
        "Right: the GAN's images are better, the C-GAN's noisier. At 150 the FCD is {gan[fcd][150]:.1f} and "
        "{cgan[fcd][150]:.1f}; after equal time the GAN's are better from {ahead} minutes on. As many are "
        "recognisable, {gan[recognisable][150]:.0%} and {cgan[recognisable][150]:.0%}.",
        yes=("the GAN's images are better", "the C-GAN's are recognisable, but noisier"),
    ),
    Line(
        "Wrong: that the GAN trains faster. An epoch takes it {ratio:.1f} times as long on a CPU, as its D "
        "convolves where the C-GAN's does not; by its own time stamps the report's GAN was slower too, 21.2 s an "
        "epoch against 13.6. Undecided: that the condition can make it converge faster. The C-GAN is ahead before "
        "{ahead} minutes and near its own best after {cgan[minutes][1]:.0f}, the GAN after {gan[minutes][1]:.0f}; "
        "but FCD {shared_fcd:.1f} takes the C-GAN {cgan[minutes][0]:.0f} minutes and the GAN "
        "{gan[minutes][0]:.0f}.",
        no=("the GAN trains faster",),
        undecided=("the condition can make it converge faster",),
    ),
    Line(
        "Wrong: that the GAN does not hold all digits, and that the C-GAN is more diverse. Neither lacks a digit; "
        "the GAN covers {gan[coverage][150]:.0%} of the real images, the C-GAN {cgan[coverage][150]:.0%}.",
        yes=("the C-GAN holds all digits", "C-GAN: It holds all digits"),
        no=("the GAN does not hold all digits", "the C-GAN is more diverse"),
    ),
)  # fmt: skip


def write_summary(trainings: dict[str, Training]) -> str:
    """Return the ten lines. A line whose words rest on other verdicts than the measured ones is not written."""
    pair = pair_of(trainings)
    if len(pair) < 2 or not all(training.is_complete for training in pair):
        return "It is written when both networks have their 150 epochs."
    figures: dict[str, Any] = {training.name: figures_of(training) for training in pair}
    gan, cgan = pair
    figures["ratio"] = gan.epoch_quarters[1] / cgan.epoch_quarters[1]
    figures["shared_fcd"] = fcd = max(training.best_fcd for training in pair)
    for each in pair:
        epochs = (each.first_at(fcd), each.first_near_best)
        figures[each.name]["minutes"] = [each.minutes_to(epoch).value for epoch in epochs]
    behind = [is_behind(gan, cgan, minutes) for minutes in MINUTES]
    figures["ahead"] = next((m for m, before in zip(MINUTES[::-1], [*behind[-2::-1], True], strict=True) if before), 0)
    judged = (*judge_sentences(trainings), *judge_losses(trainings))
    verdicts = {f"{row.network}: {row.text}": row.verdict for row in judged}
    verdicts |= {row[0]: row[1] for row in judge_comparison(pair, epoch_of(gan.last))}
    wrap = partial(textwrap.fill, width=120, break_on_hyphens=False)
    lines = []
    for number, line in enumerate(LINES, start=1):
        expected = {
            **dict.fromkeys(line.yes, "yes"), **dict.fromkeys(line.no, "**no**"),
            **dict.fromkeys(line.undecided, "undecided"),
        }  # fmt: skip
        changed = [f"{key} ({verdicts.get(key)})" for key, value in expected.items() if verdicts.get(key) != value]
        try:
            text = f"To be written anew: {'; '.join(changed)}." if changed else line.text.format_map(figures)
        except KeyError as error:
            text = f"Not everything that it speaks of was measured ({error})."
        lines.append(wrap(f"{number}. {text}", subsequent_indent=" " * len(f"{number}. ")))
    return "\n".join(lines)


def is_behind(one: Training, other: Training, minutes: float) -> bool:
    """Return if `other` has the lower FCD after this time, or `one` none yet."""
    mine, others = one.after(minutes), other.after(minutes)
    return others is not None and (mine is None or others.fcd.value <= mine.fcd.value)


def figures_of(training: Training) -> dict[str, Any]:
    """Return figures by name, most of them by epoch.

    Of the last epoch: `confused` by digits, such as `9 as 7`; `worst`, the two digits least often read as requested or,
    without labels, recognisable; `rank` of each digit by that, from the worst. `early`: the shares of all images that
    are recognisable as a digit at epoch 2. `kept`: the shares of `Training.read_later` that are still the same digit.
    """
    qualities = {int(epoch_of(quality)): quality for quality in training.qualities}
    figures: dict[str, Any] = {
        key: {epoch: value.value for epoch, quality in qualities.items() if (value := getattr(quality, key))}
        for key in ("fcd", "recognisable", "agreement", "coverage")
    }
    figures["well"] = {
        epoch: " and ".join(map(str, made_well(quality))) or "none" for epoch, quality in qualities.items()
    }
    last = training.last
    figures["confused"] = {name_confusion(each): each.share.value for each in last.confusions}
    shares = {row.digit: row.agreement or (row.sample and row.sample.recognisable) for row in last.per_digit}
    order = sorted(shares, key=lambda digit: shares[digit].value if shares[digit] else 0.0)
    figures["worst"] = " and ".join(f"{digit} ({shares[digit].value:.0%})" for digit in order[:2] if shares[digit])
    figures["rank"] = {digit: rank for rank, digit in enumerate(order, start=1)}
    if 2 in qualities:
        figures["early"] = {digit: num / qualities[2].n for digit, num in enumerate(recognisable_of(qualities[2]))}
    later = {digit: training.read_later(digit, 20, 149) for digit in range(10)}
    figures["kept"] = {digit: counts[digit] / counts.sum() for digit, counts in later.items() if counts is not None}
    met, _ = training.convergence
    figures["converged"] = "never" if met is None else f"{met:g}"
    figures["near_best"], figures["like_last"] = training.first_near_best, training.first_like_last
    return figures
