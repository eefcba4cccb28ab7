"""Measured quality of own images, from a folder to a page: in colour with classes, and without labels."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.runs import MonkeyPatch, Run, assert_user_error
from PIL import Image

from distgan.utils.files import read_metrics

QUICK = (
    *("--width", "0.1", "--batch-size", "25", "--precision", "fp32", "--tracker", "none", "--threads", "1"),
    *("--data", "own", "--out", "run"),
)
CLASSES = {"blue sky": (60, 60, 220), "leaf": (40, 180, 60), "petal": (220, 120, 40)}
NUM = 50  # images of each


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path / "cache"


def write(folder: Path, *, has_classes: bool) -> None:
    """16 x 16 pixels of a colour for each class, which varies, and some noise."""
    rng = np.random.default_rng(0)
    for name, colour in CLASSES.items():
        place = folder / name if has_classes else folder
        place.mkdir(parents=True, exist_ok=True)
        for number in range(NUM):
            pixels = np.array(colour) * rng.uniform(0.5, 1.1) + rng.normal(0, 12, (16, 16, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(place / f"{name}-{number}.png")


EVAL = ("--threads", 1, "--no-gan-train")


def measured(distgan: Run, *arguments: object) -> dict[str, Any]:
    return dict(json.loads(distgan.ok("eval", *arguments, *EVAL, "--json").stdout))


def test_from_a_folder_of_classes_to_a_page_in_colour(distgan: Run, tmp_path: Path, cache: Path) -> None:
    write(tmp_path / "own", has_classes=True)
    judged = ("--eval-every-steps", 6, "--eval-num", 75)
    result = distgan.ok("train", "--preset", "images-fast", *QUICK, "--max-steps", 12, *judged)
    assert "judges on 75" in result.stderr
    lines = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "ema_fcd" in line]
    assert [line["step"] for line in lines] == [6, 12]
    assert all(len(line["ema_digits"]) == len(line["ema_coverage_digits"]) == 3 for line in lines)

    evaluated = distgan.ok("eval", "run", "--threads", 1, "--json")
    assert "--num" not in evaluated.stderr, "nobody gave one"
    found = dict(json.loads(evaluated.stdout))
    assert (found["n"], found["class_names"], found["class_noun"]) == (75, sorted(CLASSES), "class")
    assert found["source"]["is_test_seen"] is True
    assert found["gan_train"] is not None
    assert np.shape(found["matrix"]) == np.shape(found["jury_matrix"]) == (3, 3)
    accuracy = [judge["accuracy"]["value"] for judge in found["judges"]]
    assert min(accuracy) > 0.9, "three colours are distinguished"
    last = {key: lines[-1][f"ema_{key}"] for key in ("agreement", "coverage", "recognisable")}
    assert last == {key: pytest.approx(found[key]["value"], abs=1e-6) for key in last}, "as while it was trained"
    assert not distgan.ok("eval", "run", *EVAL).stderr.count("training"), "the judges are kept"

    two = measured(distgan, "run", "--processes", 2, "--out", "two")
    assert {key: two[key] for key in ("agreement", "coverage", "matrix", "kl")} == {
        key: found[key] for key in ("agreement", "coverage", "matrix", "kl")
    }
    distgan.ok("sample", "run", "--num", 75, "--out", "drawn.npz")
    drawn = measured(distgan, "drawn.npz", "--data", "own", "--out", "npz")
    assert drawn["source"]["is_test_seen"] is None, "nobody knows"
    assert drawn["matrix"] == found["matrix"]

    many = distgan.ok("eval", "run", "--num", 100, *EVAL, "--out", "many").stderr
    assert "warning: --num: " in many
    assert "(100). Evaluating 75" in many

    distgan.ok("report", "run")
    page = (tmp_path / "run" / "report.html").read_text()
    text = " ".join(re.sub(r"<[^>]*>", " ", page).split())
    assert "(150 images, 16 x 16, colour, 3 classes)" in text
    assert "among those that G" in text
    assert "Class by class" in text
    assert all(f'<th scope="row">{name}</th>' in page for name in CLASSES)
    assert "2023" not in text
    assert page.count("data:image/png") >= 4, "samples and the pictures of the evaluation"
    assert "blue sky: " in distgan.ok("judge", "show", "--data", "own").stdout

    (tmp_path / "own" / "leaf" / "leaf-0.png").unlink()
    judges = next((cache / "distgan").glob("judges/images-*[0-9a-f]"))
    changed = distgan.ok("eval", "run", *EVAL, "--judges", judges)
    assert "have changed" in changed.stdout


def test_images_without_labels_are_measured_by_clusters(distgan: Run, tmp_path: Path) -> None:
    write(tmp_path / "own", has_classes=False)
    said = distgan.ok("judge", "train", "--data", "own", "--epochs", 2).stdout
    assert re.search(r"^wide: .* of 7\d test images right", said, flags=re.M)
    distgan.ok("train", "--preset", "images-fast-unlabelled", *QUICK, "--max-steps", 4)
    distgan.ok("report", "run", "--num", 70)
    found = json.loads((tmp_path / "run" / "eval" / "eval.json").read_text())
    assert (found["class_noun"], found["agreement"], found["gan_train"]) == ("cluster", None, None)
    assert sum(found["expected_shares"]) == pytest.approx(1)
    text = (tmp_path / "run" / "report.html").read_text()
    assert "Cluster by cluster" in text
    assert f"{len(found['shares'])} clusters" in text


def test_own_images_that_cannot_be_measured_end_in_one_line(distgan: Run, tmp_path: Path) -> None:
    write(tmp_path / "own", has_classes=True)
    for path in list((tmp_path / "own").glob("*/*-[1-4]?.png")):
        path.unlink()
    train = ("train", "--preset", "images-fast", *QUICK, "--max-steps", 2)
    assert_user_error(distgan(*train, "--eval-every", 1), "own: ... (30)", code="not-measurable")
    assert not (tmp_path / "run").exists()
    assert_user_error(distgan(*train, "--eval-every", 1, "--dry-run"), "own: ... (30)", code="not-measurable")
    targets = (*train, "--stop-at", "mnist")
    assert_user_error(distgan(*targets), "--stop-at: ... (mnist)", code="setting-not-applicable")
    assert_user_error(distgan(*targets, "--dry-run"), "--stop-at: ... (mnist)", code="setting-not-applicable")
    distgan.ok(*train)
    assert_user_error(distgan("eval", "run"), "own: ... (30)", code="not-measurable")
    assert "own: too few" in distgan.ok("report", "run").stderr
    assert_user_error(distgan("eval", "run", "--data", "digits"), "28 x 28, grey ... 16 x 16, colour", code="mismatch")
