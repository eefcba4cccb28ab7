"""The numbers of a digit in words, and the alarms that a whole sample gives."""

from collections.abc import Sequence

from distgan.evaluation.schema import Estimate, Sample, Verdict

# Of a digit that is made well: as much as this of what was asked for reads as it, is recognisable, and (of what as many
# real ones cover) is covered. Agreement alone would praise one typical image, a hundred times over.
WELL_READ, WELL_COVERED = 0.95, 0.5
# A digit that nobody asked for has to turn up as often as this, where its due is 0.1.
LEAST_SHARE, MOST_SHARE = 0.07, 0.13
# Missing: no more than a tenth of its due, and not for want of images: its interval ends below what is made well.
MISSING = 0.1
# The whole sample has collapsed where it covers no more than a tenth of what real images cover.
COLLAPSED = 0.1


def verdict_of(
    agreement: Estimate | None, share: Estimate, sample: Sample | None, real: Sample
) -> tuple[Verdict, str]:
    """Of one digit, with the reason in words. With labels `agreement` counts, without them its `share` of all."""
    if _is_unasked(agreement):
        return "not asked for", "no image was asked to be it"
    if is_missing(agreement, share) or sample is None:
        return "missing", _how_few(agreement, share)
    faults: list[str] = []
    praise: list[str] = []
    if agreement is not None:
        (praise if agreement.high >= WELL_READ else faults).append(f"{agreement.value:.1%} read as asked")
    else:
        (praise if sample.recognisable.high >= WELL_READ * real.recognisable.value else faults).append(
            f"{sample.recognisable.value:.1%} recognisable (real {real.recognisable.value:.1%})"
        )
        if share.high < LEAST_SHARE:
            faults.append(f"too rare, {share.value:.1%} of all")
        elif share.low > MOST_SHARE:
            faults.append(f"too frequent, {share.value:.1%} of all")
    if sample.coverage.high < WELL_COVERED * real.coverage.value:
        kinds = (
            "few kinds of it" if sample.coverage.value < real.coverage.value / 4 else "not all kinds of it"
        )
        faults.append(f"{kinds}, coverage {sample.coverage.value:.2f} (real {real.coverage.value:.2f})")
    return ("made poorly", "; ".join(faults)) if faults else ("made well", "; ".join(praise))


def is_missing(agreement: Estimate | None, share: Estimate) -> bool:
    """Asked for and not made, or unasked for and not there."""
    if agreement is not None:
        return agreement.value <= MISSING and agreement.high < WELL_READ and not _is_unasked(agreement)
    return share.value <= MISSING / 10 and share.high < LEAST_SHARE


def _is_unasked(agreement: Estimate | None) -> bool:
    """Of nothing the share may be any."""
    return agreement is not None and (agreement.low, agreement.high) == (0.0, 1.0)


def alarms_of(
    missing: Sequence[int],
    agreements: Sequence[Estimate] | None,
    shares: Sequence[Estimate],
    coverage: Estimate,
    real_coverage: Estimate,
) -> list[str]:
    """What somebody who trains should be told at once."""
    alarms = [
        f"digit {digit} is missing: {_how_few(agreements[digit] if agreements else None, shares[digit])}"
        for digit in missing
    ]
    if coverage.high <= COLLAPSED * real_coverage.value:
        alarms.append(
            f"collapse: the samples cover {coverage.value:.1%} of the real images, as many real ones "
            f"{real_coverage.value:.1%}"
        )
    return alarms


def _how_few(agreement: Estimate | None, share: Estimate) -> str:
    if agreement is not None:
        return f"{agreement.value:.1%} of those asked for are read as it"
    return f"{share.value:.2%} of the samples are read as it"
