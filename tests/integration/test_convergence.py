"""distgan bench convergence: when a run has converged, what runs say together; nothing is lost or left behind."""

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import forkserver
from helpers.fake_bench import BAD, EASY, GOOD, TINY, FakeBench, content_of, fake_training, write_presets
from helpers.measurements import saved
from helpers.runs import Capture, MonkeyPatch, Run, Start, assert_user_error, expect_user_error, fits, wait_for

from distgan.benchmark import trial
from distgan.benchmark.options import ConvergenceConfig
from distgan.cli import run_command
from distgan.errors import CommandFailed, Stopped
from distgan.evaluation.targets import SETS, read_targets

# -- what is run ----------------------------------------------------------------------------


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: MonkeyPatch) -> "FakeBench":
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FAKE_TRAINER", str(tmp_path / "fake_trainer.json"))
    fake_training(monkeypatch.setattr)
    (tmp_path / "easy.toml").write_text(EASY.replace("max_fcd = 1000.0", "max_fcd = 1.0"))
    for name in ("one", "two"):
        (tmp_path / f"{name}.toml").write_text(TINY)
    return FakeBench(tmp_path)


def test_outcomes(bench: FakeBench, capsys: Capture) -> None:
    bench.play(
        one_seed0=GOOD, one_seed1=BAD, one_seed2={"fcd": [3], "end": "nan"},
        one_seed3={"fcd": [3, 0.9, 0.8], "end": "nan"}, one_seed4={"fcd": [3, 0.9], "end": "done"},
    )  # fmt: skip
    found = bench("--seeds", 5, "--threads", 1)
    assert [cell["outcome"] for cell in found.values()] == [
        "converged", "not converged", "diverged", "converged", "not converged"
    ]  # fmt: skip
    first = found["one-seed0"]
    assert (first["epochs"], first["train_s"], first["mlperf_s"], first["images"]) == (0.5, 2.0, 3.0, 5000)
    assert first["cold_s"] == first["evaluations"][1]["since_start_s"] == 8.0
    assert not first["resumed"]
    assert first["targets"] == ["fcd"]
    assert len(first["evaluations"]) == 3
    assert found["one-seed1"]["why"] == "never met"
    assert found["one-seed1"]["targets"] == ["fcd"]
    assert found["one-seed1"]["last"]["fcd"] == 2
    assert found["one-seed1"]["images"] == 7 * 1000 + 512
    assert found["one-seed2"]["why"] == "d_loss is nan at step 12"
    assert found["one-seed4"]["why"] == "met at epoch 0.5, too late to be confirmed"
    facts = bench.facts
    assert facts["summary"]["one"]["converged"] == 2
    assert facts["summary"]["one"]["epochs"]["median"] is None
    assert facts["protocol"] == {"num": 100, "evaluations_per_epoch": 4, "hold": 1}
    assert (bench.folder / "out" / "convergence.png").read_bytes().startswith(b"\x89PNG")
    out, err = capsys.readouterr()
    assert fits("one, seed 0: converged ... epoch 0.5 (2 s", err)
    assert fits("one, seed 2: diverged: ... nan ... step 12", err)
    assert "2 of 5 (" in out
    assert not left_over(bench.folder)


def test_a_crash_is_reported_and_the_rest_is_measured(bench: FakeBench) -> None:
    bench.play(one_seed0={"fcd": [3], "end": "crash"}, one_seed1=GOOD)
    with pytest.raises(CommandFailed, match=r"^1 of 2 .*one, seed 0: rank 1:"):
        bench("--seeds", 2)
    found = bench.cells()
    assert [cell["outcome"] for cell in found.values()] == ["error", "converged"]
    # The same command tries it again, and it alone.
    bench.play(one_seed0=GOOD)
    found = bench("--seeds", 2)
    assert bench.starts == ["one-seed0", "one-seed1", "one-seed0"]
    assert found["one-seed0"]["outcome"] == "converged"
    assert found["one-seed0"]["resumed"]
    assert found["one-seed0"]["cold_s"] is None
    assert found["one-seed0"]["train_s"] == 2.0


