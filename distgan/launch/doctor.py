"""`distgan doctor`: eight checks of what `distgan train` needs here, each with what to do about it.

Downloads nothing, and contacts no other machine. What may crash or hang runs in separate processes; this one imports
torch only after it imported in a child.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from distgan.errors import CommandFailed, first_line, print_line
from distgan.launch.all_reduce_check import Finding, State, check_all_reduce
from distgan.utils import operating_system
from distgan.utils.child_process import build_child_env, summarise_error
from distgan.utils.hardware import count_gpus

if TYPE_CHECKING:
    from distgan.config.command_settings import DoctorConfig

_REINSTALL_TORCH = (
    "pip install --force-reinstall torch torchvision, both in one command; for a CPU build both from PyTorch's index "
    "of CPU builds (pytorch.org, Get Started)"
)
_MODULES = ("torch", "torchvision", "distgan.train")
_IMPORTS_S = 120


class ImportFailure(NamedTuple):
    """The first of _MODULES that does not import, and its error in one line."""

    module: str
    error: str


def check_machine(data_dir: str | None, num_processes: int = 2, *, as_json: bool = False) -> None:
    """Print a line for each check, or all as JSON. An all-reduce is checked over `num_processes`, if 2 or more.

    Raises CommandFailed where `distgan train` can't run: for the version of Python, a required package, a GPU that
    does not compute, or the disk. Processes that can't reach each other by NCCL, between GPUs, are a failure too;
    by gloo only a problem, since one process trains without it.
    """
    failure = find_import_failure()
    has_torch = failure is None or failure.module != "torch"
    num_gpus = count_gpus() if has_torch else 0
    checks: dict[str, Callable[[], Finding]] = {
        "python": check_python,
        "torch": lambda: check_torch(failure),
        "packages": lambda: check_packages(failure),
        "device": (check_gpus if num_gpus else explain_no_gpu) if has_torch else lambda: _needs_torch("device"),
        "processes": lambda: check_processes(num_processes, num_gpus) if has_torch else _needs_torch("processes"),
        "memory": report_memory,
        "disk": check_disk,
        "data": lambda: check_data(data_dir) if has_torch else _needs_torch("data"),
    }
    essential = {"python", "torch", "packages", "disk", *(["device"] if num_gpus else [])}
    essential |= {"processes"} if num_gpus > 1 else set()
    findings = [_run_check(name, check) for name, check in checks.items()]
    failed = [finding.what for finding in findings if finding.state == "problem" and finding.what in essential]
    _print_findings(findings, can_train=not failed, as_json=as_json)
    if failed:
        raise CommandFailed(f"distgan train can't run here: {', '.join(failed)}")
    if not as_json:
        print_line("distgan train can run here")


def check_user_networks(config: "DoctorConfig") -> None:
    """Print a line for each check of a user's networks, or all as JSON. Raises CommandFailed for a failed contract."""
    from distgan.launch.networks_check import check_networks

    findings = list(check_networks(config))
    failed = [finding.what for finding in findings if finding.state == "problem"]
    _print_findings(findings, can_train=not failed, as_json=config.as_json)
    if failed:
        raise CommandFailed(f"{config.networks} does not meet the contract: {', '.join(failed)}")
    if not config.as_json:
        print_line(f"distgan train --networks {config.networks} can run")


def _print_findings(findings: list[Finding], *, can_train: bool, as_json: bool) -> None:
    if as_json:
        report = {"can_train": can_train, "checks": [finding._asdict() for finding in findings]}
        print_line(json.dumps(report, indent=1))
    else:
        _print_table(findings)


def _run_check(name: str, check: Callable[[], Finding]) -> Finding:
    """Return the finding of a check; a check that raises is a problem like any other."""
    try:
        return check()
    except Exception as error:
        return Finding(name, "problem", f"the check failed ({type(error).__name__}: {error})")


def _needs_torch(name: str) -> Finding:
    return Finding(name, "note", "needs torch")


def _print_table(findings: list[Finding]) -> None:
    try:
        from rich.table import Table
        from rich.text import Text

        from distgan.utils.terminal import TerminalConsole
    except ImportError:  # it is one of the packages that may be missing
        for finding in findings:
            print_line("  ".join(filter(None, finding)))
        return
    colours = {"ok": "green", "note": "yellow", "problem": "red"}
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, state, text, remedy in findings:
        table.add_row(name, Text(state, colours[state]), f"{text}; {remedy}" if remedy else text)
    TerminalConsole().print_table(table)


