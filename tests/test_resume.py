"""Going on: to the same bits, on another number of processes, and only as the same run."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import (
    BIN,
    ON_CPU,
    ROOT,
    SCRIPT,
    TINY,
    Run,
    assert_same_run,
    assert_user_error,
    checkpoint,
    losses,
    quick,
    wait_for,
)
from resume_matrix import CASES
from torch import Tensor

from distgan.checkpoint.manager import Saver
from distgan.checkpoint.resume import checkpoints_in, newest_valid
from distgan.distributed.runtime import Runtime
from distgan.errors import UserError
from distgan.runs.run_dir import lock, read_status
from distgan.utils.files import read_metrics

TWO = (BIN / "torchrun", "--nproc-per-node", 2, "--standalone", SCRIPT)


# -- exactly -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", range(2))
def test_every_recipe_goes_on_to_the_same_bits(run: Run, tmp_path: Path, part: int) -> None:
    """Each model, loss, order of updates and schedule, and stops in the middle of an epoch."""
    share = len(CASES) // 2
    for half in ("first", "second"):
        result = run(
            sys.executable, ROOT / "tests" / "resume_matrix.py", half, tmp_path, part * share, (part + 1) * share
        )
        assert result.returncode == 0, result.stderr
    compared = 0
    for name in CASES:
        if (tmp_path / f"{name}-straight").exists():
            assert_same_run(tmp_path / f"{name}-straight", tmp_path / f"{name}-broken")
            compared += 1
    assert compared == share >= 30


@pytest.mark.parametrize("stop", [3, 71])
def test_resume_is_bitwise_equal(distgan: Run, tmp_path: Path, stop: int) -> None:
    """In the middle of an epoch of 71 steps and at its end; a line every 4 steps."""
    flags = ("--batch-size", 256, "--epochs", 2, "--sample-epochs", "2", "--dropout", 0.3)
    long = ("--preset", "cgan-quick", "--data", "digits", *TINY, *flags, "--log-every", "4")
    assert distgan("train", *long, "--out", "straight").returncode == 0
    assert distgan("train", *long, "--out", "broken", "--max-steps", stop).returncode == 0
    assert checkpoint(tmp_path / "broken")[1] == stop
    assert read_metrics(tmp_path / "broken" / "metrics.jsonl")[-1]["step"] == stop, "a person sees the last step"
    result = distgan("train", "--out", "broken", "--epochs", 2)
    assert result.returncode == 0, result.stderr
    assert f"going on at step {stop} (from broken/checkpoints/step-{stop:08})" in result.stderr
    assert_same_run(tmp_path / "straight", tmp_path / "broken")


def test_real_digits_at_full_width_go_on_to_the_same_bits(distgan: Run, tmp_path: Path, data_flags: tuple) -> None:
    flags = ("--model", "cgan", *data_flags, "--batch-size", 32, "--tracker", "none", "--log-every", 3)
    assert distgan("train", *flags, "--max-steps", 5, "--out", "straight").returncode == 0
    assert distgan("train", *flags, "--max-steps", 2, "--out", "broken").returncode == 0
    assert distgan("train", *flags, "--max-steps", 5, "--out", "broken").returncode == 0
    assert_same_run(tmp_path / "straight", tmp_path / "broken")


def test_metrics_have_each_step_once_after_a_kill(
    start: Callable[..., subprocess.Popen[str]], distgan: Run, tmp_path: Path
) -> None:
    flags = ("--preset", "cgan-quick", "--data", "digits", *TINY, "--epochs", 1, "--log-every", 1,
             "--save-every-steps", 25, "--sample-epochs", "9", "--tracker", "tensorboard", "--out", "run")  # fmt: skip
    process = start(BIN / "distgan", "train", *flags)
    metrics = tmp_path / "run" / "metrics.jsonl"
    wait_for(lambda: len(read_metrics(metrics)) > 60, process)
    process.kill()
    process.wait()
    assert read_status(tmp_path / "run")["state"] == "running", "a killed run can't say that it was"
    with metrics.open("a") as file:
        file.write('{"step": 700, "d_lo')  # cut short
    step = checkpoint(tmp_path / "run")[1]
    assert step % 25 == 0
    assert step <= read_metrics(metrics)[-1]["step"]
    result = distgan("train", "--out", "run")
    assert result.returncode == 0, result.stderr
    assert f"going on at step {step}" in result.stderr
    assert [line["step"] for line in read_metrics(metrics)] == list(range(1, 563))
    assert read_status(tmp_path / "run")["state"] == "done"
    assert not list((tmp_path / "run").rglob(".*"))
    assert_no_step_twice(tmp_path / "run" / "tensorboard")


def assert_no_step_twice(folder: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    steps = [event.step for event in events.Scalars("d_loss")]
    assert steps == sorted(set(steps))
    assert len(steps) == 562


def test_pending_numbers_survive_a_change_of_the_cadence(distgan: Run, tmp_path: Path) -> None:
    """A line is the mean of all steps since the last one, whatever stopped in between."""
    assert distgan("train", *quick("straight", "--max-steps", 9, "--log-every", 9)).returncode == 0
    assert distgan("train", *quick("broken", "--max-steps", 4, "--log-every", 99)).returncode == 0
    assert distgan("train", *quick("broken", "--max-steps", 9, "--log-every", 9)).returncode == 0
    assert losses(tmp_path / "straight") == losses(tmp_path / "broken")


def test_random_states_of_every_rank_come_back(run: Run, tmp_path: Path) -> None:
    assert run(*TWO, *quick("run")).returncode == 0
    tensors, _ = checkpoint(tmp_path / "run")
    assert {key for key in tensors if key.startswith("random.")} == {"random.rank0.cpu", "random.rank1.cpu"}
    runtime = Runtime(ON_CPU)
    runtime.load_random_states({"cpu": tensors["random.rank0.cpu"]}, "here")
    assert torch.equal(torch.get_rng_state(), tensors["random.rank0.cpu"])
    torch.rand(3)
    assert not torch.equal(torch.get_rng_state(), tensors["random.rank0.cpu"])
    for hostile in (torch.zeros(3, dtype=torch.uint8), torch.zeros(5056), torch.zeros(5056, dtype=torch.uint8)):
        with pytest.raises(UserError, match="here: is no state of torch's generators"):
            runtime.load_random_states({"cpu": hostile}, "here")


def test_grad_scaler_comes_back(distgan: Run, tmp_path: Path) -> None:
    """fp16 needs a GPU; its scaler exists on a CPU as well."""
    assert distgan("train", *quick("run")).returncode == 0
    runtime = Runtime(ON_CPU)
    runtime._accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=7)
    found = newest_valid(tmp_path / "run" / "checkpoints")
    assert found is not None
    saver = saver_of(tmp_path / "run", runtime)
    state = saver._checkpoint([], {}).state
    assert state.grad_scaler is not None
    assert (state.grad_scaler["scale"], state.grad_scaler["growth_interval"]) == (1024.0, 7)
    runtime._accelerator.scaler = torch.amp.GradScaler("cpu")
    runtime.load_grad_scaler_state(json.loads(state.model_dump_json())["grad_scaler"], "here")
    assert runtime._accelerator.scaler.get_scale() == 1024.0
    with pytest.raises(UserError, match="here: is no state of torch's gradient scaler"):
        runtime.load_grad_scaler_state({"scale": 1.0}, "here")


def saver_of(folder: Path, runtime: Runtime) -> Saver:
    from distgan.checkpoint.resume import Identity
    from distgan.errors import Tolerance
    from distgan.training.gan import build_gan
    from distgan.training.metrics import MetricLog

    found = newest_valid(folder / "checkpoints")
    assert found is not None
    config, state = found[1].config, found[1].state
    gan = build_gan(config.model, config.optim, 0, runtime)
    tolerance = Tolerance(stops=False)
    log = MetricLog(folder, runtime, state.steps_per_epoch, None, tolerance)
    identity = Identity(state.data, state.steps_per_epoch, state.batch_size)
    return Saver(folder, config, runtime, gan, log, identity, None, tolerance)


def test_a_checkpoint_has_nothing_of_its_engine(distgan: Run, tmp_path: Path) -> None:
    """Networks that are compiled go on from it, to rounding, and leave a checkpoint of the same names."""
    assert distgan("train", *quick("run", "--dropout", 0)).returncode == 0
    results = []
    for is_compiled in (False, True):
        from distgan.training.step import build_step

        runtime = Runtime(ON_CPU)
        saver = saver_of(tmp_path / "run", runtime)
        found = newest_valid(tmp_path / "run" / "checkpoints")
        assert found is not None
        saver.gan.load_state(found[1].tensors, found[1].state.step, "here")
        if is_compiled:
            for network in (saver.gan.generator, saver.gan.discriminator):
                network.compile(backend="aot_eager")
        step = build_step(saver.gan, saver.config.optim, 0, total_steps=99)
        generator = torch.Generator().manual_seed(1)
        for _ in range(5):
            step(torch.rand(8, 1, 28, 28, generator=generator) * 2 - 1, torch.arange(8), range(8))
        results.append(saver.gan.state())
    eager, compiled = results
    assert eager.keys() == compiled.keys()
    assert not [key for key in compiled if "_orig_mod" in key or "module." in key]
    assert distance(eager, compiled) < 1e-5


# -- on another number of processes ------------------------------------------------------------------------


def distance(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The largest relative difference of a network's weights, all of them together."""
    gaps = []
    for name in ("generator.", "discriminator.", "generator_ema."):
        if not (keys := [key for key in ours if key.startswith(name)]):
            continue
        one, other = (torch.cat([t[key].double().flatten() for key in keys]) for t in (ours, theirs))
        gaps.append(float((one - other).norm() / one.norm()))
    return max(gaps)


