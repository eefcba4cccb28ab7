"""`distgan slurm`: build the batch script of a training, have sbatch test it, and submit it."""

import math
import os
import re
import shlex
import shutil
import subprocess
import sys

from distgan.config.command_settings import SlurmConfig
from distgan.config.presets import parse_training, shipped_folder
from distgan.config.schema import Config
from distgan.errors import UserError, print_line, print_message

_SBATCH_S = 60


def submit(config: SlurmConfig, train_flags: list[str], *, dry_run: bool) -> None:
    """Submit a job that runs `distgan train`; with `dry_run` print its script, and SLURM's estimate of its start.

    Raises UserError for flags that train rejects, and with sbatch's message for a job that SLURM rejects.
    """
    from distgan.models.user_networks import find_file  # torch: not for --help

    training, _ = parse_training(train_flags)
    if training.model.networks and not training.run.trust_networks:
        find_file(training.model.networks)  # it is executed in the job alone
    script = build_script(config, train_flags, training)
    requested = " ".join(_sbatch_flags(config)) or "the job"
    if dry_run:
        print(script, end="", flush=True)
    if not shutil.which("sbatch"):
        if not dry_run:
            raise UserError("sbatch: not on PATH. Expected: a machine that submits jobs, or --dry-run", code="slurm")
        print_message("sbatch is not on PATH: not checked by SLURM")
        return
    estimate = _call_sbatch("--test-only", config, script, requested)  # when it would start, if accepted
    if dry_run:
        print_message(estimate)
        return
    name = config.job_name or training.model.name
    config = config.model_copy(update={"job_name": name})
    job = _call_sbatch("--parsable", config, script, requested).split(";")[0]
    out = training.run.out or f"{os.environ.get('DISTGAN_RUNS', 'runs')}/{name}-{job}"
    print_line(f"job {job}: log {name}-{job}.out, run {out}; squeue --job {job}, scancel {job}")


def build_script(config: SlurmConfig, train_flags: list[str], training: Config) -> str:
    """Return the batch script: the #SBATCH lines of slurm/vanilla.sh or cgan.sh, with `config` in place of theirs.

    `training` is the parsed config of `train_flags`. Raises UserError.
    """
    from distgan.data.loader import check_batch_size, global_batch_size, min_batch_size  # torch: not for --help

    folder = shipped_folder("slurm", "launch/batch_scripts")
    overrides = dict(flag.removeprefix("--").split("=", 1) for flag in _sbatch_flags(config))
    options = _read_sbatch_lines((folder / f"{training.model.name}.sh").read_text()) | overrides
    _check_time_limit(options["time"], options["signal"])
    num_processes = int(options["nodes"]) * (int(options["gpus-per-node"]) or _processes_per_node())
    if training.processes.num not in (None, num_processes):
        raise UserError(
            f"--processes: the job has {num_processes}, by --nodes, --gpus-per-node or, without GPUs, "
            f"DISTGAN_PROCESSES_PER_NODE ({training.processes.num}). Expected: the same, or unset",
            code="launcher-conflict",
        )
    check_batch_size(global_batch_size(training.data, num_processes), min_batch_size(training, num_processes))
    return "\n".join(
        [
            "#!/bin/bash",
            f"# Written by: distgan slurm {' '.join(shlex.join([*_sbatch_flags(config), *train_flags]).split())}",
            *(f"#SBATCH --{key}{f'={shlex.quote(value)}' if value else ''}" for key, value in options.items()),
            *_export_python(),
            f"source {shlex.quote(str(folder / '_run.sh'))} train {shlex.join(train_flags)}",
            "",
        ]
    )


def _sbatch_flags(config: SlurmConfig) -> list[str]:
    values = config.model_dump(exclude_none=True)
    return [f"--{key.replace('_', '-')}={value}" for key, value in values.items()]


def _export_python() -> list[str]:
    """Return the lines that make this Python run the job, unless DISTGAN_VENV is set."""
    if not os.access(f"{sys.prefix}/bin/python", os.X_OK):  # a system's Python may have only the name python3
        return []
    return [f"[[ -n ${{DISTGAN_VENV:-}} ]] || export DISTGAN_VENV={shlex.quote(sys.prefix)}"]


def _processes_per_node() -> int:
    """Return the processes per node without GPUs, from the variable that _run.sh reads. Raises UserError."""
    value = os.environ.get("DISTGAN_PROCESSES_PER_NODE") or "1"
    if not re.fullmatch(r"\d{1,6}", value) or not int(value):
        raise UserError(
            f"DISTGAN_PROCESSES_PER_NODE: invalid environment variable ({value}). Expected: an integer, 1 or more",
            code="launcher-environment",
        )
    return int(value)


def _check_time_limit(limit: str, signal: str) -> None:
    """Raise UserError for a time limit that is no longer than the time of the signal before it."""
    lead = int(signal.partition("@")[2])
    if _time_limit_s(limit) <= lead:
        raise UserError(
            f"--time: too short, as the job is signalled to save {lead} s before its end ({limit}). Expected: a longer "
            "limit, or a shorter time by --signal",
            code="slurm",
        )


def _time_limit_s(limit: str) -> float:
    """Return the seconds of sbatch's --time, where 90 means minutes and 1-12 days and hours; 0 means no limit."""
    days, dash, clock = limit.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if not dash and len(parts) < 3:  # without days, one or two parts begin with minutes
        parts = [0, *parts]
    hours, minutes, seconds = [*parts, 0, 0][:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds or math.inf


def _read_sbatch_lines(text: str) -> dict[str, str]:
    """Return the options of the #SBATCH lines of a batch script; a flag without a value has ""."""
    return dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", text, re.MULTILINE))


def _call_sbatch(flag: str, config: SlurmConfig, script: str, requested: str) -> str:
    """Return sbatch's output for a script. Raises UserError with that output if sbatch rejects it."""
    # As flags too: variables as SBATCH_PARTITION override the script's #SBATCH lines, but not flags.
    command = ["sbatch", flag, *_sbatch_flags(config)]
    try:
        process = subprocess.run(command, input=script, capture_output=True, text=True, timeout=_SBATCH_S)
    except subprocess.TimeoutExpired:
        raise UserError(
            f"sbatch: no answer within {_SBATCH_S} s. Expected: try again when SLURM answers", code="slurm"
        ) from None
    except OSError as error:
        raise UserError(
            f"sbatch: does not start ({error.strerror}). Expected: SLURM installed", code="slurm"
        ) from error
    output = [line for line in (process.stdout + process.stderr).splitlines() if line.strip()]
    message = "; ".join(re.sub(r"^\w+: (error: )?", "", line) for line in output)
    if process.returncode:
        reason = message or f"exit code {process.returncode}"
        raise UserError(f"{requested}: rejected by sbatch ({reason}). Expected: what this cluster offers", code="slurm")
    return message
