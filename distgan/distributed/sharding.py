"""Split the rows of the global batch over the ranks, so that many processes train as one does."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor


class BatchShard:
    """Row p of an epoch belongs to rank p mod W, as with torch's DistributedSampler.

    `rows`: the current batch over all ranks, as positions in the epoch. The last batch of an epoch may be short, and
    no batch has to divide by W. The noise, dropout and BatchNorm of a rank share one object.
    """

    def __init__(self, rank: int = 0, world_size: int = 1):
        self.rank, self.world_size = rank, world_size
        self.rows = range(0)
        self._row_indices: dict[tuple[int, int], Tensor] = {}

    @property
    def num(self) -> int:
        """Number of rows of the batch on this rank."""
        local = self.local_slice(self.rows)
        return local.stop - local.start

    @property
    def weight(self) -> float:
        """Loss weight under which averaging over ranks equals the mean over the global batch."""
        return self.num * self.world_size / len(self.rows)

    def local_slice(self, rows: range) -> slice:
        """Return the slice of this rank's rows of an epoch that is its part of `rows`."""
        return slice(*(-((self.rank - bound) // self.world_size) for bound in (rows.start, rows.stop)))

    def num_rows_over_ranks(self, num: int) -> int:
        """Return the rows over all ranks of a pass in which this rank has `num` rows, a multiple of `self.num`."""
        return num * len(self.rows) // self.num if self.rows else num

    def row_indices(self, device: torch.device) -> Tensor:
        """Return this rank's rows as indices into the batch, (num,) int32, not to be written to.

        Cached: there are few, of the full batch, its microbatches and the short last batch.
        """
        first = (self.rank - self.rows.start) % self.world_size
        end = max(first, len(self.rows))  # a batch of fewer rows than ranks leaves some without
        if (first, end) not in self._row_indices:
            rows = torch.arange(first, end, self.world_size, dtype=torch.int32, device=device)
            self._row_indices[first, end] = rows
        return self._row_indices[first, end]

    def microbatches(self, num_parts: int) -> Iterator[tuple[slice, float]]:
        """Yield per microbatch: the slice of this rank's rows, and its part of `weight`.

        `rows` is the microbatch during an iteration, so that noise and dropout draw for its rows.
        """
        batch, first = self.rows, self.local_slice(self.rows).start
        bounds = [batch.start + len(batch) * part // num_parts for part in range(num_parts + 1)]
        for start, stop in pairwise(bounds):
            with self.bind(range(start, stop)):
                local = self.local_slice(self.rows)
                weight = (local.stop - local.start) * self.world_size / len(batch)
                yield slice(local.start - first, local.stop - first), weight

    @contextmanager
    def bind(self, rows: range) -> Iterator[None]:
        """Set `rows` within the block."""
        before, self.rows = self.rows, rows
        try:
            yield
        finally:
            self.rows = before
