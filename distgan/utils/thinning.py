"""Series of any length in bounded memory: a curve as means of neighbouring points, a list as every k-th item."""

from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Group(NamedTuple):
    """Neighbouring points of a curve: the last x, and the sum, number, minimum and maximum of their y."""

    x: float
    total: float
    num: int
    low: float
    high: float

    @property
    def mean(self) -> float:
        return self.total / self.num


def merge(groups: list[Group]) -> Group:
    """Return one group of all points of consecutive groups."""
    x, totals, nums, lows, highs = zip(*groups, strict=True)
    return Group(x[-1], sum(totals), sum(nums), min(lows), max(highs))


class Curve:
    """A curve as at most `limit` groups of points; each group has one point up to `limit` points."""

    def __init__(self, limit: int = 2**14):
        self.limit = limit
        self._every = 1
        self._groups: list[Group] = []

    def add(self, x: float, y: float) -> None:
        if self._groups and (last := self._groups[-1]).num < self._every:
            self._groups[-1] = Group(x, last.total + y, last.num + 1, min(last.low, y), max(last.high, y))
            return
        if len(self._groups) == self.limit:
            self._groups = [merge(self._groups[start : start + 2]) for start in range(0, self.limit, 2)]
            self._every *= 2
        self._groups.append(Group(x, y, 1, y, y))

    def groups(self, max_groups: int | None = None) -> list[Group]:
        """Return the groups by x, merged to at most `max_groups`."""
        groups = sorted(self._groups, key=lambda group: group.x)
        size = 1 if max_groups is None else max(1, -(-len(groups) // max_groups))
        return [merge(groups[start : start + size]) for start in range(0, len(groups), size)] if size > 1 else groups


class EveryKth(Generic[T]):
    """Every k-th item from the first on, at most `limit` (an even number), and the last."""

    def __init__(self, limit: int):
        self.limit = limit
        self.every, self.num = 1, 0
        self._kept: list[T] = []
        self._last: list[T] = []  # unless it is the last of `_kept`

    def add(self, item: T) -> None:
        if self.num % self.every == 0 and len(self._kept) == self.limit:
            self._kept, self.every = self._kept[::2], 2 * self.every
        is_kept = self.num % self.every == 0
        self._last = [] if is_kept else [item]
        if is_kept:
            self._kept.append(item)
        self.num += 1

    def items(self) -> list[T]:
        return self._kept + self._last
