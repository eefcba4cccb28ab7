"""`distgan doctor`: eight checks of what `distgan train` needs here, each with what to do about it.

Downloads nothing, and contacts no other machine. What may crash or hang runs in separate processes; torch is imported
in this one only after that went well.
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
from distgan.launch.all_reduce_check import Finding, State, all_reduce
from distgan.utils import operating_system
from distgan.utils.child_process import last_words, own_modules
from distgan.utils.hardware import count_gpus

if TYPE_CHECKING:
    from distgan.config.command_settings import DoctorConfig

_PAIR = (
    "pip install --force-reinstall torch torchvision, both by one command; for a CPU build both from PyTorch's own "
    "index of CPU builds (pytorch.org, Get Started)"
)
_MODULES = ("torch", "torchvision", "distgan.train")
_IMPORTS_S = 120


class Failure(NamedTuple):
    """The first of _MODULES that does not import, and its last words."""

    module: str
    words: str


def examine(data_dir: str | None, processes: int = 2, *, as_json: bool = False) -> None:
    """Print a line for each check, or all as JSON. `processes` try a sum together; with fewer than 2 none do.

    Raises CommandFailed where `distgan train` could not run: by its Python, by a package that it imports, by a GPU
    that it would take and that does not compute, or by its disk. Processes that can't reach each other over gloo
    are a problem and no failure, since one process trains without; over NCCL, between GPUs, they are a failure.
    """
    failure = failed_import()
    has_torch = failure is None or failure.module != "torch"
    num_gpus = count_gpus() if has_torch else 0
    checks: dict[str, Callable[[], Finding]] = {
        "python": python,
        "torch": lambda: torch_and_torchvision(failure),
        "packages": lambda: packages(failure),
        "device": (gpus if num_gpus else no_gpu) if has_torch else lambda: _needs_torch("device"),
        "processes": lambda: reach_each_other(processes, num_gpus) if has_torch else _needs_torch("processes"),
        "memory": memory,
        "disk": disk,
        "data": lambda: data(data_dir) if has_torch else _needs_torch("data"),
    }
    essential = {"python", "torch", "packages", "disk", *(["device"] if num_gpus else [])}
    essential |= {"processes"} if num_gpus > 1 else set()
    findings = [_tried(what, check) for what, check in checks.items()]
    broken = [found.what for found in findings if found.state == "problem" and found.what in essential]
    if as_json:
        report = {"can_train": not broken, "checks": [found._asdict() for found in findings]}
        print_line(json.dumps(report, indent=1))
    else:
        _show(findings)
    if broken:
        raise CommandFailed(f"distgan train can't run here: {', '.join(broken)}")
    if not as_json:
        print_line("distgan train can run here")


def examine_networks(config: "DoctorConfig") -> None:
    """Print a line for each check of a user's networks, or all as JSON. Raises CommandFailed for a broken contract."""
    from distgan.launch.networks_check import check_networks

    findings = list(check_networks(config))
    broken = [found.what for found in findings if found.state == "problem"]
    if config.as_json:
        report = {"can_train": not broken, "checks": [found._asdict() for found in findings]}
        print_line(json.dumps(report, indent=1))
    else:
        _show(findings)
    if broken:
        raise CommandFailed(f"{config.networks} does not keep the contract: {', '.join(broken)}")
    if not config.as_json:
        print_line(f"distgan train --networks {config.networks} can run")


def _tried(what: str, check: Callable[[], Finding]) -> Finding:
    """Return what a check finds; one that fails itself is a problem like any other."""
    try:
        return check()
    except Exception as error:
        return Finding(what, "problem", f"can't be looked at ({type(error).__name__}: {error})")


def _needs_torch(what: str) -> Finding:
    return Finding(what, "note", "needs torch")


def _show(findings: list[Finding]) -> None:
    try:
        from rich.table import Table
        from rich.text import Text

        from distgan.utils.terminal import TerminalConsole
    except ImportError:  # it is one of the packages that may be missing
        for found in findings:
            print_line("  ".join(filter(None, found)))
        return
    colours = {"ok": "green", "note": "yellow", "problem": "red"}
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for what, state, text, remedy in findings:
        table.add_row(what, Text(state, colours[state]), f"{text}; {remedy}" if remedy else text)
    TerminalConsole().print_table(table)


