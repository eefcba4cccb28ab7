"""Series of any length in bounded memory."""

from distgan.utils.thinning import Curve, EveryKth


def test_a_long_series_is_thinned_to_means_with_their_range() -> None:
    for num, limit in ((1200, 1200), (1200, 400), (300, 300)):
        curve = Curve(limit)
        for n in range(1, num + 1):
            curve.add(float(n), float(n % 4))
        few = curve.groups(300)
        assert len(few) == 300
        assert {(group.mean, group.low, group.high) for group in few} == {(1.5, 0, 3)} or num == 300
        assert {group.num for group in few} == {num // 300}
        assert few[-1].x == num


def test_of_very_many_items_every_kth_and_the_last_are_kept() -> None:
    for num in (0, 1, 8, 9, 16, 17, 1000):
        sample = EveryKth[int](8)
        for n in range(num):
            sample.add(n)
        assert sample.items() == sorted({*range(0, num, sample.every), *range(num - 1, num)} - {-1})
        assert len(sample.items()) <= 9
        assert sample.num == num
        assert num > 8 or sample.every == 1
