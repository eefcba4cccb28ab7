"""Sizes that a pair of networks is built for: the argument of `build_generator` and `build_discriminator`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class NetworkSpec:
    """Images (N, `channels`, `height`, `width`); `num_classes` 0: the networks get no labels.

    `latent_dim`: normals per image that G starts from. `width_factor`: `--width`, a factor on every hidden width.
    """

    channels: int
    height: int
    width: int
    num_classes: int
    class_names: tuple[str, ...]
    latent_dim: int
    width_factor: float

    def scaled(self, *widths: int) -> tuple[int, ...]:
        """Return hidden widths at the configured factor, at least 1 each."""
        return tuple(max(1, round(width * self.width_factor)) for width in widths)
