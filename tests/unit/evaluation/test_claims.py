"""The sentences of the 2023 report, on made-up findings in which they are known to hold or not."""

from types import SimpleNamespace
from typing import Any

import pytest

from distgan.evaluation.during_training import QualityMonitor
from distgan.evaluation.measure import Overview, find_alarms, is_missing, judge_class
from distgan.evaluation.schema import ClassQuality, Confusion, Estimate, ImageMetrics, Quality
from distgan.evaluation.scores import estimate_proportion
from distgan.reports.report2023 import check_claims


def exactly(value: float) -> Estimate:
    return Estimate(value=value, low=value, high=value)


def sample(recognisable: float = 0.99, coverage: float = 0.95) -> ImageMetrics:
    return ImageMetrics(
        recognisable=exactly(recognisable), fcd=exactly(1.0), density=exactly(1.0), coverage=exactly(coverage)
    )


def digit(number: int, *, read: float | None = 0.99, shared: float = 0.1, **looks: float) -> ClassQuality:
    """Its verdict is what `judge_class` makes of the numbers."""
    agreement = None if read is None else exactly(read)
    verdict, why = judge_class(agreement, exactly(shared), sample(**looks), sample(), expected=0.1)
    return ClassQuality(
        digit=number, n=1000, agreement=agreement, share=exactly(shared), sample=sample(**looks), real=sample(),
        jury=exactly(0.997), verdict=verdict, why=why,
    )  # fmt: skip


def quality(
    digits: list[ClassQuality],
    confusions: list[tuple[int, int, float]] = (),  # type: ignore[assignment]
    n: int = 10_000,
) -> Quality:
    is_conditional = digits[0].agreement is not None
    found = [
        Confusion(asked=label, read=read, share=exactly(part), jury=exactly(0), seen_by=3)
        for label, read, part in confusions
    ]
    matrix: list[list[int]] | None = [[0] * 10 for _ in range(10)] if is_conditional else None
    source = SimpleNamespace(data="mnist")
    return Quality.model_construct(
        n=n, per_digit=digits, shares=[each.share for each in digits], confusions=found, matrix=matrix, source=source
    )


def holds(found: Quality) -> dict[str, bool | None]:
    return {claim.sentence: claim.holds for claim in check_claims(found)}


def test_gan_as_the_report_saw_it() -> None:
    digits = [digit(d, read=None, recognisable=0.4 if d in (6, 8, 9) else 0.99) for d in range(10)]
    assert holds(quality(digits)) == {
        "0, 1, 2, 3, 4, 5, 7 are made well": True,
        "6, 8, 9 are not made, and the others are": True,
        "It does not hold all digits": False,
    }


def test_gan_that_lacks_digits() -> None:
    digits = [digit(d, read=None, shared=0.0 if d in (6, 8, 9) else 0.1) for d in range(10)]
    found = holds(quality(digits))
    assert found["It does not hold all digits"] is True
    assert found["6, 8, 9 are not made, and the others are"] is True


def test_gan_that_makes_all_digits() -> None:
    assert list(holds(quality([digit(d, read=None) for d in range(10)])).values()) == [True, False, False]


def test_cgan_as_the_report_saw_it() -> None:
    digits = [digit(d, read=0.6 if d in (4, 2) else 0.8 if d in (5, 7) else 0.99) for d in range(10)]
    confusions = [(4, 9, 0.3), (2, 8, 0.2), (5, 6, 0.2), (7, 9, 0.2), (7, 4, 0.01)]
    assert holds(quality(digits, confusions)) == {
        "0, 1, 3, 8, 9 are made well": True,
        "5 is read as 6": True,
        "7 is read as 9": True,
        "4, 2 are learnt badly, worse than the others": True,
        "It holds all digits": True,
    }


def test_few_images_tell_nothing() -> None:
    found = quality([digit(d) for d in range(10)], n=299)
    assert set(holds(found).values()) == {None}
    assert all("299 images are too few" in claim.evidence for claim in check_claims(found))


@pytest.mark.parametrize(
    ("confusions", "words"),
    [
        ([], "no confusion of 5 beyond the judges' own; 0 of 0 read as 6"),
        ([(5, 3, 0.2), (5, 6, 0.1)], "read as 6: 10.0% (10.0% to 10.0%); most often as 3"),
        ([(5, 3, 0.2)], "no more than the judges' own; most often as 3"),
    ],
)
def test_confusion_that_is_not_the_most_frequent(confusions: list[tuple[int, int, float]], words: str) -> None:
    found = quality([digit(d, read=0.9) for d in range(10)], confusions)
    claim = next(claim for claim in check_claims(found) if claim.sentence == "5 is read as 6")
    assert claim.holds is False
    assert words in claim.evidence


def test_badly_learnt_means_worse_than_all_others() -> None:
    digits = [digit(d, read=0.6 if d in (4, 8) else 0.99) for d in range(10)]
    assert holds(quality(digits))["4, 2 are learnt badly, worse than the others"] is False
    # The lowest two of ten that are all made well are not badly learnt.
    digits = [digit(d, read=0.97 if d in (4, 2) else 0.99) for d in range(10)]
    assert holds(quality(digits))["4, 2 are learnt badly, worse than the others"] is False


