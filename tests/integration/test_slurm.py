"""`distgan slurm` and the batch scripts without a SLURM; tests/test_slurm_cluster.py has what a real one does."""

import math
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT

from distgan import cli
from distgan.config.commands import SlurmConfig
from distgan.config.presets import training_of
from distgan.errors import UserError
from distgan.launch import slurm

SCRIPTS = ("vanilla", "cgan", "bench", "convergence")
CGAN = ["--model", "cgan", "--epochs", "20"]


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
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


def test_job_is_asked_for_and_then_submitted(sbatch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["slurm", "--nodes", "2", "--gpus-per-node", "4", "--time", "1-12", *CGAN]) == 0
    asked = ["--nodes=2", "--gpus-per-node=4", "--time=1-12"]
    calls = (sbatch / "calls").read_text().splitlines()
    # On the command line too: there they are stronger than SBATCH_* of the environment.
    assert [call.split() for call in calls] == [["--test-only", *asked], ["--parsable", *asked, "--job-name=cgan"]]
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


def test_script_keeps_words_with_spaces(sbatch: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nodes", "0"], "--nodes: '0' is not allowed; allowed: a whole number, 1 or more"),
        (["--gpus-per-node", "-1"], "--gpus-per-node: '-1' is not allowed"),
        (["--time", "10h"], "--time: '10h' is not allowed; allowed: minutes, or minutes:seconds"),
        (
            ["--time", "3"],
            "--time 3: the job would be asked to save as soon as it begins, 180 s before its end; allowed: a longer "
            "limit, or a shorter lead by --signal",
        ),
        (["--time", "0-0:10", "--signal", "B:USR1@600"], "--time 0-0:10: the job would be asked to save as soon as"),
        (["--signal", "USR1"], "--signal: 'USR1' is not allowed; allowed: as B:USR1@180"),
        (["--job-name", "a/b"], "--job-name: 'a/b' is not allowed; allowed: a line without /"),
        (["--partition", ""], "--partition: '' is not allowed"),
        (
            ["--partition", "a\n#SBATCH --nodes=2"],
            "--partition: 'a\\n#SBATCH --nodes=2' is not allowed; allowed: a line",
        ),
        (["--epohcs", "3"], "--epohcs: unknown flag, did you mean --epochs?"),
        (["--g-lr", "fast"], "--g-lr: 'fast' is not allowed"),
        (["--nodes", "40", "--gpus-per-node", "8"], "--batch-size 256: too few for the processes"),
        (
            ["--processes", "3"],
            "--processes 3: the job has 1, by --nodes, --gpus-per-node or, without GPUs, DISTGAN_PROCESSES_PER_NODE; "
            "allowed: the same, or leave it out",
        ),
    ],
)
def test_mistakes_are_told_before_the_job_waits(
    sbatch: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert cli.main(["slurm", *CGAN, *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"distgan: {message}")
    assert not (sbatch / "calls").exists()


def test_processes_of_a_job_without_gpus(
    sbatch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DISTGAN_PROCESSES_PER_NODE", "2")
    words = ["slurm", *CGAN, "--nodes", "2", "--gpus-per-node", "0", "--dry-run", "--processes"]
    assert cli.main([*words, "4"]) == 0
    assert cli.main([*words, "2"]) == 2
    assert "--processes 2: the job has 4, by --nodes, --gpus" in capsys.readouterr().err
    monkeypatch.setenv("DISTGAN_PROCESSES_PER_NODE", "many")
    assert cli.main([*words, "4"]) == 2
    assert "DISTGAN_PROCESSES_PER_NODE=many: allowed: a whole number, 1 or more" in capsys.readouterr().err


def test_limit_in_all_spellings_of_sbatch() -> None:
    spellings = {
        "90": 90 * 60,
        "90:30": 90 * 60 + 30,
        "04:00:00": 4 * 3600,
        "1-12": 36 * 3600,
        "1-0:30": 24 * 3600 + 1800,
    }
    spellings |= {"2-00:00:05": 48 * 3600 + 5, "0": math.inf}
    assert {text: slurm._seconds(text) for text in spellings} == spellings


def test_what_slurm_says_when_it_refuses(sbatch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (sbatch / "says").write_text("sbatch: error: Requested time limit is invalid\nallocation failure: no\n")
    (sbatch / "code").write_text("1")
    assert cli.main(["slurm", *CGAN, "--time", "9-0"]) == 2
    error = capsys.readouterr().err
    assert (
        error
        == "distgan: --time=9-0: sbatch does not take it: Requested time limit is invalid; allocation failure: no\n"
    )
    (sbatch / "says").write_text("")
    assert cli.main(["slurm", *CGAN]) == 2
    assert "the job: sbatch does not take it: exit code 1" in capsys.readouterr().err


def test_without_sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["slurm", *CGAN]) == 2
    assert (
        "sbatch: is not on PATH; allowed: on a machine that submits jobs, or with --dry-run" in capsys.readouterr().err
    )
    assert cli.main(["slurm", *CGAN, "--dry-run"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("#!/bin/bash\n")
    assert "SLURM was not asked" in shown.err


def test_heads_of_the_scripts_are_alike() -> None:
    """Their `#SBATCH` lines differ in the name, and those of the array in what an array needs."""
    heads = {name: slurm._heads((ROOT / "slurm" / f"{name}.sh").read_text()) for name in SCRIPTS}
    for name, head in heads.items():
        assert head.pop("job-name") == name
    array = heads.pop("convergence")
    assert array.pop("array") == "0-9"
    assert array.pop("output") == "%x-%A_%a.out"
    expected = heads["cgan"]
    assert heads["vanilla"] == heads["bench"] == expected
    assert expected.pop("output") == "%x-%j.out"
    assert array == expected


def test_nothing_stands_between_the_head_and_its_options() -> None:
    """SLURM takes no option behind the first command, and says nothing about it."""
    for name in SCRIPTS:
        lines = (ROOT / "slurm" / f"{name}.sh").read_text().splitlines()
        first = next(index for index, line in enumerate(lines) if not line.startswith("#"))
        assert not any(line.startswith("#SBATCH") for line in lines[first:])
        assert "\r" not in "".join(lines)


def test_every_variable_of_the_scripts_is_documented() -> None:
    used = set(re.findall(r"\b(DISTGAN_[A-Z_]+)", "".join(p.read_text() for p in (ROOT / "slurm").glob("*.sh"))))
    table = (ROOT / "docs" / "slurm.md").read_text()
    assert used
    assert {name for name in used if f"`{name}`" not in table} == set()


def test_scripts_travel_in_a_wheel() -> None:
    """And none of them needs a clone: `distgan slurm` names its own copy of _run.sh."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert build["wheel"]["force-include"]["slurm"] == "distgan/launch/batch_scripts"
    text = slurm.script(SlurmConfig(), CGAN, training_of(CGAN)[0])
    assert f"source {ROOT}/slurm/_run.sh" in text
    with pytest.raises(UserError, match="--model gan: unknown network"):
        slurm.slurm(SlurmConfig(), ["--model", "gan"], is_dry=True)


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (f"{ROOT}/slurm/cgan.sh", "SLURM_JOB_ID: is not set"),
        (f"{ROOT}/slurm/cgan.sh --out /x/slurm/cgan.sh --tags a", "SLURM_JOB_ID: is not set"),
        ("(null)", "DISTGAN_ROOT=/no: holds no slurm/_run.sh; allowed: the folder of a clone"),
        (
            "/elsewhere/slurm/cgan.sh --epochs 3",
            "DISTGAN_ROOT=/no: holds no slurm/_run.sh; allowed: the folder of a clone",
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