def test_a_run_that_hangs_is_given_up(bench: FakeBench) -> None:
    bench.play(one_seed0={"fcd": [3], "end": "hang"})
    with pytest.raises(CommandFailed, match=r"one, seed 0: .*--timeout 3 s"):
        bench("--seeds", 1, "--timeout", 3)
    assert not left_over(bench.folder)


def test_two_presets_take_turns(bench: FakeBench) -> None:
    seeds = range(4)
    early, late = {"fcd": [0.9] * 9}, {"fcd": [3, 3, 3, 0.9, 0.9, 0.9]}
    bench.play(**{f"one_seed{seed}": late for seed in seeds}, **{f"two_seed{seed}": early for seed in seeds})
    bench("--against", "two.toml", "--seeds", 4)
    assert bench.starts[:4] == ["one-seed0", "two-seed0", "one-seed1", "two-seed1"]
    facts = bench.facts
    assert facts["tests"][0]["words"] == "two needs fewer epochs than one (p = 0.029)"
    assert facts["tests"][0]["ratio"] == 0.25
    assert [test["measure"] for test in facts["tests"]] == ["epochs", "train_s", "mlperf_s", "cold_s"]


def test_more_processes_that_need_more_epochs_end_in_1(bench: FakeBench) -> None:
    seeds, late = range(4), {"fcd": [3, 3, 3, 0.9, 0.9, 0.9]}
    bench.play(
        **{f"one_seed{seed}": GOOD for seed in seeds}, **{f"one_processes2_seed{seed}": late for seed in seeds}
    )  # fmt: skip
    with pytest.raises(CommandFailed, match=r"^one on 2 processes .*1 \(p = 0\.014\)$"):
        bench("--processes", 2, "--seeds", 4, "--jobs", 2)
    assert len(bench.starts) == 8


def test_the_words_of_a_training(bench: FakeBench, monkeypatch: MonkeyPatch) -> None:
    protocol = read_targets(Path("easy.toml")).protocol
    monkeypatch.setattr(trial, "count_cores", lambda: 8)

    def words(num_jobs: int = 1, **settings: Any) -> str:
        config = ConvergenceConfig(preset="one.toml", **settings)
        return " ".join(trial.build_arms(config, protocol, SETS["mnist"], num_jobs, is_cuda=False)[0].words)

    # Of 2 steps per epoch 4 evaluations can't be: each step has one.
    assert "--eval-every 0 --eval-every-steps 1 --eval-num 100" in words()
    assert "--threads" not in words()
    assert "--threads 4" in words(2)
    assert "--threads 2" in words(2, processes=2)
    assert "--threads 1" in words(30)
    assert "--threads 3" in words(2, threads=3)
    assert f"--stop-at {SETS['mnist']}" in words()
    # A cap leaves the schedule of the rates as it is.
    assert words(epochs=1).endswith("--max-steps 2")
    assert words(epochs=5).endswith("--epochs 5")
    # Nor does it raise the preset's own.
    Path("one.toml").write_text(TINY + "max_steps = 1\n")
    assert words(epochs=1).endswith("--max-steps 1")
    Path("one.toml").write_text(TINY.replace("[optim]", '[optim]\nlr_schedule = "linear"'))
    with expect_user_error("--epochs: ... (5) ... 2", code="conflicting-settings"):
        words(epochs=5)
    assert words(data="mnist", device="cpu", precision="bf16", engine="eager").startswith(
        "--config one.toml --data mnist --device cpu --precision bf16 --engine eager"
    )


def test_no_two_presets_share_a_folder(bench: FakeBench) -> None:
    protocol = read_targets(Path("easy.toml")).protocol
    Path("one-processes2.toml").write_text(TINY)
    config = ConvergenceConfig(preset="one.toml", against="one-processes2.toml", processes=2)
    with expect_user_error("--against: ... --preset one.toml (one-processes2.toml)", code="conflicting-settings"):
        trial.build_arms(config, protocol, SETS["mnist"], 1, is_cuda=False)


def test_an_odd_number_of_steps(bench: FakeBench) -> None:
    Path("one.toml").write_text(TINY.replace("512", "91"))  # 11 steps per epoch, the last of 90 images
    bench.play(one_seed0=BAD)
    arm = trial.build_arms(
        ConvergenceConfig(preset="one.toml"), read_targets(SETS["mnist"]).protocol, SETS["mnist"], 1, is_cuda=False
    )[0]
    assert arm.steps_per_epoch == 11
    assert "--eval-every-steps 5" in " ".join(arm.words)
    assert [arm.images(step) for step in (5, 11, 12, 22)] == [455, 1000, 1091, 2000]


