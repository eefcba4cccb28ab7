"""The images of a run: found in a folder, downloaded by torchvision, or scikit-learn's digits."""

import hashlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from distgan.config.image_spec import MNIST_SPEC, ImageSpec
from distgan.config.registry import DATASETS, Lazy, is_data_path
from distgan.config.schema import Config, DataConfig
from distgan.data.decoding import Findings, decode_all
from distgan.data.image_arrays import list_arrays
from distgan.data.image_list import ImageList
from distgan.data.mnist import OTHERS, IdxFile, Source, download, read_idx
from distgan.data.own_images import decode_own
from distgan.data.unused_settings import describe_unused
from distgan.errors import UserError
from distgan.utils.paths import user_path
from distgan.utils.text import pluralize

NUM_VARIANTS = 10  # of each of scikit-learn's digits
NOT_MNIST = "scikit-learn's 8x8 digits, NOT MNIST"


Split = Literal["train", "test"]


class Dataset(NamedTuple):
    """Images (N, H, W) uint8 of greys or (N, 3, H, W) of colours, and labels (N,) int64, all 0 where there are none.

    `class_names`: None for the numbers that occur in `labels`, empty for data without labels.
    """

    name: str
    images: Tensor
    labels: Tensor
    source: str
    notice: str | None = None  # what every output of the run must say about the data
    warning: str | None = None
    class_names: list[str] | None = None
    path: str | None = None  # of a user's own images
    findings: Findings | None = None
    listed: ImageList | None = None

    @property
    def spec(self) -> ImageSpec:
        """Return what networks, samples and pages are built for."""
        names = self.class_names
        if names is None:
            names = [str(number) for number in range(int(self.labels.max()) + 1)]
        channels = 1 if self.images.ndim == 3 else self.images.shape[1]
        height, width = self.images.shape[-2:]
        return ImageSpec(channels=channels, height=height, width=width, num_classes=len(names), class_names=names)

    @property
    def fingerprint(self) -> str:
        """sha256 over images and labels, its first 16 digits."""
        digest = hashlib.sha256(np.ascontiguousarray(self.images.numpy()).data)
        digest.update(np.ascontiguousarray(self.labels.numpy()).data)
        return digest.hexdigest()[:16]


def load_dataset(
    config: DataConfig, split: Split = "train", *, may_download: bool = True, keep: bool = True
) -> Dataset:
    """Find, download and verify the data; `keep` own images once they are decoded. Raises UserError.

    Of the processes of one node one downloads or decodes (`may_download`); the others call this after it.
    """
    if is_data_path(config.name):
        assert split == "train", "own images have test images by --test-data alone"
        return _with_warning(load_own_images(config, keep=keep), describe_unused(config))
    if config.test:
        raise UserError(
            f"--test-data: is for own images ({config.test}). {config.name} has its test images. Expected: only "
            "with --data PATH",
            code="setting-not-applicable",
        )
    dataset = resize_dataset(_load_named(config, split, may_download=may_download), config, f"--data {config.name}")
    return _with_warning(dataset, describe_unused(config))


def _with_warning(dataset: Dataset, warning: str | None) -> Dataset:
    """Return the data set with a further warning, if there is one."""
    return dataset._replace(warning="; ".join(filter(None, (dataset.warning, warning))) or None)


def load_own_images(config: DataConfig, *, flag: str = "--data", keep: bool = True) -> Dataset:
    """Decode the images of a path, which `flag` named, and `keep` them, or read what was kept. Raises UserError."""
    source, (images, labels, findings, indices, digests) = decode_own(config, flag, keep=keep)
    path = source.path
    names = [source.names[index] for index in indices.tolist()]
    listed = ImageList(source.kind, names, labels, source.class_names, digests)
    warning = None
    if findings.num_broken:
        name, reason = next(iter(findings.broken.items()))
        verb = "are" if findings.num_broken > 1 else "is"
        warning = f"{pluralize(findings.num_broken, 'file')} {verb} left out, as {name!r}, which {reason}"
    numbers = torch.zeros(len(images), dtype=torch.int64) if labels is None else torch.from_numpy(labels)
    return Dataset(
        path.name or str(path), torch.from_numpy(images), numbers, str(path), warning=warning,
        class_names=source.class_names, path=str(path), findings=findings, listed=listed,
    )  # fmt: skip


def keep_class_names(data: Dataset, fingerprint: str, run: Config) -> Dataset:
    """Return own images of that fingerprint with the classes named as in a run that was trained on the same.

    The same images and labels are the same data in any form, and arrays have no names.
    """
    spec, begun = data.spec, run.model.images
    is_same = data.path is not None and fingerprint == run.data.fingerprint
    if not is_same or spec == begun or spec.model_copy(update={"class_names": begun.class_names}) != begun:
        return data
    here, there = (", ".join(map(repr, images.class_names[:3])) for images in (spec, begun))
    warning = f"the classes keep the names of the run, whose images these are ({there}; here {here})"
    return _with_warning(data._replace(class_names=begun.class_names), warning)


