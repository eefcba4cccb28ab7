"""`distgan slurm`: write the batch script of a training, let sbatch test it, and submit it."""

import math
import os
import re
import shlex
import shutil
import subprocess
import sys

from distgan.config.command_settings import SlurmConfig
from distgan.config.presets import shipped, training_of
from distgan.config.schema import Config
from distgan.errors import UserError, print_line, print_message

_SBATCH_S = 60


def slurm(config: SlurmConfig, words: list[str], *, is_dry: bool) -> None:
    """Submit a job that runs `distgan train` with `words`; if `is_dry`, print its script and SLURM's plan.

    Raises UserError for flags that train rejects, and with sbatch's message for a job that SLURM rejects.
    """
    training, _ = training_of(words)
    text = script(config, words, training)
    requested = " ".join(_options(config)) or "the job"
    if is_dry:
        print(text, end="", flush=True)
    if not shutil.which("sbatch"):
        if not is_dry:
            raise UserError("sbatch: not on PATH. Expected: a machine that submits jobs, or --dry-run", code="slurm")
        print_message("sbatch is not on PATH: not checked by SLURM")
        return
    # What it would do with the job, if it takes it.
    plan = _sbatch("--test-only", config, text, requested)
    if is_dry:
        print_message(plan)
        return
    name = config.job_name or training.model.name
    named = config.model_copy(update={"job_name": name})
    job = _sbatch("--parsable", named, text, requested).split(";")[0]
    out = training.run.out or f"{os.environ.get('DISTGAN_RUNS', 'runs')}/{name}-{job}"
    print_line(f"job {job}: log {name}-{job}.out, run {out}; squeue --job {job}, scancel {job}")


def script(config: SlurmConfig, words: list[str], training: Config) -> str:
    """Return the batch script: the head of slurm/vanilla.sh or cgan.sh with other numbers, and a training.

    `words` are the flags of `distgan train`, `training` what it makes of them. Raises UserError.
    """
    from distgan.data.loader import check_batch_size, global_batch_size, min_batch_size  # torch: not for --help

    folder = shipped("slurm", "launch/batch_scripts")
    chosen = dict(option.removeprefix("--").split("=", 1) for option in _options(config))
    heads = _heads((folder / f"{training.model.name}.sh").read_text()) | chosen
    _check_time_limit(heads["time"], heads["signal"])
    processes = int(heads["nodes"]) * (int(heads["gpus-per-node"]) or _processes_per_node())
    if training.processes.num not in (None, processes):
        raise UserError(
            f"--processes: the job has {processes}, by --nodes, --gpus-per-node or, without GPUs, "
            f"DISTGAN_PROCESSES_PER_NODE ({training.processes.num}). Expected: the same, or unset",
            code="launcher-conflict",
        )
    check_batch_size(global_batch_size(training.data, processes), min_batch_size(training, processes))
    return "\n".join(
        [
            "#!/bin/bash",
            f"# Written by: distgan slurm {' '.join(shlex.join([*_options(config), *words]).split())}",
            *(f"#SBATCH --{key}{f'={shlex.quote(value)}' if value else ''}" for key, value in heads.items()),
            *_own_python(),
            f"source {shlex.quote(str(folder / '_run.sh'))} train {shlex.join(words)}",
            "",
        ]
    )


def _options(config: SlurmConfig) -> list[str]:
    values = config.model_dump(exclude_none=True)
    return [f"--{key.replace('_', '-')}={value}" for key, value in values.items()]


def _own_python() -> list[str]:
    """Return the lines that make this Python run the job, unless DISTGAN_VENV names another."""
    if not os.access(f"{sys.prefix}/bin/python", os.X_OK):  # that of a system may have another name
        return []
    return [f"[[ -n ${{DISTGAN_VENV:-}} ]] || export DISTGAN_VENV={shlex.quote(sys.prefix)}"]


def _processes_per_node() -> int:
    """Return the processes per node on CPUs, as _run.sh reads it. Raises UserError."""
    value = os.environ.get("DISTGAN_PROCESSES_PER_NODE") or "1"
    if not re.fullmatch(r"\d{1,6}", value) or not int(value):
        raise UserError(
            f"DISTGAN_PROCESSES_PER_NODE: invalid environment variable ({value}). Expected: an integer, 1 or more",
            code="launcher-environment",
        )
    return int(value)


def _check_time_limit(limit: str, signal: str) -> None:
    """Raise UserError for a time limit that ends before the signal to save."""
    lead = int(signal.partition("@")[2])
    if _seconds(limit) <= lead:
        raise UserError(
            f"--time: the job would have to save as soon as it begins, {lead} s before its end ({limit}). Expected: a "
            "longer limit, or a shorter lead by --signal",
            code="slurm",
        )


def _seconds(limit: str) -> float:
    """Return the seconds of a limit of sbatch, where 90 are minutes and 1-12 days and hours; 0 is no limit."""
    days, dash, clock = limit.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if not dash and len(parts) < 3:  # minutes come first, and hours only behind days or before both others
        parts = [0, *parts]
    hours, minutes, seconds = [*parts, 0, 0][:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds or math.inf


def _heads(text: str) -> dict[str, str]:
    """Return the options in the head of a batch script; one without a value has an empty one."""
    return dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", text, re.MULTILINE))


def _sbatch(flag: str, config: SlurmConfig, text: str, requested: str) -> str:
    """Return sbatch's output for a script. Raises UserError with it where it rejects the script."""
    # Once more beside the script: variables as SBATCH_PARTITION are stronger than its head.
    command = ["sbatch", flag, *_options(config)]
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=_SBATCH_S)
    except subprocess.TimeoutExpired:
        raise UserError(
            f"sbatch: no answer within {_SBATCH_S} s. Expected: try again when SLURM answers", code="slurm"
        ) from None
    except OSError as error:
        raise UserError(f"sbatch: does not start ({error.strerror})", code="slurm") from error
    said = [re.sub(r"^\w+: (error: )?", "", line) for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    if done.returncode:
        raise UserError(
            f"{requested}: rejected by sbatch: {'; '.join(said) or f'exit code {done.returncode}'}", code="slurm"
        )
    return "; ".join(said)