# -- what is interrupted --------------------------------------------------------------------


def _perform(words: list[str], folder: Path, environment: dict[str, str]) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream.fileno())
    fake_training(setattr)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from distgan.cli import main

    sys.exit(main(["bench", *words]))


def left_over(folder: Path) -> list[int]:
    """The trainings of a bench in this folder that are still there."""
    path = folder / "starts"
    pids = [int(line.split()[1]) for line in path.read_text().splitlines()] if path.exists() else []
    alive = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                alive.append(pid)
    return alive


@pytest.fixture
def interrupted(bench: FakeBench) -> Iterator[Callable[[int], Any]]:
    """Starts a bench of three runs in its own process, and sends it a signal in the middle of the second."""
    processes = []

    def interrupt(signum: int) -> Any:
        slow = {"fcd": [3] * 400, "pause": 0.1}
        bench.play(one_seed0=GOOD, one_seed1=slow, one_seed2=GOOD)
        words = [*bench.words, "--seeds", "3"]
        process = forkserver.CONTEXT.Process(target=_perform, args=(words, bench.folder, dict(os.environ)))
        processes.append(process)
        process.start()
        end = time.monotonic() + 120
        lines = bench.folder / "out" / "runs" / "one-seed1" / "metrics.jsonl"
        while not (lines.exists() and lines.read_text().count("\n") > 2):
            assert process.is_alive(), (bench.folder / "said").read_text()
            assert time.monotonic() < end
            time.sleep(0.02)
        assert process.pid is not None
        os.kill(process.pid, signum)
        process.join(60)
        return process.exitcode

    yield interrupt
    for process in processes:
        process.kill()
        process.join()
    for pid in left_over(bench.folder):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_bench_keeps_what_it_has(signum: int, bench: FakeBench, interrupted: Callable[[int], Any]) -> None:
    assert interrupted(signum) == 130
    assert not left_over(bench.folder)
    assert [cell["outcome"] for cell in bench.cells().values()] == ["converged", "unfinished", "unfinished"]
    assert json.loads((bench.folder / "out/runs/one-seed1/status.json").read_text())["exit_code"] == 143
    said = (bench.folder / "said").read_text()
    assert "2 of 3 runs" in said
    assert "Traceback" not in said


def test_a_bench_that_was_killed_goes_on(bench: FakeBench, interrupted: Callable[[int], Any]) -> None:
    assert interrupted(signal.SIGKILL) == -signal.SIGKILL
    before = bench.cells()
    assert [cell["outcome"] for cell in before.values()] == ["converged", "unfinished", "unfinished"]
    lines = (bench.folder / "out/runs/one-seed1/metrics.jsonl").read_text().count("\n")
    bench.play(one_seed1={"fcd": [3] * lines + [0.9] * 200}, one_seed2=GOOD)
    found = bench("--seeds", 3)  # at once, while the training may still be leaving
    assert bench.starts == ["one-seed0", "one-seed1", "one-seed1", "one-seed2"]
    assert found["one-seed0"] == before["one-seed0"]
    assert [cell["resumed"] for cell in found.values()] == [False, True, False]
    assert [cell["cold_s"] is None for cell in found.values()] == [False, True, False]
    assert all(cell["outcome"] == "converged" for cell in found.values())
    assert found["one-seed1"]["epochs"] >= lines / 4
    assert not left_over(bench.folder)


def test_a_run_that_ended_before_the_bench_could_say_so(bench: FakeBench) -> None:
    bench.play(one_seed0=GOOD, one_seed1=BAD)
    bench("--seeds", 2)
    path = bench.folder / "out" / "results.json"
    content = json.loads(path.read_text())
    for cell in content["cells"]:
        cell["outcome"] = "unfinished"
    path.write_text(json.dumps(content))
    found = bench("--seeds", 2)
    assert [cell["outcome"] for cell in found.values()] == ["converged", "not converged"]
    assert len(bench.starts) == 2, "they were run again"


