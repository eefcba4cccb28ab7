"""`distgan sample`: images of a trained generator, as a grid, an animation or arrays."""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from distgan.checkpoint.export import load_generator
from distgan.config.command_settings import SampleConfig
from distgan.errors import UserError, print_line
from distgan.models.base import labels_for
from distgan.models.sampling import generate, sample_z
from distgan.utils.devices import device_named
from distgan.utils.figures import grid, save_gif
from distgan.utils.files import write_whole
from distgan.utils.paths import user_path

WALK_STEPS = 10


def sample(where: str, config: SampleConfig) -> str:
    """Draws and writes what `config` asks for from the run or weights at `where`; says what it wrote.

    Raises UserError for weights that can't be used, and for what these weights can't draw.
    """
    out = user_path(config.out, "--out")
    if out.suffix not in (".png", ".gif", ".npz"):
        raise UserError(f"--out {config.out}: ends in {out.suffix or 'nothing'}; allowed: .png, .gif, .npz")
    if out.suffix == ".gif" and not config.interpolate:
        raise UserError(f"--out {config.out}: only a walk moves; allowed: .gif together with --interpolate")
    device = device_named(config.device)
    generator, run, notice, path, _, warnings = load_generator(where, ema=config.ema)
    for warning in warnings:
        print_line(f"warning: {warning}", error=True)
    is_conditional = run.model.is_conditional
    if config.digits is not None and not is_conditional:
        raise UserError("--digits: these weights know no labels; allowed: without --digits, or a cgan's weights")
    if config.digits == []:
        raise UserError("--digits: names none; allowed: digits from 0 to 9, as 0,3,7")

    latent_shape: Any = generator.latent_shape
    digits = torch.tensor(config.digits or list(range(10)))
    # A walk needs a point more than it has legs.
    num_points = config.num + config.interpolate
    z, labels = (sample_z(num_points, latent_shape, config.seed), digits[torch.arange(num_points) % len(digits)])
    given = labels_for(generator, z, labels)
    if config.interpolate:
        num_labels = run.model.num_labels or 10
        z, given = walk(z, slerp), walk(F.one_hot(given, num_labels).float(), torch.lerp)
        labels = walk(F.one_hot(labels, 10).float(), torch.lerp).argmax(1)
    images = generate(generator.to(device), z, given)

    if out.suffix == ".npz":
        arrays: dict[str, Any] = {"images": images}
        arrays |= {"labels": labels.numpy()} if is_conditional else {}
        arrays |= {"notice": np.array(notice)} if notice else {}
        write_whole(out, lambda file: np.savez_compressed(file, **arrays))
    elif out.suffix == ".gif":
        frames = [grid(image[None], 1, caption=notice, scale=8) for image in images]
        write_whole(out, lambda file: save_gif(file, frames, 0.1, 0.1))
    else:
        # A column for each digit, or several.
        columns = WALK_STEPS if config.interpolate else len(digits) * max(1, 10 // len(digits))
        columns = min(columns, len(images))
        heads = labels[:columns].tolist() if is_conditional and not config.interpolate else ()
        picture = grid(images, columns, heads=heads, caption=notice)
        write_whole(out, lambda file: picture.save(file, "png"))
    warning = f"; trained on {notice}" if notice else ""
    return f"{len(images):,} images by {path} in {out}{warning}"


def walk(points: Tensor, between: Any) -> Tensor:
    """WALK_STEPS points (N * WALK_STEPS, ...) on each leg between two neighbours of (N + 1, ...)."""
    legs = []
    for start, end in pairwise(points):
        legs += [between(start, end, weight) for weight in torch.linspace(0, 1, WALK_STEPS).tolist()]
    return torch.stack(legs)


def slerp(start: Tensor, end: Tensor, weight: float) -> Tensor:
    """On the arc between two z, where the normal's mass lies (White 2016, eq. 1), not on the chord."""
    cosine = F.cosine_similarity(start.flatten(), end.flatten(), dim=0).clamp(-1, 1)
    angle = cosine.arccos()
    if angle < 1e-4:
        return torch.lerp(start, end, weight)
    return (((1 - weight) * angle).sin() * start + (weight * angle).sin() * end) / angle.sin()
