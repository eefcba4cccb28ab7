"""Draw images from a generator, in chunks of one size."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from distgan.config.schema import ModelConfig
from distgan.errors import UserError
from distgan.utils.counter_rng import derive_seed

# Of the grids that a run draws of its progress: rows of each class, and as many classes as a screen shows.
_PREVIEW_ROWS, _PREVIEW_CLASSES, _PREVIEW_UNCONDITIONAL = 10, 16, (64, 8)

# Samples are drawn in chunks of this many, so that image i is the same whatever number is drawn.
CHUNK = 250


class Preview(NamedTuple):
    """Contents of a grid of samples: `labels` (N,) of classes, row by row, and the names over its columns."""

    labels: Tensor
    columns: int
    heads: list[str]


def build_preview(config: ModelConfig) -> Preview:
    """Return a column for each of the first classes, or for a network without labels just images."""
    if not config.is_conditional:
        num, columns = _PREVIEW_UNCONDITIONAL
        return Preview(torch.zeros(num, dtype=torch.int64), columns, [])
    columns = min(config.images.num_classes, _PREVIEW_CLASSES)
    labels = torch.arange(_PREVIEW_ROWS * columns) % columns
    return Preview(labels, columns, config.images.class_names[:columns])


def sample_z(num: int, latent_shape: tuple[int, ...], seed: int, start: int = 0) -> Tensor:
    """Return z of samples `start` to start + num, (num, *latent_shape) on the CPU; that of sample i never varies."""
    first, end = start // CHUNK, -(-(start + num) // CHUNK)
    return torch.cat([chunk_z(chunk, latent_shape, seed) for chunk in range(first, end)])[start - first * CHUNK :][:num]


def chunk_z(chunk: int, latent_shape: tuple[int, ...], seed: int) -> Tensor:
    """Return z of samples CHUNK * chunk to CHUNK * (chunk + 1), (CHUNK, *latent_shape) on the CPU."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "sample", chunk))
    return torch.randn((CHUNK, *latent_shape), generator=generator)


@torch.inference_mode()
def generate(generator: nn.Module, z: Tensor, labels: Tensor) -> np.ndarray:
    """Return uint8 (N, H, W), in colour (N, H, W, 3), from z (N, *latent_shape) and labels as the generator takes them.

    The generator is put into eval mode. Chunks have one size, the last one filled up, so that an image
    comes out of the same arithmetic, to the bit, whatever stands beside it. Raises UserError for
    non-finite images, which finite weights too can draw.
    """
    generator.eval()
    device = next(generator.parameters()).device
    chunks = []
    for start in range(0, len(z), CHUNK):
        rows = slice(start, start + CHUNK)
        images = generator(_pad_rows(z[rows]).to(device), _pad_rows(labels[rows]).to(device))
        if not images.isfinite().all():
            raise UserError(
                "generator: draws images with pixels that are NaN or infinite. Expected: weights that draw finite ones",
                code="non-finite-values",
            )
        chunks.append(to_uint8(images)[: len(z[rows])].cpu().numpy())
    return np.concatenate(chunks)


def _pad_rows(rows: Tensor) -> Tensor:
    return torch.cat([rows, rows[:1].expand(CHUNK - len(rows), *rows.shape[1:])])


def to_uint8(images: Tensor) -> Tensor:
    """Return (N, C, H, W) in [-1, 1] as uint8 (N, H, W) of greys or (N, H, W, 3), rounded to the nearest."""
    images = images.squeeze(1) if images.shape[1] == 1 else images.movedim(1, -1)
    return images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
