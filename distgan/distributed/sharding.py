"""Rows of the global batch on this rank, by which many processes train as one does."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor


class BatchShard:
    """Row p of an epoch belongs to rank p mod W, which is how torch's DistributedSampler deals images.

    `rows` are those of the batch in hand over all ranks, as positions in the epoch; the last batch of an epoch
    is short, and no batch has to divide by W. One object serves the noise, dropout and BatchNorm of a rank.
    """

    def __init__(self, rank: int = 0, world_size: int = 1):
        self.rank, self.world_size = rank, world_size
        self.rows = range(0)
        self._numbers: dict[tuple[int, int], Tensor] = {}

    @property
    def num(self) -> int:
        """Number of rows of the batch on this rank."""
        own = self.local_slice(self.rows)
        return own.stop - own.start

    @property
    def weight(self) -> float:
        """Loss weight under which averaging over ranks equals the mean over the global batch."""
        return self.num * self.world_size / len(self.rows)

    def local_slice(self, rows: range) -> slice:
        """Return the slice of this rank's list of rows that holds its part of `rows`."""
        return slice(*(-((self.rank - bound) // self.world_size) for bound in (rows.start, rows.stop)))

    def num_all(self, num: int) -> int:
        """Return the rows of all ranks in a pass where this one has `num`, a multiple of its own."""
        return num * len(self.rows) // self.num if self.rows else num

    def row_indices(self, device: torch.device) -> Tensor:
        """Return this rank's rows as numbers in the batch, (num,) int32, not to be written to.

        They are kept, as there are few: the full batch, its microbatches, the short last one.
        """
        first = (self.rank - self.rows.start) % self.world_size
        end = max(first, len(self.rows))  # of a batch of fewer rows than ranks, some have none
        if (first, end) not in self._numbers:
            rows = torch.arange(first, end, self.world_size, dtype=torch.int32, device=device)
            self._numbers[first, end] = rows
        return self._numbers[first, end]

    def microbatches(self, num_parts: int) -> Iterator[tuple[slice, float]]:
        """Yield per microbatch: the slice of this rank's rows, and its part of `weight`.

        Within an iteration its rows are bound: they are the batch for all that draws.
        """
        batch, first = self.rows, self.local_slice(self.rows).start
        bounds = [batch.start + len(batch) * part // num_parts for part in range(num_parts + 1)]
        for start, stop in pairwise(bounds):
            with self.bind(range(start, stop)):
                own = self.local_slice(self.rows)
                weight = (own.stop - own.start) * self.world_size / len(batch)
                yield slice(own.start - first, own.stop - first), weight

    @contextmanager
    def bind(self, rows: range) -> Iterator[None]:
        before, self.rows = self.rows, rows
        try:
            yield
        finally:
            self.rows = before
