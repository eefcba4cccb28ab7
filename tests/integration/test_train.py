"""Full runs through the real command lines."""

import json
import sys
from pathlib import Path

import pytest
import torch
from helpers.runs import TESTS, TINY, MonkeyPatch, Run, assert_same_run, checkpoint, fits, losses, quick
from PIL import Image
from safetensors.torch import load_file

from distgan.utils.files import read_metrics, read_tensors
from distgan.utils.hardware import emulates_bf16

KEYS = {"step", "epoch", "d_loss", "g_loss", "real_logits", "fake_logits"}
KEYS |= {"images_per_s", "elapsed_s", "peak_memory_gib"}


@pytest.mark.parametrize("model", ["vanilla", "cgan"])
def test_seed_preset_end_to_end(distgan: Run, tmp_path: Path, data_flags: tuple[str, ...], model: str) -> None:
    """The report's networks at full width on real data, three steps of them."""
    result = distgan.ok(
        "train", "--model", model, *data_flags, "--batch-size", 32, "--max-steps", 3, "--log-every", 1,
        "--sample-epochs", "0", "--out", "run",
    )  # fmt: skip
    run = tmp_path / "run"
    lines = read_metrics(run / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert set(lines[0]) - {"data"} == KEYS
    assert all(line["images_per_s"] > 0 and line["peak_memory_gib"] > 0 for line in lines)

    config = json.loads((run / "config.json").read_text())
    assert config["model"]["name"] == model
    assert config["data"]["name"] == data_flags[1]
    environment = json.loads((run / "environment.json").read_text())
    assert environment["world_size"] == 1
    assert environment["engine"]["name"] == "eager"
    assert environment["data"]["num_images"] == (60_000 if data_flags[1] == "mnist" else 17_970)
    assert len(environment["data"]["fingerprint"]) == 16
    assert environment["startup_s"]["total"] >= environment["startup_s"]["first_step"] > 0
    assert environment["versions"]["torch"] == torch.__version__.split("+")[0]

    sizes = {"vanilla": (2_305_472, 219_393), "cgan": (2_430_912, 236_545)}[model]
    for name, size in zip(("generator", "discriminator"), sizes, strict=True):
        weights = load_file(run / "weights" / f"{name}.safetensors")
        assert sum(w.numel() for key, w in weights.items() if "running" not in key and "num_" not in key) == size
        assert not [key for key in weights if key.startswith(("module.", "_orig_mod."))]
    assert not (run / "weights" / "generator_ema.safetensors").exists(), "the seed has no moving average"
    assert json.loads((run / "weights" / "config.json").read_text()) == config

    assert sorted(path.stem for path in (run / "samples").iterdir()) == ["epoch-0000", "epoch-0000-step-0000003"]
    for picture in ("timeline.png", "timeline.gif", "losses.png"):
        with Image.open(run / picture) as opened:
            opened.verify()
    with Image.open(run / "timeline.gif") as gif:
        assert gif.n_frames == 2
    tag = {"vanilla": "GAN- Generated Samples", "cgan": "C-GAN Generated Samples"}[model]
    assert image_tags(run / "tensorboard") == [tag]
    for path in ("timeline.png", "losses.png", "weights", "distgan sample"):
        assert path in result.stderr
    assert "\x1b[" not in result.stderr, "no colours outside a terminal"
    assert not list(run.rglob(".*")), "nothing temporary stays"


def image_tags(folder: Path) -> list[str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    assert {"d_loss", "g_loss"} <= set(events.Tags()["scalars"])
    return events.Tags()["images"]


def test_samples_come_at_the_named_epochs_and_at_the_end(distgan: Run, tmp_path: Path) -> None:
    distgan.ok(
        "train", "--preset", "cgan-quick", "--data", "digits", *TINY, "--width", 0.02, "--latent-dim", 4,
        "--batch-size", 6000, "--epochs", 3, "--sample-epochs", "1,99", "--out", "run",
    )  # fmt: skip
    names = sorted(path.name for path in (tmp_path / "run" / "samples").iterdir())
    assert names == ["epoch-0001.png", "epoch-0003.png"]
    epochs = [line["epoch"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert [epoch for epoch in epochs if epoch % 1 == 0] == [1, 2, 3]


def test_digits_are_called_not_mnist_in_every_output(distgan: Run, tmp_path: Path) -> None:
    result = distgan.ok(
        "train", "--preset", "cgan-quick", "--data", "auto", "--data-mirror", "http://127.0.0.1:9", *TINY,
        "--max-steps", 2, "--out", "run",
    )  # fmt: skip
    run, notice = tmp_path / "run", "scikit-learn's 8x8 digits, NOT MNIST"
    assert result.stderr.count("NOT MNIST") == 2, "at the start and at the end"
    assert json.loads((run / "config.json").read_text())["data"]["name"] == "digits"
    assert json.loads((run / "environment.json").read_text())["data"]["notice"] == notice
    assert all(line["data"] == notice for line in read_metrics(run / "metrics.jsonl"))
    for name in ("generator", "discriminator", "generator_ema"):
        assert read_tensors(run / "weights" / f"{name}.safetensors")[1]["notice"] == notice
    # The pictures have a line of text in the colour of a warning.
    for path in [*(run / "samples").iterdir(), run / "timeline.png"]:
        with Image.open(path) as picture:
            colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24)}
        assert (255, 196, 64) in colours, path
    sampled = distgan("sample", "run", "--num", 10)
    assert notice in sampled.stdout


def test_runs_without_a_name_get_a_new_one(distgan: Run, tmp_path: Path) -> None:
    for _ in range(2):
        distgan.ok("train", "--preset", "vanilla-quick", "--data", "digits", *TINY, "--max-steps", 2)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["vanilla-quick-1", "vanilla-quick-2"]


def test_same_seed_same_bits_and_another_seed_another_run(distgan: Run, tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        distgan.ok("train", *quick(name, "--seed", seed, "--dropout", 0.3))
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert losses(tmp_path / "a") != losses(tmp_path / "c")


def test_bf16_trains_and_leaves_float32(distgan: Run, trained: Path, tmp_path: Path) -> None:
    result = distgan.ok("train", *quick("bf16", "--precision", "bf16"))
    assert ("warning: --precision bf16: " in result.stderr) == emulates_bf16()
    assert json.loads((tmp_path / "bf16" / "environment.json").read_text())["precision"] == "bf16"
    floats = {w.dtype for w in load_file(tmp_path / "bf16" / "weights" / "generator.safetensors").values()}
    assert floats == {torch.float32, torch.int64}
    assert losses(tmp_path / "bf16") != losses(trained), "bf16 rounds"
    first, plain = losses(tmp_path / "bf16")[0], losses(trained)[0]
    assert first[1:] == pytest.approx(plain[1:], rel=0.1, abs=0.05)


def test_nan_stops_the_run_and_keeps_the_last_good_state(distgan: Run, tmp_path: Path) -> None:
    result = distgan("train", *quick("run", "--g-lr", "1e30", "--d-lr", "1e30", "--max-steps", "40"))
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    (message,) = [line for line in result.stderr.splitlines() if line.startswith("distgan: ")]
    assert "nan" in message or "inf" in message
    assert fits("step 0, ... run", message)
    tensors, step = checkpoint(tmp_path / "run")
    assert step == 0
    assert all(value.isfinite().all() for value in tensors.values())
    assert (tmp_path / "run" / "weights" / "generator.safetensors").exists()
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        assert "NaN" not in line


def test_accelerates_other_settings_are_set_aside(
    distgan: Run, trained: Path, tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_MEGATRON_LM", "ACCELERATE_USE_PARALLELISM_CONFIG"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    (warning,) = [line for line in distgan.ok("train", *quick("set")).stderr.splitlines() if ": ignored" in line]
    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_MEGATRON_LM", "ACCELERATE_USE_PARALLELISM_CONFIG"):
        assert f"{name}=true" in warning
    assert "ACCELERATE_DYNAMO_BACKEND=INDUCTOR" in warning
    assert losses(tmp_path / "set") == losses(trained)


def test_a_system_that_is_not_posix_trains_resumes_and_samples(run: Run, tmp_path: Path) -> None:
    run.ok(sys.executable, TESTS / "helpers" / "without_posix.py", tmp_path)
    assert checkpoint(tmp_path / "run")[1] == 5
    assert (tmp_path / "images.npz").exists()