@pytest.mark.parametrize(
    "flags",
    [
        # A batch of 3,000 of 17,970 images: over the end of an epoch, whose last batch is short.
        ("--preset", "cgan-quick", "--batch-size", 3000, "--width", 0.05, "--data", "digits"),
        pytest.param(
            ("--preset", "vanilla-quick", "--loss", "wgan-gp", "--order", "fresh", "--ema-decay", 0.9),
            marks=pytest.mark.slow,
        ),
        ("--preset", "cgan", "--loss", "r1", "--order", "simultaneous", "--penalty-weight", 0.1),
    ],
)
def test_one_then_two_then_one_process_is_the_unbroken_run(
    distgan: Run, run: Run, tmp_path: Path, data_flags: tuple[str, ...], flags: tuple[object, ...]
) -> None:
    """The same images, z, dropout masks and BatchNorm statistics: what is left is rounding.

    At the report's rates: at 1e-3 a change of 1e-8 grows to 2e-3 in 20 steps on one process too (LOG.md).
    """
    common = ("--width", 0.1, "--batch-size", 64, "--log-every", 1, "--threads", 1, "--tracker", "none",
              "--sample-epochs", "9", *data_flags, "--dropout", 0.3, "--g-lr", 2e-4, "--d-lr", 2e-4,
              *flags)  # fmt: skip
    assert distgan("train", *common, "--max-steps", 9, "--out", "straight").returncode == 0
    assert distgan("train", *common, "--max-steps", 3, "--out", "broken").returncode == 0
    result = run(*TWO, *common, "--max-steps", 7, "--out", "broken")
    assert result.returncode == 0, result.stderr
    assert "going on at step 3 (from broken/checkpoints/step-00000003), on 2 processes instead of 1" in result.stderr
    assert json.loads((tmp_path / "broken" / "environment.json").read_text())["world_size"] == 2
    assert distgan("train", *common, "--max-steps", 9, "--out", "broken").returncode == 0
    (ours, step), (theirs, _) = checkpoint(tmp_path / "broken"), checkpoint(tmp_path / "straight")
    assert step == 9
    assert 0 < distance(ours, theirs) < 1e-5, "equal to rounding, and not by standing still"
    lines = list(zip(losses(tmp_path / "broken"), losses(tmp_path / "straight"), strict=True))
    assert [ours[0] for ours, _ in lines] == list(range(1, 10))
    for ours_line, theirs_line in lines:
        assert ours_line[1:] == pytest.approx(theirs_line[1:], rel=1e-4, abs=1e-5)


