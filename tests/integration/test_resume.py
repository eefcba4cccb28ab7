"""Resuming: to the same bits, from which checkpoint, and only as the same run."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from helpers.launchers import assert_recipes_resume
from helpers.runs import (
    BIN,
    ON_CPU,
    TINY,
    Run,
    Start,
    assert_same_run,
    assert_user_error,
    checkpoint,
    distance,
    expect_user_error,
    fits,
    losses,
    newest,
    quick,
    wait_for,
)

from distgan.checkpoint.manager import CheckpointManager
from distgan.checkpoint.resume import checkpoints_in
from distgan.distributed.runtime import Runtime
from distgan.errors import WriteErrorPolicy
from distgan.runs.run_dir import lock, read_status
from distgan.training.metrics import MetricLog
from distgan.training.session import Session
from distgan.training.step import build_step
from distgan.utils.files import read_metrics

SIX = "step-00000006"


def steps_of(run: Path) -> list[int]:
    return [line["step"] for line in read_metrics(run / "metrics.jsonl")]


# -- exactly -----------------------------------------------------------------------------------------------


def test_every_recipe_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """Each pair of a model, a loss, an order and a schedule, stopped anywhere; tests/slow has the rest."""
    assert_recipes_resume(tmp_path, 0)


def test_resume_is_bitwise_equal(distgan: Run, tmp_path: Path) -> None:
    """Pictures too, and a line every 4 steps."""
    flags = ("--sample-epochs", "2", "--dropout", 0.3, "--log-every", "4")
    distgan.ok("train", *quick("straight", *flags))
    distgan.ok("train", *quick("broken", *flags, "--max-steps", 3))
    assert checkpoint(tmp_path / "broken")[1] == 3
    assert steps_of(tmp_path / "broken")[-1] == 3, "a person sees the last step"
    result = distgan.ok("train", "--out", "broken", "--max-steps", 6)
    assert fits("resuming ... step 3 (from broken/checkpoints/step-00000003)", result.stderr)
    assert_same_run(tmp_path / "straight", tmp_path / "broken")


def test_metrics_have_each_step_once_after_a_kill(start: Start, distgan: Run, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    flags = ("--preset", "cgan-quick", "--data", "digits", *TINY, "--epochs", 1, "--log-every", 1,
             "--save-every-steps", 25, "--sample-epochs", "9", "--tracker", "tensorboard",
             "--max-steps", 300, "--out", "run")  # fmt: skip
    run = tmp_path / "run"
    process = start(BIN / "distgan", "train", *flags)
    wait_for(lambda: len(steps_of(run)) > 60, process)
    process.kill()
    process.wait()
    assert read_status(run)["state"] == "running", "a killed run can't say that it was"
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 700, "d_lo')  # cut short
    step = checkpoint(run)[1]
    assert step % 25 == 0
    assert step <= steps_of(run)[-1]
    assert fits(f"resuming ... step {step}", distgan.ok("train", "--out", "run", "--max-steps", 300).stderr)
    assert steps_of(run) == list(range(1, 301))
    assert read_status(run)["state"] == "done"
    assert not list(run.rglob(".*"))
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    assert [event.step for event in events.Scalars("d_loss")] == list(range(1, 301))


def test_pending_numbers_survive_a_change_of_the_cadence(distgan: Run, tmp_path: Path) -> None:
    """A line is the mean of all steps since the last one, whatever stopped in between."""
    for name, steps, every in (("straight", 9, 9), ("broken", 4, 99), ("broken", 9, 9)):
        distgan.ok("train", *quick(name, "--max-steps", steps, "--log-every", every))
    assert losses(tmp_path / "straight") == losses(tmp_path / "broken")


def saver_of(folder: Path, runtime: Runtime) -> CheckpointManager:
    session, tolerance = Session(newest(folder / "checkpoints")[1].config, runtime), WriteErrorPolicy(stops=False)
    return CheckpointManager(
        folder, session, MetricLog(folder, runtime, session.steps_per_epoch, None, tolerance), tolerance
    )


def test_grad_scaler_comes_back(trained: Path) -> None:
    """fp16 needs a GPU; its scaler exists on a CPU as well."""
    runtime = Runtime(ON_CPU)
    runtime._accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=7)
    state = saver_of(trained, runtime)._checkpoint([], {}).state
    assert state.grad_scaler is not None
    assert (state.grad_scaler["scale"], state.grad_scaler["growth_interval"]) == (1024.0, 7)
    runtime._accelerator.scaler = torch.amp.GradScaler("cpu")
    runtime.load_grad_scaler_state(json.loads(state.model_dump_json())["grad_scaler"], "here")
    assert runtime._accelerator.scaler.get_scale() == 1024.0
    with expect_user_error("here: ... [damaged-checkpoint]"):
        runtime.load_grad_scaler_state({"scale": 1.0}, "here")


def test_a_checkpoint_has_nothing_of_its_engine(distgan: Run, tmp_path: Path) -> None:
    """Networks that are compiled resume from it, to rounding, and leave a checkpoint of the same names."""
    distgan.ok("train", *quick("run", "--dropout", 0))
    results = []
    for is_compiled in (False, True):
        saver = saver_of(tmp_path / "run", Runtime(ON_CPU))
        _, last, _ = newest(tmp_path / "run" / "checkpoints")
        saver.gan.load_state(last.tensors, last.state.step, "here")
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


# -- which checkpoint --------------------------------------------------------------------------------------


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def contents(run: Path) -> dict[Path, bytes]:
    """All of a run's files but the weights, which are written anew."""
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and "weights" not in path.parts}


