"""`distgan sample`: what it draws, and what it rejects."""

import errno
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.made_up_runs import weights
from helpers.memory import at_most
from helpers.runs import Capture, MonkeyPatch, expect_user_error, fits
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import distgan.runs.sample as sample_module
from distgan.checkpoint.export import load_generator
from distgan.config.command_settings import SampleConfig
from distgan.config.schema import ModelConfig
from distgan.errors import UserError, catch_user_error, format_codes
from distgan.models.base import build_generator
from distgan.models.sampling import CHUNK, generate, to_uint8
from distgan.runs.sample import WALK_STEPS, interpolate, sample, slerp
from distgan.utils.figures import grid


def draw(where: Path, out: Path, **settings: object) -> dict[str, np.ndarray]:
    sample(str(where), SampleConfig(out=str(out), **settings))
    with np.load(out) as arrays:
        return dict(arrays)


def test_arrays_are_as_promised(tmp_path: Path) -> None:
    arrays = draw(weights(tmp_path / "run"), tmp_path / "images.npz", num=25)
    assert (arrays["images"].dtype, arrays["images"].shape) == (np.uint8, (25, 28, 28))
    assert (arrays["labels"].dtype, arrays["labels"].shape) == (np.int64, (25,))
    assert arrays["labels"].tolist() == [i % 10 for i in range(25)]
    assert set(arrays) == {"images", "labels"}
    arrays = draw(weights(tmp_path / "gan", "vanilla"), tmp_path / "images.npz", num=25)
    assert set(arrays) == {"images"}


def test_digits_are_requested_in_turn(tmp_path: Path) -> None:
    run = weights(tmp_path / "run")
    arrays = draw(run, tmp_path / "a.npz", num=7, classes=["3", "8"])
    assert arrays["labels"].tolist() == [3, 8, 3, 8, 3, 8, 3]


def test_images_are_the_generators(tmp_path: Path) -> None:
    """Against the weights file read with safetensors alone, and the network applied by hand."""
    from distgan.models.sampling import sample_z

    run = weights(tmp_path / "run")
    arrays = draw(run, tmp_path / "a.npz", num=4, seed=5)
    generator = build_generator(ModelConfig(name="cgan", family="dcgan", width=0.1)).eval()
    generator.load_state_dict(load_file(run / "weights" / "generator_ema.safetensors"))
    images = generator(sample_z(4, (100,), 5), torch.arange(4)).detach().numpy()[:, 0]
    assert np.abs(arrays["images"].astype(float) - (images + 1) * 127.5).max() <= 0.51


def test_moving_average_by_default(tmp_path: Path) -> None:
    run = weights(tmp_path / "run")
    averaged = draw(run, tmp_path / "a.npz", num=4)["images"]
    plain = draw(run, tmp_path / "b.npz", num=4, ema=False)["images"]
    assert not np.array_equal(averaged, plain)
    assert np.array_equal(averaged, draw(run / "weights", tmp_path / "c.npz", num=4)["images"])
    for name, images in (("generator_ema", averaged), ("generator", plain)):
        file = run / "weights" / f"{name}.safetensors"
        assert np.array_equal(images, draw(file, tmp_path / "d.npz", num=4)["images"])


def test_an_image_depends_on_seed_and_index_alone(tmp_path: Path) -> None:
    run = weights(tmp_path / "run")
    many = draw(run, tmp_path / "a.npz", num=600, seed=3)["images"]
    assert np.array_equal(many[:7], draw(run, tmp_path / "b.npz", num=7, seed=3)["images"])
    assert not np.array_equal(many[:7], draw(run, tmp_path / "b.npz", num=7, seed=4)["images"])
    assert len(np.unique(many.reshape(600, -1), axis=0)) == 600


