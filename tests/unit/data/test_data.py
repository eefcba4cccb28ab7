"""Finding, reading, checking and downloading the images."""

import gzip
import hashlib
import os
import shutil
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.memory import at_most
from helpers.runs import MonkeyPatch, expect_user_error

from distgan.config.schema import DataConfig
from distgan.data.base import NOT_MNIST, SOURCES, TEST_SOURCES, Dataset, load_dataset, load_digits
from distgan.data.mnist import OTHERS
from distgan.errors import UserError

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
NOBODY = "http://127.0.0.1:9/"  # a port of this machine's where nobody listens


def idx(array: np.ndarray, code: int = 8) -> bytes:
    return bytes([0, 0, code, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def small_mnist(folder: Path, num: int = 50, seed: int = 0) -> Path:
    """A made-up training set in torchvision's layout."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    (raw / IMAGES).write_bytes(idx(rng.integers(0, 256, (num, 28, 28), dtype=np.uint8)))
    (raw / LABELS).write_bytes(idx(rng.integers(0, 10, num, dtype=np.uint8)))
    return raw


def load(folder: Path, **settings: object) -> Dataset:
    return load_dataset(DataConfig(**({"dir": str(folder), "md5": "accept", "download": False} | settings)))


def test_test_sets_are_named_as_torchvision_names_them() -> None:
    assert TEST_SOURCES.keys() == SOURCES.keys()
    assert TEST_SOURCES["kmnist"].images == "t10k-images-idx3-ubyte"
    assert TEST_SOURCES["qmnist"].labels == "qmnist-test-labels-idx2-int"
    assert TEST_SOURCES["emnist-digits"].images == "emnist-digits-test-images-idx3-ubyte"


def test_missing_test_set_is_one_clear_error(tmp_path: Path) -> None:
    small_mnist(tmp_path)
    with expect_user_error("t10k-images-idx3-ubyte ... [no-data]"):
        load_dataset(DataConfig(dir=str(tmp_path), download=False), "test")


def test_named_folder_takes_precedence(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    for name, num in (("flag", 10), ("variable", 20), ("here/data", 30)):
        small_mnist(tmp_path / name, num)
    monkeypatch.chdir(tmp_path / "here")
    accept = {"md5": "accept", "download": False}
    assert len(load_dataset(DataConfig(**accept)).images) == 30
    monkeypatch.setenv("DISTGAN_DATA", str(tmp_path / "variable"))
    assert len(load_dataset(DataConfig(**accept)).images) == 20
    assert len(load_dataset(DataConfig(dir=str(tmp_path / "flag"), **accept)).images) == 10


def test_packed_and_flat_files_are_read_too(tmp_path: Path) -> None:
    raw = small_mnist(tmp_path / "plain")
    plain = load(tmp_path / "plain")
    flat = tmp_path / "flat"
    flat.mkdir()
    for name in (IMAGES, LABELS):
        (flat / f"{name}.gz").write_bytes(gzip.compress((raw / name).read_bytes()))
    packed = load(flat)
    assert torch.equal(plain.images, packed.images)
    assert plain.fingerprint == packed.fingerprint


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        (IMAGES, lambda raw: raw[:-1], "cut short"),
        (IMAGES, lambda raw: raw[: len(raw) // 2], "cut short"),
        (IMAGES, lambda raw: raw + b"x", "too long"),
        (IMAGES, lambda raw: b"", "[bad-dataset]"),
        (IMAGES, lambda raw: raw[:9], "[bad-dataset]"),
        (IMAGES, lambda raw: b"\x89PNG" + raw[4:], "[bad-dataset]"),
        (IMAGES, lambda raw: raw[:3] + b"\1" + raw[4:], "[bad-dataset]"),
        (IMAGES, lambda raw: b"\1" + raw[1:], "[bad-dataset]"),
        (IMAGES, lambda raw: raw[:2] + b"\x0b" + raw[3:], "[bad-dataset]"),
        (IMAGES, lambda raw: raw[:8] + (29).to_bytes(4, "big") + raw[12:], "50 x 29 x 28 ... any x 28 x 28"),
        (IMAGES, lambda raw: raw[:4] + (2**31).to_bytes(4, "big") + raw[8:], "cut short"),
        (LABELS, lambda raw: raw[:4] + (49).to_bytes(4, "big") + raw[8:57], "49 ... 50"),
        (LABELS, lambda raw: raw[:-1] + b"\x0a", "0 to 10 ... 0 to 9"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_damaged_file_is_one_clear_error(tmp_path: Path, file: str, damage: object, words: str, packed: bool) -> None:
    raw = small_mnist(tmp_path)
    content = damage((raw / file).read_bytes())
    if packed:
        (raw / file).unlink()
        (raw / f"{file}.gz").write_bytes(gzip.compress(content))
    else:
        (raw / file).write_bytes(content)
    with expect_user_error(file, words, code="bad-dataset"):
        load(tmp_path)


def test_damaged_archive_is_one_clear_error(tmp_path: Path) -> None:
    raw = small_mnist(tmp_path)
    packed = gzip.compress((raw / IMAGES).read_bytes())
    (raw / IMAGES).unlink()
    for damaged in (packed[:-20], b"not gzip at all", packed[:200] + b"\0" * 50 + packed[250:]):
        (raw / f"{IMAGES}.gz").write_bytes(damaged)
        with expect_user_error(f"{IMAGES}.gz: "):
            load(tmp_path)


def test_archive_damaged_anywhere_is_one_clear_error(tmp_path: Path) -> None:
    """In its header, its stream and its sum: not every damage has an error of gzip's own."""
    raw = small_mnist(tmp_path)
    packed = gzip.compress((raw / LABELS).read_bytes(), mtime=0)
    (raw / LABELS).unlink()
    for place in (0, *range(10, len(packed))):
        (raw / f"{LABELS}.gz").write_bytes(packed[:place] + bytes([packed[place] ^ 0x55]) + packed[place + 1 :])
        with expect_user_error(f"{LABELS}.gz", code="bad-data"):
            load(tmp_path)


def test_memory_is_that_of_the_images(tmp_path: Path) -> None:
    """Whatever else is in the file, and without copies for sums."""
    raw = small_mnist(tmp_path)
    (raw / IMAGES).write_bytes(idx(np.zeros((40_000, 28, 28), np.uint8)))
    (raw / LABELS).write_bytes(idx(np.zeros(40_000, np.uint8)))
    with at_most(50):
        assert load(tmp_path).fingerprint
    os.truncate(raw / IMAGES, 2**32)
    with at_most(50), expect_user_error("too long", code="bad-data"):
        load(tmp_path)


def test_packed_bomb_is_read_no_further_than_the_largest_data_set(tmp_path: Path) -> None:
    raw = small_mnist(tmp_path)
    (raw / LABELS).unlink()
    (raw / f"{LABELS}.gz").write_bytes(gzip.compress(idx(np.zeros(50, np.uint8)) + bytes(300_000_000)))
    with expect_user_error("too long"):
        load(tmp_path)


def test_wrong_number_of_images_is_rejected_unless_accepted(tmp_path: Path) -> None:
    small_mnist(tmp_path)
    with expect_user_error("50 x 28 x 28 ... 60000 x 28 x 28 ... [bad-dataset]"):
        load(tmp_path, md5="auto")


def test_require_rejects_digits_which_have_no_published_sum() -> None:
    with expect_user_error("digits: ... [setting-not-applicable]"):
        load_dataset(DataConfig(name="digits", md5="require"))
    assert len(load_dataset(DataConfig(name="digits")).images) == 17_970


def test_md5_rules(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """auto takes other contents from a folder that was named, and rejects them in ./data."""
    raw = small_mnist(tmp_path / "data", 50)
    monkeypatch.setitem(SOURCES, "mnist", SOURCES["mnist"]._replace(num_images=50))
    monkeypatch.chdir(tmp_path)
    with expect_user_error("6bbc9ace ... --data-dir ... [checksum-mismatch]"):
        load_dataset(DataConfig(download=False))
    with expect_user_error(code="checksum-mismatch"):
        load("data", md5="require")
    for taken in (load("data", md5="auto"), load("data", md5="accept")):
        assert all(f"{file}: its md5" in taken.warning for file in (IMAGES, LABELS))
    md5 = tuple(hashlib.md5((raw / file).read_bytes()).hexdigest() for file in (IMAGES, LABELS))
    monkeypatch.setitem(SOURCES, "mnist", SOURCES["mnist"]._replace(md5=md5))
    assert load("data", md5="require").warning is None


def sums_of(raw: Path, end: str = "") -> tuple[str, ...]:
    return tuple(hashlib.md5((raw / f"{file}{end}").read_bytes()).hexdigest() for file in (IMAGES, LABELS))


def pack(raw: Path) -> None:
    for name in (IMAGES, LABELS):
        (raw / f"{name}.gz").write_bytes(gzip.compress((raw / name).read_bytes()))


def test_published_sums_are_those_that_torchvision_checks() -> None:
    torchvision = pytest.importorskip("torchvision.datasets")
    files = [file for sources in (SOURCES, TEST_SOURCES) for source in sources.values() for file in source.files()]
    every = [md5 for _, *sums in files for md5 in sums if md5]
    every += " ".join(OTHERS.values()).split()
    assert len(set(every)) == len(every), "one sum, one file"
    for name in ("mnist", "fashion-mnist", "kmnist"):
        ours = (*SOURCES[name].packed_md5, *TEST_SOURCES[name].packed_md5)
        assert ours == tuple(md5 for _, md5 in getattr(torchvision, SOURCES[name].folder).resources)
    theirs = torchvision.QMNIST.resources
    assert SOURCES["qmnist"].packed_md5 == tuple(md5 for _, md5 in theirs["train"])
    assert TEST_SOURCES["qmnist"].packed_md5 == tuple(md5 for _, md5 in theirs["test"])


@pytest.mark.parametrize("rule", ["auto", "require", "accept"])
@pytest.mark.parametrize("file", [IMAGES, LABELS])
@pytest.mark.parametrize("packed", [False, True, "both", "beside its twin"])
def test_a_file_of_another_set_is_rejected_under_every_other_name(
    tmp_path: Path, monkeypatch: MonkeyPatch, rule: str, file: str, packed: bool | str
) -> None:
    """Also where a twin of it, packed or not, is read in its place, whose own sum is of no set."""
    raw = small_mnist(tmp_path)
    sums = list(sums_of(raw))
    if packed:
        pack(raw)
        sums = list(sums_of(raw, ".gz"))
        for name in (IMAGES, LABELS) if packed is True else ():
            (raw / name).unlink()
        if packed == "beside its twin":  # of other contents
            small_mnist(tmp_path / "twin", seed=1)
            shutil.copytree(tmp_path / "twin" / "MNIST", tmp_path / "MNIST", dirs_exist_ok=True)
    sums[file == IMAGES] = "0" * 32  # the other file is of no set, which `require` finds before
    bad = f"{raw / file}{'.gz' if packed else ''}: its md5 is that of kmnist's t10k-"
    words = () if rule == "require" and file == LABELS else (bad,)
    known = {"packed_md5" if packed else "md5": tuple(sums)}
    for sources in (SOURCES, TEST_SOURCES):
        for name in ("mnist", "fashion-mnist", "kmnist"):
            monkeypatch.setitem(sources, name, sources[name]._replace(num_images=50))
    monkeypatch.setitem(TEST_SOURCES, "kmnist", TEST_SOURCES["kmnist"]._replace(**known))
    for name in ("mnist", "fashion-mnist", "kmnist"):  # of the last, test images in the place of training images
        with expect_user_error(*words, code="bad-data"):
            load(raw, name=name, md5=rule)


def test_require_means_something_where_packed_files_alone_have_a_sum(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    raw = small_mnist(tmp_path / "data")
    pack(raw)
    shutil.move(raw.parent, tmp_path / "data" / "KMNIST")
    raw = tmp_path / "data" / "KMNIST" / "raw"
    monkeypatch.chdir(tmp_path)
    known = {"num_images": 50, "packed_md5": sums_of(raw, ".gz")}
    monkeypatch.setitem(SOURCES, "kmnist", SOURCES["kmnist"]._replace(**known))
    for settings in ({}, {"dir": "data"}):
        checked = load_dataset(DataConfig(name="kmnist", download=False, md5="require", **settings))
        assert checked.warning is None
        assert len(checked.images) == 50
    for file in (IMAGES, LABELS):
        (raw / f"{file}.gz").unlink()
    with expect_user_error(f"KMNIST/raw/{IMAGES}", code="checksum-mismatch"):
        load_dataset(DataConfig(name="kmnist", download=False, md5="require"))
    assert load_dataset(DataConfig(name="kmnist", download=False)).warning is None
    assert "KMNIST" in str(load(tmp_path / "data", name="kmnist", md5="auto").warning)
    for file in (IMAGES, LABELS):  # packed anew: the same contents under another sum
        (raw / f"{file}.gz").write_bytes(gzip.compress((raw / file).read_bytes(), 1))
        (raw / file).unlink()
    assert load_dataset(DataConfig(name="kmnist", download=False)).warning is None
    with expect_user_error(f"KMNIST/raw/{IMAGES}.gz", code="checksum-mismatch"):
        load_dataset(DataConfig(name="kmnist", download=False, md5="require"))


def test_download_keeps_the_files_that_have_a_sum(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """EMNIST is one archive of all its sets, of which torchvision leaves the unpacked files alone."""
    (tmp_path / "mirror").mkdir()
    with zipfile.ZipFile(tmp_path / "mirror" / "gzip.zip", "w") as archive:
        for part in ("train", "test"):
            for kind, array in (
                ("images-idx3", np.zeros((50, 28, 28), np.uint8)),
                ("labels-idx1", np.zeros(50, np.uint8)),
            ):
                for name in ("digits", "letters"):
                    archive.writestr(f"gzip/emnist-{name}-{part}-{kind}-ubyte.gz", gzip.compress(idx(array), mtime=0))
    mirror = f"file://{tmp_path / 'mirror'}"
    assert len(load(tmp_path / "data", name="emnist-digits", download=True, mirror=mirror).images) == 50
    raw = tmp_path / "data" / "EMNIST" / "raw"
    assert {path.name for path in raw.glob("*.gz")} == {
        f"emnist-digits-{part}-{kind}-ubyte.gz" for part in ("train", "test") for kind in ("images-idx3", "labels-idx1")
    }
    packed = tuple(
        hashlib.md5((raw / f"{name}.gz").read_bytes()).hexdigest() for name, *_ in SOURCES["emnist-digits"].files()
    )
    monkeypatch.setitem(SOURCES, "emnist-digits", SOURCES["emnist-digits"]._replace(num_images=50, packed_md5=packed))
    assert load(tmp_path / "data", name="emnist-digits", md5="require").warning is None


def test_missing_data_says_where_it_looked_and_what_to_do(tmp_path: Path) -> None:
    with expect_user_error("--data-dir", "nowhere/MNIST/raw/train-images-idx3-ubyte", "$DISTGAN_DATA", "--data digits"):
        load(tmp_path / "nowhere")


def test_emnist_digits_stand_upright(tmp_path: Path) -> None:
    raw = tmp_path / "EMNIST" / "raw"
    raw.mkdir(parents=True)
    images = np.arange(2 * 28 * 28, dtype=np.uint32).reshape(2, 28, 28).astype(np.uint8)
    (raw / SOURCES["emnist-digits"].images).write_bytes(idx(images))
    (raw / SOURCES["emnist-digits"].labels).write_bytes(idx(np.array([1, 2], np.uint8)))
    assert np.array_equal(load(tmp_path, name="emnist-digits").images.numpy(), images.transpose(0, 2, 1))


def test_qmnist_labels_are_the_first_of_eight_columns(tmp_path: Path) -> None:
    raw = tmp_path / "QMNIST" / "raw"
    raw.mkdir(parents=True)
    labels = np.array([[3, 0, 1, 2, 3, 4, 5, 6], [9, 0, 1, 2, 3, 4, 5, 6]], ">i4")
    (raw / SOURCES["qmnist"].images).write_bytes(idx(np.zeros((2, 28, 28), np.uint8)))
    (raw / SOURCES["qmnist"].labels).write_bytes(idx(labels, code=12))
    assert load(tmp_path, name="qmnist").labels.tolist() == [3, 9]


@pytest.mark.parametrize("name", ["fashion-mnist", "kmnist"])
def test_twins_of_mnist_come_by_the_same_door(tmp_path: Path, name: str) -> None:
    raw = small_mnist(tmp_path)
    shutil.move(raw.parent, tmp_path / SOURCES[name].folder)
    assert len(load(tmp_path, name=name).images) == 50


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server with a small MNIST, packed as the real mirrors have it."""
    folder = tmp_path / "mirror"
    raw = small_mnist(tmp_path / "source")
    folder.mkdir()
    for name in (IMAGES, LABELS):
        packed = gzip.compress((raw / name).read_bytes())
        (folder / f"{name}.gz").write_bytes(packed)
        (folder / f"{name.replace('train', 't10k')}.gz").write_bytes(packed)
    handler = partial(SimpleHTTPRequestHandler, directory=folder)
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    server.server_close()


def test_download_fills_the_folder_once(tmp_path: Path, mirror: tuple[str, Path]) -> None:
    address, folder = mirror
    fetched = load(tmp_path / "data", download=True, mirror=address)
    assert len(fetched.images) == 50
    assert sorted(os.listdir(tmp_path / "data")) == ["MNIST"], "nothing temporary stays"
    for file in folder.iterdir():
        file.unlink()
    assert torch.equal(load(tmp_path / "data", download=True, mirror=address).images, fetched.images)


def test_download_with_another_md5_is_rejected(tmp_path: Path, mirror: tuple[str, Path]) -> None:
    """torchvision knows what the packed files of the real MNIST are."""
    with expect_user_error(mirror[0], code="no-data"):
        load(tmp_path / "data", download=True, mirror=mirror[0], md5="auto")
    assert not (tmp_path / "data").exists()


def test_truncated_download_leaves_nothing(tmp_path: Path, mirror: tuple[str, Path]) -> None:
    address, folder = mirror
    packed = (folder / f"{IMAGES}.gz").read_bytes()
    (folder / f"{IMAGES}.gz").write_bytes(packed[: len(packed) // 2])
    with expect_user_error(code="no-data"):
        load(tmp_path / "data", download=True, mirror=address)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "kmnist", "qmnist", "emnist-digits"])
def test_dead_mirror_is_one_clear_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"\(.*[Rr]efused") as error:
        load(tmp_path / "data", name=name, download=True, mirror=NOBODY)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "data").exists(), "a folder made for nothing is taken away"


def test_auto_falls_back_to_digits_and_says_so(tmp_path: Path) -> None:
    dataset = load(tmp_path / "data", name="auto", download=True, mirror=NOBODY)
    assert dataset.name == "digits"
    assert dataset.notice == NOT_MNIST
    assert "download" in dataset.warning


def test_auto_falls_back_where_the_folder_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", Path("/proc/nowhere")):
        dataset = load(folder, name="auto", download=True, mirror=NOBODY)
        assert dataset.name == "digits"
        assert str(folder) in dataset.warning
        with expect_user_error(f"--data-dir: ... {folder} ... not writable", code="no-data"):
            load(folder, download=True, mirror=NOBODY)


def test_auto_takes_mnist_where_it_is(tmp_path: Path) -> None:
    small_mnist(tmp_path)
    dataset = load(tmp_path, name="auto")
    assert (dataset.name, dataset.notice) == ("mnist", None)


def test_auto_does_not_hide_damaged_files(tmp_path: Path) -> None:
    raw = small_mnist(tmp_path)
    (raw / IMAGES).write_bytes(b"")
    with expect_user_error("[bad-dataset]"):
        load(tmp_path, name="auto")


def test_digits_are_real_varied_and_the_same_each_time() -> None:
    first, second = load_digits(), load_digits()
    assert torch.equal(first.images, second.images)
    assert first.images.shape == (17_970, 28, 28)
    assert first.images.dtype == torch.uint8
    assert torch.bincount(first.labels).min() > 1_700
    # Bright strokes on an empty margin, as in MNIST.
    assert first.images[:, :2].float().mean() < 1
    assert first.images.amax(dim=(1, 2)).min() > 150
    # Of each digit's ten images no two are the same.
    ten = first.images[:10].flatten(1).float()
    assert (torch.cdist(ten, ten) + 1e9 * torch.eye(10)).min() > 0
    # Those of every version, but for a grey or two that another processor rounds otherwise.
    every = slice(None, None, 97)
    greys = first.images[every].double().sum((1, 2))
    assert float(greys.sum()) == pytest.approx(6_050_008, rel=1e-6)
    assert float((greys * first.labels[every]).sum()) == pytest.approx(27_359_583, rel=1e-6)


def test_digits_do_not_stand_in_where_a_published_sum_is_required(tmp_path: Path) -> None:
    with expect_user_error("mnist", code="not-found"):
        load(tmp_path, name="auto", md5="require")
