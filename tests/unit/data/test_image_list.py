"""The list of a run's images, and what a resume with others says."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers.runs import MonkeyPatch, Run, assert_user_error
from PIL import Image

from distgan.data.image_list import FILE, ImageList, first_difference, read_list
from distgan.runs import artifacts


def listed(names: str, classes: str = "", kind: str = "folder", digests: str | None = None) -> ImageList:
    """Images of these names; each has a class by its letter in `classes`, and a hash by its one in `digests`."""
    parts = names.split()
    known = sorted(set(classes))
    labels = np.array([known.index(letter) for letter in classes]) if classes else None
    hashes = np.array([[ord(letter)] * 16 for letter in digests or "abcdefghij"[: len(parts)]], np.uint8)
    return ImageList(kind, parts, labels, known, hashes)


FILES = listed("x/1.png x/2.png y/1.png", "xxy")
ARRAY = listed("image:0 image:1 image:2", "xxy", ".npz")
DIFFERENCES = {
    "none": (FILES, FILES, ""),
    "a common folder": (FILES, listed("z/x/1.png z/x/2.png z/y/1.png", "xxy", ".zip"), ""),
    "another form": (FILES, ARRAY, ""),
    "no names": (FILES, ARRAY._replace(class_names=["0", "1"]), ""),
    "no names, and another pixel": (FILES, listed("image:0 image:1 image:2", "001", ".npz", "azc"),
                                    "image:1 of class 'x' is not what it was"),
    "added": (FILES, listed("x/1.png x/10.png x/2.png y/1.png", "xxxy", digests="azbc"),
              "'x/10.png' was added (in all: 1 added)"),
    "removed": (FILES, listed("x/2.png y/1.png", "xy", digests="bc"), "'x/1.png' was removed (in all: 1 removed)"),
    "changed": (FILES, listed("x/1.png x/2.png y/1.png", "xxy", digests="azc"),
                "'x/2.png' was changed (in all: 1 changed)"),
    "the first of several": (FILES, listed("x/1.png x/3.png y/1.png", "xxy", digests="abz"),
                             "'x/2.png' was removed (in all: 1 removed, 1 added, 1 changed)"),
    "order": (FILES, listed("x/2.png x/1.png y/1.png", "xxy", digests="bac"), "'x/2.png' is in another place"),
    "a class more": (FILES, listed("x/1.png x/2.png y/1.png z/1.png", "xxyz"), "class 'z' was added"),
    "a class less": (FILES, listed("y/1.png", "y"), "class 'x' is gone"),
    "another pixel": (ARRAY, listed("image:0 image:1 image:2", "xxy", ".npz", "azc"),
                      "image:1 of class 'x' is not what it was (3 images then, 3 now)"),
    "another label": (ARRAY, listed("image:0 image:1 image:2", "xyy", ".npz"), "image:1 of class 'y' is not"),
    "longer": (ARRAY, listed("image:0 image:1 image:2 image:3", "xxyx", ".npz"), "image:3 of class 'x' was added"),
    "shorter": (ARRAY, listed("image:0 image:1", "xy", ".npz"), "image:1 of class 'y' is not"),
    "cut": (listed("i:0 i:1", kind=".npz"), listed("i:0", kind=".npz"), "i:1 is gone (2 images then, 1 now)"),
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENCES)
def test_the_first_difference(name: str) -> None:
    before, now, expected = DIFFERENCES[name]
    found = first_difference(before, now)
    assert found.startswith(expected)
    assert bool(found) == bool(expected)


@pytest.mark.parametrize("kind", ["folder", ".zip", ".npz", ".parquet"])
def test_a_list_is_read_as_it_was_written(tmp_path: Path, kind: str) -> None:
    names = ["x/a\udcffb.png", "x/猫.png", "y/line\nbreak.png"]
    before = listed("1 2 3", "xxy", kind)._replace(names=names)
    before.write(tmp_path / FILE)
    found = read_list(tmp_path / FILE)
    assert found is not None
    assert first_difference(before, found) == first_difference(found, before) == ""
    assert (found.names == names) == (kind in ("folder", ".zip"))


def test_a_list_of_many_images_is_small(tmp_path: Path) -> None:
    names = [f"class {label}/IMG_{number:06}.jpg" for label in range(10) for number in range(1_000)]
    digests = np.random.default_rng(0).integers(0, 256, (10_000, 16), dtype=np.uint8)
    found = ImageList("folder", names, np.repeat(np.arange(10), 1_000), [f"class {n}" for n in range(10)], digests)
    found.write(tmp_path / FILE)
    assert (tmp_path / FILE).stat().st_size < 200_000, "20 bytes an image"


@pytest.mark.parametrize("damage", ["cut", "names", "labels", "missing"])
def test_a_damaged_list_is_none(tmp_path: Path, damage: str) -> None:
    path = tmp_path / FILE
    bad = FILES._replace(names=["x"]) if damage == "names" else FILES
    bad = bad._replace(labels=np.array([0, 0, 9])) if damage == "labels" else bad
    bad.write(path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    assert read_list(path.with_name("no") if damage == "missing" else path) is None


# -- runs -------------------------------------------------------------------------------------------------------

RECIPE = (
    *(
        "train",
        "--preset",
        "cgan-quick",
        "--family",
        "dcgan",
        "--width",
        "0.05",
        "--batch-size",
        "4",
        "--drop-last",
        "--log-every",
        1,
    ),
    *("--tracker", "none", "--threads", 1, "--cache-dir", "cache", "--sample-epochs", 9, "--out", "run"),
)


def write(path: Path, seed: int, side: int = 16) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def test_a_resume_with_other_images_names_the_first(distgan: Run, tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "save_curves", lambda *_: None)
    own = tmp_path / "own"
    for seed in range(8):
        write(own / ("cat" if seed < 5 else "dog") / f"{seed}.png", seed)
    recipe = (*RECIPE, "--data", own)
    distgan.ok(*recipe, "--max-steps", 1)

    def resumed(*fragments: str) -> None:
        result = distgan(*recipe, "--max-steps", 2)
        assert_user_error(result, "run/checkpoints ... fingerprint", *fragments)
        assert_user_error(result, "... [resume-mismatch]")

    write(own / "cat" / "9.png", 9)
    resumed("; 'cat/9.png' was added (in all: 1 added)")
    (own / "cat" / "9.png").unlink()
    write(own / "dog" / "6.png", 99)
    resumed("; 'dog/6.png' was changed (in all: 1 changed)")
    (own / "dog" / "6.png").unlink()
    resumed("; 'dog/6.png' was removed (in all: 1 removed)")
    write(own / "dog" / "6.png", 6)
    write(own / "eel" / "1.png", 1)
    resumed("2 classes, here 16 x 16, colour, 3 classes", "; class 'eel' was added")
    (own / "eel" / "1.png").unlink()
    (own / "eel").rmdir()
    archive = tmp_path / "own.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(own.rglob("*.png")):
            file.write(path, f"photos/{path.relative_to(own)}")
    distgan.ok(*RECIPE, "--data", archive, "--max-steps", 2)
    for path in own.rglob("*.png"):
        write(path, int(path.stem), side=20)
    resumed("images of 16 x 16, colour, 2 classes, here 20 x 20", "; 'cat/0.png' was changed (in all: 8 changed)")
    assert_user_error(
        distgan(*recipe, "--image-size", 16, "--max-steps", 3), "[data] image_size: ... [resume-mismatch]"
    )

    (tmp_path / "run" / FILE).unlink()  # as runs of older versions have none
    resumed("here 20 x 20, colour, 2 classes. Expected")


def test_a_resume_with_another_array_counts_its_images(distgan: Run, tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "save_curves", lambda *_: None)
    images = np.random.default_rng(0).integers(0, 256, (9, 16, 16), dtype=np.uint8)
    labels = np.arange(9) % 3
    np.savez(tmp_path / "own.npz", images=images, labels=labels)
    recipe = (*RECIPE, "--data", "own.npz")
    distgan.ok(*recipe, "--max-steps", 1)
    assert not json.loads((tmp_path / "run" / "environment.json").read_text())["data"]["warning"]
    images[4, 3, 3] ^= 1
    np.savez(tmp_path / "own.npz", images=images, labels=labels)
    fragment = "; image 4 of class '1' is not what it was (9 images then, 9 now)"
    measured = distgan(*recipe, "--max-steps", 2, "--eval-every", 1)  # which 9 images are too few for
    assert_user_error(measured, fragment, code="resume-mismatch")
    distgan.ok(*RECIPE, "--data", "digits", "--out", "named", "--max-steps", 1)
    assert not (tmp_path / "named" / FILE).exists()
