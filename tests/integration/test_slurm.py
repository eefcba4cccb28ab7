"""`distgan slurm` and the batch scripts without a SLURM; tests/slurm/ has what a real one does."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.runs import ROOT, Capture, MonkeyPatch, fits

from distgan import cli

CGAN = ["--model", "cgan", "--epochs", "20"]


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: MonkeyPatch) -> Path:
    """An sbatch that keeps its script, says what stands in `says`, and ends with the number in `code`."""
    program = tmp_path / "bin" / "sbatch"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\ncat > {tmp_path}/script\ncat {tmp_path}/says\n'
        f"exit $(cat {tmp_path}/code)\n"
    )
    program.chmod(0o755)
    (tmp_path / "code").write_text("0")
    (tmp_path / "says").write_text("17;cluster\n")
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_job_is_requested_and_then_submitted(sbatch: Path, capsys: Capture) -> None:
    assert cli.main(["slurm", "--nodes", "2", "--gpus-per-node", "4", "--time", "1-12", *CGAN]) == 0
    requested = ["--nodes=2", "--gpus-per-node=4", "--time=1-12"]
    calls = (sbatch / "calls").read_text().splitlines()
    # On the command line too: there they are stronger than SBATCH_* of the environment.
    assert [call.split() for call in calls] == [
        ["--test-only", *requested],
        ["--parsable", *requested, "--job-name=cgan"],
    ]
    text = (sbatch / "script").read_text()
    for line in (
        "--nodes=2",
        "--gpus-per-node=4",
        "--time=1-12",
        "--signal=B:USR1@180",
        "--requeue",
        "--ntasks-per-node=1",
    ):
        assert f"#SBATCH {line}\n" in text
    assert f"\n[[ -n ${{DISTGAN_VENV:-}} ]] || export DISTGAN_VENV={sys.prefix}\nsource" in text
    assert text.endswith(f"source {ROOT}/slurm/_run.sh train --model cgan --epochs 20\n")
    assert capsys.readouterr().out == "job 17: log cgan-17.out, run runs/cgan-17; squeue --job 17, scancel 17\n"
    assert cli.main(["slurm", *CGAN, "--out", "mine"]) == 0
    assert "run mine;" in capsys.readouterr().out


def test_script_keeps_words_with_spaces(sbatch: Path, capsys: Capture) -> None:
    (sbatch / "my preset.toml").write_text((ROOT / "configs" / "cgan-quick.toml").read_text())
    words = ["--config", "my preset.toml", "--out", "it's\tmine"]
    assert cli.main(["slurm", "--dry-run", "--job-name", "my job", *words]) == 0
    shown = capsys.readouterr()
    assert (sbatch / "calls").read_text() == "--test-only --job-name=my job\n"
    assert "17;cluster" in shown.err
    assert "#SBATCH --job-name='my job'\n" in shown.out
    last = shown.out.splitlines()[-1].partition("_run.sh train ")[2]
    done = subprocess.run(["bash", "-c", f"printf '%s\\n' {last}"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == words
    assert subprocess.run(["bash", "-n"], input=shown.out, text=True).returncode == 0


def test_processes_of_a_job_without_gpus(sbatch: Path, monkeypatch: MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("DISTGAN_PROCESSES_PER_NODE", "2")
    words = ["slurm", *CGAN, "--nodes", "2", "--gpus-per-node", "0", "--dry-run", "--processes"]
    assert cli.main([*words, "4"]) == 0
    assert cli.main([*words, "2"]) == 2
    assert fits("--processes: ... 4 ... (2) ... [launcher-conflict]", capsys.readouterr().err)
    monkeypatch.setenv("DISTGAN_PROCESSES_PER_NODE", "many")
    assert cli.main([*words, "4"]) == 2
    assert fits("DISTGAN_PROCESSES_PER_NODE: ... (many) ... 1 or more [launcher-environment]", capsys.readouterr().err)


def test_what_slurm_says_when_it_rejects(sbatch: Path, capsys: Capture) -> None:
    (sbatch / "says").write_text("sbatch: error: Requested time limit is invalid\nallocation failure: no\n")
    (sbatch / "code").write_text("1")
    assert cli.main(["slurm", *CGAN, "--time", "9-0"]) == 2
    error = capsys.readouterr().err
    words = "--time=9-0: ... sbatch (Requested time limit is invalid; allocation failure: no) ... [slurm] [launch]"
    assert fits(f"distgan: {words}", error)
    assert len(error.splitlines()) == 1
    (sbatch / "says").write_text("")
    assert cli.main(["slurm", *CGAN]) == 2
    assert fits("the job: ... sbatch (exit code 1) ... [slurm]", capsys.readouterr().err)


def test_without_sbatch(tmp_path: Path, monkeypatch: MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["slurm", *CGAN]) == 2
    assert fits("sbatch: ... --dry-run [slurm]", capsys.readouterr().err)
    assert cli.main(["slurm", *CGAN, "--dry-run"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("#!/bin/bash\n")
    assert "not on PATH" in shown.err


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (f"{ROOT}/slurm/cgan.sh", "SLURM_JOB_ID: not set"),
        (f"{ROOT}/slurm/cgan.sh --out /x/slurm/cgan.sh --tags a", "SLURM_JOB_ID: not set"),
        ("(null)", "DISTGAN_ROOT: no slurm/_run.sh in it (/no). Expected: the folder of a clone"),
        (
            "/elsewhere/slurm/cgan.sh --epochs 3",
            "DISTGAN_ROOT: no slurm/_run.sh in it (/no). Expected: the folder of a clone",
        ),
    ],
)
def test_scripts_find_their_clone_by_the_record_of_the_job(tmp_path: Path, command: str, line: str) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f"#!/bin/sh\necho '   Command={command}'\n")
    scontrol.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "DISTGAN_ROOT": "/no"}
    copy = tmp_path / "slurm_script"
    copy.write_text((ROOT / "slurm" / "cgan.sh").read_text())
    done = subprocess.run(["bash", copy], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"distgan: {line}")


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"DISTGAN_VENV": "/no/where"}, "DISTGAN_VENV: ... (/no/where)"),
        ({"DISTGAN_SETUP": "/no/setup.sh"}, "DISTGAN_SETUP: ... (/no/setup.sh)"),
        ({"DISTGAN_VENV": "venv"}, "DISTGAN_VENV: ... start ... (venv/bin/python)"),
        ({"DISTGAN_VENV": "/no/where", "DISTGAN_CONTAINER": "no-container exec"},
         "DISTGAN_CONTAINER: ... start ... (no-container exec python3)"),
        ({"DISTGAN_VENV": "/no/where", "DISTGAN_CONTAINER": "env"},
         "DISTGAN_CONTAINER: ... missing ... (env python3: Python 3.12.1 without torch)"),
        ({"DISTGAN_SETUP": "setup.sh"}, "DISTGAN_SETUP: ... missing ... (python3: Python 3.12.1 without torch)"),
        ({}, "DISTGAN_VENV: ... missing ... (python3: Python 3.12.1 without torch)"),
    ],
)  # fmt: skip
def test_a_python_that_can_not_train_is_named_with_the_variable_that_chose_it(
    tmp_path: Path, variables: dict[str, str], line: str
) -> None:
    """By the scripts alone, in a copy: a clone's own .venv would be chosen first."""
    programs = {"scontrol": "echo JobId=7 Restarts=0", "squeue": "true", "python3": "echo Python 3.12.1 without torch"}
    programs |= {"venv/bin/python": "exit 3"}
    for name, text in programs.items():
        path = tmp_path / "bin" / name if "/" not in name else tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    (tmp_path / "setup.sh").touch()
    (tmp_path / "clone/slurm").mkdir(parents=True)
    (tmp_path / "clone/slurm/_run.sh").write_text((ROOT / "slurm" / "_run.sh").read_text())
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "cgan", "SLURM_JOB_NUM_NODES": "1"}
    done = subprocess.run(
        ["bash", "-c", "source clone/slurm/_run.sh train"], cwd=tmp_path, capture_output=True, text=True,
        env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "HOME": str(tmp_path)} | job | variables,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    (error,) = (each for each in done.stderr.splitlines() if each.startswith("distgan: "))
    assert error.startswith(f"distgan: {line.partition(' ... ')[0]}")
    assert fits(line, error)
    assert " #0] not requeued: usage error" in done.stdout
