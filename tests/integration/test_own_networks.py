"""A user's file from the first check to the report: the pages' example, the example for colour, killed and resumed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.doctor import states, words
from helpers.own_architectures import HEAD, TRAINS
from helpers.own_networks import write_pair
from helpers.readme_commands import own_networks_example
from helpers.runs import BIN, ROOT, Run, Start, assert_same_run, assert_user_error, fits, wait_for

SHORT = ("--batch-size", "64", "--log-every", "5", "--tracker", "none", "--threads", "1", "--sample-epochs", "9")


def test_the_example_of_the_page_trains_is_killed_resumes_and_is_judged(
    distgan: Run, start: Start, tmp_path: Path
) -> None:
    example = own_networks_example()
    (tmp_path / "my_gan.py").write_text(example)
    assert sum(bool(line.strip()) for line in example.splitlines()) <= 25
    named = ("--networks", "my_gan.py")
    train = ("train", "--preset", "cgan-quick", "--data", "digits", *SHORT, *named, "--model-arg", "width=32")
    train = (*train, "--save-every-steps", "5", "--max-steps", "40")
    distgan.ok(*train, "--out", "straight")
    process = start(BIN / "distgan", *train, "--out", "mine")
    wait_for(lambda: (tmp_path / "mine/checkpoints/step-00000010").exists(), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert_user_error(distgan("train", "--out", "mine"), code="networks-not-trusted")
    distgan.ok("train", "--out", "mine", *named, "--max-steps", "40")
    assert_same_run(tmp_path / "straight", tmp_path / "mine")
    distgan.ok("sample", "mine", "--trust-networks", "--num", 20, "--out", "grid.png")
    assert_user_error(distgan("eval", "mine", "--num", 500), code="networks-not-trusted")
    distgan.ok("eval", "mine", "--num", 500, "--no-gan-train", *named)
    distgan.ok("report", "mine", "--no-eval")
    page = (tmp_path / "mine/report.html").read_text()
    assert "my_gan.py" in page


@pytest.mark.parametrize("has_classes", [True, False])
def test_the_example_for_colour_trains_on_own_images(distgan: Run, tmp_path: Path, has_classes: bool) -> None:
    example = ROOT / "examples" / "colour_gan.py"
    assert len(example.read_text().splitlines()) < 60
    pixels = np.random.default_rng(0).integers(0, 256, (90, 24, 32, 3), dtype=np.uint8)
    labels = {"labels": np.arange(90) % 3} if has_classes else {}
    np.savez(tmp_path / "mine.npz", images=pixels, **labels)
    preset = "images-fast" if has_classes else "images-fast-unlabelled"
    flags = ("--preset", preset, "--networks", example, "--data", "mine.npz", "--model-arg", "width=4")
    distgan.ok("train", *flags, *SHORT[2:], "--batch-size", 16, "--max-steps", 4, "--out", "run", "--processes", 2)
    distgan.ok("sample", "run", "--num", 6, "--networks", example, "--out", "drawn.npz")
    with np.load(tmp_path / "drawn.npz") as drawn:
        assert drawn["images"].shape == (6, 24, 32, 3)
    assert (tmp_path / "run/networks/colour_gan.py").read_bytes() == example.read_bytes()


def test_the_working_folder_is_none_to_import_from(tmp_path: Path) -> None:
    """By `python -m distgan` as by `distgan` and in the processes that they start."""
    path = write_pair(tmp_path / "lab", "my_gan.py", ("import torch\n", "import torch\nimport in_working_folder\n"))
    (tmp_path / "in_working_folder.py").write_text("")
    train = ("train", "--preset", "cgan-quick", "--data", "digits", "--networks", str(path), "--dry-run")
    environment = os.environ | {"COLD_START": "all"}
    command = (sys.executable, "-m", "distgan", *train)
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert_user_error(result, code="bad-networks")


def test_ranks_that_build_other_networks_end_with_one_line(distgan: Run, tmp_path: Path) -> None:
    change = ("Generator(spec, width)\n\n", "Generator(spec, width + int(os.environ['RANK']))\n\n")
    write_pair(tmp_path, "my_gan.py", ("import torch\n", "import os\nimport torch\n"), change)
    flags = ("--preset", "cgan-quick", "--data", "digits", *SHORT, "--networks", "my_gan.py", "--processes", 2)
    result = distgan("train", *flags, "--max-steps", 2, "--out", "run")
    assert_user_error(result, "rank 1: generator.main.0.weight ...", code="ranks-differ")
    assert not (tmp_path / "run").exists()


def test_doctor_proves_what_takes_two_processes(distgan: Run, tmp_path: Path) -> None:
    write_pair(tmp_path)
    found = states(distgan.ok("doctor", "--networks", "my_gan.py").stdout)
    assert found == {
        "file": "ok",
        "images": "note",
        "contract": "ok",
        "precisions": "ok",
        "engines": "ok",
        "processes": "ok",
    }
    images = np.zeros((20, 3, 16, 16), dtype=np.uint8)
    np.savez(tmp_path / "colour.npz", images=images)
    (tmp_path / "dcgan.py").write_text(HEAD + TRAINS["dcgan"][0])
    flags = ("--networks", "dcgan.py", "--data", "colour.npz", "--model", "vanilla", "--model-arg", "num=4")
    report = json.loads(distgan.ok("doctor", *flags, "--json").stdout)
    assert report["can_train"]
    assert {check["what"]: check["state"] for check in report["checks"]}["processes"] == "ok"
    assert any("separate passes" in check["text"] for check in report["checks"])


def test_doctor_takes_steps_with_the_loss_of_the_file(distgan: Run, tmp_path: Path) -> None:
    path = write_pair(tmp_path)
    loss = "from distgan.config.registry import LOSSES, Loss\n\ndef of_d(real, fake):\n    raise ValueError('mine')\n\n"
    path.write_text(path.read_text() + loss + "def build_loss():\n    return Loss('', of_d, LOSSES['bce'].g_loss)\n")
    result = distgan("doctor", "--networks", "my_gan.py")
    assert result.returncode == 1
    found = words(result.stdout)
    assert "--loss own" in found
    assert "ValueError: mine" in found


def test_doctor_names_what_breaks_the_contract(distgan: Run, tmp_path: Path) -> None:
    write_pair(tmp_path, "my_gan.py", ("nn.Tanh()", "nn.Identity()"))
    result = distgan("doctor", "--networks", "my_gan.py")
    assert result.returncode == 1
    assert states(result.stdout)["contract"] == "problem"
    assert "Expected: images in [-1, 1]" in words(result.stdout)
    result = distgan("doctor", "--networks", "nowhere.py")
    assert result.returncode == 1
    assert states(result.stdout) == {"contract": "problem"}
    assert fits("--networks nowhere.py: ... nowhere.py)", words(result.stdout))


def test_deepspeed_trains_them(distgan: Run, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    write_pair(tmp_path)
    flags = ("--preset", "cgan-quick", "--data", "digits", *SHORT, "--networks", "my_gan.py", "--zero-stage", 2)
    distgan.ok("train", *flags, "--max-steps", 3, "--out", "run", "--processes", 2)
    distgan.ok("train", *flags, "--max-steps", 5, "--out", "run", "--processes", 2)
