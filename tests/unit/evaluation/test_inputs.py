"""Images of other programs, in .npz files: what is taken, and what is rejected in one line."""

import io
import json
import os
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from helpers.memory import at_most
from helpers.runs import Capture, MonkeyPatch, Run, expect_user_error
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distgan.config.command_settings import EvalConfig
from distgan.config.schema import Config, DataConfig
from distgan.data.base import load_dataset
from distgan.errors import UserError, catch_user_error, printable
from distgan.evaluation import npz
from distgan.evaluation.evaluate import _real
from distgan.evaluation.inputs import FILE, EvalInput, data_config, load_input, out_folder, read_npz, record_source
from distgan.evaluation.real_images import RealImages


def arrays(**changes: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    good = {"images": rng.integers(0, 256, (100, 28, 28), dtype=np.uint8), "labels": np.arange(100) % 10}
    return {key: value for key, value in (good | changes).items() if value is not None}


FLOATS = np.linspace(0, 1, 100 * 784).reshape(100, 28, 28)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": np.zeros((100, 32, 32), np.uint8)}, "(100, 32, 32) ... uint8 ... [bad-images]"),
        ({"images": np.zeros((100, 3, 28, 28), np.uint8)}, "shape (100, 3, 28, 28)"),
        ({"images": np.zeros((0, 28, 28), np.uint8)}, "[bad-images]"),
        ({"images": np.zeros((100, 28, 28), np.int32)}, "int32 ... uint8 ... [bad-images]"),
        ({"images": np.zeros((100, 28, 28), bool)}, "type bool"),
        ({"images": np.zeros((100, 28, 28), complex)}, "type complex128"),
        ({"images": FLOATS * 255}, "0 to 255 ... [bad-images]"),
        ({"images": FLOATS - 1.5}, "values from -1.5 to -0.5"),
        ({"images": np.where(FLOATS > 0.5, np.nan, FLOATS)}, "100 ... [non-finite-values]"),
        ({"images": np.where(FLOATS > 0.999, np.inf, FLOATS)}, "[non-finite-values]"),
        ({"images": np.uint8(3)}, "its images have the shape ()"),
        ({"images": np.float32(3)}, "its images have the shape ()"),
        ({"images": None}, "has no array of images, only labels"),
        ({"images": np.array([{}] * 100)}, "[bad-images]"),
        ({"labels": np.arange(100) % 11}, "0 to 10 ... 0 to 9 ... [bad-images]"),
        ({"labels": np.arange(100) % 10 - 1}, "labels are from -1 to 8"),
        ({"labels": np.arange(99)}, "(99,) ... (100,) ... [bad-images]"),
        ({"labels": np.eye(10)[np.arange(100) % 10]}, "shape (100, 10)"),
        ({"labels": np.arange(100) / 10}, "float64 ... [bad-images]"),
    ],
)
def test_bad_arrays_are_one_clear_error(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    path = tmp_path / "images.npz"
    np.savez(path, **arrays(**changes))
    with expect_user_error(words, str(path)):
        read_npz(path, 1000)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 broken"])
def test_file_that_is_no_npz(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "images.npz").write_bytes(content)
    with expect_user_error("[bad-images]"):
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
    with expect_user_error("images.npz: ... [bad-images]"):
        read_npz(tmp_path / "images.npz", 1000)


def test_more_images_than_requested_are_a_choice_of_all(tmp_path: Path) -> None:
    np.savez(tmp_path / "sorted.npz", **arrays(labels=np.arange(100) // 10))
    found = read_npz(tmp_path / "sorted.npz", 70)
    assert found.notices == ["70 of its 100 images, a fixed random choice"]
    assert found.labels is not None
    assert len(found.labels.unique()) == 10
    again = read_npz(tmp_path / "sorted.npz", 70)
    assert torch.equal(found.images, again.images)


def test_other_data_has_not_the_test_images_of_the_training(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = str(tmp_path / "own.npz")
    trained = DataConfig(name=own, test="./test.npz", fingerprint="0" * 16, image_size=16)
    run: Any = SimpleNamespace(loaded=SimpleNamespace(config=SimpleNamespace(data=trained)))
    for data, test in ((None, "./test.npz"), ("./own.npz", "./test.npz"), ("./other.npz", None), ("digits", None)):
        found = data_config(run, EvalConfig(data=data))
        assert (found.test, found.fingerprint is None, found.image_size) == (test, test is None, 16)
    assert data_config(run, EvalConfig(data="./other.npz", test="./new.npz")).test == "./new.npz"
    assert data_config(run, EvalConfig(data="digits", reference="raw")).dir == "raw"
    with expect_user_error("--data-dir: ... (raw) ... own.npz ... --test-data [setting-not-applicable]"):
        data_config(run, EvalConfig(reference="raw"))


def test_images_are_seen_by_a_network_that_was_trained_on_them(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = str(tmp_path / "own.npz")
    np.savez(path, **arrays(images=np.resize(arrays()["images"], (140, 28, 28)), labels=np.arange(140) % 10))
    config = DataConfig(name=path)
    data = load_dataset(config)
    own = data.fingerprint
    letters = data.spec.model_copy(update={"class_names": list("abcdefghij")})
    for name, fingerprint, is_seen, is_changed in (
        (path, own, True, False),
        (str(tmp_path / "moved.npz"), own, True, False),
        (path, "0" * 16, None, True),
        (str(tmp_path / "other.npz"), "0" * 16, None, False),
    ):
        trained = Config(data=DataConfig(name=name, fingerprint=fingerprint)).with_images(letters)
        found = _real(config, EvalInput("run", "", True, [], loaded=SimpleNamespace(config=trained)), may_download=True)  # type: ignore[arg-type]
        assert (found.is_test_seen, bool(found.changed)) == (is_seen, is_changed)
        named = letters if fingerprint == own else data.spec
        assert found.real.spec == named, "the run's names of classes are those of its images in any form"
    assert _real(config, EvalInput("a.npz", "", False, []), may_download=True).is_test_seen is None


def test_notice_of_another_program_is_harmless(tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", **arrays(), notice=np.array("red \x1b[31m\nline" + 500 * "x"))
    (notice,) = read_npz(tmp_path / "images.npz", 1000).notices
    assert notice.startswith("trained on red [31mline")
    assert len(notice) < 120


def test_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "images.npz")
    with expect_user_error("[bad-data]"):
        read_npz(tmp_path / "images.npz", 1000)


def test_cut_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "full.npz", **arrays())
    full = (tmp_path / "full.npz").read_bytes()
    for size in range(0, len(full), len(full) // 23):
        (tmp_path / "cut.npz").write_bytes(full[:size])
        with pytest.raises(UserError):
            read_npz(tmp_path / "cut.npz", 1000)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(100, 28, 28), (100, 1, 28, 28), (100, 28, 28, 1)])
@pytest.mark.parametrize("kind", ["uint8", "0 to 1", "-1 to 1"])
def test_every_allowed_form_is_the_same_images(
    tmp_path: Path, shape: tuple[int, ...], kind: str, order: Literal["C", "F"], monkeypatch: MonkeyPatch
) -> None:
    monkeypatch.setattr(npz, "_BLOCK_BYTES", 60_000)  # several blocks
    pixels = arrays()["images"]
    pixels[0, 0, :2] = 0, 255
    floats = {"uint8": pixels, "0 to 1": pixels / 255, "-1 to 1": pixels / 127.5 - 1}[kind]
    np.savez(tmp_path / "images.npz", np.asarray(floats.reshape(shape), order=order))
    found = read_npz(tmp_path / "images.npz", 1000)
    assert np.array_equal(found.images.numpy(), pixels)
    assert found.notices == ([] if kind == "uint8" else [f"its pixels are floats, taken as {kind}"])
    assert found.labels is None
    chosen = read_npz(tmp_path / "images.npz", 7).images
    assert len(chosen) == 7
    assert {each.tobytes() for each in chosen.numpy()} < {each.tobytes() for each in pixels}


# -- what the values of pixels are: detected from all of them, or --range ---------------------------------------


def floats(low: float, high: float, *, at: float | None = None) -> np.ndarray:
    """From black to white in a range, or one pixel as it is said."""
    images = np.linspace(low, high, 100 * 784).reshape(100, 28, 28)
    if at is not None:
        images[5, 14, 14] = at
    return images


@pytest.mark.parametrize(
    ("images", "pixel_range", "taken", "notice"),
    [
        (floats(0, 1, at=-1e-6), None, floats(0, 1, at=0), "taken as 0 to 1; what lies beyond, from -1e-06 to 1"),
        (floats(0, 1, at=-1e-3), None, floats(0, 1, at=0), "from -0.001 to 1, is clipped"),
        (floats(0, 1, at=1 + 1e-6), None, floats(0, 1, at=1), "from 0 to 1.000001, is clipped"),
        (floats(-1, 1, at=1 + 1e-6), None, floats(0, 1, at=1), "from -1 to 1.000001, is clipped"),
        (floats(-0.0, 1, at=1 + 2**-23), None, floats(0, 1, at=1), "from 0 to 1.0000001, is clipped"),
        (floats(-1, 1, at=-1 - 1e-12), None, floats(0, 1, at=0), "from -1.000000000001 to 1, is clipped"),
        (floats(-1, 1, at=-1.001), None, floats(0, 1, at=0), "what lies beyond, from -1.001 to 1"),
        (floats(0, 1).astype(np.float32), None, floats(0, 1), "taken as 0 to 1"),
        (floats(0, 1, at=-0.5), "unit", floats(0, 1, at=0), "taken as 0 to 1; what lies beyond, from -0.5"),
        (floats(0, 1, at=3.0), "unit", floats(0, 1, at=1), "from 0 to 3, is clipped"),
        (floats(0, 255), "byte", floats(0, 1), "taken as 0 to 255"),
        (floats(0, 1), "signed", floats(0.5, 1), "taken as -1 to 1"),
        ((floats(0, 1) > 0.5).astype(np.uint8), "unit", (floats(0, 1) > 0.5) * 1.0, "uint8, taken as 0 to 1"),
        ((floats(0, 1) > 0.5).astype(np.uint8), "byte", (floats(0, 1) > 0.5) / 255, ""),
    ],
)
def test_range_of_pixels(
    tmp_path: Path, images: np.ndarray, pixel_range: str | None, taken: np.ndarray, notice: str
) -> None:
    path = tmp_path / "images.npz"
    np.savez(path, images=images)
    found = read_npz(path, 1000, pixel_range)
    assert np.abs(found.images.numpy() - taken * 255).max() <= 0.51
    assert notice in " ".join(found.notices)
    assert bool(notice) == bool(found.notices)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (floats(0, 1, at=-0.01), "values from -0.01 to 1, 0.00% of them below 0"),
        (floats(0, 1, at=-1.0), "values from -1 to 1"),
        (floats(0, 1, at=1.01), "values from 0 to 1.01"),
        (floats(0, 255 + 1e-6), "values from 0 to 255.000001"),
        (floats(-1, 1, at=-1.01), "values from -1.01 to 1"),
        (floats(0, 255), "values from 0 to 255"),
        ((floats(0, 1) > 0.5).astype(np.uint8), "uint8 of 0 and 1 alone"),
    ],
)
def test_range_that_pixels_do_not_tell_is_requested(tmp_path: Path, images: np.ndarray, words: str) -> None:
    np.savez(tmp_path / "images.npz", images=images)
    with expect_user_error(str(tmp_path / "images.npz"), words, "--range", code="bad-data"):
        read_npz(tmp_path / "images.npz", 1000)


@pytest.mark.parametrize("dtype", [">u1", ">f2", ">f4", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_values_of_the_other_byte_order_are_the_same(tmp_path: Path, dtype: str, order: Literal["C", "F"]) -> None:
    given = arrays()
    values = given["images"] / (1 if dtype == ">u1" else 255)
    images = np.asarray(values.astype(dtype), order=order)
    labels = given["labels"].astype(">i8")
    np.savez(tmp_path / "images.npz", images=images, labels=labels, notice=np.array("other digits", ">U12"))
    found = read_npz(tmp_path / "images.npz", 1000)
    assert (found.images.numpy() == given["images"]).all()
    assert found.labels is not None
    assert (found.labels.numpy() == given["labels"]).all()
    assert "trained on other digits" in found.notices


def test_range_of_what_has_none_is_rejected(tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", **arrays())
    with expect_user_error("--range ... signed ... [setting-not-applicable]", "images.npz", code="bad-value"):
        read_npz(tmp_path / "images.npz", 1000, "signed")
    with expect_user_error("--range ... signed ... [setting-not-applicable]", "run", code="bad-value"):
        load_input(str(tmp_path / "run"), EvalConfig(pixel_range="signed"))


def test_one_pixel_below_zero_changes_no_other(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=floats(0, 1))
    np.savez(tmp_path / "b.npz", images=floats(0, 1, at=-1e-6))
    one, other = (read_npz(tmp_path / name, 1000).images for name in ("a.npz", "b.npz"))
    assert int((one != other).sum()) == 1


def test_arrays_that_are_not_used_are_named(distgan: Run, tmp_path: Path) -> None:
    """On stderr, before anything else is missed, and with --json too."""
    given = arrays()
    np.savez(tmp_path / "images.npz", images=given["images"], label=given["labels"], **{"y\x1b[1m": np.arange(3)})
    assert read_npz(tmp_path / "images.npz", 1000).unused == ["label", "y[1m"]
    for more in ([], ["--json"]):
        result = distgan("eval", "images.npz", *more, "--data", "digits", "--judges", "nowhere")
        assert "images.npz: not used: label, y[1m. Expected: images, labels" in result.stderr
        assert "\x1b" not in result.stderr
        assert not result.stdout
    np.savez(tmp_path / "good.npz", **arrays(), notice=np.array("a notice"))
    assert read_npz(tmp_path / "good.npz", 1000).unused == []


# -- memory, and files of any kind -----------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "order"), [(np.uint8, "C"), (np.float16, "F"), (np.float64, "C")])
def test_memory_is_that_of_the_chosen_images(tmp_path: Path, dtype: type, order: Literal["C", "F"]) -> None:
    """At least 80 MiB of images in a file of less than 1 MiB."""
    num = 80 * 2**20 // (784 * np.dtype(dtype).itemsize) + 1000
    path, images = tmp_path / "images.npz", np.zeros((num, 28, 28), dtype, order=order)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("images.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array(file, images)
        with archive.open("notice.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<U30000000", "fortran_order": False, "shape": ()})
            file.write(bytes(120_000_000))
    del images
    with at_most(60):
        assert read_npz(path, 100).images.shape == (100, 28, 28)


SHAPES = st.lists(st.sampled_from([28, 28, 1, 0, 3, 100, -1, 2**31, 2**62, True]), max_size=5)
HEADERS = st.fixed_dictionaries(
    {
        "descr": st.sampled_from(
            ["|u1", "<f2", "<f4", "<f8", ">f4", "<i8", "|b1", "<U3", "|O", "|V0", "<M8[ns]", "<c8", 3, "<x"]
        ),
        "fortran_order": st.sampled_from([True, False, None, 1]),
        "shape": st.just((3, 28, 28)) | SHAPES.map(tuple),
    }
)
BYTES = st.binary(max_size=300) | st.sampled_from([bytes(3 * 784), bytes(24), bytes(3), b"\xff" * 3 * 784 * 8])
MEMBERS = st.tuples(HEADERS.map(repr) | st.text(max_size=60), st.sampled_from([1, 2, 3, 9]), BYTES).map(
    lambda part: b"\x93NUMPY" + bytes([part[1], 0]) + len(part[0].encode()).to_bytes(2 * min(part[1], 2), "little")
    + part[0].encode() + part[2]
)  # fmt: skip
NAMES = st.sampled_from(["images.npy", "labels.npy", "notice.npy", "arr_0.npy", "label", "\n\x1b[2J.npy"])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    members=st.dictionaries(NAMES, MEMBERS | st.just(None), max_size=3),
    damage=st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=3)),
)
def test_any_npz_is_read_or_is_one_clear_error(
    tmp_path: Path, members: dict[str, bytes | None], damage: tuple[float, bytes]
) -> None:
    stream, good = io.BytesIO(), {"images.npy": np.zeros((3, 28, 28), np.uint8), "labels.npy": np.arange(3)}
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in {**good, **members}:
            content = io.BytesIO(members.get(name) or b"")
            if not members.get(name) and name in good:
                np.lib.format.write_array(content, good[name])
            archive.writestr(name, content.getvalue())
    raw = bytearray(stream.getvalue())
    start = int(damage[0] * len(raw))
    raw[start : start + len(damage[1])] = damage[1]
    path = tmp_path / "images.npz"
    path.write_bytes(raw)
    with at_most(100):
        found, mistake = catch_user_error(lambda: read_npz(path, 2))
    if mistake:
        assert (mistake.kind, str(mistake).isprintable(), str(path) in str(mistake)) == ("bad-data", True, True)
    else:
        assert found is not None
        assert found.images.dtype == torch.uint8
        assert found.images.shape[1:] == (28, 28)


# -- where the result goes ---------------------------------------------------------------------------------------


def done(folder: Path, what: object, num: int = 100) -> None:
    """As an evaluation leaves it, of any version."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(json.dumps({"n": num, "source": {"what": printable(what)}}))


def test_results_of_different_inputs_lie_in_different_folders(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders: dict[str, Path] = {}
    inputs = ("images.npz", "a/images.npz", "b/images.npz", "c/b/images.npz", "a-b/images.npz", "a/b/images.npz",
              "im\udcff.npz", "images", "r/checkpoints/latest", "s/checkpoints/latest",
              "s/checkpoints/best")  # fmt: skip
    for where in inputs:
        folders[where] = out_folder(where, EvalConfig(), 100)
        done(folders[where], where)
    assert folders["images.npz"] == Path("eval-images"), "as ever"
    assert folders["a/images.npz"].name == "eval-a-images"
    assert folders["r/checkpoints/latest"] == Path("eval-latest")
    assert len(set(folders.values())) == len(inputs)
    for where in inputs:
        assert out_folder(where, EvalConfig(), 100) == folders[where], "the same one again"
        assert out_folder(str(tmp_path / where), EvalConfig(), 100) == folders[where]
    (tmp_path / "eval-images" / FILE).write_text("{")
    assert out_folder("images.npz", EvalConfig(), 100) != folders["images.npz"], "of whom this is, nobody knows"


def test_a_result_of_more_images_stays_and_nothing_else_is_overwritten(
    tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    """A smaller one goes beside it: not over that of another input, nor into a folder or over a file of the user's."""
    monkeypatch.chdir(tmp_path)
    done(Path("eval-a"), "a.npz", 1000)
    assert out_folder("a.npz", EvalConfig(), 1000) == Path("eval-a")
    assert out_folder("a.npz", EvalConfig(), 500) == Path("eval-a-500")
    done(Path("eval-a-500"), "a-500.npz", 500)
    assert out_folder("a.npz", EvalConfig(), 500) == Path("eval-a-500-2")
    Path("eval-a-500-2").mkdir()
    assert out_folder("a.npz", EvalConfig(), 500) == Path("eval-a-500-2"), "an empty one"
    Path("eval-a-500-2", "mine.txt").touch()
    Path("eval-a-500-3").touch()
    assert out_folder("a.npz", EvalConfig(), 500) == Path("eval-a-500-4")
    done(Path("eval-a-500-4"), "a.npz", 500)
    assert out_folder("a.npz", EvalConfig(), 500) == Path("eval-a-500-4"), "its own again"
    assert out_folder("a.npz", EvalConfig(out="eval-a"), 500) == Path("eval-a"), "as --out says"
    long = f"{'x' * 250}.npz"
    done(Path(f"eval-{'x' * 250}"), long, 100_000)
    other = out_folder(long, EvalConfig(), 10_000)
    other.mkdir()
    assert other.name.endswith("-10000")


@pytest.mark.parametrize("stem", ["x" * 251, "ü" * 125 + "x", "x" * 240])
def test_a_name_that_is_too_long_for_a_result_is_cut(
    tmp_path: Path, monkeypatch: MonkeyPatch, capfd: Capture, stem: str
) -> None:
    """`eval-` before 251 bytes is more than a file system takes; each input still has its own folder."""
    monkeypatch.chdir(tmp_path)
    folders = []
    for number in range(12):
        where = f"{number}/{stem}.npz"
        folder = out_folder(where, EvalConfig(), 100)
        done(folder, where)
        folders.append(folder)
        assert out_folder(where, EvalConfig(), 100) == folder
    assert len(set(folders)) == 12
    assert (f"0/{stem}.npz" in capfd.readouterr().err) == (len(stem.encode()) > 250)


def test_result_of_another_input_is_not_replaced_where_it_was_named(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done(tmp_path / "mine", "a/images.npz")
    assert out_folder("a/images.npz", EvalConfig(out="mine"), 100) == Path("mine")
    known = json.dumps({"source": {"what": "images.npz", "path": str(tmp_path / "a" / "images.npz")}})
    (tmp_path / "mine" / FILE).write_text(known)
    assert out_folder("a/images.npz", EvalConfig(out="mine"), 100) == Path("mine"), "named from another folder"
    with expect_user_error("mine", code="exists"):
        out_folder("images.npz", EvalConfig(out="mine"), 100)
    (tmp_path / "mine" / FILE).unlink()
    done(tmp_path / "mine", "a/images.npz")
    with expect_user_error("--out ... mine ... [output-exists]", "b/images.npz", code="exists"):
        out_folder("b/images.npz", EvalConfig(out="mine"), 100)
    (tmp_path / "run" / "weights").mkdir(parents=True)
    done(tmp_path / "run" / "eval", "somewhere/else/run")  # a run that was moved
    assert out_folder("run", EvalConfig(), 100) == Path("run/eval")


@pytest.mark.parametrize(("recorded", "epoch"), [({"num_images": 1000}, 17.5), ({}, None), (None, None)])
def test_epoch_is_counted_by_the_images_that_the_run_recorded(
    tmp_path: Path, recorded: dict[str, int] | None, epoch: float | None
) -> None:
    """And not by those that are at hand where it is evaluated: 4 steps of 256 images are an epoch of 1,000."""
    (tmp_path / "weights").mkdir()
    (tmp_path / "environment.json").write_text(json.dumps({"data": recorded}))
    path = tmp_path / "weights" / "generator.safetensors"
    subject: Any = SimpleNamespace(
        loaded=SimpleNamespace(path=path, config=Config(), step=70, is_ema=True), sha256="0" * 64
    )
    data: Any = SimpleNamespace(name="mnist", images=[0] * 60_000, source="here", fingerprint="0", path=None)
    real = RealImages(data, data, data, "digit", False, "0", "0")
    ensemble: Any = SimpleNamespace(record=SimpleNamespace(data="mnist", recipe=SimpleNamespace(train="0")))
    assert record_source(str(tmp_path), subject, EvalConfig(), real, ensemble, is_test_seen=False).epoch == epoch