def test_a_training_that_was_left_is_waited_for(bench: FakeBench, monkeypatch: MonkeyPatch, capsys: Capture) -> None:
    bench.play(one_seed0=GOOD)
    folder = bench.folder / "out" / "runs" / "one-seed0"
    folder.mkdir(parents=True)
    (folder / "status.json").write_text(json.dumps({"pid": 4711, "host": "here"}))
    held = trial.lock(folder)
    monkeypatch.setattr(trial, "GRACE_S", 0.3)
    with expect_user_error("4711 on here", code="folder-in-use"):
        trial_of(bench).await_folder(print)
    held.release()
    trial_of(bench).await_folder(print)
    assert "one, seed 0: waiting" in capsys.readouterr().out


def trial_of(bench: FakeBench) -> trial.Trial:
    protocol = read_targets(Path("easy.toml")).protocol
    arm = trial.build_arms(ConvergenceConfig(preset="one.toml"), protocol, SETS["mnist"], 1, is_cuda=False)[0]
    return trial.Trial(arm, 0, Path("out"), read_targets(Path("easy.toml")))


def test_a_module_on_a_tether_ends_with_its_parent(start: Start, tmp_path: Path) -> None:
    """The parent is a shell that is killed; what it started gets a signal to stop."""
    (tmp_path / "child.py").write_text(
        "import os, signal, time\n"
        "def stop(*_): open('stopped', 'w').close(); os._exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\nopen('started', 'w').close()\ntime.sleep(60)\n"
    )
    parent = (
        "import subprocess, sys, time; "
        "command = [sys.executable, '-m', 'distgan.benchmark.exit_with_parent', 'child']; "
        "p = subprocess.Popen(command, stdin=subprocess.PIPE); "
        "time.sleep(60)"
    )
    process = start("env", f"PYTHONPATH={tmp_path}", sys.executable, "-c", parent)
    wait_for((tmp_path / "started").exists, process)
    os.kill(process.pid, signal.SIGKILL)
    end = time.monotonic() + 20
    while not (tmp_path / "stopped").exists():
        assert time.monotonic() < end, "it continues without its parent"
        time.sleep(0.02)


# -- more seeds, and benches of other machines ---------------------------------------------------


def test_more_seeds_and_other_seeds_go_on_in_the_same_folder(bench: FakeBench) -> None:
    bench.play(**{f"one_seed{seed}": GOOD for seed in range(6)})
    bench("--seeds", 1)
    assert list(bench("--seeds", 2, "--first-seed", 4)) == ["one-seed0", "one-seed4", "one-seed5"]
    found = bench("--seeds", 3)
    assert list(found) == [f"one-seed{seed}" for seed in (0, 1, 2, 4, 5)]
    assert all(cell["outcome"] == "converged" for cell in found.values())
    assert bench.starts == [f"one-seed{seed}" for seed in (0, 4, 5, 1, 2)]
    assert bench.facts["summary"]["one"]["num"] == 5


@pytest.mark.parametrize(("end", "code"), [("limit", 75), ("usr1", 138)])
def test_a_training_that_stops_stops_the_bench(bench: FakeBench, end: str, code: int) -> None:
    bench.play(one_seed0={"fcd": [3, 2], "end": end}, one_seed1=GOOD)
    with pytest.raises(Stopped, match="one, seed 0: stopped") as stopped:
        bench("--seeds", 2)
    assert stopped.value.exit_code == code
    assert [cell["outcome"] for cell in bench.cells().values()] == ["unfinished", "unfinished"]
    bench.play(one_seed0=GOOD, one_seed1=GOOD)
    found = bench("--seeds", 2)
    assert [cell["outcome"] for cell in found.values()] == ["converged", "converged"]
    assert [cell["resumed"] for cell in found.values()] == [True, False]
    assert bench.starts == ["one-seed0", "one-seed0", "one-seed1"]


def test_a_run_that_is_done_without_an_evaluation_is_no_measurement(bench: FakeBench) -> None:
    bench.play(one_seed0={"fcd": [], "end": "done"})
    with pytest.raises(CommandFailed, match=r"one, seed 0: .*metrics\.jsonl"):
        bench("--seeds", 1)
    assert bench.cells()["one-seed0"]["outcome"] == "error"
    assert bench.facts["summary"]["one"]["num"] == 0


