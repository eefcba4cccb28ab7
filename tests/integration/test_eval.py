"""`distgan eval` and `--eval-every` as a user meets them: what they print, leave, reject, and do not change."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from helpers import forkserver
from helpers.forkserver import Ranks
from helpers.runs import MNIST, MonkeyPatch, Run, assert_same_run, assert_user_error, quick

from distgan.data.base import load_digits
from distgan.evaluation.ensemble import SHIPPED, cache_folder, load_ensemble
from distgan.evaluation.inputs import FILE
from distgan.evaluation.reference import Reference
from distgan.utils.files import read_metrics

FEW = ("--num", 300, "--no-gan-train", "--threads", 1)


# Two epochs of nine steps.
EPOCHS = ("--batch-size", 2000, "--epochs", 2, "--max-steps", 18, "--width", 0.02, "--latent-dim", 4)
# The largest distance is that of the first epoch, whose checkpoint only --keep-best lets stay beside the newest two.
WATCHED = ("--eval-every", 1, "--eval-num", 400, "--keep-best", "max:raw_fcd", "--save-every-steps", 14)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train on the embedded digits: a C-GAN and a GAN of 6 steps, evaluated, and one of 18 without and with judges."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("COLUMNS", "80")
        for name in ("cgan", "vanilla"):
            _done("train", *quick(name, "--preset", f"{name}-quick"), folder=folder)
            (folder / f"{name}-said").write_text(_done("eval", name, *FEW, folder=folder).stdout)
        _done("train", *quick("unwatched", *EPOCHS), folder=folder)
        (folder / "said").write_text(_done("train", *quick("watched", *EPOCHS, *WATCHED), folder=folder).stderr)
    return folder


def _done(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    result = forkserver.call([str(word) for word in arguments], folder, 240)
    assert result.returncode == 0, result.stderr
    return result


@pytest.fixture
def run_folder(runs: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a run of this test's own."""
    return lambda name: Path(shutil.copytree(runs / name, tmp_path / name, symlinks=True))


def stored(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "eval" / FILE).read_text()))


def evaluated(distgan: Run, *arguments: object) -> dict[str, Any]:
    result = distgan.ok("eval", *arguments, "--json")
    return dict(json.loads(result.stdout))


def numbers(found: dict[str, Any]) -> dict[str, Any]:
    """Return what does not depend on where, when and by whose command it was measured."""
    return {key: value for key, value in found.items() if key not in ("source", "seconds", "notices")}


def estimates(value: Any) -> list[dict[str, float]]:
    if isinstance(value, dict) and value.keys() == {"value", "low", "high"}:
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [each for part in inner for each in estimates(part)]


def test_json_has_an_interval_for_each_number(distgan: Run, run_folder: Callable[[str], Path]) -> None:
    run = run_folder("cgan")
    (run / "eval" / "matrix.png").unlink()
    (run / "eval" / "matrix.png").mkdir()  # a picture that can't be written changes no result
    result = distgan.ok("eval", run, *FEW, "--json")
    assert "warning: a picture" in result.stderr
    assert "matrix.png" in result.stderr
    found = json.loads(result.stdout)
    assert result.stdout.isascii(), "so that every stdout can encode it"
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


def test_terminal_fits_80_columns(runs: Path) -> None:
    said = (runs / "cgan-said").read_text()
    assert max(map(len, said.splitlines())) <= 80
    assert "…" not in said
    for words in ("!! ", "NOT MNIST", "digit by digit", "alarm: ", "2023 report", "DOES NOT HOLD", "digits.png"):
        assert words in said, words
    names = {path.name for path in (runs / "cgan" / "eval").iterdir()}
    assert {FILE, "digits.png", "neighbours.png", "matrix.png"} <= names


def test_two_processes_find_the_same(distgan: Run, runs: Path, tmp_path: Path) -> None:
    together = evaluated(distgan, runs / "cgan", *FEW, "--processes", 2, "--out", "two")
    assert numbers(stored(runs / "cgan")) == numbers(together)
    for picture in ("digits.png", "neighbours.png"):
        assert (runs / "cgan" / "eval" / picture).read_bytes() == (tmp_path / "two" / picture).read_bytes()


def test_npz_of_the_same_images_measures_the_same(distgan: Run, runs: Path) -> None:
    distgan.ok("sample", runs / "cgan", "--num", 300, "--out", "images.npz")
    file = evaluated(distgan, "images.npz", *FEW, "--data", "digits")
    assert numbers(stored(runs / "cgan")) == numbers(file)
    assert any("NOT MNIST" in notice for notice in file["notices"])


def test_a_checkpoint_measures_the_same(distgan: Run, run_folder: Callable[[str], Path]) -> None:
    newest = (run_folder("cgan") / "checkpoints" / "latest").resolve()
    before = sorted(newest.iterdir())
    found = evaluated(distgan, newest, *FEW)
    assert numbers(found) == numbers(stored(newest.parents[1]))
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


# -- what is rejected ---------------------------------------------------------------------------------------


