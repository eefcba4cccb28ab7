"""The format of a checkpoint: what is in it, in which order it reaches the disk, and what is not believed."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoints import CONFIG, MODEL, assert_equal, declare, make
from helpers.runs import ON_CPU, TESTS, MonkeyPatch, expect_user_error, newest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, load_file, save

from distgan.checkpoint.format import (
    FILES,
    MANIFEST,
    Checkpoint,
    Damaged,
    Manifest,
    folder_name,
    foreign_files,
    read_checkpoint,
    read_manifest,
    write_checkpoint,
)
from distgan.checkpoint.resume import newest_valid
from distgan.distributed.runtime import Runtime
from distgan.errors import UserError
from distgan.models.base import build_discriminator, build_generator
from distgan.training.gan import build_gan
from distgan.training.step import build_step
from distgan.utils.files import pack_tensors, read_tensors, set_aside


@pytest.fixture(scope="module")
def made() -> Checkpoint:
    return make()


@pytest.fixture
def saved(made: Checkpoint, tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path, made)[0]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's checkpoints/ with two of them."""
    folder = tmp_path_factory.mktemp("pair")
    for step in (2, 3):
        write_checkpoint(folder, make(step))
    return folder


# -- what is in it -----------------------------------------------------------------------------------------


def test_what_is_written_is_read(made: Checkpoint, saved: Path) -> None:
    assert_equal(read_checkpoint(saved), made)
    assert saved.name == "step-00000003"


def test_files_are_safetensors_and_json_that_anyone_reads(made: Checkpoint, saved: Path) -> None:
    assert {path.name for path in saved.iterdir()} == FILES | {MANIFEST}
    for path in saved.iterdir():
        if path.suffix == ".json":
            json.loads(path.read_text())
        else:
            load_file(path)
    builders = {"generator": build_generator, "generator_ema": build_generator, "discriminator": build_discriminator}
    for name, build in builders.items():
        network = build(MODEL)
        network.load_state_dict(load_file(saved / f"{name}.safetensors"))
        assert read_tensors(saved / f"{name}.safetensors")[1]["network"] == name
        assert torch.equal(network.state_dict()[key := next(iter(network.state_dict()))], made.tensors[f"{name}.{key}"])
    adams = {f"main.0.weight.{key}" for key in ("exp_avg", "exp_avg_sq", "step")}
    assert adams <= set(load_file(saved / "g_optim.safetensors"))
    assert torch.equal(load_file(saved / "random.safetensors")["rank0.cpu"], made.tensors["random.rank0.cpu"])


def test_manifest_has_size_and_hash_of_each_file(saved: Path) -> None:
    manifest = json.loads((saved / MANIFEST).read_text())
    assert manifest["format"] == 1
    assert manifest["step"] == 3
    assert manifest["files"].keys() == FILES
    for name, entry in manifest["files"].items():
        data = (saved / name).read_bytes()
        assert entry == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_bytes_are_the_tensors_and_little_more(made: Checkpoint, tmp_path: Path) -> None:
    path, num_bytes = write_checkpoint(tmp_path, made)
    assert num_bytes == sum(file.stat().st_size for file in path.iterdir())
    assert num_bytes < sum(tensor.nbytes for tensor in made.tensors.values()) + 40_000


def test_a_checkpoint_of_format_1_is_still_read() -> None:
    """Written on 2026-11-24 by the first version that had the format; never to be written anew."""
    path, checkpoint, damaged = newest(TESTS / "fixtures" / "run-of-format-1" / "checkpoints")
    assert (path.name, damaged) == ("step-00000006", [])
    facts = json.loads((TESTS / "fixtures" / "run-of-format-1" / "sums.json").read_text())
    assert checkpoint.tensors.keys() == facts.keys()
    for key, value in checkpoint.tensors.items():
        assert float(value.double().sum()) == pytest.approx(facts[key], rel=1e-9, abs=1e-12), key
    runtime = Runtime(ON_CPU)
    gan = build_gan(checkpoint.config.model, checkpoint.config.optim, 0, runtime)
    gan.load_state(checkpoint.tensors, checkpoint.state.step, "fixture")
    step = build_step(gan, checkpoint.config.optim, checkpoint.config.run.seed, total_steps=8)
    stats = [step(torch.zeros(4, 1, 28, 28), torch.arange(4), range(4)) for _ in range(2)]
    assert torch.stack(stats).isfinite().all()
    assert gan.step == 8


