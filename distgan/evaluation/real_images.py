"""The real images that quality is measured with, sorted into classes: to compare with, and to train judges on."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from distgan.config.image_spec import MNIST_SPEC, ImageSpec
from distgan.config.registry import is_data_path
from distgan.config.schema import DataConfig
from distgan.data.base import NUM_VARIANTS, Dataset, load_dataset, load_own_images
from distgan.data.clustering import cluster
from distgan.errors import UserError
from distgan.evaluation.schema import ClassNoun, noun_of
from distgan.evaluation.scores import FEWEST

# Without labels: clusters that stand for classes, and images that each of them should have.
_NUM_CLUSTERS, _IMAGES_PER_CLUSTER = 20, 50
# Of own images without a test set, one in six is compared with; of few, one in two.
_TEST_EVERY, _FEW_EVERY, _FEW = 6, 2, 3000


class RealImages(NamedTuple):
    """Real images with a label each: a class or, where the data has no labels, a cluster of the images."""

    train: Dataset  # trains the judges, and gives the baseline: what as many real images measure
    test: Dataset  # what generated images are compared with
    trained_on: Dataset  # all images that a GAN of this data is trained on: near copies are searched here
    class_noun: ClassNoun
    is_test_seen: bool  # `test` is a part of `trained_on`
    train_fingerprint: str  # `Dataset.fingerprint` takes seconds of gigabytes
    test_fingerprint: str

    @property
    def spec(self) -> ImageSpec:
        """Return shape and classes that judges are built for."""
        return self.train.spec

    @property
    def judges_name(self) -> str:
        """Return the name of the folder of its judges: that of a data set in MNIST's form, else by the contents.

        Equal images have the same judges in any place or form; a name or a path may have others at another time.
        """
        is_named = self.train.path is None and self.spec == MNIST_SPEC
        return self.train.name if is_named else f"images-{self.train_fingerprint}"

    def max_images(self, num: int) -> int:
        """Return how many of `num` generated images are judged: as many as there are real ones to compare with."""
        return min(num, len(self.train.images))


def with_folder(data: DataConfig, folder: str | None, flag: str) -> DataConfig:
    """Return the settings with the folder of the real data that `flag` names, if it does.

    Raises UserError where the data are own images, which a folder of a named data set has no part in.
    """
    if folder is None:
        return data
    if is_data_path(data.name):
        raise UserError(
            f"{flag}: is for named data sets ({folder}). {data.name} is a path of own images. Expected: real images to "
            "compare with by --test-data",
            code="setting-not-applicable",
        )
    return data.model_copy(update={"dir": folder})


def load_real_images(data: Dataset, config: DataConfig, *, may_download: bool = True, keep: bool = True) -> RealImages:
    """Return the real images beside the training images `data`. Raises UserError.

    A named data set has test images, own images may have some by --test-data, which are decoded, and kept with `keep`.
    Of others a part is set aside here, the same ones each time: of scikit-learn's digits every sixth of the 1,797 with
    all its variants.
    """
    class_noun, is_test_seen = class_noun_of(data), False
    is_clustered = class_noun == "cluster"
    if data.path is None and data.name != "digits":
        train = data
        test = load_dataset(config.model_copy(update={"name": data.name}), "test", may_download=may_download)
    elif data.path is not None and config.test:
        test = _own_test_images(data, config, keep=keep)
        if is_clustered:
            (labels, of_test), names = _clusters([data.images, test.images])
            data = data._replace(labels=labels, class_names=names)
            test = test._replace(labels=of_test, class_names=names)
        train = data
    else:
        if is_clustered:
            (labels,), names = _clusters([data.images])
            data = data._replace(labels=labels, class_names=names)
        # A user's own folder may be called digits as well.
        is_test = _every_sixth_digit(len(data.images)) if data.path is None else _select_test_images(data.labels)
        train, test = (_rows(data, rows) for rows in ((~is_test).nonzero()[:, 0], is_test.nonzero()[:, 0]))
        is_test_seen = True
    real = RealImages(train, test, data, class_noun, is_test_seen, train.fingerprint, test.fingerprint)
    _check(real)
    return real


def class_noun_of(data: Dataset) -> ClassNoun:
    """Return what the judges' classes of a data set are: clusters where it has no labels."""
    return noun_of(data.name if data.path is None else None, has_labels=data.spec.num_classes > 0)