def test_a_damaged_checkpoint_gives_way_to_the_one_before(distgan: Run, tmp_path: Path) -> None:
    distgan.ok("train", *quick("straight", "--max-steps", 8))
    distgan.ok("train", *quick("run", "--save-every-steps", 4))
    folder = tmp_path / "run" / "checkpoints"
    damage(folder / SIX / "g_optim.safetensors")
    verified = distgan("checkpoint", "verify", "run")
    assert verified.returncode == 1
    assert "step-00000004: valid" in verified.stdout
    assert "g_optim.safetensors: " in verified.stdout
    assert "damaged" in distgan("checkpoint", "ls", "run").stdout

    named = distgan("train", "--resume", folder / SIX, "--out", "branch")
    assert_user_error(named, f"{SIX}/g_optim.safetensors: ... [damaged-checkpoint]")
    result = distgan.ok("train", *quick("run", "--max-steps", 8))
    assert "Traceback" not in result.stderr
    assert f"warning: run/checkpoints/{SIX}/g_optim.safetensors: " in result.stderr
    assert fits("resuming ... step 4 ", result.stderr)
    assert (folder / f"{SIX}.damaged").is_dir(), "it is not deleted"
    assert_same_run(tmp_path / "straight", tmp_path / "run")


def test_without_a_complete_checkpoint_nothing_starts_from_zero(distgan: Run, trained: Path) -> None:
    for path in checkpoints_in(trained / "checkpoints"):
        damage(path / "generator.safetensors")
    before = contents(trained)
    result = distgan("train", *quick("run", "--max-steps", 8))
    assert_user_error(result, "generator.safetensors: ... [no-checkpoint]")
    assert contents(trained) == before
    shutil.rmtree(trained / "checkpoints")
    before = contents(trained)
    for _ in range(2):
        assert_user_error(distgan("train", *quick("run", "--max-steps", 8)), code="no-checkpoint")
        shutil.rmtree(trained / "weights", ignore_errors=True)
    assert contents(trained) == before


def test_a_checkpoint_named_from_inside_its_run_has_its_metrics(distgan: Run, trained: Path, tmp_path: Path) -> None:
    (trained / "link").symlink_to(f"checkpoints/{SIX}")
    distgan.ok("train", "--resume", "run/link", "--max-steps", 8, "--out", "branch")
    assert steps_of(tmp_path / "branch") == [2, 4, 6, 8]