# -- which checkpoint --------------------------------------------------------------------------------------


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(distgan: Run, tmp_path: Path) -> None:
    assert distgan("train", *quick("straight", "--max-steps", 8)).returncode == 0
    assert distgan("train", *quick("run", "--save-every-steps", 4)).returncode == 0
    folder = tmp_path / "run" / "checkpoints"
    damage(folder / "step-00000006" / "g_optim.safetensors")
    verified = distgan("checkpoint", "verify", "run")
    assert verified.returncode == 1
    assert "step-00000004: whole" in verified.stdout
    assert "g_optim.safetensors: its contents do not match the manifest's SHA-256" in verified.stdout
    assert "damaged" in distgan("checkpoint", "ls", "run").stdout

    named = distgan("train", "--resume", folder / "step-00000006", "--out", "branch")
    assert_user_error(named, "step-00000006/g_optim.safetensors: its contents do not match")
    result = distgan("train", *quick("run", "--max-steps", 8))
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert "warning: run/checkpoints/step-00000006/g_optim.safetensors: its contents do not match" in result.stderr
    assert "going on at step 4" in result.stderr
    assert (folder / "step-00000006.damaged").is_dir(), "it is not deleted"
    assert_same_run(tmp_path / "straight", tmp_path / "run")


def test_without_a_whole_checkpoint_nothing_starts_from_zero(distgan: Run, tmp_path: Path) -> None:
    assert distgan("train", *quick("run")).returncode == 0
    for path in checkpoints_in(tmp_path / "run" / "checkpoints"):
        damage(path / "generator.safetensors")
    before = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    result = distgan("train", *quick("run", "--max-steps", 8))
    assert_user_error(result, "generator.safetensors: its contents do not match", "holds no whole checkpoint")
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == before