# -- Python and packages --


def python() -> Finding:
    """Report the version of Python."""
    text = sys.version.split()[0]
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Finding("python", "ok", text)
    return Finding("python", "problem", text, "take Python 3.11 to 3.13, in a new virtual environment")


def failed_import() -> Failure | None:
    """Import what training imports, in a separate process."""
    code = "".join(f"import {module}\nprint('{module}', flush=True)\n" for module in _MODULES)
    try:
        process = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, timeout=_IMPORTS_S, env=own_modules()
        )
        out, words = process.stdout, last_words(process.returncode, process.stderr)
    except subprocess.TimeoutExpired as error:
        out, words = error.stdout or b"", f"takes more than {_IMPORTS_S} s"
    missing = [module for module in _MODULES if module not in out.decode().split()]
    return Failure(missing[0], words) if missing else None


def torch_and_torchvision(failure: Failure | None) -> Finding:
    """Check that torchvision imports: one built for another torch does not."""
    if failure and failure.module == "torch":
        return Finding("torch", "problem", f"does not import ({failure.words})", _PAIR)
    import torch

    gpus_of = {"CUDA": torch.version.cuda, "ROCm": torch.version.hip}
    builds = " ".join(f"{name} {number}" for name, number in gpus_of.items() if number)
    text = f"{_version('torch')}, a build for {builds or 'CPUs'}, with torchvision {_version('torchvision')}"
    if failure is None or failure.module == "distgan.train":
        return Finding("torch", "ok", text)
    is_mismatch = "operator torchvision::nms does not exist" in failure.words
    reason = "; they are no pair" if is_mismatch else ""
    return Finding("torch", "problem", f"{text}: {failure.words}{reason}", _PAIR)


def packages(failure: Failure | None) -> Finding:
    """Check the versions of the required packages, and that the training imports."""
    try:
        required = _required()
    except ImportError:
        return Finding("packages", "problem", "packaging is missing", "pip install packaging")
    wrong = {name: fault for name, _, fault in required if fault}
    if wrong:
        pair = {"torch", "torchvision"}  # one of them alone, from another index, would not fit the other
        names = wrong.keys() | (pair if wrong.keys() & pair else set())
        command = " ".join(f"'{requirement}'" for name, requirement, _ in required if name in names)
        return Finding("packages", "problem", ", ".join(wrong.values()), f"pip install {command}")
    if failure and failure.module == "distgan.train":
        return Finding("packages", "problem", f"import distgan.train fails: {failure.words}")
    if not required:
        return Finding("packages", "note", "unknown, since distgan is not installed", "pip install .")
    return Finding("packages", "ok", ", ".join(f"{name} {_version(name)}" for name, _, _ in required))


def _required() -> list[tuple[str, str, str]]:
    """Return the requirements of distgan: name, requirement, and its fault here."""
    from packaging.requirements import Requirement

    required = []
    for requirement in map(Requirement, (_version("distgan") and requires("distgan")) or []):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            name, found = requirement.name, _version(requirement.name)
            fault = f"{name} is missing" if found is None else f"{name} {found} is not {requirement.specifier}"
            is_right = found is not None and requirement.specifier.contains(found, prereleases=True)
            required.append((name, f"{name}{requirement.specifier}", "" if is_right else fault))
    return required


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


# -- What computes --


def gpus() -> Finding:
    """Check that each GPU computes."""
    import torch

    found = []
    for index in range(count_gpus()):
        of = torch.cuda.get_device_properties(index)
        found.append(f"{of.name}, {_size(of.total_memory)}, compute capability {of.major}.{of.minor}")
        try:
            torch.ones(2, device=f"cuda:{index}").sum().item()
        except RuntimeError as error:
            text = f"{found[-1]}; GPU {index} does not compute: {first_line(error)}"
            return Finding("device", "problem", text, "hide it by CUDA_VISIBLE_DEVICES")
    text = "; ".join(f"{found.count(each)} x {each}" for each in dict.fromkeys(found))
    return _with_bf16(text, is_cpu=False)