def resize_dataset(dataset: Dataset, config: DataConfig, where: str) -> Dataset:
    """Return a data set with its images of --image-size and --channels. Raises UserError that begins with `where`."""
    spec = dataset.spec
    has_size = config.image_size is None or spec.height == spec.width == config.image_size
    if has_size and config.channels in (None, spec.channels):
        return dataset
    pixels = dataset.images.numpy()
    source = list_arrays(dataset.name, Path(dataset.source), pixels, None, [], where)
    decoded = decode_all(source, config, where)
    return dataset._replace(images=torch.from_numpy(decoded.images))


def _load_named(config: DataConfig, split: Split, *, may_download: bool) -> Dataset:
    name = "mnist" if config.name == "auto" else config.name
    if name not in SOURCES:
        return DATASETS[name].load(config, split)
    source, (folder, is_named) = (SOURCES if split == "train" else TEST_SOURCES)[name], data_folder(config)
    if find_folder(source, folder) is None:
        try:
            if not config.download:
                raise UserError("not downloaded, by --no-download", code="download-failed")
            if not may_download:
                raise UserError("the first process of this machine could not download it", code="download-failed")
            download(source, folder, config, split)
        except UserError as error:
            if config.name == "auto" and config.md5 != "require":  # the digits have no published sum
                return load_digits(f"no MNIST in {folder}, and {error}")
            raise UserError(
                f"{'--data-dir' if config.dir else 'data'}: no {name} in {folder} (no "
                f"{folder / source.folder / 'raw' / source.images} and {source.labels}), and {error}. Expected: the "
                "files in place, their folder by --data-dir or $DISTGAN_DATA, or --data digits",
                code="no-data",
            ) from error
    return read_folder(name, source, folder, is_named, config.md5)


def data_folder(config: DataConfig) -> tuple[Path, bool]:
    """Return the folder to look in. True beside it if the user named it."""
    named = config.dir or os.environ.get("DISTGAN_DATA")
    return (user_path(named, "--data-dir" if config.dir else "$DISTGAN_DATA"), True) if named else (Path("data"), False)


def find_folder(source: Source, folder: Path) -> Path | None:
    """Return the folder of the two files: torchvision's layout or the folder itself, packed or not; None without."""
    for raw in (folder / source.folder / "raw", folder):
        if all(any((raw / f"{name}{end}").is_file() for end in ("", ".gz")) for name in (source.images, source.labels)):
            return raw
    return None


def read_folder(name: str, source: Source, folder: Path, is_named: bool, rule: str) -> Dataset:
    """Read the data set of a folder that has it. Raises UserError for invalid files."""
    raw = find_folder(source, folder)
    assert raw is not None
    remedy = "delete it to have it downloaded again, or put the right file in its place"
    # Whoever accepts other contents accepts another number of images with them.
    count = None if rule == "accept" else source.num_images
    columns = () if source.label_columns is None else (source.label_columns,)
    packed = source.packed_md5 if source.md5 is None else ("", "")
    images = read_idx(raw / source.images, (count, MNIST_SPEC.height, MNIST_SPEC.width), remedy, packed[0])
    labels = read_idx(raw / source.labels, (len(images.values), *columns), remedy, packed[1])
    if len(images.values) < 2:
        raise UserError(
            f"{raw / source.images}: {len(images.values)} images. Expected: 2 or more; {remedy}", code="bad-dataset"
        )
    warnings = [
        _check_sum(file, sums, name, is_named, rule, remedy)
        for file, (_, *sums) in zip((images, labels), source.files(), strict=True)
    ]
    warning = "; ".join(filter(None, warnings)) or None

    classes = labels.values[:, 0] if columns else labels.values
    highest = MNIST_SPEC.num_classes - 1
    if classes.min() < 0 or classes.max() > highest:
        label_range = f"{classes.min()} to {classes.max()}"
        raise UserError(
            f"{raw / source.labels}: labels from {label_range}. Expected: 0 to {highest}; {remedy}", code="bad-dataset"
        )
    pixels = torch.from_numpy(images.values)
    if source.is_transposed:
        pixels = pixels.mT.contiguous()
    labels_of_all = torch.from_numpy(classes.astype(np.int64))
    return Dataset(name, pixels, labels_of_all, str(raw), warning=warning, class_names=MNIST_SPEC.class_names)


