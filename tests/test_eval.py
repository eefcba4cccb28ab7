"""`distgan eval` and `--eval-every` as a user meets them: what they print, leave, refuse, and do not change."""

import hashlib
import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import forked
import numpy as np
import pytest
import torch
from conftest import MNIST, Run, assert_same_run, assert_user_error, quick
from safetensors.torch import save_file

from distgan.data.base import load_digits
from distgan.errors import UserError
from distgan.evaluation.classifiers import NETWORKS
from distgan.evaluation.ensemble import RECORD, SHIPPED, cache_folder, load_jury
from distgan.evaluation.inputs import FILE, read_npz
from distgan.evaluation.reference import Reference
from distgan.utils.files import read_metrics

FEW = ("--num", 300, "--no-gan-train", "--threads", 1)


# Three epochs of nine steps.
EPOCHS = ("--batch-size", 2000, "--epochs", 3, "--max-steps", 27)
# The largest distance is that of the first epoch, whose checkpoint only --keep-best lets stay.
WATCHED = ("--eval-every", 1, "--eval-num", 400, "--keep-best", "max:raw_fcd")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs on the embedded digits: a C-GAN and a GAN of six steps, evaluated, and one of 27 without and with judges."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        for name in ("cgan", "vanilla"):
            _done("train", *quick(name, "--preset", f"{name}-quick"), folder=folder)
            _done("eval", name, *FEW, folder=folder)
        _done("train", *quick("unwatched", *EPOCHS), folder=folder)
        (folder / "said").write_text(_done("train", *quick("watched", *EPOCHS, *WATCHED), folder=folder).stderr)
    return folder


def _done(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    result = forked.call([str(word) for word in arguments], folder, 240)
    assert result.returncode == 0, result.stderr
    return result


@pytest.fixture
def run_folder(runs: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a run of this test's own."""
    return lambda name: Path(shutil.copytree(runs / name, tmp_path / name, symlinks=True))


def stored(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "eval" / FILE).read_text()))


def evaluated(distgan: Run, *arguments: object) -> dict[str, Any]:
    result = distgan("eval", *arguments, "--json")
    assert result.returncode == 0, result.stderr
    return dict(json.loads(result.stdout))


