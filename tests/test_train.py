"""Whole runs through the real command lines."""

import ctypes
import json
import os
import platform
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from conftest import BIN, ROOT, TINY, Run, assert_user_error
from PIL import Image
from safetensors.torch import load_file

from distgan.files import read_tensors
from distgan.metrics import read_metrics

SCRIPT = ROOT / "distgan" / "train.py"
KEYS = {
    "step",
    "epoch",
    "d_loss",
    "g_loss",
    "real_logits",
    "fake_logits",
    "images_per_s",
    "elapsed_s",
    "peak_memory_gib",
}


def checkpoint(folder: Path) -> tuple[dict[str, torch.Tensor], int]:
    tensors, metadata = read_tensors(folder / "checkpoint.safetensors")
    return tensors, int(metadata["step"])


def losses(folder: Path) -> list[tuple[float, ...]]:
    """Everything of metrics.jsonl that is not a clock."""
    return [tuple(line[key] for key in ("step", "d_loss", "g_loss", "real_logits", "fake_logits")) for line in
            read_metrics(folder / "metrics.jsonl")]  # fmt: skip


def assert_same_run(one: Path, other: Path) -> None:
    (ours, step), (theirs, their_step) = checkpoint(one), checkpoint(other)
    assert step == their_step
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert torch.equal(ours[key], theirs[key]), key
    assert losses(one) == losses(other)
    assert (one / "timeline.png").read_bytes() == (other / "timeline.png").read_bytes()