@pytest.mark.parametrize(
    ("numbers", "verdict", "words"),
    [
        ({"agreement": estimate_proportion(990, 1000)}, "made well", "99.0% read as requested"),
        (
            {"agreement": estimate_proportion(940, 1000)},
            "made well",
            "94.0% read as requested",
        ),  # its interval reaches to 95 %
        ({"agreement": estimate_proportion(900, 1000)}, "made poorly", "90.0% read as requested"),
        ({"agreement": estimate_proportion(50, 1000)}, "missing", "5.0% of the images requested"),
        (
            {"agreement": estimate_proportion(990, 1000), "coverage": 0.4},
            "made poorly",
            "not all kinds of it, coverage 0.40",
        ),
        (
            {"agreement": estimate_proportion(990, 1000), "coverage": 0.1},
            "made poorly",
            "few kinds of it, coverage 0.10",
        ),
        ({"share": estimate_proportion(1000, 10_000)}, "made well", "99.0% recognisable"),
        (
            {"share": estimate_proportion(1000, 10_000), "recognisable": 0.8},
            "made poorly",
            "80.0% recognisable (real 99.0%)",
        ),
        ({"share": estimate_proportion(500, 10_000)}, "made poorly", "too rare, 5.0% of all"),
        ({"share": estimate_proportion(2000, 10_000)}, "made poorly", "too frequent, 20.0% of all"),
        ({"share": estimate_proportion(10, 10_000)}, "missing", "0.10% of the samples"),
        ({"agreement": estimate_proportion(0, 7)}, "missing", "0.0% of the images requested"),  # of few images too
        ({"agreement": estimate_proportion(0, 0)}, "not asked for", "no image was requested as it"),
        ({"share": estimate_proportion(0, 70)}, "missing", "0.00% of the samples"),
        ({"share": estimate_proportion(680, 10_000)}, "made well", ""),  # its interval reaches to 7 %
    ],
)
def test_verdicts(numbers: dict[str, Any], verdict: str, words: str) -> None:
    looks = {key: value for key, value in numbers.items() if key in ("coverage", "recognisable")}
    share = numbers.get("share", exactly(0.1))
    found, why = judge_class(numbers.get("agreement"), share, sample(**looks), sample(), expected=0.1)
    assert found == verdict
    assert words in why


def test_digit_of_which_there_is_no_image_is_missing() -> None:
    assert judge_class(None, estimate_proportion(0, 1000), None, sample(), expected=0.1)[0] == "missing"


def test_a_rare_class_may_be_rare_and_a_badly_read_one_badly_read() -> None:
    """For a class of 2 % of the real images, 2 % is enough, and 10 % too much; 80 % agreement if the ensemble's is.

    One that the ensemble itself reads in three of ten cases is not missing where it reads half a tenth of the images.
    """
    for well_read, verdict in ((0.95, "missing"), (0.3, "made poorly")):
        read = estimate_proportion(50, 1000)
        found, _ = judge_class(read, exactly(0.1), sample(), sample(), expected=0.1, well_read=well_read)
        assert found == verdict
    assert is_missing(exactly(0.1), exactly(0.1), 0.1), "a tenth is missing where the ensemble reads nearly all"
    for share, verdict in ((0.02, "made well"), (0.1, "made poorly"), (0.001, "missing")):
        found, _ = judge_class(
            None, estimate_proportion(round(share * 10_000), 10_000), sample(), sample(), expected=0.02
        )
        assert found == verdict
    for well_read, verdict in ((0.95, "made poorly"), (0.8, "made well")):
        assert (
            judge_class(exactly(0.8), exactly(0.1), sample(), sample(), expected=0.1, well_read=well_read)[0] == verdict
        )


def test_collapse_is_an_alarm_and_little_coverage_is_none() -> None:
    assert find_alarms({}, exactly(0.05), exactly(0.95))[0].startswith("collapse: ")
    assert not find_alarms({}, exactly(0.2), exactly(0.95))
    assert find_alarms({"class a\nb": "0.0 %"}, exactly(0.2), exactly(0.95)) == [r"class a\nb is missing: 0.0 %"]


def test_alarm_of_training_is_said_when_it_begins_and_when_it_ends() -> None:
    """And not again at every look in between, though its numbers change."""
    watch = object.__new__(QualityMonitor)
    watch.reference = SimpleNamespace(baseline=sample())  # type: ignore[assignment]
    watch._alarms = []
    said: list[list[str]] = []
    for alarms in ([], ["digit 8 is missing: 0.10% of the samples"], ["digit 8 is missing: 0.05%"], []):
        overview = Overview(2000, sample(), None, None, [exactly(0.1)] * 10, exactly(0), [], alarms)
        lines: list[str] = []
        watch._tell(overview, len(said) + 1, lambda text, style, lines=lines: lines.append(text))
        said.append(lines)
    assert [lines[0].startswith(f"judges after epoch {epoch}: ") for epoch, lines in enumerate(said, 1)] == [True] * 4
    assert "read as requested" not in said[0][0]
    begins, ends = ["alarm: digit 8 is missing: 0.10% of the samples"], ["no longer so: digit 8 is missing"]
    assert [lines[1:] for lines in said] == [[], begins, [], ends]