# -- how it reaches the disk -------------------------------------------------------------------------------


def test_all_is_on_disk_before_it_has_its_name(made: Checkpoint, tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    events: list[tuple[str, str]] = []
    fsync, rename = os.fsync, Path.rename

    def traced_fsync(handle: int) -> None:
        events.append(("fsync", os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    def traced_rename(self: Path, target: Path) -> Path:
        events.append(("rename", str(target)))
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(Path, "rename", traced_rename)
    path, _ = write_checkpoint(tmp_path, made)
    at = events.index(("rename", str(path)))
    synced = [Path(name) for what, name in events[:at] if what == "fsync"]
    temporary = synced[0].parent
    assert temporary.name.startswith(".step-")
    assert {name.name for name in synced[:-1]} == FILES | {MANIFEST}
    assert synced[-2:] == [temporary / MANIFEST, temporary], "the folder last, and the manifest before it"
    assert events[at + 1 :] == [("fsync", str(tmp_path))], "and then the name itself"


def test_a_folder_in_the_way_is_set_aside_and_not_deleted(made: Checkpoint, saved: Path) -> None:
    (saved / "state.json").write_text("damaged")
    again, _ = write_checkpoint(saved.parent, made)
    assert again == saved
    assert_equal(read_checkpoint(again), made)
    assert (saved.parent / "step-00000003.damaged" / "state.json").read_text() == "damaged"
    assert set_aside(again, "damaged") == saved.parent / "step-00000003.damaged-2"


# -- damage ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def contents(pair: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (pair / folder_name(3)).iterdir()}


def assert_invalid(path: Path, *fragments: str) -> None:
    with pytest.raises(Damaged) as error:
        read_checkpoint(path)
    for fragment in (str(path), *fragments):
        assert fragment in str(error.value)
    assert "\n" not in str(error.value)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damage_is_never_accepted(pair: Path, contents: dict[str, bytes], data: st.DataObject) -> None:
    """Any one bit flipped, any file cut short or ended in zeros: rejected, the older one taken, no traceback."""
    name = data.draw(st.sampled_from(sorted(contents)))
    before = contents[name]
    how = data.draw(st.sampled_from(["flip", "cut", "zeros", "insert"]))
    position = data.draw(st.integers(0, len(before) - 1))
    after = bytearray(before)
    if how == "flip":
        after[position] ^= 1 << data.draw(st.integers(0, 7))
    elif how == "cut":
        del after[position:]
    elif how == "zeros":
        after[position:] = bytes(len(before) - position)
    else:
        after[position:position] = data.draw(st.binary(min_size=1, max_size=5))
    path = pair / folder_name(3)
    try:
        (path / name).write_bytes(after)
        if bytes(after) == before:
            return
        assert_invalid(path)
        found = newest(pair)
        assert found[0].name == folder_name(2)
        assert name in found[2][0][1]
    finally:
        (path / name).write_bytes(before)


def test_no_bit_of_the_manifest_is_without_meaning(saved: Path) -> None:
    """One bit of each byte flipped in turn, of the date and the version too, which nothing else depends on."""
    before = (saved / MANIFEST).read_bytes()
    for position in range(len(before)):
        after = bytearray(before)
        after[position] ^= 1 << (position % 8)
        (saved / MANIFEST).write_bytes(after)
        with pytest.raises(Damaged):
            read_manifest(saved)


@pytest.mark.parametrize("name", sorted(FILES - {"config.json"}))
def test_a_file_of_another_checkpoint_is_rejected(pair: Path, tmp_path: Path, name: str) -> None:
    path = Path(shutil.copytree(pair / folder_name(3), tmp_path / folder_name(3)))
    shutil.copy(pair / folder_name(2) / name, path / name)
    if (path / name).read_bytes() != (pair / folder_name(3) / name).read_bytes():
        assert_invalid(path, name)


def test_swapped_names_are_seen(pair: Path, tmp_path: Path) -> None:
    shutil.copytree(pair, tmp_path / "run")
    (tmp_path / "run" / folder_name(3)).rename(tmp_path / "run" / folder_name(4))
    found = newest(tmp_path / "run")
    assert found[0].name == folder_name(2)
    assert "holds step 3, which its name does not say" in found[2][0][1]


def test_when_all_are_damaged_nothing_starts_from_zero(pair: Path, tmp_path: Path) -> None:
    shutil.copytree(pair, tmp_path / "run")
    for path in (tmp_path / "run").iterdir():
        (path / "state.json").unlink()
    with pytest.raises(UserError) as error:
        newest_valid(tmp_path / "run")
    assert error.value.code == "no-checkpoint"
    assert all(name in str(error.value) for name in ("step-00000002/state.json", "step-00000003/state.json"))
    assert newest_valid(tmp_path / "none") is None


# -- hostile files, whose manifest is right ----------------------------------------------------------------


def forge(path: Path, name: str, data: bytes) -> None:
    """Put `data` into a file, and its size and hash into the manifest."""
    (path / name).write_bytes(data)
    declare(path, name, len(data), hashlib.sha256(data).hexdigest())


def header(values: object) -> bytes:
    text = json.dumps(values).encode()
    return len(text).to_bytes(8, "little") + text


def tensor(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


HOSTILE_TENSORS = {
    "gigabytes of header": (10**12).to_bytes(8, "little") + b"{}",
    "header past the end": (5000).to_bytes(8, "little") + b"{}" * 10,
    "overlapping offsets": header({"a": tensor([2], 0, 8), "b": tensor([2], 4, 12)}) + bytes(12),
    "a hole": header({"a": tensor([1], 0, 4), "b": tensor([1], 8, 12)}) + bytes(12),
    "offsets backwards": header({"a": tensor([1], 4, 0)}) + bytes(4),
    "offsets past the end": header({"a": tensor([250], 0, 1000)}) + bytes(4),
    "shape that is too large": header({"a": tensor([2**40, 2**40], 0, 4)}) + bytes(4),
    "negative shape": header({"a": tensor([-1], 0, 4)}) + bytes(4),
    "unknown type": header({"a": tensor([1], 0, 4, "F99")}) + bytes(4),
    "no header": b"",
    "deep header": len(b"[" * 100_000).to_bytes(8, "little") + b"[" * 100_000,
    "a pickle": b"\x80\x04\x95" + b"cos\nsystem\n(S'touch /tmp/owned'\ntR." * 3,
}


def test_tensors_of_other_shapes_are_rejected(made: Checkpoint, saved: Path) -> None:
    """The file is one of safetensors, and the hash is right: the network itself says no."""
    gan = build_gan(CONFIG.model, CONFIG.optim, 7, Runtime(ON_CPU))
    for name, tensors, words in (
        ("g_optim", {"stem.0.weight.exp_avg": torch.zeros(3)}, "stem.0.weight.exp_avg ... [wrong-weights]"),
        ("d_optim", {}, "exp_avg ... [wrong-weights]"),
    ):
        forged = saved.with_name(f"of-{name}")
        shutil.copytree(saved, forged)
        forge(forged, f"{name}.safetensors", save(tensors))
        checkpoint = read_checkpoint(forged)
        with expect_user_error(f"{forged}: {name}", words):
            gan.load_state(checkpoint.tensors, 3, str(forged))


@pytest.mark.parametrize(
    "change",
    [{"stem.0.weight": torch.zeros(3)}, {"stem.0.weight": None}, {"extra": torch.zeros(3)},
     {"stem.1.bias": torch.zeros(294, dtype=torch.int32)}, None],
)  # fmt: skip
@pytest.mark.parametrize("name", ["generator", "generator_ema"])
def test_networks_that_do_not_fit_are_rejected(saved: Path, name: str, change: dict | None) -> None:
    """Before they are loaded, so that the checkpoint before them is taken."""
    own = load_file(saved / f"{name}.safetensors") | (change or {})
    forge(saved, f"{name}.safetensors", save({k: v for k, v in own.items() if v is not None} if change else {}))
    assert_invalid(saved, f"{name}.safetensors: ", "of the network in its config it is")


@pytest.mark.parametrize("name", ["generator", "discriminator", "generator_ema"])
def test_non_finite_weights_are_rejected_and_statistics_are_not(saved: Path, name: str) -> None:
    """A network in fp16 may overflow in its statistics and train on; its weights are finite whenever it is saved."""
    gan = build_gan(CONFIG.model, CONFIG.optim, 7, Runtime(ON_CPU))
    own = load_file(saved / f"{name}.safetensors")
    statistics = {key: value / 0 for key, value in own.items() if key.endswith("running_var")}
    forge(saved, f"{name}.safetensors", save(own | statistics))
    gan.load_state(read_checkpoint(saved).tensors, 3, str(saved))
    weight = next(key for key in own if key.endswith("weight"))
    forge(saved, f"{name}.safetensors", save(own | {weight: own[weight].fill_(float("nan"))}))
    with expect_user_error(str(saved), name, weight, code="non-finite-values"):
        gan.load_state(read_checkpoint(saved).tensors, 3, str(saved))


HOSTILE_JSON = {
    "deep": b"[" * 500_000 + b"]" * 500_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a huge number": b'{"step": ' + b"9" * 500_000 + b"}",
    "NaN": b'{"step": NaN}',
    "half a text": b'{"step": "',
    "other bytes": b"\xff\xfe\x00",
    "a list": b"[1, 2]",
    "nothing": b"",
    "many keys": json.dumps({f"k{i}": i for i in range(50_000)}).encode(),
}


COUNTERS: list[dict[str, Any]] = [
    {"step": 10**400}, {"step": -1}, {"epoch": 3}, {"logged_step": 7000}, {"world_size": 0}, {"world_size": 10**30},
    {"steps_per_epoch": 0}, {"unlogged": [[1.0]]}, {"elapsed_s": "1"}, {"surprise": 1},
]  # fmt: skip
CLIMBING = ("../../etc/passwd", "/etc/passwd", "..", "a\nb", "sub/state.json", "state.json\0")


def pipe(path: Path) -> None:
    (path / "random.safetensors").unlink()
    os.mkfifo(path / "random.safetensors")


def link(path: Path) -> None:
    (path / "state.json").rename(path.parent / "secret")
    (path / "state.json").symlink_to(path.parent / "secret")


def undeclared(path: Path) -> None:
    """generator_ema.safetensors may be missing, in the folder or in the manifest, but not in one of them."""
    manifest = Manifest.model_validate_json((path / MANIFEST).read_bytes())
    files = {name: entry for name, entry in manifest.files.items() if "ema" not in name}
    (path / MANIFEST).write_bytes(manifest.model_copy(update={"files": files}).to_bytes())


def newer(path: Path) -> None:
    (path / MANIFEST).write_bytes((path / MANIFEST).read_bytes().replace(b'"format": 1', b'"format": 2'))


def counted(change: dict[str, Any]) -> Callable[[Path], None]:
    return lambda path: forge(
        path, "state.json", json.dumps(json.loads((path / "state.json").read_text()) | change).encode()
    )


INVALID: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file that the manifest does not name": (undeclared, "generator_ema.safetensors: is no part of the"),
    "newer format": (newer, "format '2'; this distgan reads format 1"),
    "pipe": (pipe, "random.safetensors: "),
    "link": (link, "state.json: is a link"),
    **{name: (lambda path, name=name: (path / name).unlink(), name) for name in sorted(FILES | {MANIFEST})},
    **{
        f"tensors: {key}": (
            lambda path, data=data: forge(path, "generator.safetensors", data),
            "generator.safetensors: is no safetensors file",
        )
        for key, data in HOSTILE_TENSORS.items()
    },
    **{
        f"{file}: {key}": (lambda path, file=file, data=data: forge(path, file, data), file)
        for file in ("state.json", "config.json")
        for key, data in HOSTILE_JSON.items()
    },
    **{
        f"{MANIFEST}: {key}": (lambda path, data=data: (path / MANIFEST).write_bytes(data), MANIFEST)
        for key, data in HOSTILE_JSON.items()
    },
    **{f"counters {change}"[:40]: (counted(change), "state.json: ") for change in COUNTERS},
    **{
        f"path {name!r}": (lambda path, name=name: declare(path, name, 5, "0" * 64), "manifest.json: ")
        for name in CLIMBING
    },
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_checkpoint_is_rejected(saved: Path, name: str) -> None:
    tamper, words = INVALID[name]
    tamper(saved)
    assert_invalid(saved, words)


@pytest.mark.parametrize(
    "name", [".DS_Store", "._state.json", ".nfs000000000001", "Thumbs.db", "x.pt", ".ipynb_checkpoints/"]
)
def test_foreign_files_are_ignored_with_a_warning(made: Checkpoint, saved: Path, name: str) -> None:
    """Files that systems and people leave in folders are never read, and no reason to lose a checkpoint."""
    (saved / name).mkdir() if name.endswith("/") else (saved / name).write_bytes(b"\x80\x04K\x01.")
    assert_equal(read_checkpoint(saved), made)
    (warning,) = foreign_files(saved)
    assert str(saved) in warning
    assert name.removesuffix("/") in warning


def test_many_foreign_files_are_one_short_warning(saved: Path) -> None:
    assert foreign_files(saved) == []
    for index in range(1000):
        (saved / f"{index:0200}").touch()
    (warning,) = foreign_files(saved)
    assert len(warning) < 500


@pytest.mark.parametrize("number", [errno.ESTALE, errno.ETIMEDOUT, errno.EACCES, errno.EMFILE])
def test_what_can_not_be_read_now_is_not_called_damaged(saved: Path, monkeypatch: MonkeyPatch, number: int) -> None:
    """A checkpoint that is called so is set aside, and its steps are lost."""
    opened = os.open

    def fail(path: object, *arguments: Any) -> int:
        if str(path).endswith("g_optim.safetensors"):
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", fail)
    with expect_user_error("g_optim.safetensors", os.strerror(number), code="unreadable"):
        newest_valid(saved.parent)


def test_the_same_tensors_are_the_same_bytes() -> None:
    """The library alone writes the metadata in another order nearly each time."""
    tensors = {"b": torch.arange(3), "a": torch.ones(2, 2), "ü": torch.zeros(0)}
    metadata = {"format": "pt", "step": "3", "notice": 'NOT "MNIST" ü', "z": "1", "a": "2"}
    files = {pack_tensors(tensors, dict(order)) for order in permutations(metadata.items())}
    assert len(files) == 1
    (data,) = files
    assert int.from_bytes(data[:8], "little") % 8 == 0, "aligned, as the library aligns them"
    loaded = load(data)
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[key], value) for key, value in tensors.items())


def test_numbers_come_back_as_they_were(made: Checkpoint, saved: Path) -> None:
    state = read_checkpoint(saved).state
    assert state.metrics["d_loss"] == 0.1 + 0.2
    assert state.grad_scaler == {"scale": 65536.0, "growth_interval": 2000}
    assert isinstance(state.grad_scaler["growth_interval"], int), "torch's scaler takes no float there"