def check_python() -> Finding:
    """Report the version of Python."""
    text = sys.version.split()[0]
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Finding("python", "ok", text)
    return Finding("python", "problem", text, "use Python 3.11 to 3.13, in a new virtual environment")


def find_import_failure() -> ImportFailure | None:
    """Import _MODULES in a separate process; return the first that fails."""
    code = "".join(f"import {module}\nprint('{module}', flush=True)\n" for module in _MODULES)
    try:
        process = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, timeout=_IMPORTS_S, env=build_child_env()
        )
        out, message = process.stdout, summarise_error(process.returncode, process.stderr)
    except subprocess.TimeoutExpired as error:
        out, message = error.stdout or b"", f"takes more than {_IMPORTS_S} s"
    missing = [module for module in _MODULES if module not in out.decode().split()]
    return ImportFailure(missing[0], message) if missing else None


def check_torch(failure: ImportFailure | None) -> Finding:
    """Check that torch and torchvision import: a torchvision built for another torch does not."""
    if failure and failure.module == "torch":
        return Finding("torch", "problem", f"does not import ({failure.error})", _REINSTALL_TORCH)
    import torch

    backends = {"CUDA": torch.version.cuda, "ROCm": torch.version.hip}
    builds = " ".join(f"{name} {number}" for name, number in backends.items() if number)
    versions = _installed_version("torch"), _installed_version("torchvision")
    text = f"{versions[0]}, a build for {builds or 'CPUs'}, with torchvision {versions[1]}"
    if failure is None or failure.module == "distgan.train":
        return Finding("torch", "ok", text)
    is_mismatch = "operator torchvision::nms does not exist" in failure.error
    reason = "; their builds do not match" if is_mismatch else ""
    return Finding("torch", "problem", f"{text}: {failure.error}{reason}", _REINSTALL_TORCH)


def check_packages(failure: ImportFailure | None) -> Finding:
    """Check the versions of the required packages, and that distgan.train imports."""
    try:
        required = _list_requirements()
    except ImportError:
        return Finding("packages", "problem", "packaging is missing", "pip install packaging")
    problems = {name: problem for name, _, problem in required if problem}
    if problems:
        pair = {"torch", "torchvision"}  # reinstalling one of them, from another index, would not match the other
        names = problems.keys() | (pair if problems.keys() & pair else set())
        command = " ".join(f"'{requirement}'" for name, requirement, _ in required if name in names)
        return Finding("packages", "problem", ", ".join(problems.values()), f"pip install {command}")
    if failure and failure.module == "distgan.train":
        return Finding("packages", "problem", f"import distgan.train fails: {failure.error}")
    if not required:
        return Finding("packages", "note", "unknown, since distgan is not installed", "pip install .")
    return Finding("packages", "ok", ", ".join(f"{name} {_installed_version(name)}" for name, _, _ in required))


def _list_requirements() -> list[tuple[str, str, str]]:
    """Return of each requirement of distgan the name, the requirement, and the problem here, "" for none."""
    from packaging.requirements import Requirement

    required = []
    for requirement in map(Requirement, (_installed_version("distgan") and requires("distgan")) or []):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            name, installed = requirement.name, _installed_version(requirement.name)
            problem = f"{name} {installed} is not {requirement.specifier}" if installed else f"{name} is missing"
            is_satisfied = installed is not None and requirement.specifier.contains(installed, prereleases=True)
            required.append((name, f"{name}{requirement.specifier}", "" if is_satisfied else problem))
    return required


def _installed_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def check_gpus() -> Finding:
    """Check that each GPU computes."""
    import torch

    gpus = []
    for index in range(count_gpus()):
        gpu = torch.cuda.get_device_properties(index)
        gpus.append(f"{gpu.name}, {_format_bytes(gpu.total_memory)}, compute capability {gpu.major}.{gpu.minor}")
        try:
            torch.ones(2, device=f"cuda:{index}").sum().item()
        except RuntimeError as error:
            text = f"{gpus[-1]}; GPU {index} does not compute: {first_line(error)}"
            return Finding("device", "problem", text, "hide it by CUDA_VISIBLE_DEVICES")
    text = "; ".join(f"{gpus.count(gpu)} x {gpu}" for gpu in dict.fromkeys(gpus))
    return _report_bf16(text, is_cpu=False)