def test_benches_of_a_seed_each_are_joined(bench: FakeBench, capsys: Capture) -> None:
    bench.play(one_seed0=GOOD, one_seed1=BAD, one_seed2=GOOD)
    together = bench("--seeds", 3)
    facts = bench.facts
    for seed in (2, 0, 1):
        bench.words[-1] = f"array/seed-{seed}"
        run_command("bench", *bench.words, "--seeds", "1", "--first-seed", str(seed))
    capsys.readouterr()
    run_command("bench", "convergence", "--join", "array")
    assert "2 of 3" in capsys.readouterr().out
    joined = content_of(bench.folder / "array")
    assert joined["facts"]["joined"] == [f"seed-{seed}/results.json" for seed in range(3)]
    assert (bench.folder / "array" / "convergence.png").exists()
    assert [cell["id"] for cell in joined["cells"]] == list(together)
    for key in ("epochs", "outcome"):
        assert [cell[key] for cell in joined["cells"]] == [cell[key] for cell in together.values()]
    assert joined["facts"]["summary"]["one"]["epochs"] == facts["summary"]["one"]["epochs"]
    assert joined["facts"]["tests"] == facts["tests"]
    # A cluster may have machines of several kinds.
    path = bench.folder / "array" / "seed-2" / "results.json"
    path.write_text(path.read_text().replace(facts["device"], "another GPU"))
    run_command("bench", "convergence", "--join", "array")
    joined = content_of(bench.folder / "array")
    assert joined["facts"]["device"] == ", ".join(sorted([facts["device"], "another GPU"]))
    assert len(joined["cells"]) == 3
    # What one of them says of a crash, the joined result does too.
    content = json.loads(path.read_text())
    content["cells"][0] |= {"outcome": "error", "why": "it is gone", "epochs": None}
    path.write_text(json.dumps(content))
    with pytest.raises(CommandFailed, match=r"^1 of 3 .*one, seed 2: .*\(see array/seed-2/runs/"):
        run_command("bench", "convergence", "--join", "array")


def test_what_does_not_belong_together_is_not_joined(bench: FakeBench) -> None:
    bench.play(one_seed0=GOOD, one_seed1=GOOD)
    with expect_user_error("--join: ... (nowhere)", code="no-results"):
        run_command("bench", "convergence", "--join", "nowhere")
    Path("empty").mkdir()
    with expect_user_error("--join: ... (empty)", code="no-results"):
        run_command("bench", "convergence", "--join", "empty")
    for name, more in (("a", []), ("b", ["--first-seed", "1", "--num", "100"])):
        bench.words[-1] = f"array/{name}"
        run_command("bench", *bench.words, "--seeds", "1", *more)
    with expect_user_error("--join: --num ... (100 ... array/b/results.json, unset ... array/a/", code="mismatch"):
        run_command("bench", "convergence", "--join", "array")
    shutil.rmtree("array/b")
    shutil.copytree("array/a", "array/b")
    with expect_user_error("--join: ... (one-seed0 in array/a/ ... array/b/", code="mismatch"):
        run_command("bench", "convergence", "--join", "array")
    assert not Path("array/results.json").exists()
    shutil.rmtree("array/b")
    shutil.copy("array/a/results.json", "array/results.json")
    with expect_user_error("--join: ... (array)", code="output-exists"):
        run_command("bench", "convergence", "--join", "array")


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("cells", 0, "seed"), None, "cells.0.seed: "),
        (("cells", 0, "epochs"), "x", "cells.0.epochs: ... 'x' ... number"),
        (("cells", 0, "epochs"), 0.7, "cells.0: ... epochs"),
        (("cells", 0, "outcome"), "well", "cells.0.outcome: "),
        (("facts", "identity"), None, "facts.identity: "),
    ],
)
def test_results_that_are_damaged_but_json(bench: FakeBench, where: tuple[Any, ...], value: Any, message: str) -> None:
    bench.play(one_seed0=GOOD)
    bench.words[-1] = "array/a"
    run_command("bench", *bench.words, "--seeds", "1")
    path = bench.folder / "array" / "a" / "results.json"
    content = json.loads(path.read_text())
    parent = content
    for key in where[:-1]:
        parent = parent[key]
    parent[where[-1]] = value
    if value is None:
        del parent[where[-1]]
    path.write_text(json.dumps(content))
    for words in (["convergence", "--join", "array"], [*bench.words, "--seeds", "1"]):
        with expect_user_error(f"array/a/results.json: ... {message}", code="damaged-file"):
            run_command("bench", *words)
    assert not Path("array/results.json").exists()


