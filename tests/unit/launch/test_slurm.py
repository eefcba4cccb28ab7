"""`distgan slurm` before it calls SLURM, and the batch scripts as files."""

import math
import re
import tomllib

import pytest
from helpers.runs import ROOT, Capture, expect_user_error, fits

from distgan import cli
from distgan.config.command_settings import SlurmConfig
from distgan.config.presets import parse_training
from distgan.launch import slurm

SCRIPTS = ("vanilla", "cgan", "bench", "convergence")
CGAN = ["--model", "cgan", "--epochs", "20"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nodes", "0"], "--nodes: ... ('0') ... 1 or more [bad-value]"),
        (["--gpus-per-node", "-1"], "--gpus-per-node: ... ('-1') ... [bad-value]"),
        (["--time", "10h"], "--time: ... ('10h') ... minutes:seconds ... [bad-value]"),
        (["--time", "3"], "--time: ... 180 s ... (3) ... --signal [slurm]"),
        (["--time", "0-0:10", "--signal", "B:USR1@600"], "--time: ... (0-0:10) ... [slurm]"),
        (["--signal", "USR1"], "--signal: ... ('USR1') ... B:USR1@180 [bad-value]"),
        (["--job-name", "a/b"], "--job-name: ... ('a/b') ... [bad-value]"),
        (["--partition", ""], "--partition: ... ('') ... [bad-value]"),
        (["--partition", "a\n#SBATCH --nodes=2"], "--partition: ... ('a\\n#SBATCH --nodes=2') ... [bad-value]"),
        (["--networks", "nope.py"], "--networks nope.py: ... [no-networks]"),
        (["--epohcs", "3"], "--epohcs: ... --epochs ... [unknown-setting]"),
        (["--g-lr", "fast"], "--g-lr: ... ('fast') ... [bad-value]"),
        (["--nodes", "40", "--gpus-per-node", "8"], "--batch-size: ... (256) ... at least 320 [batch-too-small]"),
        (
            ["--processes", "3"],
            "--processes: ... has 1 ... --nodes, --gpus-per-node ... DISTGAN_PROCESSES_PER_NODE (3) ... "
            "[launcher-conflict]",
        ),
    ],
)
def test_mistakes_are_reported_before_the_job_waits(capsys: Capture, words: list[str], message: str) -> None:
    assert cli.main(["slurm", *CGAN, *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert fits(f"distgan: {message}", lines[0])


def test_limit_in_all_spellings_of_sbatch() -> None:
    spellings = {"90": 90 * 60, "90:30": 90 * 60 + 30, "04:00:00": 4 * 3600, "1-12": 36 * 3600}
    spellings |= {"1-0:30": 24 * 3600 + 1800, "2-00:00:05": 48 * 3600 + 5, "0": math.inf}
    assert {text: slurm._time_limit_s(text) for text in spellings} == spellings


def test_heads_of_the_scripts_are_alike() -> None:
    """Their `#SBATCH` lines differ in the name, and those of the array in what an array needs."""
    heads = {name: slurm._read_sbatch_lines((ROOT / "slurm" / f"{name}.sh").read_text()) for name in SCRIPTS}
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
    assert f"source {ROOT}/slurm/_run.sh" in slurm.build_script(SlurmConfig(), CGAN, parse_training(CGAN)[0])
    with expect_user_error("--model ... gan ... [unknown-name]"):
        slurm.submit(SlurmConfig(), ["--model", "gan"], dry_run=True)