def numbers(found: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on where, when and by whose command it was measured."""
    return {key: value for key, value in found.items() if key not in ("source", "seconds", "notices")}


def estimates(value: Any) -> list[dict[str, float]]:
    if isinstance(value, dict) and value.keys() == {"value", "low", "high"}:
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [each for part in inner for each in estimates(part)]


def test_json_is_one_object_in_which_each_number_has_its_interval(
    distgan: Run, run_folder: Callable[[str], Path]
) -> None:
    run = run_folder("cgan")
    found = evaluated(distgan, run, *FEW)
    assert numbers(found) == numbers(stored(run))
    assert found["n"] == 300
    for key in ("agreement", "fcd", "fcd_floor", "coverage", "density", "recognisable", "kl", "copies"):
        assert found[key].keys() == {"value", "low", "high"}, key
    assert len(found["shares"]) == len(found["per_digit"]) == len(found["matrix"]) == 10
    assert len(estimates(found)) > 100
    for each in estimates(found):
        assert each["low"] <= each["value"] <= each["high"]
    assert sum(map(sum, found["matrix"])) == 300
    assert sum(found["matrix"][d][d] for d in range(10)) == round(300 * found["agreement"]["value"])
    # Six steps make noise, and the judges saw another data set than it was trained on.
    assert found["agreement"]["value"] < 0.5
    assert found["fcd"]["low"] > found["fcd_floor"]["high"]
    assert found["source"]["judged_by"].startswith("mnist")
    assert any("MNIST, not on digits" in notice for notice in found["notices"])


def test_gan_has_shares_and_no_matrix(runs: Path) -> None:
    found = stored(runs / "vanilla")
    assert found["agreement"] is None
    assert found["matrix"] is None
    assert found["gan_train"] is None
    assert sum(each["value"] for each in found["shares"]) == pytest.approx(1)


def test_terminal_fits_80_columns_and_names_the_pictures(
    distgan: Run, run_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    run = run_folder("cgan")
    result = distgan("eval", run, *FEW)
    assert result.returncode == 0, result.stderr
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "…" not in result.stdout
    for words in ("!! ", "NOT MNIST", "digit by digit", "alarm: ", "2023 report", "DOES NOT HOLD", "digits.png"):
        assert words in result.stdout, words
    names = {path.name for path in (run / "eval").iterdir()}
    assert {FILE, "digits.png", "neighbours.png", "matrix.png"} <= names


def test_two_processes_find_the_same(distgan: Run, runs: Path, tmp_path: Path) -> None:
    together = evaluated(distgan, runs / "cgan", *FEW, "--processes", 2, "--out", "two")
    assert numbers(stored(runs / "cgan")) == numbers(together)
    for picture in ("digits.png", "neighbours.png"):
        assert (runs / "cgan" / "eval" / picture).read_bytes() == (tmp_path / "two" / picture).read_bytes()


def test_npz_of_the_same_images_measures_the_same(distgan: Run, runs: Path) -> None:
    assert distgan("sample", runs / "cgan", "--num", 300, "--out", "images.npz").returncode == 0
    file = evaluated(distgan, "images.npz", *FEW, "--data", "digits")
    assert numbers(stored(runs / "cgan")) == numbers(file)
    assert any("NOT MNIST" in notice for notice in file["notices"])


def test_checkpoint_and_weights_measure_the_same(distgan: Run, run_folder: Callable[[str], Path]) -> None:
    run = run_folder("cgan")
    newest = (run / "checkpoints" / "latest").resolve()
    before = sorted(newest.iterdir())
    for where in (run / "weights" / "generator_ema.safetensors", newest):
        found = evaluated(distgan, where, *FEW)
        assert numbers(found) == numbers(stored(run))
        assert found["source"]["step"] == 6
    assert sorted(newest.iterdir()) == before


def test_gan_train_tells_digits_from_noise(distgan: Run, tmp_path: Path) -> None:
    """Real digits under their labels, and under those of their neighbours."""
    real = load_digits()
    rows = torch.randperm(len(real.images), generator=torch.Generator().manual_seed(0))[:2000]
    found = []
    for name, labels in (("right", real.labels[rows]), ("wrong", real.labels[rows].roll(1))):
        np.savez(tmp_path / f"{name}.npz", images=real.images[rows].numpy(), labels=labels.numpy())
        found.append(evaluated(distgan, f"{name}.npz", "--data", "digits", "--threads", 1))
    assert found[0]["gan_train"]["low"] > 0.8
    assert found[1]["gan_train"]["high"] < 0.4
    assert all(each["gan_train_real"]["low"] > 0.8 for each in found)


# -- what is refused ---------------------------------------------------------------------------------------


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
    with pytest.raises(UserError) as error:
        read_npz(path, 1000)
    assert words in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


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


def test_mistakes_end_in_one_line(distgan: Run, run_folder: Callable[[str], Path], tmp_path: Path) -> None:
    run = run_folder("cgan")
    shutil.rmtree(run / "eval")
    np.savez(tmp_path / "few.npz", images=np.zeros((20, 28, 28), np.uint8))
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.txt").write_text("")
    few = "20: too few for the covariance of 64 features; allowed: 65 images or more"
    for arguments, fragments in (
        (["nowhere"], ["nowhere: is not there"]),
        (["nowhere.npz"], ["nowhere.npz: is not there; allowed: an .npz"]),
        (["empty"], ["empty: has no weights/generator.safetensors"]),
        (["few.npz", "--data", "digits"], [f"few.npz: images {few}"]),
        ([run, "--num", 20], [f"--num {few}"]),
        ([run, "--num", 0], ["--num: '0' is not allowed; allowed: a whole number, 1 or more"]),
        ([run, "--out", "mine"], ["--out mine: holds other things", "allowed: a new folder"]),
        ([run, "--data", "mnist", "--reference", "nothing", "--no-download"], ["nothing: no mnist there"]),
        ([run, "--data", "fashion-mnist", "--reference", "nothing", "--no-download"], ["no fashion-mnist there"]),
        ([run, "--judges", "nothing"], ["nothing/judges.json: can't be read"]),
        ([run, "--device", "cuda"], ["--device cuda: there is no CUDA device here"]),
        ([run, "--numb", 3], ["--numb: unknown flag, did you mean --num?"]),
    ):
        assert_user_error(distgan("eval", *arguments), *fragments)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["precious.txt"]
    assert not (run / "eval").exists()


# -- the judges --------------------------------------------------------------------------------------------


def test_shipped_judges_are_small_good_and_unlike_one_another() -> None:
    record = load_jury("mnist", torch.device("cpu")).record
    assert [judge.name for judge in record.judges] == list(NETWORKS)
    for judge in record.judges:
        assert (SHIPPED / f"{judge.name}.safetensors").stat().st_size < 10**6
        assert sum(map(sum, judge.matrix)) == 10_000
        assert judge.num_right >= 9_950
    assert len({judge.num_parameters for judge in record.judges}) == 3
    assert len(set(record.recipe.seeds)) == 3


def test_shipped_judges_read_as_their_record_says(reference: Reference) -> None:
    """To a digit or two, which another processor may round otherwise."""
    for judge, found in zip(reference.jury.record.judges, reference.judge_matrices, strict=True):
        assert (found - torch.tensor(judge.matrix)).abs().sum() <= 6


@pytest.fixture
def reference() -> Reference:
    if not (MNIST / "MNIST" / "raw" / "t10k-images-idx3-ubyte").exists():
        pytest.skip(f"no MNIST in {MNIST}")
    from types import SimpleNamespace

    from distgan.config.schema import DataConfig
    from distgan.data.base import load_dataset
    from distgan.evaluation.reference import build_reference

    config, alone = (
        DataConfig(dir=str(MNIST)),
        cast(Any, SimpleNamespace(world_size=1, rank=0, device=torch.device("cpu"))),
    )
    jury = load_jury("mnist", torch.device("cpu"))
    return build_reference(jury, load_dataset(config), load_dataset(config, "test"), 500, None, alone, num_draws=2)


@pytest.fixture
def judges(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SHIPPED, tmp_path / "judges"))


def test_judge_whose_hash_does_not_match_is_refused(judges: Path) -> None:
    path = judges / "residual.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    found = hashlib.sha256(content).hexdigest()[:16]
    with pytest.raises(UserError) as error:
        load_jury("mnist", torch.device("cpu"), str(judges))
    for words in ("residual.safetensors: its SHA-256 is", found, "could not be compared", "allowed: "):
        assert words in str(error.value)


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda record: record.update(format=9), "has the format 9; allowed: 1"),
        (lambda record: record["judges"].pop(), "names the judges wide, plain; allowed: wide, plain, residual"),
        (lambda record: record["judges"][0]["matrix"].pop(), "matrix of wide is no table of 10 x 10"),
        (lambda record: record["judges"][0].pop("sha256"), "is damaged: judges.0.sha256: is missing"),
        (lambda record: record.update(data=1), "is damaged: data: 1 is not allowed"),
    ],
)
def test_damaged_record_of_judges(judges: Path, change: Callable[[dict[str, Any]], None], words: str) -> None:
    edit(judges / RECORD, change)
    with pytest.raises(UserError) as error:
        load_jury("mnist", torch.device("cpu"), str(judges))
    assert words in str(error.value)


def test_weights_of_another_network_are_refused(judges: Path) -> None:
    path = judges / "wide.safetensors"
    save_file({"read_out.weight": torch.zeros(10, 3)}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    edit(judges / RECORD, lambda record: record["judges"][0].update(sha256=digest))
    with pytest.raises(UserError, match="holds no weights of the judge wide"):
        load_jury("mnist", torch.device("cpu"), str(judges))


def test_judges_of_other_data_come_from_the_cache(
    distgan: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"judges of kmnist: there are none .* distgan judge train --data kmnist"):
        load_jury("kmnist", torch.device("cpu"))
    assert load_jury("digits", torch.device("cpu")).notice == "the judges were trained on MNIST, not on digits"
    shutil.copytree(SHIPPED, cache_folder("kmnist"))
    shutil.copytree(SHIPPED, cache_folder("digits"))
    assert load_jury("kmnist", torch.device("cpu")).notice is None
    assert load_jury("digits", torch.device("cpu")).notice is None
    shown = distgan("judge", "show")
    assert shown.returncode == 0
    assert "distgan judge train --data mnist" in shown.stdout
    assert_user_error(distgan("judge", "tarin"), "tarin: unknown action; allowed: train, show")


# -- during training ---------------------------------------------------------------------------------------


def judgements(run: Path) -> list[dict[str, Any]]:
    """What the judges found, line by line."""
    lines = [line for line in read_metrics(run / "metrics.jsonl") if "eval_n" in line]
    return [{key: line[key] for key in line if key.startswith(("raw", "ema", "alarm"))} for line in lines]


def test_judges_leave_training_as_it_is_and_write_what_they_find(runs: Path) -> None:
    assert_same_run(runs / "unwatched", runs / "watched")
    found = [line for line in read_metrics(runs / "watched" / "metrics.jsonl") if "eval_n" in line]
    assert [line["epoch"] for line in found] == [1, 2, 3]
    for line in found:
        for prefix in ("raw", "ema"):
            assert line[f"{prefix}_fcd_low"] <= line[f"{prefix}_fcd"] <= line[f"{prefix}_fcd_high"]
            assert len(line[f"{prefix}_digits"]) == 10
            assert f"{prefix}_agreement" in line
        assert line["raw_fcd"] != line["ema_fcd"]
        assert line["fcd_floor"] < line["ema_fcd"]
    assert any("digit" in alarm for alarm in found[0]["alarms"])
    said = (runs / "said").read_text()
    assert "alarm: digit" in said
    assert "judges after epoch 3: read as asked" in said


def test_line_of_the_last_epoch_is_what_eval_measures(distgan: Run, run_folder: Callable[[str], Path]) -> None:
    run = run_folder("watched")
    line = judgements(run)[-1]
    for prefix, flags in (("ema", ()), ("raw", ("--no-ema",))):
        found = evaluated(distgan, run, "--num", 400, "--no-gan-train", "--threads", 1, *flags)
        assert found["source"]["ema"] is (prefix == "ema")
        for name in ("fcd", "agreement", "recognisable", "coverage", "density"):
            assert line[f"{prefix}_{name}"] == pytest.approx(found[name]["value"], abs=1e-6)


def test_watched_run_goes_on_to_the_same_lines(distgan: Run, runs: Path, tmp_path: Path) -> None:
    flags = quick("broken", *EPOCHS, *WATCHED, "--max-steps", 11)
    assert distgan("train", *flags).returncode == 0
    assert distgan("train", "--out", "broken", "--max-steps", 27).returncode == 0
    assert_same_run(runs / "watched", tmp_path / "broken")
    assert judgements(runs / "watched") == judgements(tmp_path / "broken")


def test_two_ranks_write_the_same_judgement(distgan: Run, runs: Path, tmp_path: Path) -> None:
    """Of weights that differ by rounding alone."""
    flags = quick("two", *EPOCHS, *WATCHED, "--max-steps", 9, "--processes", 2)
    result = distgan("train", *flags)
    assert result.returncode == 0, result.stderr
    one, two = judgements(runs / "watched")[0], judgements(tmp_path / "two")[0]
    assert one.keys() == two.keys()
    assert one["raw_fcd"] == pytest.approx(two["raw_fcd"], rel=0.02)


def test_best_checkpoint_by_the_judges_stays(runs: Path) -> None:
    folder = runs / "watched" / "checkpoints"
    lines = read_metrics(runs / "watched" / "metrics.jsonl")
    judged = {line["step"]: line["raw_fcd"] for line in lines if "raw_fcd" in line}
    worst = max(judged, key=lambda step: judged[step])
    assert sorted(judged) == [9, 18, 27]
    assert (folder / "best").resolve().name == f"step-{worst:08}"
    assert {path.name for path in folder.glob("step-*")} == {f"step-{step:08}" for step in {worst, 18, 27}}


def test_judged_best_needs_judges(distgan: Run) -> None:
    flags = quick("run", "--keep-best", "min:raw_fcd")
    assert_user_error(distgan("train", *flags), "--keep-best min:raw_fcd", "allowed with --eval-every 1 or more")


def test_judges_that_are_missing_end_a_run_before_it_begins(
    distgan: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(SHIPPED, cache_folder("digits"))
    (cache_folder("digits") / "wide.safetensors").write_bytes(b"other")
    result = distgan("train", *quick("run", *WATCHED))
    assert_user_error(result, "wide.safetensors: its SHA-256 is")
    assert not (tmp_path / "run").exists()
