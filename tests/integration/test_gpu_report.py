"""`make gpu-report`, as far as a CPU can show it: what is cut off, fails or finds no time leaves a complete report."""

import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import gpu_report
import psutil
import pytest
import torch
from gpu_report import MARK
from helpers.gpu_reports import read, statuses
from helpers.runs import ROOT, MonkeyPatch, Run, Start, wait_for

SCRIPT = ROOT / "benchmarks" / "gpu_report.py"
CPU = ("--device", "cpu", "--quick")
# Parts of a test's own, in the place of facts and the two runs: none of them trains.
DRIVER = """
import sys; sys.path.insert(0, {folder!r})
import gpu_report
from gpu_report import PYTHON, Part
collect = lambda report, name: {{"files": sorted(path.name for path in report.work.iterdir())}}
def part(code, most_s=60.0): return Part(0, most_s, lambda report: [[PYTHON, "-c", code]], collect)
gpu_report.PARTS |= {{{parts}}}
gpu_report.TICK_S = 0.1
sys.exit(gpu_report.main(["--out", "out", "--device", "cpu", "--quick", "--parts", "facts,run-vanilla,run-cgan"]))
"""
# A child with a child in its own session, as torchrun and tests have them; the latter leaves its id.
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
code = "import os, pathlib, time; pathlib.Path({path!r}).write_text(str(os.getpid())); time.sleep(100)"
subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
time.sleep(100)
"""

# Ends with 1 if the process whose id lies there is alive.
GONE = """
import psutil
pid = int(open({path!r}).read())
assert all(process.status() == psutil.STATUS_ZOMBIE for process in psutil.process_iter() if process.pid == pid)
"""


@pytest.fixture(autouse=True)
def _temporary_files_here(monkeypatch: MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def driver(**parts: str) -> tuple[str, ...]:
    """`main` with parts from their source."""
    shown = ", ".join(f"{name.replace('_', '-')!r}: {source}" for name, source in parts.items())
    return sys.executable, "-c", DRIVER.format(folder=str(SCRIPT.parent), parts=shown)


def pid_in(path: Path) -> int:
    return int(path.read_text()) if path.exists() and path.read_text() else 0


def is_gone(pid: int) -> bool:
    end = time.monotonic() + 15
    while time.monotonic() < end:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_quick_parts_leave_a_report(run: Run, tmp_path: Path) -> None:
    run.ok(sys.executable, SCRIPT, *CPU, "--out", "out", "--parts", "facts,run-cgan")
    report, out = read(tmp_path / "out"), tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {"report.json", "report.md", "more.tar"}
    with tarfile.open(out / "more.tar") as archive:
        assert archive.getnames() == ["run-cgan.png"]
    trained = report["parts"]["run-cgan"]
    assert trained["status"] == "done"
    assert trained["found"]["engine"]["name"] == "eager"
    assert trained["found"]["last"]["step"] == 6
    assert trained["commands"][0]["command"].startswith("python -m distgan train --model cgan")
    assert trained["commands"][0]["seconds"] > trained["found"]["last"]["elapsed_s"] > 0
    assert report["parts"]["facts"]["found"]["torch"] == torch.__version__
    assert report["parts"]["parity"]["status"] == "not run: not requested"
    # Tiny networks are no figure.
    assert {row["value"] for row in report["figures"]} == {None}
    assert not list(tmp_path.glob("gpu-report-*"))


def test_the_script_itself_needs_no_package(run: Run, tmp_path: Path) -> None:
    """-S hides all that is installed, from the script; the parts have their own processes."""
    alone = (sys.executable, "-S", SCRIPT)
    assert "--budget-s" in run.ok(*alone, "--help").stdout
    run.ok(*alone, *CPU, "--out", "out", "--parts", "facts,run-cgan", "--budget-s", 60)
    assert read(tmp_path / "out")["parts"]["run-cgan"]["found"]["last"]["step"] == 6


def test_parts_without_time_are_named(tmp_path: Path, run: Run) -> None:
    assert run(sys.executable, SCRIPT, *CPU, "--out", "out", "--budget-s", "1").returncode == 1
    found = statuses(tmp_path / "out")
    assert list(found) == list(gpu_report.PARTS)
    for name, part in gpu_report.PARTS.items():
        assert found[name] == f"not run: no time left (0 s). Expected: {part.least_s:g} s"


def test_a_part_that_fails_or_hangs_leaves_the_others(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    parts = driver(
        facts="""part("print(1 / 0)")""",
        run_vanilla=f"part({STUBBORN.format(path=str(path))!r}, 3.0)",
        # What the one before it has left is gone before it begins.
        run_cgan=f"part({GONE.format(path=str(path))!r})",
    )
    done = run(*parts)
    assert done.returncode == 1, done.stderr
    found = statuses(tmp_path / "out")
    assert found["facts"] == "failed: ZeroDivisionError: division by zero"
    assert found["run-vanilla"] == "timed out after 6 s, in command 1", "its own 3 s, and as many of those left over"
    assert found["run-cgan"] == "done"
    assert pid_in(path)
    assert is_gone(pid_in(path))


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_cut_off_it_leaves_a_complete_report_and_no_process(
    start: Start, tmp_path: Path, signum: signal.Signals
) -> None:
    path = tmp_path / "pid"
    process = start(
        *driver(facts="part('pass')", run_vanilla=f"part({STUBBORN.format(path=str(path))!r})", run_cgan="part('pass')")
    )
    wait_for(lambda: pid_in(path) > 0, process)
    files = {"facts-0.out", "run-vanilla-0.out"}
    wait_for(lambda: files <= set(read(tmp_path / "out")["parts"]["run-vanilla"]["found"].get("files", [])), process)
    process.send_signal(signum)
    assert process.wait(30) == (143 if signum == signal.SIGTERM else -9)
    found = statuses(tmp_path / "out")
    assert found["facts"] == "done"
    assert found["run-vanilla"] == ("interrupted by SIGTERM" if signum == signal.SIGTERM else gpu_report.RUNNING)
    assert found["run-cgan"] == "not run: not started yet"
    # What it had is there: collected while the part ran.
    assert files <= set(read(tmp_path / "out")["parts"]["run-vanilla"]["found"]["files"])
    assert is_gone(pid_in(path))
    end = time.monotonic() + 10
    while list(tmp_path.glob("gpu-report-*")):
        assert time.monotonic() < end, "its temporary files are left"
        time.sleep(0.05)


def test_only_marked_processes_are_ended() -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    ours, theirs = (subprocess.Popen(sleep, env=os.environ | {MARK: token}) for token in ("ours", "theirs"))
    try:
        gpu_report.kill_all(MARK, "ours")
        assert ours.wait(10) == -signal.SIGKILL
        assert theirs.poll() is None
    finally:
        theirs.kill()
        theirs.wait()


# -- what parts find ---------------------------------------------------------------------------------------