# -- what a run leaves -------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["vanilla", "cgan"])
def test_seed_preset_end_to_end(
    distgan: Run, tmp_path: Path, data_flags: tuple[str, ...], model: str
) -> None:
    """The report's networks at full width on real data, three steps of them."""
    result = distgan(
        "train", "--model", model, *data_flags, "--batch-size", 32, "--max-steps", 3, "--log-every", 1,
        "--sample-epochs", "0", "--out", "run",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
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
    assert environment["engine"] == "eager"
    assert environment["data"]["num_images"] == (60_000 if data_flags[1] == "mnist" else 17_970)
    assert len(environment["data"]["fingerprint"]) == 16
    assert environment["startup_s"]["total"] >= environment["startup_s"]["first_step"] > 0
    assert environment["versions"]["torch"] == torch.__version__.split("+")[0]

    sizes = {"vanilla": (2_305_472, 219_393), "cgan": (2_430_912, 236_545)}[model]
    for name, size in zip(("generator", "discriminator"), sizes, strict=True):
        weights = load_file(run / "weights" / f"{name}.safetensors")
        assert (
            sum(w.numel() for key, w in weights.items() if "running" not in key and "num_" not in key) == size
        )
        assert not [key for key in weights if key.startswith(("module.", "_orig_mod."))]
    assert not (run / "weights" / "generator_ema.safetensors").exists(), "the seed has no moving average"
    assert json.loads((run / "weights" / "config.json").read_text()) == config

    assert sorted(path.stem for path in (run / "samples").iterdir()) == [
        "epoch-0000",
        "epoch-0000-step-0000003",
    ]
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
    result = distgan(
        "train", "--preset", "cgan-quick", "--data", "digits", *TINY, "--batch-size", 6000, "--epochs", 4,
        "--sample-epochs", "1,3,99", "--out", "run",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (tmp_path / "run" / "samples").iterdir()) == [
        "epoch-0001.png", "epoch-0003.png", "epoch-0004.png"
    ]  # fmt: skip
    assert [line["epoch"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if line["epoch"] % 1 == 0] == [
        1, 2, 3, 4
    ]  # fmt: skip


def test_digits_are_called_not_mnist_in_every_output(distgan: Run, tmp_path: Path) -> None:
    result = distgan(
        "train", "--preset", "cgan-quick", "--data", "auto", "--data-mirror", "http://127.0.0.1:9", *TINY,
        "--max-steps", 2, "--out", "run",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
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
        result = distgan("train", "--preset", "vanilla-quick", "--data", "digits", *TINY, "--max-steps", 2)
        assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "vanilla-quick-1",
        "vanilla-quick-2",
    ]


# -- the doors to one program ------------------------------------------------------------------------------


def quick(out: str, *more: object) -> tuple[object, ...]:
    return ("--preset", "cgan-quick", "--data", "digits", *TINY, "--max-steps", 6, "--out", out, *more)


def test_every_door_trains_the_same_run(distgan: Run, run: Run, tmp_path: Path) -> None:
    """distgan train, the script under plain python, accelerate launch and torchrun: the same to the bit."""
    doors = {
        "distgan": (BIN / "distgan", "train"),
        "python": (BIN / "python", SCRIPT),
        "accelerate": (BIN / "accelerate", "launch", "--num_processes", 1, "--mixed_precision", "no", SCRIPT),
        "torchrun": (BIN / "torchrun", "--nproc-per-node", 1, "--standalone", SCRIPT),
    }
    for name, door in doors.items():
        result = run(*door, *quick(name))
        assert result.returncode == 0, result.stderr
        assert_same_run(tmp_path / name, tmp_path / "distgan")
        assert len(list((tmp_path / name).rglob("*.safetensors"))) == 4


def test_two_processes_train_one_run(run: Run, tmp_path: Path) -> None:
    door = (BIN / "torchrun", "--nproc-per-node", 2, "--standalone", SCRIPT)
    result = run(*door, *quick("two"))
    assert result.returncode == 0, result.stderr
    environment = json.loads((tmp_path / "two" / "environment.json").read_text())
    assert environment["world_size"] == 2
    assert [line["step"] for line in read_metrics(tmp_path / "two" / "metrics.jsonl")] == [2, 4, 6]
    assert result.stderr.count("writing to two") == 1, "one process speaks"
    again = run(*door, *quick("again"))
    assert again.returncode == 0, again.stderr
    assert_same_run(tmp_path / "two", tmp_path / "again")


def test_two_processes_give_the_gradients_of_one(distgan: Run, run: Run, tmp_path: Path) -> None:
    """One step of D on the same images and z: what DDP averages is the whole batch's gradient.

    Only G's BatchNorm sees half a batch; so D starts from slightly other fakes, and G's own step differs.
    """
    flags = ("--max-steps", 1, "--dropout", 0, "--log-every", 1)
    assert distgan("train", *quick("one", *flags)).returncode == 0
    door = (BIN / "torchrun", "--nproc-per-node", 2, "--standalone", SCRIPT)
    assert run(*door, *quick("two", *flags)).returncode == 0
    (one,), (two,) = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert two["real_logits"] == pytest.approx(one["real_logits"], rel=1e-5), "the same images"
    assert two["d_loss"] == pytest.approx(one["d_loss"], rel=1e-2)


def test_same_seed_same_bits_and_another_seed_another_run(distgan: Run, tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert distgan("train", *quick(name, "--seed", seed, "--dropout", 0.3)).returncode == 0
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert losses(tmp_path / "a") != losses(tmp_path / "c")


@pytest.mark.parametrize("order", ["simultaneous", "fresh"])
@pytest.mark.parametrize("loss", ["hinge", "wgan-gp", "r1"])
def test_every_order_and_loss_runs(distgan: Run, tmp_path: Path, order: str, loss: str) -> None:
    result = distgan("train", *quick("run", "--order", order, "--loss", loss, "--max-steps", 2))
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["order"] == order


def test_bf16_trains_and_leaves_float32(distgan: Run, tmp_path: Path) -> None:
    result = distgan("train", *quick("run", "--precision", "bf16"))
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["precision"] == "bf16"
    floats = {w.dtype for w in load_file(tmp_path / "run" / "weights" / "generator.safetensors").values()}
    assert floats == {torch.float32, torch.int64}
    assert distgan("train", *quick("plain")).returncode == 0
    assert losses(tmp_path / "run") != losses(tmp_path / "plain"), "bf16 rounds"
    first, plain = losses(tmp_path / "run")[0], losses(tmp_path / "plain")[0]
    assert first[1:] == pytest.approx(plain[1:], rel=0.1, abs=0.05)


# -- stopping and going on ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [3, 70, 71])
def test_resume_is_bitwise_equal(distgan: Run, tmp_path: Path, stop: int) -> None:
    """In the middle of an epoch of 71 steps, one step before its end and at it."""
    flags = ("--batch-size", 256, "--epochs", 2, "--sample-epochs", "1", "--dropout", 0.3)
    long = ("--preset", "cgan-quick", "--data", "digits", *TINY, *flags, "--log-every", "1")
    assert distgan("train", *long, "--out", "straight").returncode == 0
    assert distgan("train", *long, "--out", "broken", "--max-steps", stop).returncode == 0
    assert checkpoint(tmp_path / "broken")[1] == stop
    result = distgan("train", "--out", "broken", "--resume", "auto", "--epochs", 2)
    assert result.returncode == 0, result.stderr
    assert f"going on at step {stop}" in result.stderr
    assert_same_run(tmp_path / "straight", tmp_path / "broken")


def test_resume_refuses_another_recipe(distgan: Run) -> None:
    assert distgan("train", *quick("run")).returncode == 0
    result = distgan("train", *quick("run", "--resume", "auto", "--g-lr", "0.5", "--dropout", "0.1"))
    assert_user_error(result, "[optim] g_lr: 0.5, but the run in run has 0.001", "[model] dropout: 0.1")
    assert (
        distgan("train", *quick("run", "--resume", "auto", "--max-steps", "8", "--log-every", "4")).returncode
        == 0
    )


def test_resume_keeps_the_launchers_precision(distgan: Run, run: Run, tmp_path: Path) -> None:
    result = run(
        BIN / "accelerate", "launch", "--num_processes", 1, "--mixed_precision", "bf16", SCRIPT, *quick("run")
    )
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "run" / "config.json").read_text())["run"]["precision"] == "bf16"
    assert distgan("train", "--out", "run", "--resume", "auto", "--max-steps", 8).returncode == 0
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["precision"] == "bf16"
    result = distgan("train", *quick("run", "--resume", "auto"))
    assert_user_error(result, "[run] precision: 'no', but the run in run has 'bf16'")


def test_resume_at_the_last_step_changes_nothing(distgan: Run, tmp_path: Path) -> None:
    assert distgan("train", *quick("run")).returncode == 0
    run = tmp_path / "run"
    kept = [run / "timeline.png", run / "metrics.jsonl", *(run / "samples").iterdir()]
    before, (tensors, step) = {path: path.read_bytes() for path in kept}, checkpoint(run)
    assert len(before) == 4
    assert distgan("train", *quick("run", "--resume", "auto")).returncode == 0
    assert {path: path.read_bytes() for path in kept} == before
    again, same_step = checkpoint(run)
    assert step == same_step
    assert all(torch.equal(tensors[key], again[key]) for key in tensors)


def test_resume_refuses_another_batch_over_all_processes(distgan: Run, run: Run) -> None:
    flags = [*quick("run", "--per-rank-batch-size", 16)]
    del flags[flags.index("--batch-size") : flags.index("--batch-size") + 2]
    door = (BIN / "torchrun", "--nproc-per-node", 2, "--standalone", SCRIPT)
    assert run(*door, *flags).returncode == 0
    result = distgan("train", *flags, "--resume", "auto")
    assert_user_error(result, "its number of steps an epoch is 562, here it is 1124")


@pytest.mark.parametrize("text", ["[]", '{"run": 5}', "{", '{"model": {"wdth": 1}}'])
def test_resume_refuses_a_damaged_config(distgan: Run, tmp_path: Path, text: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(text)
    assert_user_error(distgan("train", *quick("run", "--resume", "auto")), "run/config.json")


def test_resume_of_a_new_folder_starts(distgan: Run, tmp_path: Path) -> None:
    assert distgan("train", *quick("run", "--resume", "auto")).returncode == 0
    assert checkpoint(tmp_path / "run")[1] == 6


def test_resume_refuses_a_damaged_checkpoint(distgan: Run, tmp_path: Path) -> None:
    assert distgan("train", *quick("run")).returncode == 0
    path = tmp_path / "run" / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    result = distgan("train", *quick("run", "--resume", "auto", "--max-steps", "8"))
    assert_user_error(result, "checkpoint.safetensors: is no whole safetensors file", "another --out")


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], timeout_s: float = 60) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "nothing happened in time"
        time.sleep(0.05)