def no_gpu() -> Finding:
    """Say why torch has none, and what the CPU has."""
    import torch

    text = f"no GPU; trains on the CPU, {operating_system.cores()} cores"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible in ("", "-1"):
        return _with_bf16(f"{text}; GPUs are hidden by CUDA_VISIBLE_DEVICES={visible}", is_cpu=True)
    if not shutil.which("nvidia-smi"):
        return _with_bf16(text, is_cpu=True)
    has_ended_well, card = _first_gpu()
    if "no devices" in card.lower():
        return _with_bf16(text, is_cpu=True)
    if not has_ended_well:
        return Finding("device", "problem", f"{text}; nvidia-smi fails ({card})", "fix the driver")
    if not torch.version.cuda:
        return Finding("device", "problem", f"{text}: torch is no CUDA build, beside {card}", _PAIR)
    reason = "" if visible is None else f"CUDA_VISIBLE_DEVICES={visible}; "
    try:
        torch.cuda.init()
    except RuntimeError as error:
        reason += first_line(error)
    advice = "update the driver, or take a torch for its CUDA (https://pytorch.org/get-started)"
    return Finding("device", "problem", f"{text}: torch can't use {card} ({reason})", advice)


def _first_gpu() -> tuple[bool, str]:
    """Return whether nvidia-smi succeeds, and the first line that it prints; without a GPU its exit code is 6."""
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError) as error:
        return False, first_line(error)
    lines = [line.strip() for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
    return done.returncode == 0, lines[0] if lines else f"exit code {done.returncode}"


def _with_bf16(text: str, *, is_cpu: bool) -> Finding:
    """Add how fast bf16 is, by the race of --precision auto."""
    import torch

    from distgan.distributed.precision import race
    from distgan.utils.hardware import has_native_bf16, imitates_bf16

    leave = "leave --precision unset"
    if has_native_bf16(is_cpu=is_cpu):
        float32_s, bf16_s = race(torch.device("cpu" if is_cpu else "cuda"))
        how = f"native, {float32_s / bf16_s:.1f} times as fast as float32 in a probe"
        how += "" if bf16_s < float32_s else f": {leave}"
    else:
        how = "imitated, many times slower" if not is_cpu or imitates_bf16() else "not known of this CPU"
        how += f": {leave}"
    return Finding("device", "ok", f"{text}; bf16 is {how}")


def reach_each_other(processes: int, num_gpus: int) -> Finding:
    """Check an all-reduce over several processes: by NCCL with several GPUs, else by gloo."""
    if processes < 2:
        return Finding("processes", "note", "not tried")
    return all_reduce("nccl", min(processes, num_gpus)) if num_gpus > 1 else all_reduce("gloo", processes)


# -- Room --


def memory() -> Finding:
    """Report free memory, and shared memory for NCCL."""
    import psutil

    found = psutil.virtual_memory()
    text = f"{_size(found.available)} free of {_size(found.total)}"
    if found.available < 2 * 2**30:
        return Finding("memory", "note", text, "a process of --model vanilla takes about 1.3 GiB: end other programs")
    shared = shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else None
    if shared is not None and shared < 64 * 2**20:  # NCCL passes data through it
        return Finding(
            "memory", "note", f"{text}; /dev/shm {_size(shared)}", "for several GPUs in Docker: --shm-size 1g"
        )
    return Finding("memory", "ok", text)


def disk() -> Finding:
    """Check the disk of runs/, or where it would be."""
    folder = Path("runs") if Path("runs").is_dir() else Path()
    advice = "make room, or start in another folder"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(2**20))
        free, where = shutil.disk_usage(folder).free, folder.absolute()
    except OSError as error:
        return Finding("disk", "problem", f"{folder}/: {error.strerror}", advice)
    state: State = "problem" if free < 100 * 2**20 else "note" if free < 2**30 else "ok"
    return Finding("disk", state, f"{_size(free)} free in {where}", "" if state == "ok" else advice)


def data(data_dir: str | None) -> Finding:
    """Report where MNIST is found."""
    from distgan.config.schema import DataConfig
    from distgan.data.base import SOURCES, data_folder, find

    folder, _ = data_folder(DataConfig(dir=data_dir))
    if raw := find(SOURCES["mnist"], folder):
        return Finding("data", "ok", f"MNIST in {raw}")
    return Finding("data", "note", f"no MNIST in {folder}/", "train downloads it; --data digits needs none")


def _size(num: float) -> str:
    return f"{num / 2**30:,.1f} GiB" if num >= 2**30 else f"{num / 2**20:,.0f} MiB"
