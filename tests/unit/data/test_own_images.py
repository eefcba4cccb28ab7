"""Images that a user brings: what is found in a folder, an archive or arrays, and what training makes of it."""

import errno
import io
import json
import os
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.noise_images import COLOUR, noise_images
from helpers.runs import Capture, MonkeyPatch, Run, assert_same_run, assert_user_error, expect_user_error
from PIL import Image, ImageSequence

from distgan.config.schema import DataConfig
from distgan.data import base, image_cache, image_files
from distgan.data.base import Dataset, load_dataset
from distgan.data.image_source import natural_key
from distgan.data.loader import Batches, scale
from distgan.distributed.sharding import BatchShard
from distgan.errors import UserError
from distgan.runs import artifacts
from distgan.utils.files import read_tensors
from distgan.utils.locks import hold_lock

RED, GREEN, BLUE = (200, 30, 30), (30, 200, 30), (30, 30, 200)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "distgan" / "images"


@pytest.fixture
def few_digits(monkeypatch: MonkeyPatch) -> Dataset:
    """The embedded digits, 120 of them for all."""
    digits = base.load_digits()
    few = digits._replace(images=digits.images[:120], labels=digits.labels[:120])
    monkeypatch.setattr(base, "load_digits", lambda: few)
    return few


def picture(seed: int = 0, size: tuple[int, int] = (16, 16), mode: str = "RGB") -> Image.Image:
    """An image of random pixels, of (width, height)."""
    shape = (size[1], size[0], len(mode)) if len(mode) > 1 else (size[1], size[0])
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def write(folder: Path, names: str, **options: Any) -> Path:
    """Write a picture under each name, all different."""
    for seed, name in enumerate(names.split()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture(seed, **options).save(folder / name)
    return folder


def load(path: object, **config: Any) -> Dataset:
    return load_dataset(DataConfig(name=str(path), **config))


def saved(image: Image.Image, kind: str = "png", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# -- what is found -------------------------------------------------------------------------------------------


def test_names_are_sorted_as_people_do() -> None:
    names = ["img10.png", "img2.png", "Img1.png", "b.png", "ä.png", "2/1.png", "10/1.png", "cat2", "cat"]
    expected = ["2/1.png", "10/1.png", "b.png", "cat", "cat2", "Img1.png", "img2.png", "img10.png", "ä.png"]
    assert sorted(names, key=natural_key) == expected
    assert natural_key("9" * 70_000) > natural_key("8"), "of any length"


def test_class_folders_are_classes_in_their_order(tmp_path: Path) -> None:
    write(tmp_path / "own", "b/2.png b/10.png a/x.PNG a/deep/y.png 10/z.png 2/z.png")
    found = load(tmp_path / "own")
    assert found.spec.class_names == ["2", "10", "a", "b"]
    assert found.labels.tolist() == [0, 1, 2, 2, 3, 3]
    assert found.images.shape == (6, 3, 16, 16)
    with pytest.raises(AssertionError):
        load_dataset(DataConfig(name=str(tmp_path / "own")), "test")  # its training images are none
    written = ["b/2.png", "b/10.png", "a/x.PNG", "a/deep/y.png", "10/z.png", "2/z.png"]
    order = ["2/z.png", "10/z.png", "a/deep/y.png", "a/x.PNG", "b/2.png", "b/10.png"]
    for image, name in zip(found.images, order, strict=True):
        assert np.array_equal(image.permute(1, 2, 0), np.asarray(picture(written.index(name))))


def test_a_flat_folder_has_no_classes(tmp_path: Path) -> None:
    found = load(write(tmp_path / "own", "10.png 9.png", mode="L"))
    assert (found.spec.num_classes, found.labels.tolist(), tuple(found.images.shape)) == (0, [0, 0], (2, 16, 16))
    assert np.array_equal(found.images[0], np.asarray(picture(1, mode="L"))), "9 comes before 10"


def test_what_is_not_used_is_said(tmp_path: Path) -> None:
    folder = write(tmp_path / "own", "only/1.png only/2.png")
    (folder / "labels.csv").write_text("1.png,3")
    (folder / ".DS_Store").touch()
    (folder / "only" / "._1.png").write_bytes(b"\0")
    findings = load(folder).findings
    assert findings is not None
    assert "1 other file is not used, as 'labels.csv'" in findings.notes
    assert "all are in one folder, 'only', which is not a class" in findings.notes
    assert (findings.num_images, findings.num_broken) == (2, 0)


def archive_of(folder: Path, path: Path, inside: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, inside + file.relative_to(folder).as_posix())
    return path


def test_all_forms_of_the_same_images_have_one_fingerprint(tmp_path: Path) -> None:
    folder = write(tmp_path / "own", "cat/1.png cat/2.png dog/1.png")
    found = load(folder)
    pixels = found.images.permute(0, 2, 3, 1).numpy()
    forms: list[Path] = [
        archive_of(folder, tmp_path / "a.zip"),
        archive_of(folder, tmp_path / "b.zip", "photos/"),
        tmp_path / "last.npz",
        tmp_path / "first.npz",
    ]
    np.savez(forms[2], images=pixels, labels=found.labels.numpy())
    np.savez_compressed(forms[3], images=pixels.transpose(0, 3, 1, 2), labels=found.labels.numpy().astype(np.uint8))
    for form in forms:
        assert load(form).fingerprint == found.fingerprint, form
    assert load(forms[0]).spec == found.spec
    assert load(forms[2]).spec.class_names == ["0", "1"]


def test_a_data_set_written_out_is_that_data_set(tmp_path: Path, few_digits: Dataset) -> None:
    digits = load("digits")
    assert digits.fingerprint == few_digits.fingerprint
    np.savez(tmp_path / "digits.npz", images=digits.images.numpy(), labels=digits.labels.numpy())
    found = load(tmp_path / "digits.npz")
    assert (found.fingerprint, found.spec) == (digits.fingerprint, digits.spec)
    (tmp_path / "flat").mkdir()
    for number, image in enumerate(digits.images.numpy()):
        Image.fromarray(image).save(tmp_path / "flat" / f"{number}.png")
    assert torch.equal(load(tmp_path / "flat").images, digits.images)


def test_parquet_of_hugging_face_is_read(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    folder = write(tmp_path / "own", "cat/1.png cat/2.png dog/1.png")
    rows = [{"bytes": (folder / name).read_bytes(), "path": name} for name in ("cat/1.png", "cat/2.png", "dog/1.png")]
    features = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    table = pa.table({"image": rows, "label": [0, 0, 1]}).replace_schema_metadata({"huggingface": json.dumps(features)})
    (tmp_path / "hf").mkdir()
    pq.write_table(table.slice(0, 2), tmp_path / "hf" / "train-00000.parquet")
    pq.write_table(table.slice(2), tmp_path / "hf" / "train-00001.parquet")
    pq.write_table(table, tmp_path / "hf" / "test-00000.parquet")
    found = load(tmp_path / "hf")
    assert (found.fingerprint, found.spec) == (load(folder).fingerprint, load(folder).spec)
    with expect_user_error("--data ... no.parquet ... label", code="bad-images"):
        pq.write_table(pa.table({"label": [1]}), tmp_path / "no.parquet")
        load(tmp_path / "no.parquet")


@pytest.mark.parametrize(("labels", "classes"), [([["00000/a.png", 4], ["00000/b.png", 0]], 5), (None, 0)])
def test_labels_of_stylegans_archives(tmp_path: Path, labels: Any, classes: int) -> None:
    folder = write(tmp_path / "own", "00000/a.png 00000/b.png")
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    for form in (folder, archive_of(folder, tmp_path / "own.zip")):
        found = load(form)
        assert found.spec.num_classes == classes
        assert found.labels.tolist() == ([0, 4] if classes else [0, 0])


def test_a_name_wins_over_a_folder_of_that_name(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    write(tmp_path / "digits", "1.png 2.png")
    monkeypatch.chdir(tmp_path)
    assert load("digits").source == "scikit-learn"
    assert load("./digits").source == str(tmp_path / "digits")


# -- pixels ---------------------------------------------------------------------------------------------------


def test_sixteen_bits_palettes_and_orientation(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    values = np.array([[0, 128, 129, 65_535]] * 4, np.uint16)
    Image.fromarray(values).save(tmp_path / "own" / "a.png")
    assert load(tmp_path / "own").images[0, 0].tolist() == [0, 0, 1, 255]

    turned = picture(3, (16, 16))
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "two").mkdir()
    turned.save(tmp_path / "two" / "a.png", exif=exif)
    upright = torch.from_numpy(np.asarray(turned.transpose(Image.Transpose.ROTATE_270)).copy())
    assert torch.equal(load(tmp_path / "two").images[0].permute(1, 2, 0), upright)

    (tmp_path / "three").mkdir()
    quantized = picture(4).quantize(16)
    quantized.save(tmp_path / "three" / "a.gif", save_all=True, append_images=[picture(5).quantize(16)])
    found = load(tmp_path / "three")
    with Image.open(tmp_path / "three" / "a.gif") as frames:
        first = np.asarray(next(iter(ImageSequence.Iterator(frames))).convert("RGB"))
    assert np.array_equal(found.images[0].permute(1, 2, 0), first)
    assert found.findings is not None
    assert any("several frames" in note for note in found.findings.notes)


def test_transparency_is_decided_by_a_flag_unless_nothing_shows_through(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    image = picture(0).convert("RGBA")
    image.save(tmp_path / "own" / "a.png")
    assert np.array_equal(load(tmp_path / "own").images[0].permute(1, 2, 0), np.asarray(picture(0)))
    image.putpixel((0, 0), (9, 9, 9, 0))
    image.save(tmp_path / "own" / "b.png")
    with expect_user_error("'b.png' ... transparent", "--background black or white", code="bad-images"):
        load(tmp_path / "own")
    for name, value in (("black", 0), ("white", 255)):
        assert load(tmp_path / "own", background=name).images[1, :, 0, 0].tolist() == [value] * 3


def test_settings_that_do_not_apply_are_named(tmp_path: Path) -> None:
    """Once: by their values, so in a run that is resumed too."""
    folder = write(tmp_path / "own", "a.png b.png")
    np.savez(tmp_path / "own.npz", images=np.stack([np.asarray(picture(index)) for index in range(2)]))
    clear, flags = picture(0).convert("RGBA"), {"background": "black", "skip_broken": True}
    (tmp_path / "clear").mkdir()
    clear.save(tmp_path / "clear" / "a.png")

    def unused(name: object, **settings: Any) -> list[str]:
        data = load_dataset(DataConfig(name=str(name), **settings))
        notes = [*(data.findings.notes if data.findings else ()), *(data.warning or "").split("; ")]
        return [note.partition(" not used")[0] for note in notes if " not used" in note]

    assert unused(folder, **flags) == ["--background is"]
    assert unused(tmp_path / "own.npz", **flags) == ["--background is", "--skip-broken is"]
    assert unused(tmp_path / "clear", **flags) == []
    assert unused(folder, dir=str(tmp_path), cache_dir=str(tmp_path / "kept")) == ["--data-dir is"]
    assert unused("digits", dir=str(tmp_path)) == ["--data-dir is"]
    assert unused("digits", **flags, cache_dir="x") == ["--background and --skip-broken and --cache-dir are"]
    assert unused("digits", image_size=32, channels=3) == []


def test_images_are_resized_by_their_shorter_side_and_cropped(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    wide = Image.new("RGB", (64, 32), BLUE)
    wide.paste(RED, (16, 0, 48, 32))
    wide.save(tmp_path / "own" / "a.png")
    Image.new("RGB", (20, 40), GREEN).save(tmp_path / "own" / "b.png")
    found = load(tmp_path / "own", image_size=16)
    assert found.images.shape == (2, 3, 16, 16)
    assert (found.images[0, :, :, 4:12] == torch.tensor(RED).view(3, 1, 1)).all(), "Lanczos rings at the edges"
    assert (found.images[1] == torch.tensor(GREEN).view(3, 1, 1)).all()
    cropped = load(write(tmp_path / "full", "a.png", size=(64, 48)), image_size=48).images[0]
    assert np.array_equal(cropped.permute(1, 2, 0), np.asarray(picture(0, (64, 48)))[:, 8:56]), "nothing is resampled"


@pytest.mark.usefixtures("few_digits")
def test_channels_decide_between_grey_and_colour(tmp_path: Path) -> None:
    folder = write(tmp_path / "own", "a.png b.png", mode="L")
    picture(7).save(folder / "c.png")
    with expect_user_error("grey images, as 'a.png'", "coloured ones, as 'c.png'", "--channels 1", code="bad-images"):
        load(folder)
    assert load(folder, channels=1).images.shape == (3, 16, 16)
    assert load(folder, channels=3).images.shape == (3, 3, 16, 16)
    assert load("digits", channels=3, image_size=32).images.shape == (120, 3, 32, 32)


def test_grey_images_that_are_stored_in_colour_are_reported(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    for seed, name in enumerate(("a.png", "b.png", "c.png")):
        picture(seed, mode="L").convert("RGB").save(tmp_path / "own" / name)
    forms = [tmp_path / "own", npz(tmp_path / "own.npz", images=load(tmp_path / "own").images.numpy())]
    for form in forms:
        found = load(form)
        assert found.spec.channels == 3
        assert found.findings is not None
        assert "--channels 1" in found.findings.notes[0]
        for channels in (1, 3):  # said by whoever gives it
            findings = load(form, channels=channels).findings
            assert findings is not None
            assert findings.notes == []
    image = picture(2, mode="L").convert("RGB")
    image.putpixel((15, 15), (9, 9, 8))
    image.save(tmp_path / "own" / "c.png")
    findings = load(tmp_path / "own").findings
    assert findings is not None
    assert findings.notes == []


# -- what is wrong ----------------------------------------------------------------------------------------------


def broken(folder: Path) -> Path:
    write(folder, "1.png 2.png 3.png")
    (folder / "text.png").write_text("no image")
    (folder / "cut.jpg").write_bytes(saved(picture(0), "jpeg")[:300])
    return folder


def zipped(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/").replace("_png", ".png"), data)
    return path


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def text(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def cut(path: Path) -> Path:
    path.write_bytes(saved(picture(0, (64, 64)), "jpeg")[:900])
    return path.parent


def floats(folder: Path) -> Path:
    Image.fromarray(np.zeros((16, 16), np.float32)).save(folder / "a.tif")
    return folder


def huge(path: Path) -> Path:
    """A PNG whose header names 60,000 x 60,000 pixels, which its few bytes may well unpack to."""
    data = bytearray(saved(picture(0)))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)
    return path.parent


def encrypted(path: Path) -> Path:
    """A .zip that says of its member that it needs a password."""
    data = bytearray(zipped(path, a_png=b"").read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    return path


def table(path: Path, labels: list[Any]) -> Path:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"bytes": b"no image", "path": "a.png"} for _ in labels]
    pq.write_table(pa.table({"image": rows, "label": labels}), path)
    return path


GREYS = np.zeros((3, 16, 16), np.uint8)
MISTAKES: dict[str, tuple[Callable[[Path], Path], list[str], str]] = {
    "missing": (lambda at: at / "no", ["does not exist", "a folder of images"], "no-data"),
    "empty": (lambda at: at, ["holds no images", "it is empty"], "bad-images"),
    "only a table": (lambda at: (at / "a.csv").touch() or at, ["1 other file, as 'a.csv'", "'a.csv' by itself"],
                     "bad-images"),
    "both": (lambda at: write(at, "a.png b/c.png b/d.png"), ["1 image beside folders, as 'a.png'", "2 in folders"],
             "bad-images"),
    "splits": (lambda at: write(at, "train/a/1.png val/a/1.png"), ["train, val", "not classes", "own/train ["],
               "bad-images"),
    "csv": (lambda at: text(at / "a.csv", "name,class"), ["numpy.savez("], "bad-images"),
    "csv of pixels": (lambda at: text(at / "a.csv", "label" + ",p" * 64), ["np.loadtxt(", "(-1, 8, 8)", "a.npz"],
                      "bad-images"),
    "npy": (lambda at: np.save(at / "a.npy", GREYS) or at / "a.npy", ["np.load('", "a.npz"], "bad-images"),
    "an image": (lambda at: write(at, "a.png") / "a.png", ["of a single image its folder"], "bad-images"),
    "hidden": (lambda at: write(at, ".a.png .git/b.png"), ["only hidden files, as '.a.png'"], "bad-images"),
    "text": (lambda at: text(at / "a.png", "no image").parent, ["1 of 1 file", "'a.png', which is not an image"],
             "bad-images"),
    "no bytes": (lambda at: text(at / "a.png", "").parent, ["'a.png', which is not an image"], "bad-images"),
    "cut": (lambda at: cut(at / "a.jpg"), ["'a.jpg', which is damaged"], "bad-images"),
    "modes": (lambda at: write(write(at, "a.png"), "b.png", mode="L"), ["grey", "'b.png'", "'a.png'", "--channels 1"],
              "bad-images"),
    "floating point": (lambda at: floats(at), ["'a.tif', which has 32 bits", "8 or 16"], "bad-images"),
    "pixels": (lambda at: huge(at / "a.png"), ["'a.png', which has more than 100,000,000 pixels"], "bad-images"),
    "pipe": (lambda at: os.mkfifo(at / "a.png") or at, ["'a.png', which ... not a regular file"], "bad-images"),
    "backslash": (lambda at: zipped(at / "a.zip", **{"..\\a_png": b""}), ["'../a.png'", "out of the archive"],
                  "bad-images"),
    "zip in a zip": (lambda at: zipped(at / "a.zip", **{"b.zip": b"PK"}), ["'b.zip' by itself"], "bad-images"),
    "empty zip": (lambda at: zipped(at / "a.zip"), ["it is empty"], "bad-images"),
    "password": (lambda at: encrypted(at / "a.zip"), ["'a.png' is encrypted", "without a password"], "bad-images"),
    "no npz": (lambda at: text(at / "a.npz", "no"), ["not a readable .npz"], "bad-images"),
    "no images": (lambda at: npz(at / "a.npz", images=GREYS[:0]), ["of the shape (0, 16, 16)"], "bad-images"),
    "NaN": (lambda at: npz(at / "a.npz", images=GREYS * np.nan), ["images are float64"], "bad-images"),
    "labels of objects": (lambda at: npz(at / "a.npz", images=GREYS, labels=np.array([None] * 3)),
                          ["labels holds Python objects"], "bad-images"),
    "labels of floats": (lambda at: npz(at / "a.npz", images=GREYS, labels=[0.0, 1.0, 2.0]), ["labels are float64"],
                         "bad-images"),
    "no parquet": (lambda at: text(at / "a.parquet", "no"), ["not readable parquet"], "bad-images"),
    "names of parquet": (lambda at: table(at / "a.parquet", ["cat"]), ["the label cat", "integers"], "bad-images"),
    "no bytes in parquet": (lambda at: table(at / "a.parquet", [0]), ["'row 0', which is not an image"], "bad-images"),
    "broken": (broken, ["2 of 5 files can't be used, as 'cut.jpg'", "damaged", "--skip-broken"], "bad-images"),
    "mixed sizes": (lambda at: write(write(at, "a.png"), "b.png", size=(40, 24)),
                    ["of 2 sizes", "'a.png' of 16 x 16", "'b.png' of 40 x 24", "--image-size"], "bad-images"),
    "a thread": (lambda at: write(at, "a.png", size=(1_000, 1)), ["'a.png', which is 1000 x 1", "16"], "bad-images"),
    "dots": (lambda at: zipped(at / "a.zip", **{"..__a_png": b""}), ["'../a.png'", "out of the archive"], "bad-images"),
    "no zip": (lambda at: (at / "a.zip").write_bytes(b"PK") and at / "a.zip", ["not a readable .zip"], "bad-images"),
    "objects": (lambda at: npz(at / "a.npz", images=np.array([None])), ["images holds Python objects"], "bad-images"),
    "floats": (lambda at: npz(at / "a.npz", images=GREYS / 2), ["images are float64", "uint8"], "bad-images"),
    "rank": (lambda at: npz(at / "a.npz", images=GREYS[0]), ["of the shape (16, 16)", "(N, H, W)"], "bad-images"),
    "labels": (lambda at: npz(at / "a.npz", images=GREYS, labels=[0, 1]), ["of the shape (2,)", "(3,)"], "bad-images"),
    "negative": (lambda at: npz(at / "a.npz", images=GREYS, labels=[0, 1, -1]), ["labels from -1 to 1"], "bad-images"),
    "other arrays": (lambda at: npz(at / "a.npz", x=GREYS), ["no array called images, only x"], "bad-images"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_what_can_not_be_used_is_one_line(distgan: Run, tmp_path: Path, name: str) -> None:
    make, fragments, code = MISTAKES[name]
    (tmp_path / "own").mkdir()
    path = make(tmp_path / "own")
    fragments = ["--data ", *fragments, ". Expected: "]
    with expect_user_error(*fragments, code=code):
        load(path)
    assert_user_error(distgan("data", path), *fragments, code=code)
    assert not list(tmp_path.glob("*.png")), "nothing is drawn of what can't be used"


def test_the_advice_on_a_csv_of_pixels_is_a_program_that_works(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 9, 9), dtype=np.uint8)
    rows = np.column_stack([np.arange(5), pixels.reshape(5, -1)])
    head = ",".join(["label", *(f"pixel{number}" for number in range(81))])
    for name, columns in (("train", rows), ("test", rows[:, 1:])):
        path = tmp_path / f"{name}.csv"
        np.savetxt(path, columns, "%d", ",", header=head if name == "train" else head[6:], comments="")
        with pytest.raises(UserError) as error:
            load(path)
        exec(str(error.value).split("as .npz: ")[1])
        found = load(path.with_suffix(".npz"))
        assert np.array_equal(found.images, pixels)
        assert found.labels.tolist() == ([0, 1, 2, 3, 4] if name == "train" else [0] * 5)


@pytest.mark.parametrize("place", ["a/1.png", "a"])
def test_what_may_not_be_read_is_named(tmp_path: Path, monkeypatch: MonkeyPatch, place: str) -> None:
    """Root reads all, whatever the mode."""
    folder = write(tmp_path / "own", "a/1.png b/1.png")

    def closed(opener: Callable[..., Any], path: object, **named: Any) -> Any:
        if str(path).rstrip("/") == str(folder / place):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opener(path, **named)

    for owner, name in ((Image, "open"), (os, "scandir")):
        monkeypatch.setattr(owner, name, partial(closed, getattr(owner, name)))
    with expect_user_error("--data ", f"'{place}", "Permission denied"):
        load(folder)


def test_windows_archives_and_names_that_occur_twice(tmp_path: Path) -> None:
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for seed, name in enumerate(("cat\\1.png", "dog\\1.png", "dog\\1.png")):
            archive.writestr(name, saved(picture(seed)))
    found = load(tmp_path / "a.zip")
    assert (found.spec.class_names, len(found.images)) == (["cat", "dog"], 2)
    assert np.array_equal(found.images[1].permute(1, 2, 0), np.asarray(picture(2))), "the last of a name counts"
    assert found.findings is not None
    assert any("1 file of a name" in note for note in found.findings.notes)


def test_classes_with_few_images_are_reported_in_few_lines(tmp_path: Path) -> None:
    found = load(npz(tmp_path / "a.npz", images=GREYS, labels=[0, 0, 900])).findings
    assert found is not None
    assert [note for note in found.notes if "class" in note] == [
        "class '1' has 0 images", "class '2' has 0 images", "class '3' has 0 images",
        "897 more classes have fewer than 2 images",
    ]  # fmt: skip


def test_columns_and_arrays_that_are_not_used_are_named(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"bytes": saved(picture(seed)), "path": ""} for seed in range(2)]
    pq.write_table(pa.table({"image": rows, "coarse": [0, 1]}), tmp_path / "a.parquet")
    for path, name in ((tmp_path / "a.parquet", "coarse"), (npz(tmp_path / "a.npz", images=GREYS, x=GREYS), "x")):
        found = load(path).findings
        assert found is not None
        assert any(repr(name) in note for note in found.notes)


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "_MAX_FILE", 2**20)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(2**20 + 1))
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("unpacked"))
    with expect_user_error("'a.png' has 1,048,577 bytes", "at most 1,048,576", code="bad-images"):
        load(tmp_path / "a.zip")


def test_a_damaged_member_with_the_labels_is_one_line(tmp_path: Path) -> None:
    folder = write(tmp_path / "own", "a.png b.png")
    (folder / "dataset.json").write_text(json.dumps({"labels": [["a.png", 0], ["b.png", 1]]}))
    path = archive_of(folder, tmp_path / "own.zip")
    path.write_bytes(path.read_bytes().replace(b'["b.png"', b'["c.png"'))
    with expect_user_error("--data ... own.zip ... dataset.json ... CRC", code="bad-images"):
        load(path)


def test_arrays_that_do_not_fit_into_memory_are_not_read(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    path = npz(tmp_path / "a.npz", images=GREYS)
    monkeypatch.setattr("distgan.data.decoding.MEMORY_SHARE", 1e-9)
    monkeypatch.setattr(np, "load", None)
    with expect_user_error("--data ... a.npz ... GiB", code="unavailable"):
        load(path)


def test_few_broken_files_are_left_out_and_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "own", " ".join(f"{number}.png" for number in range(150)), size=(4, 4))
    (folder / "text.png").write_text("no image")
    os.symlink(folder / "nowhere", folder / "away.png")
    with expect_user_error("2 of 152 files", code="bad-images"):
        load(folder)
    (folder / "away.png").unlink()
    found = load(folder)
    assert (len(found.images), found.warning) == (
        150,
        "1 file is left out, as 'text.png', which is not an image, or damaged",
    )
    assert len(load(broken(tmp_path / "more"), skip_broken=True).images) == 3


def test_links_that_go_round_are_followed_once(tmp_path: Path) -> None:
    folder = write(tmp_path / "own", "a/1.png b/1.png")
    (folder / "a" / "loop").symlink_to(folder)
    (folder / "a" / "self").symlink_to("self")
    assert len(load(folder).images) == 2
    (folder / "a" / "self.png").symlink_to("self.png")
    with expect_user_error("'a/self.png', which ... symbolic links", code="bad-images"):
        load(folder)


@pytest.mark.parametrize("name", ["a b", "ümlaut", "猫", "line\nbreak", "\udcff", "'quotes'", "[red]"])
def test_names_of_any_script(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "own", "x/1.png y/1.png")
    (folder / "x").rename(folder / name)
    assert len(load(folder).images) == 2


# -- the cache ----------------------------------------------------------------------------------------------------


def test_the_second_time_nothing_is_decoded(
    tmp_path: Path, cache: Path, capsys: Capture, monkeypatch: MonkeyPatch
) -> None:
    folder = write(tmp_path / "own", "a/1.png b/1.png")
    first = load(folder)
    (file,) = cache.glob("*.safetensors")
    with monkeypatch.context() as patched:
        patched.setattr("distgan.data.own_images.decode_all", None)
        again = load(folder)
        assert torch.equal(again.images, first.images)
        assert again.findings == first.findings
        folder.rename(tmp_path / "moved")
        assert load(tmp_path / "moved").fingerprint == first.fingerprint
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert load(tmp_path / "moved").fingerprint == first.fingerprint
    assert "is damaged, and made anew" in capsys.readouterr().err
    assert load(tmp_path / "moved", image_size=8).images.shape[-1] == 8
    write(tmp_path / "moved", "b/2.png")
    assert len(load(tmp_path / "moved").images) == 3


def test_a_cache_that_can_not_be_written_is_a_warning(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").touch()
    found = load(write(tmp_path / "own", "a.png b.png"), cache_dir=str(tmp_path / "file" / "below"))
    assert len(found.images) == 2
    assert "can't be written" in capsys.readouterr().err


def test_a_full_disk_costs_the_cache_only(tmp_path: Path, capsys: Capture, monkeypatch: MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = write(tmp_path / "own", "a.png b.png")
    with monkeypatch.context() as patched:
        patched.setattr(image_cache, "write_atomic", full)
        found = load(folder)
    assert "No space left" in capsys.readouterr().err
    assert torch.equal(load(folder).images, found.images)
    assert capsys.readouterr().err == ""


def test_decoding_and_keeping_take_the_memory_of_the_images_once(tmp_path: Path, cache: Path) -> None:
    """And a file left out costs no copy of all others."""
    (tmp_path / "own").mkdir()
    data = saved(picture(0, (128, 128)))
    for number in range(150):
        (tmp_path / "own" / f"{number}.png").write_bytes(data if number != 7 else data[:400])
    tracemalloc.start()
    try:
        found = load(tmp_path / "own")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.images.shape == (149, 3, 128, 128)
    assert peak < 1.4 * found.images.nbytes
    (file,) = cache.glob("*.safetensors")
    assert {key: str(value.dtype) for key, value in read_tensors(file)[0].items()} == {
        "images": "torch.uint8", "indices": "torch.int64", "digests": "torch.uint8",
    }  # fmt: skip
    assert torch.equal(load(tmp_path / "own").images, found.images)


def test_what_a_killed_process_left_in_the_cache_is_removed_after_a_day(tmp_path: Path, cache: Path) -> None:
    cache.mkdir(parents=True)
    old, new = cache / ".tmp-0a1b2c3d", cache / ".tmp-4e5f6a7b"
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))
    load(write(tmp_path / "own", "a.png b.png"))
    assert (old.exists(), new.exists()) == (False, True)


def test_who_waits_takes_what_the_other_process_decoded(tmp_path: Path, cache: Path, monkeypatch: MonkeyPatch) -> None:
    folder = write(tmp_path / "own", "a.png b.png")
    first = load(folder)
    (file,) = cache.glob("*.safetensors")
    data = file.read_bytes()
    file.unlink()

    def hold_after(path: Path, waiting: str) -> AbstractContextManager[None]:
        file.write_bytes(data)  # by the process that held the lock
        return hold_lock(path, waiting)

    monkeypatch.setattr(image_cache, "hold_lock", hold_after)
    decoded = image_cache.use_cache(cache, file.stem, lambda: pytest.fail("decoded twice"))
    assert decoded.images.tobytes() == first.images.numpy().tobytes()


# -- training -----------------------------------------------------------------------------------------------------

RECIPE = (
    *("train", "--preset", "images-fast", "--width", "0.1", "--batch-size", "8", "--clusters", "2", "--max-steps", "4"),
    *("--precision", "fp32", "--tracker", "none", "--threads", "1", "--cache-dir", "cache"),
)
SMALL = (
    *(
        "train",
        "--preset",
        "cgan-quick",
        "--family",
        "small",
        "--width",
        "0.1",
        "--batch-size",
        "2",
        "--max-steps",
        "2",
    ),
    *("--tracker", "none", "--out", "run"),
)


def test_own_colour_images_train_resume_and_are_drawn(distgan: Run, tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "save_curves", lambda *_: None)  # matplotlib would list the fonts anew
    names = [f"{name}/{number}.png" for name in ("cat", "dog") for number in range(9)]
    folder = write(tmp_path / "own", " ".join(names), size=(20, 24))
    recipe = (*RECIPE, "--mirror", "--data")
    assert "images of 24 x 20, colour, 2 classes" in distgan.ok(*recipe, folder, "--out", "straight").stderr
    distgan.ok(*recipe, folder, "--out", "broken", "--max-steps", 2)
    same = load(folder)
    moved = npz(tmp_path / "own.npz", images=same.images.numpy(), labels=same.labels.numpy())
    resumed = distgan.ok(*recipe, moved, "--out", "broken")  # the same images in another place, and without names
    assert "'cat', 'dog'; " in resumed.stderr, "a warning: the run's names stay"
    assert_same_run(tmp_path / "straight", tmp_path / "broken")
    for file in (tmp_path / "straight" / "weights").glob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "broken" / "weights" / file.name).read_bytes(), file.name
    config = json.loads((tmp_path / "broken" / "config.json").read_text())
    assert (config["model"]["images"]["class_names"], config["data"]["name"]) == (["cat", "dog"], str(moved))
    assert config["data"]["fingerprint"] == load(folder).fingerprint
    assert config["optim"]["penalty_weight"] == pytest.approx(0.3 * 20 * 24 / 784 * 128 / 8, rel=1e-3)

    distgan.ok("sample", "straight", "--out", "s.npz", "--classes", "dog,0")
    drawn = np.load(tmp_path / "s.npz")
    assert drawn["images"].shape == (100, 24, 20, 3)
    assert drawn["labels"][:4].tolist() == [1, 0, 1, 0]
    assert load(tmp_path / "s.npz").spec.num_classes == 2, "what is drawn can be trained on"

    picture(99, (20, 24)).save(folder / "cat" / "0.png")
    result = distgan(*recipe, folder, "--out", "straight", "--max-steps", 6)
    assert_user_error(result, "straight ... fingerprint ... 'cat/0.png' was changed ... [mismatch]")


@pytest.mark.parametrize(
    ("names", "size", "flags", "fragments"),
    [
        (
            "a.png b.png",
            (16, 16),
            (),
            ("--data ... no classes, as 'a.png' ... cgan ... 2 or more ... sub-folder ... [images-do-not-fit]",),
        ),
        (
            "a/a.png a/b.png",
            (16, 16),
            (),
            ("--data ... no classes, as 'a/a.png' ... --model cgan ... 2 or more ... [images-do-not-fit]",),
        ),
        (
            "a/a.png b/b.png",
            (18, 18),
            (),
            ("--family: ... 18 x 18 ... (dcgan) ... multiples of 4 ... --image-size ... [images-do-not-fit]",),
        ),
        (
            "a/a.png b/b.png",
            (16, 16),
            ("--family", "report2023"),
            ("--family: ... (report2023) ... 28 x 28, grey, 10 classes ... [images-do-not-fit]",),
        ),
        (
            "a/a.png b/b.png",
            (16, 16),
            ("--eval-every", 1),
            ("... too few images for measured quality (2). Expected: 130 or more [not-measurable]",),
        ),
    ],
)
def test_networks_that_do_not_fit_the_images(
    distgan: Run,
    tmp_path: Path,
    names: str,
    size: tuple[int, int],
    flags: tuple[object, ...],
    fragments: tuple[str, ...],
) -> None:
    assert_user_error(distgan(*SMALL, "--data", write(tmp_path / "own", names, size=size), *flags), *fragments)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_mirrored_epochs_differ_and_are_the_same_each_time() -> None:
    dataset = noise_images(64, COLOUR)
    batches = Batches(dataset, 64, BatchShard(0, 1), drop_last=False, seed=1, device=torch.device("cpu"), flip=True)
    taken = []
    for step in (0, 1, 0):
        batches.seek(step)
        batch = next(batches)
        originals = scale(dataset.images[batches.order])
        is_same = (batch.real == originals).flatten(1).all(1)
        is_flipped = (batch.real == originals.flip(-1)).flatten(1).all(1)
        assert (is_same ^ is_flipped).all()
        assert 16 < int(is_flipped.sum()) < 48
        assert batches.is_flipped is not None
        taken.append(batches.is_flipped.clone())
    assert torch.equal(taken[0], taken[2])
    assert not torch.equal(taken[0], taken[1])


# -- distgan data ---------------------------------------------------------------------------------------------------


def test_data_says_what_training_uses(distgan: Run, tmp_path: Path) -> None:
    folder = write(tmp_path / "own", "cat/1.png cat/2.png dog/1.png")
    picture(0).save(folder / "dog" / "2.png")
    facts = json.loads(distgan.ok("data", folder, "--json").stdout)
    assert facts["classes"] == {"cat": 2, "dog": 2}
    assert (facts["num_images"], facts["num_duplicates"], facts["sizes"]) == (4, 1, {"16 x 16": 4})
    assert facts["fingerprint"] == load(folder).fingerprint
    assert facts["networks"]["cgan"] == ["dcgan", "clustered"]
    assert not list(tmp_path.glob("*.png"))
    assert "2: cat (2), dog (2)" in distgan.ok("data", folder).stdout
    assert Image.open(tmp_path / "data-own.png").width > 60
    result = distgan("data", folder, "--image-size", 18, "--sheet", "x.png")
    assert_user_error(result, "own ... 18 x 18 ... [images-do-not-fit]")


@pytest.mark.usefixtures("few_digits")
def test_channels_are_a_flag(distgan: Run, tmp_path: Path) -> None:
    folder = write(write(tmp_path / "own", "a.png"), "b.png", mode="L")
    for words, found in (((), None), (("--channels", 1), 1), (("--channels", "3"), 3), (("--channels=2",), None)):
        result = distgan("data", folder, "--json", *words)
        if found:
            assert json.loads(result.stdout)["images"]["channels"] == found
            planned = distgan.ok("train", *SMALL[1:], "--model", "cgan", "--data", "digits", *words, "--dry-run").stdout
            assert json.loads(planned.split("\npreset")[0])["data"]["channels"] == found
        else:
            assert_user_error(result, "--channels ... 1 ... 3")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nowhere", "('nowhere'). Expected: ... digits, or an existing path [unknown-name]"),
        ("onw", "('onw'), did you mean own? ... [unknown-name]"),
        ("mnits", "('mnits'), did you mean mnist? ... [unknown-name]"),
        ("./onw/", "/onw: ... did you mean ... /own? ... a folder of images ... [no-data]"),
        ("own/1.pgn", "/own/1.pgn: ... did you mean ... /own/1.png? ... [no-data]"),
    ],
)
def test_a_path_that_is_not_there_gives_the_most_similar_one(
    distgan: Run, tmp_path: Path, name: str, expected: str
) -> None:
    """By the same words in both commands."""
    write(tmp_path / "own", "1.png 2.png")
    for words in (("data", name), (*SMALL, "--data", name)):
        assert_user_error(distgan(*words), f"--data ... {expected}")


# -- torchvision's sets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn"])
def test_colour_sets_are_torchvisions(tmp_path: Path, monkeypatch: MonkeyPatch, name: str) -> None:
    """By stand-ins of its classes, as it accepts the published files only."""
    opened: dict[str, Any] = {}
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)

    class Cifar:
        def __init__(self, root: str, *, download: bool, train: bool):
            opened.update(root=root, download=download, train=train)
            self.data, self.targets, self.classes = pixels, [0, 1, 2, 1], ["cat", "dog", "ship"]

    class Svhn:
        def __init__(self, root: str, *, download: bool, split: str):
            opened.update(root=root, download=download, train=split == "train")
            self.data, self.labels = pixels.transpose(0, 3, 1, 2), np.array([0, 1, 2, 1])

    import torchvision.datasets

    monkeypatch.setattr(torchvision.datasets, name.upper(), Svhn if name == "svhn" else Cifar)
    found = load(name, dir=str(tmp_path), download=False)
    assert opened == {"root": str(tmp_path), "download": False, "train": True}
    assert np.array_equal(found.images.permute(0, 2, 3, 1), pixels)
    assert found.labels.tolist() == [0, 1, 2, 1]
    assert found.spec.class_names[:3] == (["0", "1", "2"] if name == "svhn" else ["cat", "dog", "ship"])


@pytest.mark.parametrize("name", ["cifar10", "svhn"])
def test_a_colour_set_that_is_not_there(tmp_path: Path, name: str) -> None:
    with expect_user_error(f"--data-dir: no {name} in {tmp_path}", code="no-data"):
        load(name, dir=str(tmp_path), download=False)
