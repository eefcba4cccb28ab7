"""Going on: to the same bits, on another number of processes, and only as the same run."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from helpers.resume_matrix import CASES
from helpers.runs import (
    BIN,
    ON_CPU,
    SCRIPT,
    TESTS,
    TINY,
    Run,
    Start,
    assert_same_run,
    assert_user_error,
    checkpoint,
    distance,
    losses,
    newest,
    quick,
    wait_for,
)

from distgan.checkpoint.manager import Saver
from distgan.checkpoint.resume import checkpoints_in
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
        run.ok(sys.executable, TESTS / "helpers" / "resume_matrix.py", half, tmp_path, part * share, (part + 1) * share)
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
    distgan.ok("train", *long, "--out", "straight")
    distgan.ok("train", *long, "--out", "broken", "--max-steps", stop)
    assert checkpoint(tmp_path / "broken")[1] == stop
    assert read_metrics(tmp_path / "broken" / "metrics.jsonl")[-1]["step"] == stop, "a person sees the last step"
    result = distgan.ok("train", "--out", "broken", "--epochs", 2)
    assert f"going on at step {stop} (from broken/checkpoints/step-{stop:08})" in result.stderr
    assert_same_run(tmp_path / "straight", tmp_path / "broken")


def test_real_digits_at_full_width_go_on_to_the_same_bits(distgan: Run, tmp_path: Path, data_flags: tuple) -> None:
    flags = ("--model", "cgan", *data_flags, "--batch-size", 32, "--tracker", "none", "--log-every", 3)
    distgan.ok("train", *flags, "--max-steps", 5, "--out", "straight")
    distgan.ok("train", *flags, "--max-steps", 2, "--out", "broken")
    distgan.ok("train", *flags, "--max-steps", 5, "--out", "broken")
    assert_same_run(tmp_path / "straight", tmp_path / "broken")


def test_metrics_have_each_step_once_after_a_kill(start: Start, distgan: Run, tmp_path: Path) -> None:
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
    result = distgan.ok("train", "--out", "run")
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
    distgan.ok("train", *quick("straight", "--max-steps", 9, "--log-every", 9))
    distgan.ok("train", *quick("broken", "--max-steps", 4, "--log-every", 99))
    distgan.ok("train", *quick("broken", "--max-steps", 9, "--log-every", 9))
    assert losses(tmp_path / "straight") == losses(tmp_path / "broken")


def test_grad_scaler_comes_back(distgan: Run, tmp_path: Path) -> None:
    """fp16 needs a GPU; its scaler exists on a CPU as well."""
    distgan.ok("train", *quick("run"))
    runtime = Runtime(ON_CPU)
    runtime._accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=7)
    newest(tmp_path / "run" / "checkpoints")
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
    from distgan.errors import Tolerance
    from distgan.training.metrics import MetricLog
    from distgan.training.session import Session

    found = newest(folder / "checkpoints")
    session, tolerance = Session(found[1].config, runtime), Tolerance(stops=False)
    return Saver(folder, session, MetricLog(folder, runtime, session.steps_per_epoch, None, tolerance), tolerance)


def test_a_checkpoint_has_nothing_of_its_engine(distgan: Run, tmp_path: Path) -> None:
    """Networks that are compiled go on from it, to rounding, and leave a checkpoint of the same names."""
    distgan.ok("train", *quick("run", "--dropout", 0))
    results = []
    for is_compiled in (False, True):
        from distgan.training.step import build_step

        runtime = Runtime(ON_CPU)
        saver = saver_of(tmp_path / "run", runtime)
        found = newest(tmp_path / "run" / "checkpoints")
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


# -- which checkpoint --------------------------------------------------------------------------------------


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(distgan: Run, tmp_path: Path) -> None:
    distgan.ok("train", *quick("straight", "--max-steps", 8))
    distgan.ok("train", *quick("run", "--save-every-steps", 4))
    folder = tmp_path / "run" / "checkpoints"
    damage(folder / "step-00000006" / "g_optim.safetensors")
    verified = distgan("checkpoint", "verify", "run")
    assert verified.returncode == 1
    assert "step-00000004: whole" in verified.stdout
    assert "g_optim.safetensors: its contents do not match the manifest's SHA-256" in verified.stdout
    assert "damaged" in distgan("checkpoint", "ls", "run").stdout

    named = distgan("train", "--resume", folder / "step-00000006", "--out", "branch")
    assert_user_error(named, "step-00000006/g_optim.safetensors: its contents do not match")
    result = distgan.ok("train", *quick("run", "--max-steps", 8))
    assert "Traceback" not in result.stderr
    assert "warning: run/checkpoints/step-00000006/g_optim.safetensors: its contents do not match" in result.stderr
    assert "going on at step 4" in result.stderr
    assert (folder / "step-00000006.damaged").is_dir(), "it is not deleted"
    assert_same_run(tmp_path / "straight", tmp_path / "run")


def test_without_a_whole_checkpoint_nothing_starts_from_zero(distgan: Run, tmp_path: Path) -> None:
    distgan.ok("train", *quick("run"))
    for path in checkpoints_in(tmp_path / "run" / "checkpoints"):
        damage(path / "generator.safetensors")
    before = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    result = distgan("train", *quick("run", "--max-steps", 8))
    assert_user_error(result, "generator.safetensors: its contents do not match", "holds no whole checkpoint")
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == before


def test_a_run_that_lost_its_checkpoints_does_not_start_from_zero(distgan: Run, tmp_path: Path) -> None:
    distgan.ok("train", *quick("run"))
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
    distgan.ok("train", *quick("run"))
    (tmp_path / "run" / "link").symlink_to("checkpoints/step-00000006")
    distgan.ok("train", "--resume", "run/link", "--max-steps", 8, "--out", "branch")
    assert [line["step"] for line in read_metrics(tmp_path / "branch" / "metrics.jsonl")] == [2, 4, 6, 8]


def test_hostile_metrics_beside_a_checkpoint_are_left_out(distgan: Run, tmp_path: Path) -> None:
    distgan.ok("train", *quick("run"))
    metrics = tmp_path / "run" / "metrics.jsonl"
    metrics.write_text("[" * 200_000 + "\n" + metrics.read_text() + "5\n{}\n")
    distgan.ok("train", "--resume", "run", "--max-steps", 8, "--out", "deep")
    metrics.unlink()
    os.mkfifo(metrics)
    result = distgan.ok("train", "--resume", "run", "--max-steps", 8, "--out", "pipe", timeout=60)
    assert "metrics.jsonl: has 0 of the 3 lines before step 6" in result.stderr


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
    assert checkpoint(tmp_path / "runs" / "cgan-1")[1] == 5 or list((tmp_path / "runs").iterdir())
    result = distgan("train", "--resume", path, "--out", "run")
    assert_user_error(result, "has checkpoints of its own, as step-00000006; allowed: --resume auto, or a new folder")
    assert_user_error(
        distgan("train", "--resume", "nowhere", "--out", "x"), "--resume nowhere: there is no config.json"
    )
    assert_user_error(distgan("train", "--resume", "run/samples", "--out", "x"), "there is no config.json")


def test_a_named_folder_that_lost_its_manifest_is_said(distgan: Run, tmp_path: Path) -> None:
    distgan.ok("train", *quick("run"))
    path = tmp_path / "run" / "checkpoints" / "step-00000006"
    (path / "manifest.json").unlink()
    assert_user_error(distgan("train", "--resume", path, "--out", "x"), "manifest.json: can't be read")


def test_never_takes_only_a_new_folder(distgan: Run) -> None:
    distgan.ok("train", *quick("run", "--resume", "never"))
    result = distgan("train", *quick("run", "--resume", "never"))
    assert_user_error(result, "--out run: is there already and is not overwritten", "--resume auto")


@pytest.mark.parametrize("log_every", [2, 4])
def test_resume_at_the_last_step_changes_nothing(distgan: Run, tmp_path: Path, log_every: int) -> None:
    """The last line of metrics.jsonl too, whether the cadence or the end has asked for it."""
    distgan.ok("train", *quick("run", "--log-every", log_every))
    run = tmp_path / "run"
    kept = [run / "timeline.png", run / "metrics.jsonl", *(run / "samples").iterdir()]
    kept += [path for path in (run / "checkpoints").rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in kept}
    assert len(before) == 22
    distgan.ok("train", *quick("run", "--log-every", log_every))
    assert {path: path.read_bytes() for path in kept} == before
    assert [line["step"] for line in read_metrics(run / "metrics.jsonl")] == ([2, 4, 6] if log_every == 2 else [4, 6])


def test_resume_of_a_new_folder_starts(distgan: Run, tmp_path: Path) -> None:
    distgan.ok("train", *quick("run", "--resume", "auto"))
    assert checkpoint(tmp_path / "run")[1] == 6


def test_a_run_killed_before_its_config_can_start_again(distgan: Run, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in ("lock", ".writable", ".config.json-abcd1234.json", ".step-00000000-abcd1234"):
        (tmp_path / "run" / name).touch()
    distgan.ok("train", *quick("run"))
    assert not list((tmp_path / "run").glob(".*"))


def test_a_killed_run_can_be_drawn_from(distgan: Run, tmp_path: Path) -> None:
    distgan.ok("train", *quick("run"))
    whole = distgan("sample", "run", "--num", 10, "--out", "a.png")
    shutil.rmtree(tmp_path / "run" / "weights")
    for where in ("run", "run/checkpoints/latest", "run/checkpoints/step-00000006/generator_ema.safetensors"):
        result = distgan.ok("sample", where, "--num", 10, "--out", "b.png")
        assert "NOT MNIST" in result.stdout
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert whole.returncode == 0
    damage(tmp_path / "run" / "checkpoints" / "step-00000006" / "generator_ema.safetensors")
    assert_user_error(distgan("sample", "run/checkpoints/latest"), "its contents do not match the manifest's SHA-256")


# -- only as the same run ----------------------------------------------------------------------------------


def test_resume_refuses_another_recipe(distgan: Run, tmp_path: Path) -> None:
    distgan.ok("train", *quick("run"))
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
    result = distgan.ok("train", *quick("run", *free))
    assert "warning: the rates fall to 0 over 7 epochs now, not 4" in result.stderr


def test_an_allowed_change_holds_from_then_on(distgan: Run, tmp_path: Path) -> None:
    distgan.ok("train", *quick("run"))
    before = checkpoint(tmp_path / "run")[0]
    flags = ("--g-lr", "0.5", "--loss", "hinge", "--ema-decay", 0.5)
    distgan.ok("train", *quick("run", *flags, "--allow-config-change", "--max-steps", 8))
    assert not torch.equal(
        before["generator.stem.0.weight"], checkpoint(tmp_path / "run")[0]["generator.stem.0.weight"]
    )
    distgan.ok("train", "--out", "run", "--max-steps", 9)  # its own config has the change
    assert_user_error(
        distgan("train", *quick("run", "--max-steps", 10)), "[optim] g_lr: 0.001, but the run in run has 0.5"
    )


def test_resume_refuses_other_data(distgan: Run, tmp_path: Path, mnist_dir: Path) -> None:
    flags = ("--preset", "cgan-quick", *TINY, "--max-steps", 2, "--out", "run", "--data-md5", "accept")
    distgan.ok("train", *flags, "--data", "mnist", "--data-dir", mnist_dir)
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


def test_a_second_run_in_the_folder_is_refused(run: Run, distgan: Run, tmp_path: Path) -> None:
    distgan.ok("train", *quick("run"))
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
    run.ok(sys.executable, "-c", code)  # a lock ends with its holder


def test_a_run_takes_the_lock(start: Start, tmp_path: Path) -> None:
    process = start(BIN / "distgan", "train", *quick("run", "--max-steps", 500))
    wait_for(lambda: len(read_metrics(tmp_path / "run" / "metrics.jsonl")) > 2, process)
    with pytest.raises(UserError, match="trains in it"):
        lock(tmp_path / "run", wait_s=0)


def test_a_dry_run_says_where_it_would_go_on(distgan: Run, tmp_path: Path) -> None:
    distgan.ok("train", *quick("run"))
    result = distgan.ok("train", "--out", "run", "--dry-run")
    assert "step 6, from run/checkpoints/step-00000006" in result.stdout


# -- distgan checkpoint ------------------------------------------------------------------------------------


def test_checkpoint_ls_verify_and_diff(distgan: Run, tmp_path: Path) -> None:
    distgan.ok("train", *quick("run", "--save-every-steps", 4, "--keep-best", "min:d_loss"))
    listed = distgan.ok("checkpoint", "ls", "run")
    first, second = (line for line in listed.stdout.splitlines() if "step-0" in line)
    assert "step-00000006" in first
    assert "latest" in first
    assert "step-00000004" in second
    assert "the run is done, step 6" in listed.stdout
    assert distgan("checkpoint", "verify", "run").stdout.count(": whole") == 2
    differs = distgan("checkpoint", "diff", "run")
    assert differs.returncode == 1
    assert "discriminator.safetensors  7 of 7" in differs.stdout
    same = distgan.ok("checkpoint", "diff", "run", "run/checkpoints/step-00000006")
    assert "all tensors are equal to the bit" in same.stdout
