"""z and dropout as functions of (seed, step): no random state to keep, and none that resume could lose."""

import hashlib

import torch
from torch import Tensor

from distgan.share import Share

# Samples are drawn in chunks of this many, so that image i is the same whatever number is asked for.
CHUNK = 250


def mix(*parts: int | str) -> int:
    """A seed from a run's seed and whatever else it shall depend on, 63 bits."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Noise:
    """The randomness of training steps.

    Everything is drawn for the global batch and each rank takes its share of the rows, so that W ranks
    together draw what one process draws. (Dropout does the same on CPUs. On GPUs its masks are torch's own,
    and each rank has others.)
    """

    def __init__(self, seed: int, latent_shape: tuple[int, ...], device: torch.device, share: Share):
        self.seed, self.latent_shape, self.share = seed, latent_shape, share
        self.generator = torch.Generator(device)

    def start(self, step: int) -> None:
        """Makes what is drawn from here on that of `step`."""
        self.generator.manual_seed(mix(self.seed, "z", step))
        rank = self.share.rank if self.generator.device.type == "cuda" else 0
        torch.manual_seed(mix(self.seed, "dropout", step, rank))

    def z(self) -> Tensor:
        """The next z of this step for this rank's rows, (N, *latent_shape)."""
        shape = (len(self.share.rows), *self.latent_shape)
        return self.share.take(torch.randn(shape, generator=self.generator, device=self.generator.device))

    def uniform(self) -> Tensor:
        """The next numbers between 0 and 1 of this step for this rank's rows, (N,)."""
        shape = (len(self.share.rows),)
        return self.share.take(torch.rand(shape, generator=self.generator, device=self.generator.device))


def sample_z(num: int, latent_shape: tuple[int, ...], seed: int) -> Tensor:
    """z for samples, (num, *latent_shape) on the CPU: the same on every machine and for every `num`."""
    chunks = []
    for chunk in range(-(-num // CHUNK)):
        generator = torch.Generator().manual_seed(mix(seed, "sample", chunk))
        chunks.append(torch.randn((CHUNK, *latent_shape), generator=generator))
    return torch.cat(chunks)[:num]
