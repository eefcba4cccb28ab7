"""`distgan sample`: images of a trained generator, as a grid, an animation or arrays."""

import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from PIL.PngImagePlugin import PngInfo
from torch import Tensor, nn

from distgan.checkpoint.export import CodeTrust, load_generator
from distgan.config.command_settings import SampleConfig
from distgan.config.flags import did_you_mean
from distgan.config.image_spec import ImageSpec
from distgan.config.schema import ModelConfig
from distgan.errors import UserError, print_line
from distgan.models.base import generator_labels
from distgan.models.sampling import CHUNK, generate, sample_z
from distgan.utils.devices import device_named
from distgan.utils.figures import GAP, TEXT_HEIGHT, describe_numbered, drawable_names, grid, pixel_scale, save_gif
from distgan.utils.files import output_file, write_atomic
from distgan.utils.text import one_line

WALK_STEPS = 10
_COLUMNS = 10  # of a grid without labels; else a column per class

# In each file that this module writes: such a file may be overwritten.
_MARK = b"distgan sample"
# Limits of a picture that browsers, Pillow and other viewers open.
_MAX_SIDE, _MAX_PIXELS = 65_535, 89_478_485
_MAX_FRAMES = 2_000  # of an animation, all in memory at once


def sample(source: str, config: SampleConfig) -> str:
    """Draw images by the run or weights at `source`, write --out, and return a line about it.

    Raises UserError for weights that can't be used, settings that do not apply to them, and a file that must not be
    overwritten.
    """
    suffix = Path(config.out).suffix
    if suffix not in (".png", ".gif", ".npz"):
        raise UserError(
            f"--out: ends in {suffix or 'nothing'} ({config.out}). Expected: .png, .gif, .npz", code="bad-path"
        )
    if suffix == ".gif" and not config.interpolate:
        raise UserError(
            f"--out: a .gif shows an interpolation ({config.out}). Expected: .gif together with --interpolate",
            code="conflicting-settings",
        )
    out = output_file(config.out, _MARK, "image or .npz that distgan sample wrote")
    device = device_named(config.device)
    loaded = load_generator(source, ema=config.ema, code=CodeTrust(config.networks, config.trust_networks))
    generator, run, notice, path = loaded.generator, loaded.config, loaded.notice, loaded.path
    for warning in loaded.warnings:
        print_line(f"warning: {warning}", error=True)
    is_conditional, spec = run.model.is_conditional, run.model.images
    classes = torch.tensor(_class_indices(config.classes, run.model))
    num_images = config.num * (WALK_STEPS if config.interpolate else 1)
    columns = WALK_STEPS if config.interpolate else len(classes) * max(1, _COLUMNS // len(classes))
    columns = min(columns, num_images)
    _check_size(suffix, config, columns, spec)

    parts = _draw(generator.to(device), config, classes, run.model)
    if suffix == ".npz":
        shape = (num_images, spec.height, spec.width, *([spec.channels] if spec.channels > 1 else []))
        write_atomic(out, lambda file: _write_arrays(file, parts, shape, notice, with_labels=is_conditional))
        return _summary(num_images, path, out, notice)
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    if suffix == ".gif":
        frames = [grid(image[None], 1, caption=notice, scale=8) for image in images]
        write_atomic(out, lambda file: save_gif(file, frames, 0.1, 0.1, _MARK))
    else:
        is_labelled = is_conditional and not config.interpolate
        names = drawable_names(spec.class_names) if is_labelled else []
        column_names = [names[label] for label in labels[:columns]] if is_labelled else []
        if is_labelled and (numbered := describe_numbered(spec.class_names)):
            print_line(numbered, error=True)
        picture, info = grid(images, columns, heads=column_names, caption=notice), PngInfo()
        info.add_text("Software", _MARK.decode())
        write_atomic(out, lambda file: picture.save(file, "png", pnginfo=info))
    return _summary(num_images, path, out, notice)


def draw_images(
    source: str, config: SampleConfig, labels: Sequence[int | str] | None, given: str | None = None
) -> np.ndarray:
    """Return `config.num` images, uint8 (N, H, W) or (N, H, W, 3), by the run or weights at `source`, for a program.

    `labels`: numbers or names of classes, which the images take in turn. `given`: the hash of a program's modules.
    Raises UserError.
    """
    device = device_named(config.device)
    code = CodeTrust(config.networks, config.trust_networks, given)
    loaded = load_generator(source, ema=config.ema, code=code)
    model = loaded.config.model
    classes = torch.tensor(_class_indices(labels, model, "labels"))
    parts = _draw(loaded.generator.to(device), config, classes, model)
    return np.concatenate([images for images, _ in parts])


def _summary(num_images: int, path: Path, out: Path, notice: str | None) -> str:
    return f"{num_images:,} images by {path} in {out}{f'; trained on {notice}' if notice else ''}"


def _class_indices(names: Sequence[int | str] | None, model: ModelConfig, flag: str = "--classes") -> list[int]:
    """Return the indices of the classes that `flag` names, of all if it is unset. Raises UserError."""
    spec = model.images
    if not model.is_conditional:
        if names is not None:
            raise UserError(
                f"{flag}: these weights are of an unconditional GAN. Expected: no {flag}, or a cgan's weights",
                code="setting-not-applicable",
            )
        return [0]
    if names is None:
        return list(range(spec.num_classes))
    # A text is the name of a class before it is a number.
    indices: dict[int | str, int] = {str(index): index for index in range(spec.num_classes)}
    indices |= {name: index for index, name in enumerate(spec.class_names)}
    indices |= {index: index for index in range(spec.num_classes)}
    shown = ", ".join(map(one_line, spec.class_names[:20])) + (", ..." if spec.num_classes > 20 else "")
    if not names:
        raise UserError(f"{flag}: empty. Expected: one or more of {shown}", code="missing-value")
    for name in names:
        if name not in indices:
            suggestion = did_you_mean(str(name), map(str, indices)) or "."
            raise UserError(f"{flag}: unknown class ({name}){suggestion} Expected: {shown}", code="unknown-name")
    return [indices[name] for name in names]


def _check_size(suffix: str, config: SampleConfig, columns: int, spec: ImageSpec) -> None:
    """Raise UserError for a picture that is too large for viewers."""
    if suffix == ".gif" and config.num * WALK_STEPS > _MAX_FRAMES:
        limit = _MAX_FRAMES // WALK_STEPS
        raise UserError(
            f"--num: too many for an animation ({config.num}). Expected: at most {limit:,} in a .gif",
            code="image-count",
        )
    if suffix != ".png":
        return
    scale = pixel_scale(spec.width)
    cell = spec.width * scale + GAP
    width = columns * cell + GAP
    if width > _MAX_SIDE:
        raise UserError(
            f"--classes: too many columns, one per class ({columns:,}). Expected: at most {_MAX_SIDE // cell:,} in a "
            ".png, or any number in an .npz",
            code="image-count",
        )
    num_rows = (min(_MAX_SIDE, _MAX_PIXELS // width) - 3 * TEXT_HEIGHT) // (spec.height * scale + GAP)
    limit = num_rows * (1 if config.interpolate else columns)
    if config.num > limit:
        raise UserError(
            f"--num: too many for a picture that viewers open ({config.num}). Expected: at most {limit:,} in a .png, "
            "or any number in an .npz",
            code="image-count",
        )


def _draw(
    generator: nn.Module, config: SampleConfig, classes: Tensor, model: ModelConfig
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield images (N, H, W) or (N, H, W, 3) uint8 and labels (N,) int64 in order, N at most CHUNK."""
    latent_shape: Any = generator.latent_shape
    size = CHUNK // WALK_STEPS if config.interpolate else CHUNK
    for start in range(0, config.num, size):
        num_points = min(size, config.num - start) + config.interpolate  # N legs have N + 1 points
        z = sample_z(num_points, latent_shape, config.seed, start)
        labels = classes[(start + torch.arange(num_points)) % len(classes)]
        network_labels = generator_labels(generator, z, labels)
        if config.interpolate and getattr(generator, "takes_mixtures", False):
            z, one_hot = interpolate(z, slerp), F.one_hot(network_labels, max(1, model.num_labels)).float()
            network_labels = interpolate(one_hot, torch.lerp)
            labels = interpolate(F.one_hot(labels, max(1, model.images.num_classes)).float(), torch.lerp).argmax(1)
        elif config.interpolate:  # each leg in the class that it starts in
            z = interpolate(z, slerp)
            network_labels, labels = (values[:-1].repeat_interleave(WALK_STEPS) for values in (network_labels, labels))
        yield generate(generator, z, network_labels), labels.numpy()


def _write_arrays(
    file: BinaryIO,
    parts: Iterable[tuple[np.ndarray, np.ndarray]],
    shape: tuple[int, ...],
    notice: str | None,
    *,
    with_labels: bool,
) -> None:
    """Write an .npz of images of that shape as numpy does, but part by part as they are drawn."""
    # Allocated at once: small arrays between large ones that are freed would fragment the memory.
    num = shape[0]
    labels, start = np.empty(num, np.uint16), 0
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = _MARK
        with _array(archive, "images", shape, np.uint8) as member:
            for images, classes in parts:
                member.write(images.tobytes())
                labels[start : start + len(classes)] = classes
                start += len(classes)
        if with_labels:
            with _array(archive, "labels", (num,), np.int64) as member:
                for first in range(0, num, CHUNK):
                    member.write(labels[first : first + CHUNK].astype(np.int64).tobytes())
        if notice:
            text = np.array(notice)
            with _array(archive, "notice", (), text.dtype) as member:
                member.write(text.tobytes())


@contextmanager
def _array(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: Any) -> Iterator[IO[bytes]]:
    """Write the header of an array, and yield the file for its values."""
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)
        yield member


def interpolate(points: Tensor, between: Any) -> Tensor:
    """Return WALK_STEPS points from each of `points`, (N + 1, ...), to the next: (N * WALK_STEPS, ...)."""
    steps = []
    for start, end in pairwise(points):
        steps += [between(start, end, weight) for weight in torch.linspace(0, 1, WALK_STEPS).tolist()]
    return torch.stack(steps)


def slerp(start: Tensor, end: Tensor, weight: float) -> Tensor:
    """Interpolate between two z on the sphere, where a normal distribution has its mass (White 2016, eq. 1)."""
    cosine = F.cosine_similarity(start.flatten(), end.flatten(), dim=0).clamp(-1, 1)
    angle = cosine.arccos()
    if angle < 1e-4:
        return torch.lerp(start, end, weight)
    return (((1 - weight) * angle).sin() * start + (weight * angle).sin() * end) / angle.sin()
