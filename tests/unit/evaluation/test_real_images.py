"""The real images that quality is measured with: of named sets, of own images with and without labels, and judges."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.runs import MNIST, MonkeyPatch, expect_user_error, has_mnist
from torch import Tensor

from distgan.config.image_spec import MNIST_SPEC, ImageSpec
from distgan.config.schema import DataConfig
from distgan.data.base import Dataset, load_dataset, load_own_images
from distgan.evaluation import real_images as module
from distgan.evaluation import scores
from distgan.evaluation.classifiers import NETWORKS, NUM_FEATURES, enough_epochs, to_batch
from distgan.evaluation.npz import read_npz
from distgan.evaluation.real_images import RealImages, load_real_images


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def pixels(num: int, seed: int = 0, *, channels: int = 3, side: int = 16) -> np.ndarray:
    """Random images, each of one of a few brightnesses."""
    rng = np.random.default_rng(seed)
    shape = (num, side, side) if channels == 1 else (num, side, side, channels)
    images = rng.integers(0, 60, shape)
    images += (np.arange(num) % 4 * 60).reshape(-1, *[1] * (images.ndim - 1))
    return images.astype(np.uint8)


def save(path: Path, num: int, num_classes: int = 0, **more: int) -> str:
    labels = {"labels": np.arange(num) % num_classes} if num_classes else {}
    np.savez(path, images=pixels(num, **more), **labels)
    return str(path)


def real_images(name: str, **settings: str) -> RealImages:
    config = DataConfig(name=name, **settings)  # type: ignore[arg-type]
    return load_real_images(load_dataset(config), config)


def rows_of(images: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def test_own_images_are_split_by_class_and_none_is_lost(tmp_path: Path) -> None:
    real = real_images(save(tmp_path / "own.npz", 300, 3))
    assert (real.class_noun, real.is_test_seen) == ("class", True)
    assert real.spec == ImageSpec(channels=3, height=16, width=16, num_classes=3, class_names=["0", "1", "2"])
    assert real.train.labels.bincount().tolist() == real.test.labels.bincount().tolist() == [50, 50, 50]
    train, test, both = (rows_of(data.images) for data in (real.train, real.test, real.trained_on))
    assert not train & test
    assert train | test == both
    assert len(both) == 300
    again = real_images(save(tmp_path / "copy.npz", 300, 3))
    assert again.test.fingerprint == real.test.fingerprint
    assert again.judges_name == f"images-{real.train_fingerprint}"
    assert again.judges_name == real.judges_name, "equal images have the same judges"


def test_a_folder_may_have_the_name_of_a_data_set() -> None:
    labels = torch.arange(200) % 2
    own = Dataset("digits", torch.zeros(200, 16, 16, dtype=torch.uint8), labels, "/digits", path="/digits")
    real = load_real_images(own, DataConfig(name="/digits"))
    assert (real.class_noun, len(real.test.images)) == ("class", 100)


def test_of_many_images_a_sixth_is_compared_with(tmp_path: Path) -> None:
    real = real_images(save(tmp_path / "own.npz", 3600, 2, channels=1, side=4))
    assert (len(real.train.images), len(real.test.images)) == (3000, 600)


def test_the_fewest_images_are_enough_in_any_number_of_classes(tmp_path: Path) -> None:
    real = real_images(save(tmp_path / "own.npz", 130, 3))
    assert (len(real.train.images), len(real.test.images)) == (65, 65)
    labels = np.arange(3600) % 2
    labels[[10, 20]] = 2
    np.savez(tmp_path / "rare.npz", images=pixels(3600, channels=1, side=4), labels=labels)
    rare = real_images(str(tmp_path / "rare.npz"))
    assert [data.labels.bincount().tolist()[2] for data in (rare.train, rare.test)] == [1, 1]


def test_images_without_labels_are_clustered(tmp_path: Path) -> None:
    real = real_images(save(tmp_path / "own.npz", 400))
    assert real.class_noun == "cluster"
    num = real.spec.num_classes
    assert 2 <= num <= 8
    assert real.spec.class_names == [str(number) for number in range(1, num + 1)]
    for data in (real.train, real.test):
        assert data.labels.bincount(minlength=num).min() > 0


def test_given_test_images_are_not_trained_on(tmp_path: Path) -> None:
    own, other = save(tmp_path / "own.npz", 100, 2), save(tmp_path / "other.npz", 70, 2, seed=1)
    real = real_images(own, test=other)
    assert not real.is_test_seen
    assert (len(real.train.images), len(real.test.images), len(real.trained_on.images)) == (100, 70, 100)
    unlabelled = real_images(save(tmp_path / "plain.npz", 100), test=other)
    assert unlabelled.class_noun == "cluster", "labels of the test images alone are not used"
    assert len(unlabelled.test.labels) == 70


def test_a_cluster_of_one_set_alone_is_none(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    found = torch.arange(400) % 2
    found[:20], found[380:] = 2, 3  # 20 training images, and 20 test images, that are like none of the other set
    monkeypatch.setattr(module, "cluster", lambda *_: found)
    real = real_images(save(tmp_path / "own.npz", 200), test=save(tmp_path / "other.npz", 200, seed=1))
    assert real.spec.class_names == ["1", "2"]
    for data in (real.train, real.test):
        assert data.labels.bincount().tolist() == [110, 90]


def test_test_images_are_those_of_a_path(tmp_path: Path) -> None:
    own = save(tmp_path / "own.npz", 100, 2)
    with expect_user_error("--test-data: ... (own.npz) ... [setting-not-applicable]"):
        load_dataset(DataConfig(name="digits", test="own.npz"))
    (tmp_path / "other.npz").write_bytes(b"other")
    with expect_user_error("--test-data ...other.npz: ... [bad-images]"):
        real_images(own, test=str(tmp_path / "other.npz"))


def test_test_images_are_kept_only_if_wanted(tmp_path: Path) -> None:
    own, other = save(tmp_path / "own.npz", 100, 2), save(tmp_path / "other.npz", 70, 2)
    config = DataConfig(name=own, test=other)
    load_real_images(load_own_images(config, keep=False), config, keep=False)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"num": 70, "num_classes": 3}, "--test-data ... classes '0', '1', '2' ... '0', '1' [bad-images]"),
        ({"num": 70}, "--test-data ... classes none ... '0', '1' [bad-images]"),
        ({"num": 70, "num_classes": 2, "side": 20}, "--test-data ... 20 x 20, colour ... 16 x 16, colour"),
        ({"num": 70, "num_classes": 2, "channels": 1}, "--test-data ... grey ... colour"),
        ({"num": 60, "num_classes": 2}, "other.npz ... (60) ... 65 or more [not-measurable]"),
    ],
)
def test_other_test_images_are_an_error(tmp_path: Path, other: dict[str, int], message: str) -> None:
    with expect_user_error(message):
        real_images(save(tmp_path / "own.npz", 200, 2), test=save(tmp_path / "other.npz", **other))


def test_what_cannot_be_measured_says_how_much_is_missing(tmp_path: Path) -> None:
    with expect_user_error("own.npz ... (120) ... 130 or more [not-measurable]"):
        real_images(save(tmp_path / "own.npz", 120, 2))
    with expect_user_error("--test-data ... (nowhere) ... [no-data]"):
        real_images(save(tmp_path / "own.npz", 200, 2), test="nowhere")
    for num in (201, 130):
        labels = np.array([1, 2] * (num // 2) + [1] * (num % 2))
        labels[9] = 0
        np.savez(tmp_path / "one.npz", images=pixels(num), labels=labels)
        with expect_user_error("one.npz ... '0' ... 2 or more ... [not-measurable]"):
            real_images(str(tmp_path / "one.npz"))
    np.savez(tmp_path / "same.npz", images=np.zeros((200, 16, 16), np.uint8), labels=np.zeros(200, np.int64))
    with expect_user_error("same.npz ... one class ... 2 or more ... [not-measurable]"):
        real_images(str(tmp_path / "same.npz"))
    np.savez(tmp_path / "alike.npz", images=np.zeros((200, 16, 16), np.uint8))
    with expect_user_error("alike.npz ... one cluster ... 2 or more ... [not-measurable]"):
        real_images(str(tmp_path / "alike.npz"))


def test_digits_keep_variants_of_one_together() -> None:
    real = real_images("digits")
    assert (real.class_noun, real.is_test_seen, real.judges_name) == ("digit", True, "digits")
    assert len(real.test.images) == 2990
    assert len(real.trained_on.images) == 17_970


@pytest.mark.skipif(not has_mnist("t10k"), reason=f"no MNIST in {MNIST}")
def test_mnist_has_test_images_that_nothing_was_trained_on() -> None:
    real = real_images("mnist", dir=str(MNIST))
    assert (real.is_test_seen, real.judges_name, real.spec) == (False, "mnist", MNIST_SPEC)
    assert len(real.test.images) == 10_000
    assert real.trained_on is real.train


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("channels", "height", "width", "num_classes"),
    [(1, 28, 28, 10), (3, 16, 16, 2), (3, 32, 32, 7), (1, 64, 48, 3), (3, 128, 128, 100)],
)
def test_judges_read_images_of_any_shape(name: str, channels: int, height: int, width: int, num_classes: int) -> None:
    names = [str(number) for number in range(num_classes)]
    spec = ImageSpec(channels=channels, height=height, width=width, num_classes=num_classes, class_names=names)
    shape = (2, height, width) if channels == 1 else (2, channels, height, width)
    images = torch.randint(256, shape, dtype=torch.uint8)
    network = NETWORKS[name](spec).eval()
    logits, features = network(to_batch(images))
    assert (logits.shape, features.shape) == ((2, num_classes), (2, NUM_FEATURES))
    pixels = to_batch(images).requires_grad_()
    first = network.trunk[0][0]
    gradient = torch.autograd.grad((first(pixels) * torch.rand_like(first(pixels))).sum(), pixels)[0]
    unseen = (gradient == 0).nonzero()[:, 2:]
    assert not len(unseen), f"pixels that the first layer skips: {unseen[:5].tolist()}"


def test_few_images_are_learnt_in_more_epochs() -> None:
    assert [enough_epochs(num, 2, 400) for num in (60_000, 2500, 130)] == [2, 20, 200]


def test_nearest_image_is_found_in_any_part(monkeypatch: MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    images, others = (torch.randint(256, (num, 3, 4, 4), dtype=torch.uint8, generator=generator) for num in (20, 50))
    at_once = scores.nearest(images, others)
    monkeypatch.setattr(scores, "_MOST_VALUES", 7 * 48)
    in_parts = scores.nearest(images, others)
    assert torch.equal(at_once.which, in_parts.which)
    assert torch.allclose(at_once.greys, in_parts.greys)
    distances = (images.flatten(1)[:, None].float() - others.flatten(1)[None].float()).square().mean(2).sqrt()
    assert torch.allclose(at_once.greys, distances.amin(1), atol=1e-3)


COLOUR = ImageSpec(channels=3, height=16, width=20, num_classes=3, class_names=["a", "b", "c"])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("is_last", [True, False])
def test_arrays_in_colour_are_read_as_data_sets_have_them(tmp_path: Path, is_last: bool, order: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 3, 16, 20)).astype(np.uint8)
    given = images.transpose(0, 2, 3, 1) if is_last else images
    np.savez(tmp_path / "a.npz", images=np.asarray(given, order=order), labels=np.arange(9) % 3)  # type: ignore[call-overload]
    found = read_npz(tmp_path / "a.npz", 100, spec=COLOUR)
    assert np.array_equal(found.images.numpy(), images)
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 2] * 3


@pytest.mark.parametrize(
    ("shape", "labels", "message"),
    [
        ((9, 16, 20), None, "(9, 16, 20) ... (N, 3, 16, 20) or (N, 16, 20, 3) [bad-images]"),
        ((9, 3, 20, 16), None, "(9, 3, 20, 16) ... (N, 3, 16, 20) or (N, 16, 20, 3) [bad-images]"),
        ((3, 3, 16, 20), [0, 1, 3], "labels ... 0 to 3 ... 0 to 2 [bad-images]"),
    ],
)
def test_arrays_of_other_images_are_an_error(
    tmp_path: Path, shape: tuple[int, ...], labels: list[int] | None, message: str
) -> None:
    arrays = {"images": np.zeros(shape, np.uint8)} | ({} if labels is None else {"labels": np.array(labels)})
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    with expect_user_error(message):
        read_npz(tmp_path / "a.npz", 100, spec=COLOUR)
