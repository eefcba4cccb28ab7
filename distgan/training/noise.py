"""z and dropout's masks as functions of (seed, step, row): the same eagerly, compiled, in a graph, on any rank.

No generator: a CUDA graph would replay the numbers of its capture, and W ranks would have to draw W times
what they need. Nothing is kept that a resume could lose.
"""

import math

import torch
from torch import Tensor

from distgan.distributed.sharding import Share
from distgan.utils.counter_rng import _FIRST, _signed, hashed, unit


class Noise:
    """The randomness of training steps. Each rank draws what belongs to its rows of the global batch, and no more.

    `key` (2,) and `rows` are of the pass in hand; both lie on the device, so that a graph reads them anew. z and the
    masks of dropout have streams of their own: how many passes a step has does not change the next z.
    """

    def __init__(self, latent_shape: tuple[int, ...], device: torch.device, share: Share):
        self.latent_shape, self.device, self.share = latent_shape, device, share
        self._step_key = self.key = torch.zeros(2, dtype=torch.int32, device=device)
        self.rows = torch.zeros(1, dtype=torch.int32, device=device)
        self._passes = self._draws = 0
        self._counts: dict[int, Tensor] = {}

    def _count(self, num: int) -> Tensor:
        """Return 0, 1, ... num - 1 as int32, made once: a graph would otherwise make it in every step."""
        if num not in self._counts:
            self._counts[num] = torch.arange(num, dtype=torch.int32, device=self.device)
        return self._counts[num]

    def start(self, key: Tensor) -> None:
        """Makes what is drawn from here on that of the step with this `step_key`, (2,) int32 on the device."""
        self._step_key, self._passes, self._draws = key, 0, 0

    def next_pass(self) -> None:
        """Before each pass through a network with dropout: other masks from here on."""
        self._passes += 1
        self.key = self._step_key + _signed(2 * self._passes * _FIRST)
        self.rows = self.share.numbers(self.device)

    def _draw(self, num: int) -> Tensor:
        """The next numbers between 0 and 1 for this rank's rows, (N, num)."""
        self._draws += 1
        key = self._step_key + _signed((2 * self._draws + 1) * _FIRST)
        return unit(hashed(self.share.numbers(self.device), self._count(num), num, key))

    def z(self) -> Tensor:
        """The next z of this step for this rank's rows, (N, *latent_shape)."""
        num = math.prod(self.latent_shape)
        radius, angle = self._draw(2 * -(-num // 2)).chunk(2, dim=1)
        # Box and Muller 1958: two normals from two uniforms.
        radius, angle = (-2 * radius.log()).sqrt(), 2 * math.pi * angle
        normals = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)
        return normals[:, :num].view(-1, *self.latent_shape)

    def uniform(self) -> Tensor:
        """The next numbers between 0 and 1 of this step for this rank's rows, (N,)."""
        return self._draw(1).squeeze(1)

    def bits(self, shape: torch.Size, salt: int) -> Tensor:
        """16 random bits an element as a number from -2**15, int16 or int32; (B * N, ...) for B blocks of the rows.

        In memory the channels come last, as the images that it is for have them.
        """
        num, per_row = shape[0], math.prod(shape[1:])
        words = -(-per_row // 2)
        blocks = num // len(self.rows)
        is_compiled = torch.compiler.is_compiling()
        block = torch.arange(blocks, dtype=torch.int32, device=self.device) if is_compiled else self._count(blocks)
        rows = (self.rows * blocks + block[:, None]).view(-1)
        if is_compiled:
            # The same bits element by element, so that they are made in registers and never written.
            index = torch.arange(per_row, dtype=torch.int32, device=self.device)
            word = hashed(rows, index >> 1, words, self.key, salt)
            drawn = torch.where(index & 1 == 1, word >> 16, (word << 16) >> 16)
        else:
            drawn = hashed(rows, self._count(words), words, self.key, salt).view(torch.int16)[:, :per_row]
        if len(shape) == 2:
            return drawn
        channels, *space = shape[1:]
        return drawn.view(num, *space, channels).movedim(-1, 1)
