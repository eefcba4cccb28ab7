"""z and dropout masks as functions of (seed, step, row): the same eagerly, compiled, in a CUDA graph, and on any rank.

With a generator a CUDA graph would replay the numbers of its capture, each of W ranks would have to draw W times its
numbers, and a resume would need the generator's state.
"""

import math

import torch
from torch import Tensor

from distgan.distributed.sharding import BatchShard
from distgan.utils.counter_rng import counter_hash, counters, stream_key, to_uniform


class Noise:
    """Random numbers of training steps. Each rank draws only for its rows of the global batch.

    `key`, (2,), and `rows` are of the current pass, on the device, so that a CUDA graph reads their current values. z
    and dropout masks have separate streams: the number of passes of a step does not change the next z.
    """

    def __init__(self, latent_shape: tuple[int, ...], device: torch.device, shard: BatchShard):
        self.latent_shape, self.device, self.shard = latent_shape, device, shard
        self._step_key = self.key = torch.zeros(2, dtype=torch.int32, device=device)
        self.rows = torch.zeros(1, dtype=torch.int32, device=device)
        self._passes = self._draws = 0
        self._calls: dict[int, int] = {}  # of `bits` in the current pass, by salt
        self._kept_columns: dict[int, Tensor] = {}
        self._kept_rows: dict[tuple[Tensor, int, int], Tensor] = {}

    def _column_counters(self, num: int) -> Tensor:
        """Return the counters of `num` columns, (num,). Cached, or a graph would compute them at each replay."""
        if num not in self._kept_columns:
            self._kept_columns[num] = counters(torch.arange(num, dtype=torch.int32, device=self.device), 1)
        return self._kept_columns[num]

    def _row_counters(self, rows: Tensor, blocks: int, per_row: int) -> Tensor:
        """Return the counters of `rows` (N,) for each block in turn, (blocks * N,). Cached."""
        if (rows, blocks, per_row) not in self._kept_rows:
            block = torch.arange(blocks, dtype=torch.int32, device=self.device)
            self._kept_rows[rows, blocks, per_row] = counters(_rows_of_blocks(rows, block), per_row)
        return self._kept_rows[rows, blocks, per_row]

    def begin_step(self, key: Tensor) -> None:
        """Begin a step: `key` is its `step_key`, (2,) int32 on the device."""
        self._step_key, self._passes, self._draws = key, 0, 0

    def begin_forward(self) -> None:
        """Begin a forward pass with dropout, with new masks."""
        self._passes += 1
        self._calls = {}
        self.key = stream_key(self._step_key, 2 * self._passes)
        self.rows = self.shard.row_indices(self.device)

    def _draw(self, num: int) -> Tensor:
        """Return the next uniform numbers in (0, 1) for this rank's rows, (N, num)."""
        self._draws += 1
        key = stream_key(self._step_key, 2 * self._draws + 1)
        rows = self._row_counters(self.shard.row_indices(self.device), 1, num)
        return to_uniform(counter_hash(rows, self._column_counters(num), key))

    def z(self) -> Tensor:
        """Return the next z of this step for this rank's rows, (N, *latent_shape)."""
        num = math.prod(self.latent_shape)
        radius, angle = self._draw(2 * -(-num // 2)).chunk(2, dim=1)
        # Box and Muller 1958: two normals from two uniforms.
        radius, angle = (-2 * radius.log()).sqrt(), 2 * math.pi * angle
        normals = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)
        return normals[:, :num].view(-1, *self.latent_shape)

    def uniform(self) -> Tensor:
        """Return the next uniform numbers in (0, 1) of this step for this rank's rows, (N,)."""
        return self._draw(1).squeeze(1)

    def bits(self, shape: torch.Size, salt: int) -> Tensor:
        """Return 16 random bits per element as integers from -2**15, int16 or int32; (B * N, ...) for B blocks of rows.

        Each call of a salt within a pass gives others, as a layer may run several times. In channels_last memory
        format, as the images that it masks.
        """
        call = self._calls.get(salt, 0)
        self._calls[salt] = call + 1
        key = stream_key(self.key, call << 16) if call else self.key  # beyond the streams of a step's passes
        num, per_row = shape[0], math.prod(shape[1:])
        num_words = -(-per_row // 2)
        blocks, rest = divmod(num, len(self.rows))
        if rest:
            raise ValueError(
                f"a layer that draws random numbers gets a tensor of shape {tuple(shape)}, whose first dimension is "
                f"not the batch of {len(self.rows)}"
            )
        if torch.compiler.is_compiling():
            # The same bits per element, so that a fused kernel computes them in registers.
            block, index = (torch.arange(n, dtype=torch.int32, device=self.device) for n in (blocks, per_row))
            rows = counters(_rows_of_blocks(self.rows, block), num_words)
            word = counter_hash(rows, counters(index >> 1, 1), key, salt)
            drawn = torch.where(index & 1 == 1, word >> 16, (word << 16) >> 16)
        else:
            rows = self._row_counters(self.rows, blocks, num_words)
            words_drawn = counter_hash(rows, self._column_counters(num_words), key, salt)
            drawn = words_drawn.view(torch.int16)[:, :per_row]
        if len(shape) == 2:
            return drawn
        channels, *space = shape[1:]
        return drawn.view(num, *space, channels).movedim(-1, 1)


def _rows_of_blocks(rows: Tensor, block: Tensor) -> Tensor:
    """Return a distinct number for each row (N,) of each block (B,), (B * N,)."""
    return (rows * len(block) + block[:, None]).view(-1)