# -- mistakes -------------------------------------------------------------------------------


def test_another_bench_is_rejected(bench: FakeBench) -> None:
    bench.play(one_seed0=BAD)
    bench("--seeds", 1)
    for words, message in (
        (["--against", "two.toml"], "--out: ... --against (out: unset, now two.toml)"),
        (["--num", 100], "--out: ... --num (out: unset, now 100)"),
    ):
        with expect_user_error(message, code="resume-mismatch"):
            bench(*words)
    Path("easy.toml").write_text(Path("easy.toml").read_text().replace("max_fcd = 1.0", "max_fcd = 2.0"))
    with expect_user_error("targets.cgan.max_fcd (out: 1.0, now 2.0)", code="resume-mismatch"):
        bench("--seeds", 1)
    Path("easy.toml").write_text(Path("easy.toml").read_text().replace("max_fcd = 2.0", "max_fcd = 1.0"))
    Path("one.toml").write_text(TINY.replace("1e-3", "1e-4"))
    with expect_user_error("arms.0.config.optim.d_lr (out: 0.001, now 0.0001)", code="resume-mismatch"):
        bench("--seeds", 1)
    Path("one.toml").write_text(TINY)
    assert bench("--seeds", 1, "--timeout", 99)["one-seed0"]["outcome"] == "not converged"
    assert bench.starts == ["one-seed0"]


def test_a_folder_of_something_else_is_rejected(bench: FakeBench) -> None:
    Path("out").mkdir()
    Path("out", "config.json").write_text("{}")
    with expect_user_error("--out: ... (out ... config.json) ... resume", code="output-exists"):
        bench()
    Path("out", "config.json").unlink()
    saved(Path("out", "results.json"), kind="scaling")
    with expect_user_error("(scaling) ... convergence", code="wrong-results"):
        bench()
    Path("out", "results.json").unlink()
    held = trial.lock(Path("out"))
    with expect_user_error("--out: ... (out)", code="folder-in-use"):
        bench()
    held.release()
    bench.play(one_seed0=BAD)
    assert bench("--seeds", 1)


# -- real trainings -------------------------------------------------------------------------


def test_from_the_command_to_the_picture(distgan: Run, tmp_path: Path) -> None:
    write_presets(tmp_path)
    words = ("bench", "convergence", "--preset", "tiny.toml", "--targets", "easy.toml", "--seeds", 2, "--epochs", 2)
    made = distgan.ok(*words, "--threads", 1, "--device", "cpu", "--out", "out")
    found = content_of(tmp_path / "out")
    for seed, cell in enumerate(found["cells"]):
        assert cell["outcome"] == "converged"
        first = cell["evaluations"][0]
        assert cell["epochs"] == first["epoch"] == pytest.approx(9 / 36)
        assert cell["images"] == 9 * 512
        assert 0 < cell["train_s"] < cell["mlperf_s"] < cell["cold_s"]
        assert cell["mlperf_s"] == pytest.approx(first["elapsed_s"] + first["eval_s"])
        status = json.loads((tmp_path / "out" / "runs" / cell["id"] / "status.json").read_text())
        assert (status["state"], status["reason"]) == ("done", "targets met at step 9 and held to step 18")
        assert f"--seed {seed} --out out/runs/tiny-seed{seed}" in cell["command"]
    assert found["facts"]["summary"]["tiny"]["rate"]["value"] == 1
    assert (tmp_path / "out" / "convergence.png").read_bytes().startswith(b"\x89PNG")
    assert "NOT MNIST" in made.stdout
    again = distgan(*words, "--threads", 2, "--device", "cpu", "--out", "out")
    assert_user_error(again, "--out: ... --threads (out: 1, now 2)", code="resume-mismatch")