@pytest.mark.parametrize(("signum", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_usable_run(
    start: Callable[..., subprocess.Popen[str]], distgan: Run, tmp_path: Path, signum: int, exit_code: int
) -> None:
    long = (
        "--preset",
        "cgan-quick",
        "--data",
        "digits",
        *TINY,
        "--epochs",
        1,
        "--sample-epochs",
        "9",
        "--out",
        "run",
    )
    process = start(BIN / "distgan", "train", *long)
    run = tmp_path / "run"
    wait_for(lambda: len(read_metrics(run / "metrics.jsonl")) > 2, process)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == exit_code, err
    assert "Traceback" not in err
    assert "go on with: distgan train --out run --resume auto" in err
    step = checkpoint(run)[1]
    assert 0 < step < 562
    assert read_metrics(run / "metrics.jsonl")[-1]["step"] == step
    for name in ("weights/generator.safetensors", "timeline.png", "losses.png"):
        assert (run / name).exists()
    assert distgan("sample", "run").returncode == 0

    # The command that it names goes on, and ends where an unbroken run does.
    assert distgan("train", "--out", "run", "--resume", "auto").returncode == 0
    assert distgan("train", *long[:-1], "straight").returncode == 0
    ours, theirs = checkpoint(run)[0], checkpoint(tmp_path / "straight")[0]
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert sorted(os.listdir(run / "samples")) == sorted(os.listdir(tmp_path / "straight" / "samples"))


def test_a_second_ctrl_c_leaves_at_once(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    process = start(
        BIN / "distgan", "train", "--model", "vanilla", "--data", "digits", "--batch-size", 2048, "--log-every", 1,
        "--tracker", "none", "--out", "run",
    )  # fmt: skip
    wait_for(lambda: len(read_metrics(tmp_path / "run" / "metrics.jsonl")) > 0, process, 120)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "distgan: interrupted" in err
    assert "Traceback" not in err


def test_one_signalled_rank_stops_both(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    process = start(
        BIN / "torchrun", "--nproc-per-node", 2, "--standalone", SCRIPT,
        "--preset", "cgan-quick", "--data", "digits", *TINY, "--epochs", 9, "--out", "run",
    )  # fmt: skip
    wait_for(lambda: len(read_metrics(tmp_path / "run" / "metrics.jsonl")) > 2, process)
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True
    ).stdout.split()
    ranks = [int(pid) for pid in children if "train.py" in Path(f"/proc/{pid}/cmdline").read_text()]
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert "distgan: stopped at step" in err
    assert checkpoint(tmp_path / "run")[1] == read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["step"] > 0


def test_nan_stops_the_run_and_keeps_the_last_good_state(distgan: Run, tmp_path: Path) -> None:
    result = distgan("train", *quick("run", "--g-lr", "1e30", "--d-lr", "1e30", "--max-steps", "40"))
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    (message,) = [line for line in result.stderr.splitlines() if line.startswith("distgan: ")]
    assert "is nan at step " in message or "is inf at step " in message
    assert "the last good state, of step 0, is kept in run" in message
    tensors, step = checkpoint(tmp_path / "run")
    assert step == 0
    assert all(value.isfinite().all() for value in tensors.values())
    assert (tmp_path / "run" / "weights" / "generator.safetensors").exists()
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        assert "NaN" not in line


def test_weights_that_are_no_numbers_are_never_saved(distgan: Run, tmp_path: Path) -> None:
    """The losses of a step are those of the weights before it: a last step may break them unseen."""
    result = distgan("train", *quick("run", "--g-lr", "1e38", "--max-steps", 1))
    assert result.returncode == 1, result.stderr
    assert "a weight is no number after step 1; the last good state, of step 0, is kept" in result.stderr
    assert all(value.isfinite().all() for value in checkpoint(tmp_path / "run")[0].values())


# -- disks -------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 5 MiB: room for a small checkpoint and the one that replaces it."""
    if platform.system() != "Linux" or os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root on Linux")
    libc, folder = ctypes.CDLL(None, use_errno=True), tmp_path / "disk"
    folder.mkdir()
    if libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, b"size=5m") != 0:
        pytest.skip(f"mount is not allowed here: {os.strerror(ctypes.get_errno())}")
    yield folder
    libc.umount2(str(folder).encode(), 2)


def test_full_disk_is_said_and_leaves_no_halves(distgan: Run, small_disk: Path) -> None:
    out = small_disk / "run"
    result = distgan(
        "train",
        "--preset",
        "cgan-quick",
        "--data",
        "digits",
        "--tracker",
        "none",
        "--max-steps",
        2,
        "--out",
        out,
    )
    assert_user_error(result, "checkpoint.safetensors: No space left on device")
    assert not list(out.rglob("*.safetensors")), "each file is whole or not there"
    assert not list(out.rglob(".*"))


def test_disk_that_fills_later_keeps_the_last_checkpoint(distgan: Run, small_disk: Path) -> None:
    out = small_disk / "run"
    flags = ("--preset", "cgan-quick", "--data", "digits", *TINY, "--out", out)
    assert distgan("train", *flags, "--max-steps", 2).returncode == 0
    before = (out / "checkpoint.safetensors").read_bytes()
    filler = small_disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        for _ in range(5 * 256):
            file.write(bytes(4096))
    result = distgan("train", *flags, "--max-steps", 4, "--resume", "auto")
    assert_user_error(result, "No space left on device")
    assert (out / "checkpoint.safetensors").read_bytes() == before
    filler.unlink()
    assert distgan("train", *flags, "--max-steps", 4, "--resume", "auto").returncode == 0
    assert checkpoint(out)[1] == 4


def test_launchers_do_not_take_the_threads_away(run: Run, tmp_path: Path) -> None:
    """accelerate launch sets OMP_NUM_THREADS=1, which would halve the speed on two cores."""
    flags = [*quick("run", "--max-steps", 2)]
    del flags[flags.index("--threads") : flags.index("--threads") + 2]
    result = run(BIN / "accelerate", "launch", "--num_processes", 1, SCRIPT, *flags)
    assert result.returncode == 0, result.stderr
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["threads"] == len(os.sched_getaffinity(0))
