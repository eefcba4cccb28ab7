"""z and dropout as functions of (seed, step): no random state to keep, and none that resume could lose."""

import hashlib

import torch
from torch import Tensor

# Samples are drawn in chunks of this many, so that image i is the same whatever number is asked for.
CHUNK = 250


def mix(*parts: int | str) -> int:
    """A seed from a run's seed and whatever else it shall depend on, 63 bits."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Noise:
    """The randomness of training steps.

    Everything is drawn for the global batch and each rank takes its rows, which lie as DistributedSampler
    deals images: row i belongs to rank i mod W. So W ranks together draw what one process draws. (Dropout
    does the same on CPUs. On GPUs its masks are torch's own, and each rank has others.)
    """

    def __init__(
        self, seed: int, latent_shape: tuple[int, ...], device: torch.device, rank: int, world_size: int
    ):
        self.seed, self.latent_shape, self.rank, self.world_size = seed, latent_shape, rank, world_size
        self.generator = torch.Generator(device)

    def start(self, step: int) -> None:
        """Makes what is drawn from here on that of `step`."""
        self.generator.manual_seed(mix(self.seed, "z", step))
        rank = self.rank if self.generator.device.type == "cuda" else 0
        torch.manual_seed(mix(self.seed, "dropout", step, rank))

    def z(self, num: int) -> Tensor:
        """The next z of this step for this rank, (num, *latent_shape)."""
        shape = (num * self.world_size, *self.latent_shape)
        z = torch.randn(shape, generator=self.generator, device=self.generator.device)
        return z[self.rank :: self.world_size]

    def uniform(self, num: int) -> Tensor:
        """The next numbers between 0 and 1 of this step for this rank, (num,)."""
        shape = (num * self.world_size,)
        numbers = torch.rand(shape, generator=self.generator, device=self.generator.device)
        return numbers[self.rank :: self.world_size]


def sample_z(num: int, latent_shape: tuple[int, ...], seed: int) -> Tensor:
    """z for samples, (num, *latent_shape) on the CPU: the same on every machine and for every `num`."""
    chunks = []
    for chunk in range(-(-num // CHUNK)):
        generator = torch.Generator().manual_seed(mix(seed, "sample", chunk))
        chunks.append(torch.randn((CHUNK, *latent_shape), generator=generator))
    return torch.cat(chunks)[:num]
