"""Draw images from a generator, in chunks of one size."""

import numpy as np
import torch
from torch import Tensor, nn

from distgan.errors import UserError
from distgan.utils.counter_rng import derive_seed

# Samples are drawn in chunks of this many, so that image i is the same whatever number is drawn.
CHUNK = 250


def sample_z(num: int, latent_shape: tuple[int, ...], seed: int, start: int = 0) -> Tensor:
    """Return z of samples `start` to start + num, (num, *latent_shape) on the CPU: of each the same, always."""
    first, end = start // CHUNK, -(-(start + num) // CHUNK)
    return torch.cat([chunk_z(chunk, latent_shape, seed) for chunk in range(first, end)])[start - first * CHUNK :][:num]


def chunk_z(chunk: int, latent_shape: tuple[int, ...], seed: int) -> Tensor:
    """Return z of samples CHUNK * chunk to CHUNK * (chunk + 1), (CHUNK, *latent_shape) on the CPU."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "sample", chunk))
    return torch.randn((CHUNK, *latent_shape), generator=generator)


@torch.inference_mode()
def generate(generator: nn.Module, z: Tensor, labels: Tensor) -> np.ndarray:
    """Return uint8 (N, 28, 28) from z (N, *latent_shape) and labels as the generator takes them.

    The generator is put into eval mode. Chunks have one size, the last one filled up, so that an image
    comes out of the same arithmetic, to the bit, whatever stands beside it. Raises UserError for images that are no
    numbers, which finite weights too can draw.
    """
    generator.eval()
    device = next(generator.parameters()).device
    chunks = []
    for start in range(0, len(z), CHUNK):
        rows = slice(start, start + CHUNK)
        images = generator(_filled(z[rows]).to(device), _filled(labels[rows]).to(device))
        if not images.isfinite().all():
            raise UserError(
                "generator: draws images with pixels that are NaN or infinite. Expected: weights that draw finite ones",
                code="non-finite-values",
            )
        chunks.append(to_uint8(images)[: len(z[rows])].cpu().numpy())
    return np.concatenate(chunks)


def _filled(rows: Tensor) -> Tensor:
    return torch.cat([rows, rows[:1].expand(CHUNK - len(rows), *rows.shape[1:])])


def to_uint8(images: Tensor) -> Tensor:
    """Return (N, 1, 28, 28) in [-1, 1] as (N, 28, 28) uint8, rounded to the nearest grey."""
    return images.float().squeeze(1).add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