def test_every_chunk_has_one_size() -> None:
    """Another size may go through another kernel, which rounds otherwise."""
    sizes = []

    class Spy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parameter = torch.nn.Parameter(torch.zeros(1))

        def forward(self, z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            sizes.append((len(z), len(labels)))
            return z.view(-1, 1, 1, 1).expand(-1, 1, 28, 28)

    images = generate(Spy(), torch.linspace(-1, 1, 260)[:, None], torch.zeros(260, dtype=torch.long))
    assert sizes == [(CHUNK, CHUNK)] * 2
    assert images[:, 0, 0].tolist() == to_uint8(torch.linspace(-1, 1, 260).view(-1, 1, 1, 1)).flatten().tolist()


def test_interpolation_walks_from_z_to_z_and_digit_to_digit(tmp_path: Path) -> None:
    run = weights(tmp_path / "run")
    walked = draw(run, tmp_path / "walk.npz", num=3, interpolate=True, classes=["1", "4"])
    images, labels = walked["images"].astype(int), walked["labels"]
    assert len(images) == 3 * WALK_STEPS
    assert labels[:WALK_STEPS].tolist() == [1] * 5 + [4] * 5
    # Each leg starts where the one before it ended, at an image that is drawn without a walk as well.
    corners = draw(run, tmp_path / "corners.npz", num=4, classes=["1", "4"])["images"]
    for leg in range(3):
        assert np.abs(images[leg * WALK_STEPS] - corners[leg]).max() <= 1
        assert np.abs(images[(leg + 1) * WALK_STEPS - 1] - corners[leg + 1]).max() <= 1
    steps = np.abs(np.diff(images[:WALK_STEPS], axis=0)).mean(axis=(1, 2))
    assert steps.max() < np.abs(corners[0].astype(int) - corners[1]).mean(), "no jump"
    sample(str(run), SampleConfig(out=str(tmp_path / "walk.gif"), num=2, interpolate=True))
    with Image.open(tmp_path / "walk.gif") as gif:
        # A walk starts where the last one ended, and equal frames are merged.
        assert gif.n_frames in (2 * WALK_STEPS - 1, 2 * WALK_STEPS)


def test_slerp_keeps_the_norm() -> None:
    start, end = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    for weight in (0.0, 0.25, 0.5, 1.0):
        assert slerp(start, end, weight).norm().item() == pytest.approx(1, abs=1e-6)
    assert torch.allclose(slerp(start, end, 0.5), torch.tensor([0.5**0.5, 0.5**0.5]))
    assert torch.equal(slerp(start, start, 0.3), start)
    assert torch.allclose(interpolate(torch.stack([start, end]), slerp)[-1], end, atol=1e-6)


def test_grid_puts_each_image_where_it_belongs() -> None:
    images = np.stack([np.full((28, 28), 20 * i, np.uint8) for i in range(6)])
    pixels = np.asarray(grid(images, 3))
    for index in range(6):
        row, column = divmod(index, 3)
        assert (pixels[2 + row * 58 : 58 + row * 58, 2 + column * 58 : 58 + column * 58] == 20 * index).all()
    assert pixels.shape == (2 * 58 + 2, 3 * 58 + 2, 3)


def test_grey_levels_are_rounded_to_the_nearest() -> None:
    values = torch.tensor([-1.0, -0.999, 0.0, 0.999, 1.0, 2.0]).view(1, 1, 2, 3)
    assert to_uint8(values).flatten().tolist() == [0, 0, 128, 255, 255, 255]


def test_notice_follows_the_weights(tmp_path: Path) -> None:
    run = weights(tmp_path / "run", notice="made of cheese")
    assert str(draw(run, tmp_path / "a.npz", num=2)["notice"]) == "made of cheese"
    assert "made of cheese" in sample(str(run), SampleConfig(out=str(tmp_path / "a.png")))


# -- large requests: streamed into an .npz, and limited by what can be opened --------------------------------


def test_arrays_are_written_while_they_are_drawn(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """30 MiB of images and 16 MiB of z, in the memory of a part of them."""
    most = 0

    def draw_black(generator: nn.Module, z: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
        nonlocal most
        most = max(most, len(z))
        return np.zeros((len(z), 28, 28), np.uint8)

    monkeypatch.setattr("distgan.runs.sample.generate", draw_black)
    run = weights(tmp_path / "run")
    with at_most(15):
        sample(str(run), SampleConfig(out=str(tmp_path / "a.npz"), num=40_000))
    with np.load(tmp_path / "a.npz") as arrays:
        assert {key: value.shape for key, value in arrays.items()} == {"images": (40_000, 28, 28), "labels": (40_000,)}
    draw(run, tmp_path / "b.npz", num=100, interpolate=True)
    assert most <= CHUNK


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    """By a real network, between whose large tensors nothing small may be kept."""
    run = weights(tmp_path / "run")
    draw(run, tmp_path / "a.npz", num=1_000)
    with at_most(10):
        sample(str(run), SampleConfig(out=str(tmp_path / "a.npz"), num=8_000))


def test_error_in_the_middle_leaves_no_file(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    run, parts = weights(tmp_path / "run"), iter([np.zeros((CHUNK, 28, 28), np.uint8)])

    def full(*arguments: object) -> np.ndarray:
        for part in parts:
            return part
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("distgan.runs.sample.generate", full)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        sample(str(run), SampleConfig(out=str(tmp_path / "a.npz"), num=600))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("settings_", "most"),
    [
        ({"num": 100_000}, 11_280),
        ({"num": 100_000, "classes": ["3"]}, 11_280),
        ({"num": 100_000, "classes": ["3", "4", "5"]}, 10_152),
        ({"num": 100_000, "interpolate": True}, 1_128),
        ({"num": 100_000, "classes": ["1", "2"] * 5_000}, None),
    ],
)
def test_picture_that_nothing_opens_is_rejected_before_it_is_drawn(
    tmp_path: Path, settings_: dict[str, Any], most: int | None
) -> None:
    flag, run = "--num ... 100000 ... [image-count]" if most else "--classes", weights(tmp_path / "run")
    with expect_user_error(flag, f"at most {most or 1_129:,} in a .png", ".npz", code="bad-value"):
        sample(str(run), SampleConfig(out=str(tmp_path / "a.png"), **settings_))


def test_the_largest_picture_is_opened(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    assert (sample_module._MAX_SIDE, sample_module._MAX_PIXELS) <= (2**16 - 1, Image.MAX_IMAGE_PIXELS)
    monkeypatch.setattr(sample_module, "_MAX_SIDE", 2_000)
    run = weights(tmp_path / "run", notice="a notice")
    with expect_user_error("--num ... 331 ... [image-count]", "at most 330 in a .png", code="bad-value"):
        sample(str(run), SampleConfig(out=str(tmp_path / "a.png"), num=331))
    sample(str(run), SampleConfig(out=str(tmp_path / "a.png"), num=330))
    with Image.open(tmp_path / "a.png") as picture:
        assert 1_900 < max(picture.size) <= 2_000


def test_animation_of_hours_is_rejected(tmp_path: Path) -> None:
    with expect_user_error("--num ... 100000 ... [image-count]", "at most 200 in a .gif", code="bad-value"):
        sample(str(weights(tmp_path / "run")), SampleConfig(out=str(tmp_path / "a.gif"), num=100_000, interpolate=True))


# -- what may be replaced --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.png", "a.npz", "a.gif"])
def test_own_files_are_replaced_and_others_are_not(tmp_path: Path, name: str) -> None:
    run, out = weights(tmp_path / "run"), tmp_path / name

    def draw_one(seed: int) -> bytes:
        sample(str(run), SampleConfig(out=str(out), num=1, seed=seed, interpolate=name == "a.gif"))
        return out.read_bytes()

    assert draw_one(0) != draw_one(1)
    assert draw_one(0) == draw_one(0)
    for content in (b"precious", foreign(name)):
        out.write_bytes(content)
        with expect_user_error(f"--out: ... {out}", "[output-exists]", code="exists"):
            draw_one(0)
        assert out.read_bytes() == content
    out.write_bytes(b"")  # as mktemp makes one: there is nothing to lose
    assert draw_one(0)
    out.unlink()
    os.mkfifo(out)
    with expect_user_error(f"--out: ... {out}", code="exists"):
        draw_one(0)


def foreign(name: str) -> bytes:
    """A file of that kind, of another program."""
    stream = io.BytesIO()
    if name == "a.npz":
        np.savez(stream, images=np.zeros((3, 28, 28), np.uint8))
    else:
        Image.new("RGB", (28, 28)).save(stream, name[2:])
    return stream.getvalue()


def test_a_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    run, link = weights(tmp_path / "run"), tmp_path / "link.png"
    (tmp_path / "there").mkdir()
    link.symlink_to("there/target.png")
    for _ in range(2):  # new, and there
        sample(str(run), SampleConfig(out=str(link), num=1))
        assert link.is_symlink()
        assert (tmp_path / "there" / "target.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "there" / "target.png").write_bytes(b"precious")
    with expect_user_error(f"--out: ... {link}", code="exists"):
        sample(str(run), SampleConfig(out=str(link), num=1))
    link.unlink()
    link.symlink_to(link)
    with expect_user_error(f"--out: ... {link}"):
        sample(str(run), SampleConfig(out=str(link), num=1))


@pytest.mark.parametrize(
    ("out", "code"), [("nowhere/a.png", "not-found"), ("run.png", "bad-value"), ("/proc/a.png", "unwritable")]
)
def test_where_nothing_can_be_written_is_rejected_before_anything_is_read(tmp_path: Path, out: str, code: str) -> None:
    (tmp_path / "run.png").mkdir()
    with expect_user_error("--out ", out, code=code):
        sample("no weights", SampleConfig(out=str(tmp_path / out)))


def error_of(where: Path | str, out: Path | str = "x.png", **settings: object) -> str:
    with pytest.raises(UserError) as error:
        sample(str(where), SampleConfig(out=str(out), **settings))
    assert "\n" not in str(error.value)
    assert not Path(out).exists()
    return f"{error.value} {format_codes(error.value)}"


def test_what_can_not_be_drawn_is_rejected(tmp_path: Path) -> None:
    gan = weights(tmp_path / "gan", "vanilla")
    assert fits("--classes: ... [setting-not-applicable]", error_of(gan, classes=["1"]))
    assert fits("--out: ... (images.jpg) ... .png, .gif, .npz [bad-path]", error_of(gan, out="images.jpg"))
    assert fits("--out: ... (x.gif) ... --interpolate [conflicting-settings]", error_of(gan, out="x.gif"))
    assert fits("nowhere: ... [no-weights]", error_of("nowhere"))
    (tmp_path / "empty").mkdir()
    assert fits("empty: ... weights/generator.safetensors ... [no-weights]", error_of(tmp_path / "empty"))


def test_weights_of_another_network_are_rejected(tmp_path: Path) -> None:
    run = weights(tmp_path / "run")
    path = run / "weights" / "generator_ema.safetensors"
    torch.manual_seed(0)
    for change, words in (
        ({"width": 0.2}, "stem.0.weight ... [1274, 110] ... [637, 110] [wrong-weights]"),
        ({"name": "vanilla"}, "stem.0.weight ... [637, 100] ... [637, 110] [wrong-weights]"),
        ({"family": "report2023"}, "main.0.weight ... [wrong-weights]"),
    ):
        settings = {"name": "cgan", "family": "dcgan", "width": 0.1} | change
        save_file(build_generator(ModelConfig(**settings)).state_dict(), path)
        message = error_of(run)
        assert str(path) in message
        assert fits(words, message) or "stem.0.weight" in message
    save_file({"stem.0.weight": torch.zeros(637, 110)}, path)
    assert fits("[wrong-weights]", error_of(run))


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("key", "change", "words"),
    [
        ("stem.0.weight", lambda t: t.index_fill(1, torch.tensor([3]), NAN), "NaN or infinite"),
        ("stem.0.weight", lambda t: torch.full_like(t, -INF), "NaN or infinite"),
        ("stem.0.weight", lambda t: torch.full_like(t, 1e300, dtype=torch.float64), "NaN or infinite"),
        ("stem.0.weight", lambda t: (t * 10).to(torch.int32), "int32 ... float32 ... [wrong-weights]"),
        ("stem.0.weight", lambda t: t > 0, "[wrong-weights]"),
        ("stem.0.weight", lambda t: t.to(torch.complex64), "complex64 ... [wrong-weights]"),
        ("stem.1.running_var", lambda t: t / 0, "NaN or infinite"),
        ("stem.1.num_batches_tracked", lambda t: t.float(), "float32 ... int64 ... [wrong-weights]"),
    ],
)
def test_weights_that_are_no_finite_numbers_are_rejected(tmp_path: Path, key: str, change: Any, words: str) -> None:
    run = weights(tmp_path / "run")
    path = run / "weights" / "generator_ema.safetensors"
    own = load_file(path)
    save_file(own | {key: change(own[key])}, path)
    with expect_user_error(str(path), key, words, code="bad-data"):
        sample(str(run), SampleConfig(out=str(tmp_path / "x.png")))


def test_finite_weights_that_draw_no_numbers_are_rejected(tmp_path: Path) -> None:
    run = weights(tmp_path / "run")
    path = run / "weights" / "generator_ema.safetensors"
    own = load_file(path)
    save_file(own | {"stem.1.running_var": -torch.ones_like(own["stem.1.running_var"])}, path)
    with expect_user_error(code="non-finite-values"):
        sample(str(run), SampleConfig(out=str(tmp_path / "x.npz")))
    assert not (tmp_path / "x.npz").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_taken(tmp_path: Path, dtype: torch.dtype) -> None:
    run = weights(tmp_path / "run")
    before = draw(run, tmp_path / "a.npz", num=4)["images"].astype(float)
    path = run / "weights" / "generator_ema.safetensors"
    save_file({k: t.to(dtype) if t.is_floating_point() else t for k, t in load_file(path).items()}, path)
    assert np.abs(draw(run, tmp_path / "b.npz", num=4)["images"] - before).mean() < 1


@pytest.mark.parametrize("name", ["generator_ema", "generator", "mine"])
@pytest.mark.parametrize("by", ["link", "copy"])
def test_the_moving_average_is_not_taken_for_the_raw_weights(
    tmp_path: Path, capsys: Capture, name: str, by: str
) -> None:
    """Under no name: a link is known by its target, a copy by its metadata, which those of older versions lack."""
    run = weights(tmp_path / "run")
    average, path = run / "weights" / "generator_ema.safetensors", tmp_path / "run" / f"{name}.safetensors"
    path.symlink_to(average) if by == "link" else shutil.copy(average, path)
    out = SampleConfig(out=str(tmp_path / "x.png"), num=1, ema=False)
    if name == "generator_ema" or by == "link":
        with expect_user_error("--no-ema", str(path), code="bad-value"):
            sample(str(path), out)
    elif name == "mine":
        sample(str(path), out)
        assert f"--no-ema: {path} " in capsys.readouterr().err
    save_file(load_file(average), average, {"network": "generator_ema"})
    if by == "copy":
        shutil.copy(average, path)
    with expect_user_error("--no-ema", str(path), code="bad-value"):
        sample(str(path), out)
    assert load_generator(str(path), ema=True).is_ema is True


def test_weights_in_a_pipe_are_not_waited_for(tmp_path: Path) -> None:
    path = weights(tmp_path / "run") / "weights" / "generator_ema.safetensors"
    path.unlink()
    os.mkfifo(path)
    for where in (path, path.parent):
        with expect_user_error(f"{path}: ", code="bad-data"):
            sample(str(where), SampleConfig(out=str(tmp_path / "x.png")))


def test_large_file_of_other_tensors_is_not_read(tmp_path: Path) -> None:
    path = weights(tmp_path / "run") / "weights" / "generator_ema.safetensors"
    head = json.dumps({"a": {"dtype": "U8", "shape": [2**32], "data_offsets": [0, 2**32]}}).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head)
    os.truncate(path, 8 + len(head) + 2**32)
    with at_most(100), expect_user_error(str(path), code="wrong-weights"):
        sample(str(path), SampleConfig(out=str(tmp_path / "x.png")))


NUMBERS = st.integers(-2, 3) | st.sampled_from([100, 637, 637 * 110 * 4, 2**31, 2**63, 2**64])
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "F64", "F16", "F8_E8M0", "F4", "I32", "U8", "BOOL", "C64", "F99", 3, None]),
        "shape": st.lists(NUMBERS, max_size=4) | st.none(),
        "data_offsets": st.lists(NUMBERS, min_size=1, max_size=3),
    },
)
KEYS = st.sampled_from(["stem.0.weight", "stem.1.running_var", "a\x1b[1m\nb", "__metadata__"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.dictionaries(KEYS, ENTRIES | st.sampled_from([None, 3, {}, [], {"step": "9" * 5000}]), max_size=2),
    cut=st.just(0) | st.integers(0, 500_000),
    length=st.just(0) | st.sampled_from([-8, -1, 1, 2**32, 2**63]),
)
@example(changes={"__metadata__": {"step": "9" * 5000}}, cut=0, length=0)
@example(changes={"a\x1b[1m\nb": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}, cut=0, length=0)
def test_any_header_of_weights_is_one_clear_error(
    tmp_path: Path, changes: dict[str, Any], cut: int, length: int
) -> None:
    """Damage of safetensors: its JSON, what it says of a tensor, its length, and the bytes behind it."""
    path, good = tmp_path / "run" / "weights" / "generator_ema.safetensors", tmp_path / "good"
    if not good.exists():
        good.write_bytes((weights(tmp_path / "run") / "weights" / path.name).read_bytes())
    raw = good.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    head = json.loads(raw[8 : 8 + size])
    for key, change in changes.items():
        head[key] = head.get(key, {}) | change if isinstance(change, dict) else change
    text = json.dumps(head).encode()
    path.write_bytes((len(text) + length).to_bytes(8, "little") + text + raw[8 + size : len(raw) - cut])
    _, mistake = catch_user_error(lambda: load_generator(str(tmp_path / "run"), ema=True))
    assert mistake or not cut
    if mistake:
        assert (mistake.kind, str(mistake).isprintable(), str(path) in str(mistake)) == ("bad-data", True, True)


@pytest.mark.parametrize("damage", [lambda raw: raw[:100], lambda raw: b"", lambda raw: b"\xff" * 8 + raw[8:]])
def test_damaged_weights_are_rejected(tmp_path: Path, damage: object) -> None:
    run = weights(tmp_path / "run")
    path = run / "weights" / "generator_ema.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    assert fits(f"{path}: ... [damaged-file]", error_of(run))


def test_missing_and_damaged_config_are_rejected(tmp_path: Path) -> None:
    run = weights(tmp_path / "run")
    path = run / "weights" / "config.json"
    path.write_text(json.dumps({"model": {"name": "cgan", "wdth": 1}}))
    assert fits("[model] wdth: ... width ... [unknown-setting]", error_of(run))
    path.unlink()
    assert fits(f"{path}: ... [not-found]", error_of(run))