def explain_no_gpu() -> Finding:
    """Report why torch finds no GPU, and the cores of the CPU."""
    import torch

    text = f"no GPU; trains on the CPU, {operating_system.count_cores()} cores"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible in ("", "-1"):
        return _report_bf16(f"{text}; GPUs are hidden by CUDA_VISIBLE_DEVICES={visible}", is_cpu=True)
    if not shutil.which("nvidia-smi"):
        return _report_bf16(text, is_cpu=True)
    is_ok, gpu = _query_nvidia_smi()
    if "no devices" in gpu.lower():
        return _report_bf16(text, is_cpu=True)
    if not is_ok:
        return Finding("device", "problem", f"{text}; nvidia-smi fails ({gpu})", "fix the driver")
    if not torch.version.cuda:
        return Finding("device", "problem", f"{text}: torch is not a CUDA build, and there is {gpu}", _REINSTALL_TORCH)
    reason = "" if visible is None else f"CUDA_VISIBLE_DEVICES={visible}; "
    try:
        torch.cuda.init()
    except RuntimeError as error:
        reason += first_line(error)
    advice = "update the driver, or install a torch for its CUDA (https://pytorch.org/get-started)"
    return Finding("device", "problem", f"{text}: torch can't use {gpu} ({reason})", advice)


def _query_nvidia_smi() -> tuple[bool, str]:
    """Return True if `nvidia-smi -L` succeeds, and its first line of output. Its exit code is 6 without a GPU."""
    try:
        process = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError) as error:
        return False, first_line(error)
    lines = [line.strip() for line in f"{process.stdout}\n{process.stderr}".splitlines() if line.strip()]
    return process.returncode == 0, lines[0] if lines else f"exit code {process.returncode}"


def _report_bf16(text: str, *, is_cpu: bool) -> Finding:
    """Return a Finding of `text` and the speed of bf16, by the probe of --precision auto."""
    import torch

    from distgan.distributed.precision import time_precisions
    from distgan.utils.hardware import emulates_bf16, has_native_bf16

    if has_native_bf16(is_cpu=is_cpu):
        float32_s, bf16_s = time_precisions(torch.device("cpu" if is_cpu else "cuda"))
        speed = f"native, {float32_s / bf16_s:.1f} times as fast as float32 in a probe"
        is_faster = bf16_s < float32_s
    else:
        speed = "emulated, many times slower" if not is_cpu or emulates_bf16() else "not known of this CPU"
        is_faster = False
    return Finding("device", "ok", f"{text}; bf16 is {speed}{'' if is_faster else ': leave --precision unset'}")


def check_processes(num_processes: int, num_gpus: int) -> Finding:
    """Check an all-reduce over several processes: by NCCL with several GPUs, else by gloo."""
    if num_processes < 2:
        return Finding("processes", "note", "not checked")
    backend, num = ("nccl", min(num_processes, num_gpus)) if num_gpus > 1 else ("gloo", num_processes)
    return check_all_reduce(backend, num)


def report_memory() -> Finding:
    """Report free memory, and shared memory for NCCL."""
    import psutil

    memory = psutil.virtual_memory()
    text = f"{_format_bytes(memory.available)} free of {_format_bytes(memory.total)}"
    if memory.available < 2 * 2**30:
        return Finding("memory", "note", text, "a process of --model vanilla takes about 1.3 GiB: end other programs")
    shared = shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else None
    if shared is not None and shared < 64 * 2**20:  # NCCL passes data through it
        return Finding(
            "memory", "note", f"{text}; /dev/shm {_format_bytes(shared)}", "for several GPUs in Docker: --shm-size 1g"
        )
    return Finding("memory", "ok", text)


def check_disk() -> Finding:
    """Check the disk of runs/, or of the current folder."""
    folder = Path("runs") if Path("runs").is_dir() else Path()
    advice = "free space, or start in another folder"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(2**20))
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding("disk", "problem", f"{folder}/: {error.strerror}", advice)
    state: State = "problem" if free < 100 * 2**20 else "note" if free < 2**30 else "ok"
    return Finding("disk", state, f"{_format_bytes(free)} free in {folder.absolute()}", "" if state == "ok" else advice)


def check_data(data_dir: str | None) -> Finding:
    """Report where MNIST is found."""
    from distgan.config.schema import DataConfig
    from distgan.data.base import SOURCES, data_folder, find_folder

    folder, _ = data_folder(DataConfig(dir=data_dir))
    if raw := find_folder(SOURCES["mnist"], folder):
        return Finding("data", "ok", f"MNIST in {raw}")
    return Finding("data", "note", f"no MNIST in {folder}/", "train downloads it; --data digits needs none")


def _format_bytes(num: float) -> str:
    return f"{num / 2**30:,.1f} GiB" if num >= 2**30 else f"{num / 2**20:,.0f} MiB"
