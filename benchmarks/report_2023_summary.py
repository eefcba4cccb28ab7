"""Sum up in ten lines where the 2023 report is right or wrong; their figures come from the measurements."""

import textwrap
from functools import partial
from typing import Any

from report_2023_files import Training, epoch_of, made_well, missing, name_confusion, pair_of, recognisable_of

LINES = (
    "Right: D's loss rises and G's falls, in both networks. The C-GAN's D stays at 2 ln 2 from epoch 5 on: it cannot "
    "tell real from generated images, and the losses say nothing of the progress that still comes.",
    "Right: noise at epoch 1, in the C-GAN digits in the middle of a clean background at 13, in the GAN 0 and 4 at 20.",
    "Wrong: that the GAN begins with 0 and 1, which then turn into other digits. The first that it makes is 3 "
    "({gan[early][3]:.0%} of all images at epoch 2 are recognisable as it, {gan[early][1]:.0%} as 1, none as 0), and "
    "of the z that give a 0 or a 1 at epoch 20, {gan[kept][0]:.0%} and {gan[kept][1]:.0%} still do at 149.",
    "Too early: what is made well. At epoch 42 no digit is. Of the C-GAN's, {cgan[well][82]} is at 82, where "
    "{cgan[agreement][82]:.0%} of its images are read as requested, and {cgan[well][120]} are at 120, where the report "
    "sees most. Of the GAN's none is, not even at 150. Nor is the GAN stable from 42 to 82: its FCD falls from "
    "{gan[fcd][42]:.1f} to {gan[fcd][82]:.1f}, and to {gan[fcd][150]:.1f} at 150.",
    "The GAN's digits: the report has 0, 1, 2, 3, 4, 5, 7 made well and 6, 8, 9 not. Here none is missing, and the "
    "least often recognisable are 8 ({gan[recognisable_of][8]:.0%}) and 9 ({gan[recognisable_of][9]:.0%}); "
    "6 ({gan[recognisable_of][6]:.0%}) is no worse than 2, 3, 4 or 5.",
    "The C-GAN's digits: the report has 0, 1, 3, 8, 9 learnt well and 4, 2 badly. Here {cgan[well][150]} are made "
    "well, 1 misses the verdict, and 8 and 9 are the worst. Confused are neither 5 with 6 nor 7 with 9, but 9 is read "
    "as 7 ({cgan[confused][9 as 7]:.0%}), 8 as 3 ({cgan[confused][8 as 3]:.0%}) and 8 as 5 "
    "({cgan[confused][8 as 5]:.0%}).",
    "Epochs to converge: the report has 60 and 80. Neither network meets the package's targets in 150. By FCD near its "
    "best the GAN takes {gan[near_best]:g} and the C-GAN {cgan[near_best]:g}; by the share recognisable at the end the "
    "GAN takes {gan[like_last]:g}; by that read as requested the C-GAN takes {cgan[like_last]:g}, but at 82 it is "
    "worse again.",
    "Right: the GAN's images are better. At 150 its FCD is {gan[fcd][150]:.1f}, the C-GAN's {cgan[fcd][150]:.1f}; "
    "after equal time they are better from 40 minutes on. As many are recognisable, {gan[recognisable][150]:.0%} and "
    "{cgan[recognisable][150]:.0%}: their intervals overlap.",
    "Wrong on a CPU: that the GAN trains faster, and that the condition can make training converge faster. An epoch of "
    "the GAN takes {ratio:.1f} times as long, as its D convolves where the C-GAN's does not; yet FCD {shared_fcd:.1f} "
    "takes the GAN {minutes[gan]:.0f} minutes and the C-GAN {minutes[cgan]:.0f}.",
    "Wrong: that the GAN does not hold all digits, and that the C-GAN is more diverse. The GAN lacks "
    "{gan[missing][150]}, and covers {gan[coverage][150]:.0%} of the real images, the C-GAN {cgan[coverage][150]:.0%}.",
)


def write_summary(trainings: dict[str, Training]) -> str:
    """Return the ten lines, or which epoch or digit they lack."""
    pair = {training.name: training for training in pair_of(trainings)}
    figures: dict[str, Any] = {name: figures_of(training) for name, training in pair.items()}
    if len(pair) == 2:
        fcd = max(min(quality.fcd.value for quality in training.qualities) for training in pair.values())
        figures["shared_fcd"] = fcd
        figures["minutes"] = {name: training.minutes_to(fcd).value for name, training in pair.items()}
        figures["ratio"] = pair["gan"].epoch_quarters[1] / pair["cgan"].epoch_quarters[1]
    try:
        lines = [f"{number}. {line.format_map(figures)}" for number, line in enumerate(LINES, start=1)]
    except KeyError as error:
        return f"Not everything that it needs was measured so far ({error})."
    wrap = partial(textwrap.fill, width=120, break_on_hyphens=False)
    return "\n".join(wrap(line, subsequent_indent=" " * (line.index(" ") + 1)) for line in lines)


def figures_of(training: Training) -> dict[str, Any]:
    """Return figures by name, most of them by epoch.

    At the last epoch: `confused` by digits, such as `9 as 7`, and `recognisable_of` by digit. `early`: the shares of
    all images that are recognisable as a digit at epoch 2. `kept`: the shares of `Training.read_later` that are still
    the same digit.
    """
    qualities = {int(epoch_of(quality)): quality for quality in training.qualities}
    figures: dict[str, Any] = {
        key: {epoch: value.value for epoch, quality in qualities.items() if (value := getattr(quality, key))}
        for key in ("fcd", "recognisable", "agreement", "coverage")
    }
    for key, pick in (("well", made_well), ("missing", missing)):
        figures[key] = {
            epoch: " and ".join(map(str, sorted(pick(quality)))) or "none" for epoch, quality in qualities.items()
        }
    last = training.last
    figures["confused"] = {name_confusion(each): each.share.value for each in last.confusions}
    figures["recognisable_of"] = {row.digit: row.sample.recognisable.value for row in last.per_digit if row.sample}
    if 2 in qualities:
        figures["early"] = {digit: num / qualities[2].n for digit, num in enumerate(recognisable_of(qualities[2]))}
    later = {digit: training.read_later(digit, 20, 149) for digit in range(10)}
    figures["kept"] = {digit: counts[digit] / counts.sum() for digit, counts in later.items() if counts is not None}
    figures["near_best"], figures["like_last"] = training.first_near_best, training.first_like_last
    return figures
