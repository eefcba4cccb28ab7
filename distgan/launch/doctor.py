"""`distgan doctor`: what this machine has for training. Downloads nothing, and asks no other machine.

What may crash or hang is tried in processes of its own; torch is imported in this one only after that went well.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import NamedTuple

from distgan.errors import CommandFailed, print_line
from distgan.launch.all_reduce_check import all_reduce
from distgan.launch.checks import PAIR, Finding, bf16, cores, data, disk, gloo, gpus, memory, nccl, shared_memory, slurm
from distgan.utils.child_process import last_words, own_modules
from distgan.utils.hardware import count_gpus
from distgan.utils.paths import user_path

# Without these `distgan train` could not run.
_ESSENTIAL = {"python", "torch", "torchvision", "packages", "GPUs", "disk", "all-reduce, nccl"}
_WITH_TORCH = ("GPUs", "bf16", "NCCL", "gloo", "all-reduce, gloo", "data")
_MODULES = ("torch", "torchvision", "distgan.train")
_IMPORTS_S = 120


class Failure(NamedTuple):
    """The first of _MODULES that does not import, and its last words."""

    module: str
    words: str


def examine(data_dir: str | None, processes: int = 2) -> None:
    """Prints a line for each thing that training needs or can use, and what to do about those in trouble.

    Raises CommandFailed where `distgan train` could not run: by its Python, by a package that it imports, by a GPU
    that it would take and that does not compute, or by its disk. Processes that can't reach each other over gloo
    are a problem and no failure, since one process trains without; over NCCL, between GPUs, they are a failure.
    """
    failure = failed_import()
    has_torch = failure is None or failure.module != "torch"
    num_gpus = count_gpus() if has_torch else 0
    checks: dict[str, Callable[[], Finding]] = {
        "python": python,
        "torch": lambda: torch_build(failure),
        "torchvision": lambda: torchvision_pair(failure),
        "packages": lambda: packages(failure),
        "GPUs": gpus,
        "bf16": bf16,
        "NCCL": nccl,
        "gloo": gloo,
        "all-reduce, gloo": lambda: all_reduce("gloo", processes),
        "all-reduce, nccl": lambda: all_reduce("nccl", min(processes, num_gpus)),
        "cores": cores,
        "memory": memory,
        "shared memory": shared_memory,
        "disk": disk,
        "data": lambda: data(data_dir),
        "DeepSpeed": deepspeed,
        "accelerate config": accelerate_config,
        "SLURM": slurm,
    }
    if num_gpus < 2:
        del checks["all-reduce, nccl"]
    if not has_torch:
        checks |= {what: partial(Finding, what, "note", "needs torch") for what in _WITH_TORCH}
    findings = [_tried(what, check) for what, check in checks.items()]
    _show(findings)
    if broken := [found.what for found in findings if found.state == "problem" and found.what in _ESSENTIAL]:
        raise CommandFailed(f"distgan train can't run here: {', '.join(broken)}")
    print_line("distgan train can run here")


def _tried(what: str, check: Callable[[], Finding]) -> Finding:
    """A check that fails itself is a line like any other."""
    try:
        return check()
    except Exception as error:
        return Finding(what, "problem", f"can't be looked at ({type(error).__name__}: {error})")


def _show(findings: list[Finding]) -> None:
    try:
        from rich.table import Table
        from rich.text import Text

        from distgan.utils.terminal import TerminalConsole
    except ImportError:  # it is one of the packages that may be missing
        for found in findings:
            print_line("  ".join(found))
        return
    colours = {"ok": "green", "note": "yellow", "problem": "red"}
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for what, state, text in findings:
        table.add_row(what, Text(state, colours[state]), text)
    TerminalConsole().print_table(table)


# -- Python and packages ----------------------------------------------------------------------------------


def python() -> Finding:
    text = sys.version.split()[0]
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Finding("python", "ok", text)
    return Finding("python", "problem", f"{text}; allowed: 3.11 to 3.13, in a new virtual environment")


def failed_import() -> Failure | None:
    """Imports what training does, in a process of its own."""
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


def torch_build(failure: Failure | None) -> Finding:
    if failure and failure.module == "torch":
        return Finding("torch", "problem", f"does not import ({failure.words}): {PAIR}")
    import torch

    gpus_of = {"CUDA": torch.version.cuda, "ROCm": torch.version.hip}
    builds = [f"{name} {number}" for name, number in gpus_of.items() if number]
    return Finding("torch", "ok", f"{torch.__version__}, a build for {' '.join(builds) or 'CPUs'}")


def torchvision_pair(failure: Failure | None) -> Finding:
    """A torchvision that was built for another torch does not import beside it."""
    pair = f"torchvision {_version('torchvision')} with torch {_version('torch')}"
    if failure is None or failure.module == "distgan.train":
        return Finding("torchvision", "ok", f"{pair}, they import together")
    if failure.module == "torch":
        return Finding("torchvision", "note", "needs torch")
    is_mismatch = "operator torchvision::nms does not exist" in failure.words
    reason = "they are no pair; install both in one command, from one index" if is_mismatch else "reinstall"
    return Finding("torchvision", "problem", f"{pair}: {failure.words}; {reason}: {PAIR}")


def packages(failure: Failure | None) -> Finding:
    """Those that distgan requires, by their versions; and whether the training itself imports."""
    try:
        asked = _asked("")
    except ImportError:
        return Finding("packages", "problem", "packaging is missing: pip install packaging")
    wrong = {name: fault for name, _, fault in asked if fault}
    if wrong:
        pair = {"torch", "torchvision"}  # one of them alone, from another index, would not fit the other
        names = wrong.keys() | (pair if wrong.keys() & pair else set())
        command = " ".join(f"'{requirement}'" for name, requirement, _ in asked if name in names)
        return Finding("packages", "problem", f"{', '.join(wrong.values())}: pip install {command}")
    if failure and failure.module == "distgan.train":
        return Finding("packages", "problem", f"import distgan.train fails: {failure.words}")
    if not asked:
        return Finding("packages", "note", "unknown, since distgan is not installed: pip install .")
    return Finding("packages", "ok", ", ".join(f"{name} {_version(name)}" for name, _, _ in asked))


def _asked(extra: str) -> list[tuple[str, str, str]]:
    """What distgan itself ("") or an extra of it asks for: name, requirement, and what is wrong with it here."""
    from packaging.requirements import Requirement

    asked = []
    for requirement in map(Requirement, (_version("distgan") and requires("distgan")) or []):
        name, marker, found = requirement.name, requirement.marker, _version(requirement.name)
        is_main = marker is None or marker.evaluate({"extra": ""})
        if is_main == (extra == "") and (marker is None or marker.evaluate({"extra": extra})):
            fault = f"{name} is missing" if found is None else f"{name} {found} is not {requirement.specifier}"
            is_right = found is not None and requirement.specifier.contains(found, prereleases=True)
            asked.append((name, f"{name}{requirement.specifier}", "" if is_right else fault))
    return asked


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def deepspeed() -> Finding:
    found = _version("deepspeed")
    if found is None or any(fault for *_, fault in _asked("deepspeed")):
        return Finding("DeepSpeed", "note", f"optional, here {found or 'none'}: pip install 'distgan[deepspeed]'")
    return Finding("DeepSpeed", "ok", found)


def accelerate_config() -> Finding:
    """Where accelerate itself looks for it."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = user_path(os.environ.get("HF_HOME", Path(cache, "huggingface")))
    path = home / "accelerate" / "default_config.yaml"
    if not path.is_file():
        return Finding("accelerate config", "ok", "no default one")
    return Finding("accelerate config", "note", f"{path}: accelerate launch reads it, unless told --config_file")