def _rows(data: Dataset, rows: Tensor) -> Dataset:
    return data._replace(images=data.images[rows], labels=data.labels[rows])


def _own_test_images(data: Dataset, config: DataConfig, *, keep: bool) -> Dataset:
    """Load the images of --test-data by the rules of the training images. Raises UserError for others than those."""
    assert config.test is not None
    if not is_data_path(config.test):
        raise UserError(
            f"--test-data: not found ({config.test}). Expected: the path of images as --data takes it", code="no-data"
        )
    test = load_own_images(config.model_copy(update={"name": config.test}), flag="--test-data", keep=keep)
    spec, other = data.spec, test.spec
    if spec.num_classes == 0:
        other = other.model_copy(update={"num_classes": 0, "class_names": []})
    if spec != other:
        same_shape = (spec.channels, spec.height, spec.width) == (other.channels, other.height, other.width)
        differing = f"classes {_listed(other)}" if same_shape else f"images of {other.describe()}"
        expected = f"classes {_listed(spec)}" if same_shape else spec.describe()
        raise UserError(
            f"--test-data: not like --data ({config.test}: {differing}). Expected: {expected}", code="bad-images"
        )
    return test


def _listed(images: ImageSpec) -> str:
    names = [repr(name) for name in images.class_names]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") or "none"


def _every_sixth_digit(num: int) -> Tensor:
    """Return the mask of every sixth of scikit-learn's digits, with all its variants."""
    return torch.arange(num) // NUM_VARIANTS % _TEST_EVERY == _TEST_EVERY - 1


def _select_test_images(labels: Tensor) -> Tensor:
    """Return the mask of test images: sorted by class every sixth, of few images every second; one of each class."""
    every = _TEST_EVERY if len(labels) >= _FEW else _FEW_EVERY
    order = labels.argsort(stable=True)
    is_test = torch.zeros(len(labels), dtype=torch.bool)
    is_test[order[every - 1 :: every]] = True
    for number in labels.unique():
        rows = (labels == number).nonzero()[:, 0]
        is_test[rows[-1]] |= not is_test[rows].any()
    return is_test


def _clusters(parts: Sequence[Tensor]) -> tuple[Sequence[Tensor], list[str]]:
    """Return clusters (N,) of the images of each part, which have no classes, and the clusters' names.

    Each has several images, and some in every part.
    """
    num = max(2, min(_NUM_CLUSTERS, min(map(len, parts)) // _IMAGES_PER_CLUSTER))
    sizes = [len(part) for part in parts]
    clusters = cluster(torch.cat(list(parts)), num)
    counts = torch.stack([part.bincount(minlength=num) for part in clusters.split(sizes)])
    # An image that is like no other is counted with the largest cluster: a class needs a test and a training image.
    least = counts.amin(0)
    is_small = (counts.sum(0) < 2 * _TEST_EVERY) | (least < 2)
    clusters = torch.where(is_small[clusters], least.argmax(), clusters)
    kept, labels = clusters.unique(return_inverse=True)
    return labels.split(sizes), [str(number) for number in range(1, len(kept) + 1)]


def _check(real: RealImages) -> None:
    """Raise UserError for images that quality can't be measured with."""
    for data in (real.train, real.test):
        num, least = (len(real.trained_on.images), 2 * FEWEST) if real.is_test_seen else (len(data.images), FEWEST)
        if num < least:  # where a class has one image, half of enough can be fewer: that class is named below
            raise UserError(
                f"{data.source}: too few images for measured quality ({num:,}). Expected: {least} or more",
                code="not-measurable",
            )
        counts = data.labels.bincount(minlength=real.spec.num_classes).tolist()
        if 0 in counts:
            name = real.spec.class_names[counts.index(0)]
            which = "training" if data is real.train else "test"
            raise UserError(
                f"{data.source}: no {which} image of {real.class_noun} {name!r}. Expected for measured quality: 2 or "
                "more images of each",
                code="not-measurable",
            )
    if real.spec.num_classes < 2:
        raise UserError(
            f"{real.train.source}: all images are of one {real.class_noun}. Expected for measured quality: 2 or more",
            code="not-measurable",
        )
