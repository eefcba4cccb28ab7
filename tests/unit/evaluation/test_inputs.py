"""Images of other programs, in .npz files: what is taken, and what is refused in one line."""

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.runs import refused

from distgan.errors import UserError
from distgan.evaluation.inputs import read_npz


def arrays(**changes: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    good = {"images": rng.integers(0, 256, (100, 28, 28), dtype=np.uint8), "labels": np.arange(100) % 10}
    return {key: value for key, value in (good | changes).items() if value is not None}


FLOATS = np.linspace(0, 1, 100 * 784).reshape(100, 28, 28)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": np.zeros((100, 32, 32), np.uint8)}, "shape (100, 32, 32); allowed: images as uint8"),
        ({"images": np.zeros((100, 3, 28, 28), np.uint8)}, "shape (100, 3, 28, 28)"),
        ({"images": np.zeros((0, 28, 28), np.uint8)}, "holds no images"),
        ({"images": np.zeros((100, 28, 28), np.int32)}, "type int32; allowed: images as uint8"),
        ({"images": np.zeros((100, 28, 28), bool)}, "type bool"),
        ({"images": np.zeros((100, 28, 28), complex)}, "type complex128"),
        ({"images": FLOATS * 255}, "values from 0 to 255; allowed"),
        ({"images": FLOATS - 1.5}, "values from -1.5 to -0.5"),
        ({"images": np.where(FLOATS > 0.5, np.nan, FLOATS)}, "of 100 images have pixels that are no numbers"),
        ({"images": np.where(FLOATS > 0.999, np.inf, FLOATS)}, "no numbers"),
        ({"images": np.uint8(3)}, "its images have the shape ()"),
        ({"images": np.float32(3)}, "its images have the shape ()"),
        ({"images": None}, "has no array of images, only labels"),
        ({"images": np.array([{}] * 100)}, "no .npz of numbers"),
        ({"labels": np.arange(100) % 11}, "labels are from 0 to 10; allowed: 0 to 9"),
        ({"labels": np.arange(100) % 10 - 1}, "labels are from -1 to 8"),
        ({"labels": np.arange(99)}, "labels have the shape (99,); allowed: (100,)"),
        ({"labels": np.eye(10)[np.arange(100) % 10]}, "shape (100, 10)"),
        ({"labels": np.arange(100) / 10}, "type float64; allowed: whole numbers"),
    ],
)
def test_bad_arrays_are_one_clear_error(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    path = tmp_path / "images.npz"
    np.savez(path, **arrays(**changes))
    with refused(words, str(path)):
        read_npz(path, 1000)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 broken"])
def test_file_that_is_no_npz(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "images.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"no \.npz of numbers"):
        read_npz(tmp_path / "images.npz", 1000)


def header(shape: str, descr: str = "'|u1'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    "member",
    [
        header("(40000000, 28, 28)") + b"\0" * 100,
        header("(10000000000000000, 28, 28)"),
        header("(1" + 30 * "0" + ", 28, 28)"),
        header("(-5, 28, 28)") + b"\0" * 784,
        header("(2, 28, 28)", "'|O'") + b"\0" * 100,
        header("(2, 28, 28")[:-40] + b"\n" * 40,
        header("(2, 28, 28)") + b"\0" * 1567,
        b"no magic at all",
        b"",
    ],
)
def test_member_that_is_no_array_costs_one_line_and_no_memory(tmp_path: Path, member: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "images.npz", "w") as archive:
        archive.writestr("images.npy", member)
    with pytest.raises(UserError, match=r"no \.npz of numbers") as error:
        read_npz(tmp_path / "images.npz", 1000)
    assert "\n" not in str(error.value)


def test_more_images_than_asked_for_are_a_choice_of_all(tmp_path: Path) -> None:
    np.savez(tmp_path / "sorted.npz", **arrays(labels=np.arange(100) // 10))
    found = read_npz(tmp_path / "sorted.npz", 70)
    assert found.notices == ["70 of its 100 images, a fixed random choice"]
    assert found.labels is not None
    assert len(found.labels.unique()) == 10
    again = read_npz(tmp_path / "sorted.npz", 70)
    assert torch.equal(found.images, again.images)


def test_notice_of_another_program_is_harmless(tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", **arrays(), notice=np.array("red \x1b[31m\nline" + 500 * "x"))
    (notice,) = read_npz(tmp_path / "images.npz", 1000).notices
    assert notice.startswith("trained on red [31mline")
    assert len(notice) < 120


def test_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "images.npz")
    with pytest.raises(UserError, match="is no regular file"):
        read_npz(tmp_path / "images.npz", 1000)


def test_cut_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "whole.npz", **arrays())
    whole = (tmp_path / "whole.npz").read_bytes()
    for size in range(0, len(whole), len(whole) // 23):
        (tmp_path / "cut.npz").write_bytes(whole[:size])
        with pytest.raises(UserError):
            read_npz(tmp_path / "cut.npz", 1000)


@pytest.mark.parametrize("shape", [(100, 28, 28), (100, 1, 28, 28), (100, 28, 28, 1)])
@pytest.mark.parametrize("kind", ["uint8", "0 to 1", "-1 to 1"])
def test_every_allowed_form_is_the_same_images(tmp_path: Path, shape: tuple[int, ...], kind: str) -> None:
    pixels = arrays()["images"]
    pixels[0, 0, :2] = 0, 255
    floats = {"uint8": pixels, "0 to 1": pixels / 255, "-1 to 1": pixels / 127.5 - 1}[kind]
    np.savez(tmp_path / "images.npz", floats.reshape(shape))
    found = read_npz(tmp_path / "images.npz", 1000)
    assert np.array_equal(found.images.numpy(), pixels)
    assert found.notices == ([] if kind == "uint8" else [f"its pixels are floats, taken as {kind}"])
    assert found.labels is None