def test_a_run_that_lost_its_checkpoints_does_not_start_from_zero(distgan: Run, tmp_path: Path) -> None:
    assert distgan("train", *quick("run")).returncode == 0
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    for _ in range(2):
        assert_user_error(distgan("train", *quick("run", "--max-steps", 8)), "holds no checkpoint, but the run in run")
        shutil.rmtree(tmp_path / "run" / "weights", ignore_errors=True)
    after = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert {path: data for path, data in before.items() if "weights" not in path.parts} == after


def test_a_checkpoint_named_from_inside_its_run_has_its_metrics(
    distgan: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert distgan("train", *quick("run")).returncode == 0
    (tmp_path / "run" / "link").symlink_to("checkpoints/step-00000006")
    assert distgan("train", "--resume", "run/link", "--max-steps", 8, "--out", "branch").returncode == 0
    assert [line["step"] for line in read_metrics(tmp_path / "branch" / "metrics.jsonl")] == [2, 4, 6, 8]


def test_hostile_metrics_beside_a_checkpoint_are_left_out(distgan: Run, tmp_path: Path) -> None:
    assert distgan("train", *quick("run")).returncode == 0
    metrics = tmp_path / "run" / "metrics.jsonl"
    metrics.write_text("[" * 200_000 + "\n" + metrics.read_text() + "5\n{}\n")
    assert distgan("train", "--resume", "run", "--max-steps", 8, "--out", "deep").returncode == 0
    metrics.unlink()
    os.mkfifo(metrics)
    result = distgan("train", "--resume", "run", "--max-steps", 8, "--out", "pipe", timeout=60)
    assert result.returncode == 0, result.stderr
    assert "metrics.jsonl: has 0 of the 3 lines before step 6" in result.stderr


def test_a_named_checkpoint_is_gone_on_from_in_a_new_folder(distgan: Run, tmp_path: Path) -> None:
    assert distgan("train", *quick("run", "--save-every-steps", 4, "--keep", 9)).returncode == 0
    before = checkpoint(tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "step-00000004"
    assert distgan("train", "--resume", path, "--max-steps", 6, "--out", "branch").returncode == 0
    ours, step = checkpoint(tmp_path / "branch")
    assert step == 6
    assert all(torch.equal(ours[key], before[0][key]) for key in ours)
    assert losses(tmp_path / "branch") == losses(tmp_path / "run")
    assert distgan("train", "--resume", "run", "--max-steps", 7, "--out", "other").returncode == 0
    assert checkpoint(tmp_path / "other")[1] == 7
    assert distgan("train", "--resume", path, "--max-steps", 5).returncode == 0
    assert checkpoint(tmp_path / "runs" / "cgan-1")[1] == 5 or list((tmp_path / "runs").iterdir())
    result = distgan("train", "--resume", path, "--out", "run")
    assert_user_error(result, "has checkpoints of its own, as step-00000006; allowed: --resume auto, or a new folder")
    assert_user_error(
        distgan("train", "--resume", "nowhere", "--out", "x"), "--resume nowhere: there is no config.json"
    )
    assert_user_error(distgan("train", "--resume", "run/samples", "--out", "x"), "there is no config.json")


def test_a_named_folder_that_lost_its_manifest_is_said(distgan: Run, tmp_path: Path) -> None:
    assert distgan("train", *quick("run")).returncode == 0
    path = tmp_path / "run" / "checkpoints" / "step-00000006"
    (path / "manifest.json").unlink()
    assert_user_error(distgan("train", "--resume", path, "--out", "x"), "manifest.json: can't be read")


def test_never_takes_only_a_new_folder(distgan: Run) -> None:
    assert distgan("train", *quick("run", "--resume", "never")).returncode == 0
    result = distgan("train", *quick("run", "--resume", "never"))
    assert_user_error(result, "--out run: is there already and is not overwritten", "--resume auto")


@pytest.mark.parametrize("log_every", [2, 4])
def test_resume_at_the_last_step_changes_nothing(distgan: Run, tmp_path: Path, log_every: int) -> None:
    """The last line of metrics.jsonl too, whether the cadence or the end has asked for it."""
    assert distgan("train", *quick("run", "--log-every", log_every)).returncode == 0
    run = tmp_path / "run"
    kept = [run / "timeline.png", run / "metrics.jsonl", *(run / "samples").iterdir()]
    kept += [path for path in (run / "checkpoints").rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in kept}
    assert len(before) == 22
    assert distgan("train", *quick("run", "--log-every", log_every)).returncode == 0
    assert {path: path.read_bytes() for path in kept} == before
    assert [line["step"] for line in read_metrics(run / "metrics.jsonl")] == ([2, 4, 6] if log_every == 2 else [4, 6])


def test_resume_of_a_new_folder_starts(distgan: Run, tmp_path: Path) -> None:
    assert distgan("train", *quick("run", "--resume", "auto")).returncode == 0
    assert checkpoint(tmp_path / "run")[1] == 6


def test_a_run_killed_before_its_config_can_start_again(distgan: Run, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in ("lock", ".writable", ".config.json-abcd1234.json", ".step-00000000-abcd1234"):
        (tmp_path / "run" / name).touch()
    assert distgan("train", *quick("run")).returncode == 0
    assert not list((tmp_path / "run").glob(".*"))


def test_a_killed_run_can_be_drawn_from(distgan: Run, tmp_path: Path) -> None:
    assert distgan("train", *quick("run")).returncode == 0
    whole = distgan("sample", "run", "--num", 10, "--out", "a.png")
    shutil.rmtree(tmp_path / "run" / "weights")
    for where in ("run", "run/checkpoints/latest", "run/checkpoints/step-00000006/generator_ema.safetensors"):
        result = distgan("sample", where, "--num", 10, "--out", "b.png")
        assert result.returncode == 0, result.stderr
        assert "NOT MNIST" in result.stdout
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert whole.returncode == 0
    damage(tmp_path / "run" / "checkpoints" / "step-00000006" / "generator_ema.safetensors")
    assert_user_error(distgan("sample", "run/checkpoints/latest"), "its contents do not match the manifest's SHA-256")


# -- only as the same run ----------------------------------------------------------------------------------


def test_resume_refuses_another_recipe(distgan: Run, tmp_path: Path) -> None:
    assert distgan("train", *quick("run")).returncode == 0
    result = distgan("train", *quick("run", "--g-lr", "0.5", "--dropout", "0.1", "--width", "0.2"))
    assert_user_error(
        result,
        "[optim] g_lr: 0.5, but the run in run has 0.001; allowed on resume: the same, or another by "
        "--allow-config-change",
        "[model] dropout: 0.1",
        "[model] width: 0.2, but the run in run has 0.1; allowed on resume: the same\n",
    )
    result = distgan("train", *quick("run", "--width", "0.2", "--allow-config-change"))
    assert_user_error(result, "[model] width: 0.2")
    free = ("--max-steps", "8", "--log-every", "4", "--save-every", 3, "--keep", 3, "--epochs", 7, "--threads", 2)
    result = distgan("train", *quick("run", *free))
    assert result.returncode == 0, result.stderr
    assert "warning: the rates fall to 0 over 7 epochs now, not 4" in result.stderr


def test_an_allowed_change_holds_from_then_on(distgan: Run, tmp_path: Path) -> None:
    assert distgan("train", *quick("run")).returncode == 0
    before = checkpoint(tmp_path / "run")[0]
    flags = ("--g-lr", "0.5", "--loss", "hinge", "--ema-decay", 0.5)
    result = distgan("train", *quick("run", *flags, "--allow-config-change", "--max-steps", 8))
    assert result.returncode == 0, result.stderr
    assert not torch.equal(
        before["generator.stem.0.weight"], checkpoint(tmp_path / "run")[0]["generator.stem.0.weight"]
    )
    assert distgan("train", "--out", "run", "--max-steps", 9).returncode == 0, "its own config has the change"
    assert_user_error(
        distgan("train", *quick("run", "--max-steps", 10)), "[optim] g_lr: 0.001, but the run in run has 0.5"
    )


def test_resume_refuses_another_batch_over_all_processes(distgan: Run, run: Run) -> None:
    flags = [*quick("run", "--per-rank-batch-size", 16)]
    del flags[flags.index("--batch-size") : flags.index("--batch-size") + 2]
    two = run(*TWO, *flags)
    assert two.returncode == 0, two.stderr
    result = distgan("train", *flags)
    assert_user_error(result, "its batch over all processes is 32, here it is 16")
    assert distgan("train", *quick("run")).returncode == 0, "--batch-size 32 is the same batch"


def test_resume_refuses_other_data(distgan: Run, tmp_path: Path, mnist_dir: Path) -> None:
    flags = ("--preset", "cgan-quick", *TINY, "--max-steps", 2, "--out", "run", "--data-md5", "accept")
    assert distgan("train", *flags, "--data", "mnist", "--data-dir", mnist_dir).returncode == 0
    raw = tmp_path / "other" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        data = bytearray((mnist_dir / "MNIST" / "raw" / name).read_bytes())
        data[-1] ^= 1
        (raw / name).write_bytes(data)
    result = distgan("train", *flags, "--data", "mnist", "--data-dir", tmp_path / "other")
    assert_user_error(result, "the fingerprint of its data is")
    assert_user_error(
        distgan("train", *flags, "--data", "digits"), "[data] name: 'digits', but the run in run has 'mnist'"
    )


def test_resume_keeps_the_launchers_precision(distgan: Run, run: Run, tmp_path: Path) -> None:
    result = run(BIN / "accelerate", "launch", "--num_processes", 1, "--mixed_precision", "bf16", SCRIPT, *quick("run"))
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "run" / "config.json").read_text())["run"]["precision"] == "bf16"
    assert distgan("train", "--out", "run", "--max-steps", 8).returncode == 0
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["precision"] == "bf16"
    result = distgan("train", *quick("run"))
    assert_user_error(result, "[run] precision: 'no', but the run in run has 'bf16'")


@pytest.mark.parametrize("text", ["[]", '{"run": 5}', "{", '{"model": {"wdth": 1}}'])
def test_resume_refuses_a_damaged_config(distgan: Run, tmp_path: Path, text: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(text)
    assert_user_error(distgan("train", *quick("run")), "run/config.json")


def test_a_second_run_in_the_folder_is_refused(run: Run, distgan: Run, tmp_path: Path) -> None:
    assert distgan("train", *quick("run")).returncode == 0
    code = (
        "import sys; from pathlib import Path; from distgan.errors import exit_code_of\n"
        "from distgan.run_folder import lock\n"
        "sys.exit(exit_code_of(lambda: lock(Path('run'), wait_s=0.3)))"
    )
    handle = lock(tmp_path / "run")
    try:
        pid = read_status(tmp_path / "run")["pid"]
        assert_user_error(run(sys.executable, "-c", code), f"--out run: process {pid} on ", "trains in it")
    finally:
        os.close(handle)
    assert run(sys.executable, "-c", code).returncode == 0, "a lock ends with its holder"


def test_a_run_takes_the_lock(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    process = start(BIN / "distgan", "train", *quick("run", "--max-steps", 500))
    wait_for(lambda: len(read_metrics(tmp_path / "run" / "metrics.jsonl")) > 2, process)
    with pytest.raises(UserError, match="trains in it"):
        lock(tmp_path / "run", wait_s=0)


def test_a_dry_run_says_where_it_would_go_on(distgan: Run, tmp_path: Path) -> None:
    assert distgan("train", *quick("run")).returncode == 0
    result = distgan("train", "--out", "run", "--dry-run")
    assert result.returncode == 0, result.stderr
    assert "step 6, from run/checkpoints/step-00000006" in result.stdout


# -- distgan checkpoint ------------------------------------------------------------------------------------


def test_checkpoint_ls_verify_and_diff(distgan: Run, tmp_path: Path) -> None:
    assert distgan("train", *quick("run", "--save-every-steps", 4, "--keep-best", "min:d_loss")).returncode == 0
    listed = distgan("checkpoint", "ls", "run")
    assert listed.returncode == 0
    first, second = (line for line in listed.stdout.splitlines() if "step-0" in line)
    assert "step-00000006" in first
    assert "latest" in first
    assert "step-00000004" in second
    assert "the run is done, step 6" in listed.stdout
    assert distgan("checkpoint", "verify", "run").stdout.count(": whole") == 2
    differs = distgan("checkpoint", "diff", "run")
    assert differs.returncode == 1
    assert "discriminator.safetensors  7 of 7" in differs.stdout
    same = distgan("checkpoint", "diff", "run", "run/checkpoints/step-00000006")
    assert same.returncode == 0
    assert "all tensors are equal to the bit" in same.stdout


def test_checkpoint_mistakes(distgan: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert_user_error(distgan("checkpoint", "look", "run"), "look: unknown action; allowed: ls, verify, diff")
    assert_user_error(distgan("checkpoint", "ls", "empty"), "empty: holds no checkpoint")
    assert_user_error(distgan("checkpoint", "verify", "nowhere"), "nowhere: holds no checkpoint")
    assert_user_error(distgan("checkpoint", "ls", "empty", "other"), "other: ls takes one folder")
    assert_user_error(distgan("checkpoint", "diff", "empty"), "empty: holds no checkpoint")