def test_hostile_metrics_beside_a_checkpoint_are_left_out(distgan: Run, trained: Path) -> None:
    metrics = trained / "metrics.jsonl"
    metrics.write_text("[" * 200_000 + "\n" + metrics.read_text() + "5\n{}\n")
    distgan.ok("train", "--resume", "run", "--max-steps", 8, "--out", "deep")
    metrics.unlink()
    os.mkfifo(metrics)
    result = distgan.ok("train", "--resume", "run", "--max-steps", 8, "--out", "pipe", timeout=60)
    assert fits("metrics.jsonl: ... 0 of ... 3 ... step 6", result.stderr)


def test_a_named_checkpoint_is_gone_on_from_in_a_new_folder(distgan: Run, tmp_path: Path) -> None:
    distgan.ok("train", *quick("run", "--save-every-steps", 4, "--keep", 9))
    before = checkpoint(tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "step-00000004"
    distgan.ok("train", "--resume", path, "--max-steps", 6, "--out", "branch")
    ours, step = checkpoint(tmp_path / "branch")
    assert step == 6
    assert all(torch.equal(ours[key], before[0][key]) for key in ours)
    assert losses(tmp_path / "branch") == losses(tmp_path / "run")
    distgan.ok("train", "--resume", "run", "--max-steps", 7, "--out", "other")
    assert checkpoint(tmp_path / "other")[1] == 7
    distgan.ok("train", "--resume", path, "--max-steps", 5)
    (unnamed,) = (tmp_path / "runs").iterdir()
    assert checkpoint(unnamed)[1] == 5
    own = f"as {SIX} ... --resume auto"
    for where, out, words in (
        (path, "run", own),
        ("nowhere", "x", "--resume: ... (nowhere) ... [no-run]"),
        ("run/samples", "x", "--resume: ... [no-run]"),
    ):
        assert_user_error(distgan("train", "--resume", where, "--out", out), words)
    (path / "manifest.json").unlink()
    assert_user_error(distgan("train", "--resume", path, "--out", "x"), "manifest.json: ... [damaged-checkpoint]")


def test_never_takes_only_a_new_folder(distgan: Run) -> None:
    distgan.ok("train", *quick("run", "--resume", "never"))
    result = distgan("train", *quick("run", "--resume", "never"))
    assert_user_error(result, "--out: ... (run) ... --resume auto [output-exists]")


@pytest.mark.parametrize(("log_every", "steps"), [(2, [2, 4, 6]), (4, [4, 6])])
def test_resume_at_the_last_step_changes_nothing(
    distgan: Run, tmp_path: Path, log_every: int, steps: list[int]
) -> None:
    """The last line of metrics.jsonl too, whether the cadence or the end has requested it."""
    distgan.ok("train", *quick("run", "--log-every", log_every))
    run = tmp_path / "run"
    kept = [run / "timeline.png", run / "metrics.jsonl", *(run / "samples").iterdir()]
    kept += [path for path in (run / "checkpoints").rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in kept}
    assert len(before) == 22
    distgan.ok("train", *quick("run", "--log-every", log_every))
    assert {path: path.read_bytes() for path in kept} == before
    assert steps_of(run) == steps


def test_a_killed_run_can_be_drawn_from(distgan: Run, trained: Path, tmp_path: Path) -> None:
    distgan.ok("sample", "run", "--num", 10, "--out", "a.png")
    shutil.rmtree(trained / "weights")
    for where in ("run", "run/checkpoints/latest", f"run/checkpoints/{SIX}/generator_ema.safetensors"):
        assert "NOT MNIST" in distgan.ok("sample", where, "--num", 10, "--out", "b.png").stdout
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    damage(trained / "checkpoints" / SIX / "generator_ema.safetensors")
    assert_user_error(distgan("sample", "run/checkpoints/latest"), code="damaged-checkpoint")


# -- only as the same run ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("trained")
def test_resume_rejects_another_recipe(distgan: Run) -> None:
    assert_user_error(
        distgan("train", *quick("run", "--g-lr", "0.5", "--dropout", "0.1", "--width", "0.2")),
        "[optim] g_lr: ... 0.001 (0.5) ... --allow-config-change",
        "[model] dropout: ... (0.1)",
        "[model] width: ... 0.1 (0.2)",
        code="resume-mismatch",
    )
    assert_user_error(
        distgan("train", *quick("run", "--width", "0.2", "--allow-config-change")), "[model] width: ... (0.2)"
    )
    free = ("--max-steps", "8", "--log-every", "4", "--save-every", 3, "--keep", 3, "--epochs", 7, "--threads", 2)
    assert fits("warning: ... 7 epochs ... 4", distgan.ok("train", *quick("run", *free)).stderr)


def test_an_allowed_change_holds_from_then_on(distgan: Run, trained: Path) -> None:
    before = checkpoint(trained)[0]
    flags = ("--g-lr", "0.5", "--loss", "hinge", "--ema-decay", 0.5)
    distgan.ok("train", *quick("run", *flags, "--allow-config-change", "--max-steps", 8))
    key = "generator.stem.0.weight"
    assert not torch.equal(before[key], checkpoint(trained)[0][key])
    distgan.ok("train", "--out", "run", "--max-steps", 9)  # its own config has the change
    result = distgan("train", *quick("run", "--max-steps", 10))
    assert_user_error(result, "[optim] g_lr: ... 0.5 (0.001) ... [resume-mismatch]")


def test_resume_rejects_other_data(distgan: Run, tmp_path: Path, mnist_dir: Path) -> None:
    flags = ("--preset", "cgan-quick", *TINY, "--max-steps", 2, "--out", "run", "--data-md5", "accept")
    distgan.ok("train", *flags, "--data", "mnist", "--data-dir", mnist_dir)
    raw = tmp_path / "other" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        data = bytearray((mnist_dir / "MNIST" / "raw" / name).read_bytes())
        data[-1] ^= 1
        (raw / name).write_bytes(data)
    result = distgan("train", *flags, "--data", "mnist", "--data-dir", tmp_path / "other")
    assert_user_error(result, "fingerprint ... [resume-mismatch]")
    result = distgan("train", *flags, "--data", "digits")
    assert_user_error(result, "[data] name: ... 'mnist' ('digits') ... [resume-mismatch]")


def test_a_run_takes_the_lock(start: Start, tmp_path: Path) -> None:
    process = start(BIN / "distgan", "train", *quick("run", "--max-steps", 500))
    wait_for(lambda: len(steps_of(tmp_path / "run")) > 2, process)
    with expect_user_error(code="folder-in-use"):
        lock(tmp_path / "run", wait_s=0)


@pytest.mark.usefixtures("trained")
def test_a_dry_run_says_where_it_would_go_on(distgan: Run) -> None:
    assert f"step 6, from run/checkpoints/{SIX}" in distgan.ok("train", "--out", "run", "--dry-run").stdout


def test_checkpoint_ls_verify_and_diff(distgan: Run) -> None:
    distgan.ok("train", *quick("run", "--save-every-steps", 4, "--keep-best", "min:d_loss"))
    listed = distgan.ok("checkpoint", "ls", "run")
    first, second = (line for line in listed.stdout.splitlines() if "step-0" in line)
    assert SIX in first
    assert "latest" in first
    assert "step-00000004" in second
    assert fits("done ... step 6", listed.stdout)
    assert distgan("checkpoint", "verify", "run").stdout.count(": valid") == 2
    differs = distgan("checkpoint", "diff", "run")
    assert differs.returncode == 1
    assert "discriminator.safetensors  7 of 7" in differs.stdout
    same = distgan.ok("checkpoint", "diff", "run", f"run/checkpoints/{SIX}")
    assert "bit-identical" in same.stdout