def test_mistakes_end_in_one_line(distgan: Run, run_folder: Callable[[str], Path], tmp_path: Path) -> None:
    run = run_folder("cgan")
    shutil.rmtree(run / "eval")
    np.savez(tmp_path / "few.npz", images=np.zeros((20, 28, 28), np.uint8))
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.txt").write_text("")
    few = "(20) ... 65 images or more"
    np.savez(tmp_path / "many.npz", images=np.zeros((90, 28, 28), np.uint8))
    for arguments, fragments in (
        (["nowhere"], ["nowhere: ... [no-weights]"]),
        (["nowhere.npz"], ["nowhere.npz: ... .npz ... [not-found]"]),
        (["empty"], ["empty: ... weights/generator.safetensors ... [no-weights]"]),
        (["few.npz", "--data", "digits"], [f"few.npz: images: ... {few}", "[bad-data]"]),
        (["many.npz", "--data", "digits", "--num", 20], [f"--num: ... {few}", "[bad-value]"]),
        ([run, "--num", 20], [f"--num: ... {few}", "[bad-value]"]),
        ([run, "--num", 0], ["--num: ... ('0') ... 1 or more ... [bad-value]"]),
        ([run, "--out", "mine"], ["--out: ... (mine) ... [output-exists]"]),
        ([run, "--data", "mnist", "--data-dir", "nothing", "--no-download"], ["nothing ... [no-data]"]),
        ([run, "--data", "fashion-mnist", "--data-dir", "nothing", "--no-download"], ["fashion-mnist ... [no-data]"]),
        ([run, "--judges", "nothing"], ["nothing/judges.json: ... [not-found]"]),
        ([run, "--device", "cuda"], ["--device: ... (cuda) ... [no-gpu]"]),
        ([run, "--numb", 3], ["--numb: ... --num? ... [unknown-setting]"]),
    ):
        assert_user_error(distgan("eval", *arguments), *fragments)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["precious.txt"]
    assert not (run / "eval").exists()


# -- the judges --------------------------------------------------------------------------------------------


def test_shipped_judges_read_as_their_record_says(reference: Reference) -> None:
    """To a digit or two, which another processor may round otherwise."""
    for judge, found in zip(reference.ensemble.record.judges, reference.judge_matrices, strict=True):
        assert (found - torch.tensor(judge.matrix)).abs().sum() <= 6


@pytest.fixture
def reference() -> Reference:
    if not (MNIST / "MNIST" / "raw" / "t10k-images-idx3-ubyte").exists():
        pytest.skip(f"no MNIST in {MNIST}")
    from types import SimpleNamespace

    from distgan.config.schema import DataConfig
    from distgan.data.base import load_dataset
    from distgan.evaluation.real_images import load_real_images
    from distgan.evaluation.reference import build_reference

    config, alone = (
        DataConfig(dir=str(MNIST)),
        cast(Any, SimpleNamespace(world_size=1, rank=0, device=torch.device("cpu"))),
    )
    ensemble = load_ensemble("mnist", torch.device("cpu"))
    return build_reference(ensemble, load_real_images(load_dataset(config), config), 500, None, alone, num_draws=2)


# -- during training ---------------------------------------------------------------------------------------


def judgements(run: Path) -> list[dict[str, Any]]:
    """Return what the judges found, line by line."""
    lines = [line for line in read_metrics(run / "metrics.jsonl") if "eval_n" in line]
    return [{key: line[key] for key in line if key.startswith(("raw", "ema", "alarm"))} for line in lines]


def test_judges_leave_training_as_it_is_and_write_what_they_find(runs: Path) -> None:
    assert_same_run(runs / "unwatched", runs / "watched")
    found = [line for line in read_metrics(runs / "watched" / "metrics.jsonl") if "eval_n" in line]
    assert [line["epoch"] for line in found] == [1, 2]
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
    assert "epoch 2: " in said


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
    distgan.ok("train", *flags)
    distgan.ok("train", "--out", "broken", "--max-steps", 18)
    assert_same_run(runs / "watched", tmp_path / "broken")
    assert judgements(runs / "watched") == judgements(tmp_path / "broken")


def test_two_ranks_write_the_same_judgement(ranks: Ranks, runs: Path, tmp_path: Path) -> None:
    """Weights that differ by rounding alone."""
    ranks.ok(2, "train", *quick("two", *EPOCHS, *WATCHED, "--max-steps", 9))
    one, two = judgements(runs / "watched")[0], judgements(tmp_path / "two")[0]
    assert one.keys() == two.keys()
    assert one["raw_fcd"] == pytest.approx(two["raw_fcd"], rel=0.02)


def test_best_checkpoint_by_the_judges_stays(runs: Path) -> None:
    folder = runs / "watched" / "checkpoints"
    lines = read_metrics(runs / "watched" / "metrics.jsonl")
    judged = {line["step"]: line["raw_fcd"] for line in lines if "raw_fcd" in line}
    worst = max(judged, key=lambda step: judged[step])
    assert (sorted(judged), worst) == ([9, 18], 9)
    assert (folder / "best").resolve().name == "step-00000009"
    assert {path.name for path in folder.glob("step-*")} == {"step-00000009", "step-00000014", "step-00000018"}


def test_damaged_judges_end_a_run_at_its_start(distgan: Run, tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """But a run that is resumed is rejected for its settings before."""
    distgan.ok("train", *quick("begun", "--max-steps", 1))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(SHIPPED, cache_folder("digits"))
    (cache_folder("digits") / "wide.safetensors").write_bytes(b"other")
    assert_user_error(distgan("train", *quick("run", *WATCHED)), "wide.safetensors: its SHA-256 is")
    assert not (tmp_path / "run").exists()
    changed = quick("begun", *WATCHED, "--seed", 7, "--max-steps", 2)
    assert_user_error(distgan("train", *changed), "[run] seed", code="resume-mismatch")