def _check_sum(file: IdxFile, published: list[str], name: str, is_named: bool, rule: str, remedy: str) -> str | None:
    """Return what to say of contents that are not known to be the published ones, or None.

    Raises UserError for those of another set, and for unknown ones that the rule does not take.
    """
    if file.sums[file.path] & set(published):
        return None
    for other, *known in _list_published():
        for path, sums in file.sums.items():
            if sums & set(known):
                raise UserError(
                    f"{path}: its md5 is that of {other}. Expected: the files of {name}, each in its place",
                    code="checksum-mismatch",
                )
    unpacked, packed = published
    differs = f"{file.path}: its md5 {file.md5} " + (
        f"is not the published {unpacked}"
        if unpacked
        else f"can't be compared: the only published sum is {packed or 'none'}, of the packed file"
    )
    if rule == "require" or (rule == "auto" and unpacked and not is_named):
        other = "" if rule == "require" else ", or name its folder by --data-dir to take it as it is"
        raise UserError(f"{differs}. Expected: the published file: {remedy}{other}", code="checksum-mismatch")
    return f"{differs}; taken as it is" if is_named or rule == "accept" else None


def _list_published() -> Iterator[tuple[str, ...]]:
    """Yield each file of a published set in words, with its checksums."""
    for sources in (SOURCES, TEST_SOURCES):
        for name, source in sources.items():
            yield from ((f"{name}'s {file}", *sums) for file, *sums in source.files())
    yield from ((name, *sums.split()) for name, sums in OTHERS.items())


def digits_source(config: DataConfig, split: Split) -> Dataset:
    """Return scikit-learn's digits, which are not split: their test set is all of them. Raises UserError."""
    if config.md5 == "require":
        raise UserError(
            "digits: no published sum, which is required. Expected: a data set that has one",
            code="setting-not-applicable",
        )
    return load_digits()


def load_digits(reason: str | None = None) -> Dataset:
    """Return scikit-learn's 1,797 handwritten digits at 28x28: each itself and nine small distortions.

    The images are the same on every call: 20x20 of the 28x28 hold the digit, as in MNIST, and a
    distortion turns it by up to 12 degrees, scales by up to 10 % and shifts by up to 2 pixels.
    """
    rows = torch.from_numpy(_small_digits())
    small = rows[:, :64].float().div(16).view(-1, 1, 8, 8)
    labels = rows[:, 64].long().repeat_interleave(NUM_VARIANTS)
    digit = F.interpolate(small, size=(20, 20), mode="bicubic", align_corners=False).clamp(0, 1)
    # 8x8 enlarged is a blur: a steeper grey curve gives strokes with an edge.
    originals = F.pad(((digit - 0.5) * 2.5 + 0.5).clamp(0, 1), (4, 4, 4, 4))

    generator = torch.Generator().manual_seed(0)
    is_original = torch.arange(len(labels)) % NUM_VARIANTS == 0
    amounts = torch.empty(4, len(labels)).uniform_(-1, 1, generator=generator) * ~is_original
    # In parts that fit a cache: all of them at once take 500 MB, and three times as long.
    parts = [
        distort(part.repeat_interleave(NUM_VARIANTS, 0), amount).mul(255).round().clamp(0, 255).to(torch.uint8)
        for part, amount in zip(originals.split(50), amounts.split(50 * NUM_VARIANTS, 1), strict=True)
    ]
    pixels = torch.cat(parts).squeeze(1)
    return Dataset(
        "digits", pixels, labels, "scikit-learn", notice=NOT_MNIST, warning=reason, class_names=MNIST_SPEC.class_names
    )


def _small_digits() -> np.ndarray:
    """Return scikit-learn's digits, uint8 (1797, 65): 8x8 pixels from 0 to 16 and the label.

    Read from its file where it lies as it did, as importing scikit-learn for it takes most of a second.
    """
    spec = importlib.util.find_spec("sklearn")
    for place in spec.submodule_search_locations or () if spec else ():
        path = Path(place) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            return np.loadtxt(path, np.uint8, delimiter=",")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.column_stack([bunch.data, bunch.target]).astype(np.uint8)


def distort(images: Tensor, amounts: Tensor, padding: str = "zeros") -> Tensor:
    """Return (N, C, H, W), each rotated, scaled and moved by its `amounts`, (4, N) of -1 to 1.

    1 is 12 degrees, 10 % and a 14th of the sides to the left and up. `padding`: what lies beyond the edges, as
    `grid_sample` names it.
    """
    angle, scale, *shift = amounts
    angle, scale = angle * torch.pi / 15, 1 + scale / 10
    cos, sin = angle.cos() / scale, angle.sin() / scale
    affine = torch.stack([cos, -sin, shift[0] / 7, sin, cos, shift[1] / 7], 1).view(-1, 2, 3)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode=padding, align_corners=False)


# The registered data sets that are files as MNIST's are, below the functions that others of them name.
SOURCES: dict[str, Source] = {
    name: source
    for name, entry in DATASETS.items()
    if isinstance(entry.load, Lazy) and isinstance(source := entry.load.load(), Source)
}
TEST_SOURCES = {name: source.test() for name, source in SOURCES.items()}
