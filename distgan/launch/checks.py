"""What a machine has for training, a Finding for each thing. torch has to import where it is asked for."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Literal, NamedTuple

from distgan.utils import operating_system
from distgan.utils.hardware import count_gpus

_PROGRAM_S = 10
PAIR = (
    "pip install --force-reinstall torch torchvision, both by one command; for a CPU build both from PyTorch's own "
    "index of CPU builds (pytorch.org, Get Started)"
)

State = Literal["ok", "note", "problem"]


class Finding(NamedTuple):
    what: str
    state: State
    text: str


def slurm() -> Finding:
    if not shutil.which("sbatch") and not shutil.which("sinfo"):
        return Finding("SLURM", "note", "no sbatch and no sinfo on PATH")
    _, said = _said("sbatch" if shutil.which("sbatch") else "sinfo", "--version")
    job = os.environ.get("SLURM_JOB_ID")
    return Finding("SLURM", "ok", f"{said}, {f'in job {job}' if job else 'not in a job'}")


def disk() -> Finding:
    """Where runs/ is, or would be."""
    folder = Path("runs") if Path("runs").is_dir() else Path()
    advice = "make room, or start in another folder"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(2**20))
        free, where = shutil.disk_usage(folder).free, folder.absolute()
    except OSError as error:
        return Finding("disk", "problem", f"{folder}/: {error.strerror}; {advice}")
    state: State = "problem" if free < 100 * 2**20 else "note" if free < 2**30 else "ok"
    text = f"{_size(free)} free in {where}"
    return Finding("disk", state, text if state == "ok" else f"{text}; {advice}")


def shared_memory() -> Finding:
    """NCCL and torch's workers pass data through it."""
    total = shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else None
    if total is not None and total < 64 * 2**20:
        return Finding("shared memory", "note", f"{_size(total)}, little for several GPUs; Docker: --shm-size 1g")
    return Finding("shared memory", "ok", "no /dev/shm" if total is None else _size(total))


def cores() -> Finding:
    return Finding("cores", "ok", f"{operating_system.cores()} for this process")


def memory() -> Finding:
    import psutil

    found = psutil.virtual_memory()
    text = f"{_size(found.available)} free of {_size(found.total)}"
    if found.available < 2 * 2**30:
        return Finding("memory", "note", f"{text}; a process of --model vanilla takes about 1.3 GiB")
    return Finding("memory", "ok", text)


def data(data_dir: str | None) -> Finding:
    from distgan.config.schema import DataConfig
    from distgan.data.base import SOURCES, data_folder, find

    folder, _ = data_folder(DataConfig(dir=data_dir))
    if raw := find(SOURCES["mnist"], folder):
        return Finding("data", "ok", f"MNIST in {raw}")
    return Finding("data", "note", f"no MNIST in {folder}/: train downloads it; --data digits needs none")


# -- GPUs -----------------------------------------------------------------------------------


def gpus() -> Finding:
    """Each GPU has to compute something."""
    import torch

    if not (num := count_gpus()):
        return _no_gpu()
    found = []
    for index in range(num):
        of = torch.cuda.get_device_properties(index)
        found.append(f"{of.name}, {_size(of.total_memory)}, compute capability {of.major}.{of.minor}")
        try:
            torch.ones(2, device=f"cuda:{index}").sum().item()
        except RuntimeError as error:
            words = f"GPU {index} does not compute: {str(error).splitlines()[0]}"
            return Finding("GPUs", "problem", f"{found[-1]}; {words}; hide it by CUDA_VISIBLE_DEVICES")
    return Finding("GPUs", "ok", "; ".join(f"{found.count(each)} x {each}" for each in dict.fromkeys(found)))


def _no_gpu() -> Finding:
    """Why torch has none. The driver's line has a name of its own, since training goes on without it."""
    import torch

    on_cpu, visible = "trains on the CPU", os.environ.get("CUDA_VISIBLE_DEVICES")
    if not shutil.which("nvidia-smi"):
        return Finding("GPUs", "note", f"none: {on_cpu}")
    if visible in ("", "-1"):
        return Finding("GPUs", "note", f"hidden by CUDA_VISIBLE_DEVICES={visible}: {on_cpu}")
    is_well, said = _said("nvidia-smi", "-L")
    if "no devices" in said.lower():
        return Finding("GPUs", "note", f"none, says nvidia-smi: {on_cpu}")
    if not is_well:
        return Finding("GPU driver", "problem", f"{on_cpu}; nvidia-smi fails ({said}): fix the driver")
    if not torch.version.cuda:
        return Finding("GPU driver", "problem", f"{on_cpu}, as torch is no CUDA build, beside {said}: {PAIR}")
    reason = "" if visible is None else f"CUDA_VISIBLE_DEVICES={visible}; "
    try:
        torch.cuda.init()
    except RuntimeError as error:
        reason += str(error).splitlines()[0]
    advice = "update the driver, or take a torch for its CUDA (https://pytorch.org/get-started)"
    return Finding("GPU driver", "problem", f"{on_cpu}, as torch can't use {said} ({reason}): {advice}")


def nccl() -> Finding:
    import torch
    import torch.distributed as dist

    if dist.is_available() and dist.is_nccl_available():
        return Finding("NCCL", "ok", ".".join(map(str, torch.cuda.nccl.version())))
    if count_gpus() > 1:
        return Finding("NCCL", "problem", f"not in this torch, and several GPUs need it: {PAIR}")
    return Finding("NCCL", "note", "not in this torch; only several GPUs need it")


def gloo() -> Finding:
    import torch.distributed as dist

    if dist.is_available() and dist.is_gloo_available():
        return Finding("gloo", "ok", "there, for several processes on a CPU")
    return Finding("gloo", "problem", f"not in this torch, and several processes on a CPU need it: {PAIR}")


def bf16() -> Finding:
    """Report whether --precision bf16 is faster than float32 on this machine."""
    from distgan.utils.hardware import has_fast_bf16, imitates_bf16

    leave = "--precision bf16 will be slower than float32 here; leave it unset"
    has_gpu = count_gpus() > 0
    if has_fast_bf16(is_cpu=not has_gpu):
        return Finding("bf16", "ok", "by the GPU" if has_gpu else "by the CPU")
    if has_gpu:
        return Finding("bf16", "note", f"only emulated by the GPU: {leave}")
    if imitates_bf16():
        return Finding("bf16", "note", f"only imitated by the CPU: {leave.replace('slower', 'many times slower')}")
    return Finding("bf16", "note", f"by the CPU, slowly or not measured: {leave.replace('will be', 'may well be')}")


def _said(*command: str) -> tuple[bool, str]:
    """Whether a program ended well, and its first line."""
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=_PROGRAM_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, str(error)
    lines = f"{process.stdout}\n{process.stderr}".split("\n")
    return process.returncode == 0, next((line.strip() for line in lines if line.strip()), "nothing")


def _size(num: float) -> str:
    return f"{num / 2**30:,.1f} GiB" if num >= 2**30 else f"{num / 2**20:,.0f} MiB"
