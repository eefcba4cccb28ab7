"""What a launcher leaves in the environment of a process; and the launcher of `--processes N`."""

import os

import psutil

from distgan.config.registry import PRECISIONS, names_on_cpu
from distgan.errors import OUR_LAUNCHER, UserError
from distgan.utils.hardware import cpu_name, has_fast_bf16, imitates_bf16

# What accelerate launch and torchrun leave in the environment of a process of theirs.
_MARKS = {"ACCELERATE_MIXED_PRECISION", "LOCAL_WORLD_SIZE"}
_PROCESS_GIB = 0.5  # of the smallest networks
# Settings of `accelerate config`, which may stand there for another project; we wrap the networks ourselves.
_IGNORED = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_MEGATRON_LM", "ACCELERATE_USE_PARALLELISM_CONFIG")


def is_launched() -> bool:
    return bool(_MARKS & os.environ.keys())


def is_ours() -> bool:
    """Whether `--processes N` of ours started this process."""
    return OUR_LAUNCHER in os.environ


def world_size() -> int:
    return _number("WORLD_SIZE", 1, low=1)


def refuse_broken_environment() -> None:
    """Raises UserError for what no launcher leaves: variables that are no numbers, missing, or contradict others."""
    size, rank = world_size(), _number("RANK", 0)
    _number("LOCAL_RANK", 0)
    _number("LOCAL_WORLD_SIZE", 1, low=1)
    if rank >= size:
        raise UserError(f"RANK={rank}: with WORLD_SIZE={size}; allowed: 0 to {size - 1}", code="launch")
    if size > 1:
        for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
            if not os.environ.get(name):
                raise UserError(
                    f"{name}: is not set, with WORLD_SIZE={size}; allowed: what a launcher sets", code="launch"
                )
        _number("MASTER_PORT", 0, low=1, high=65_535)


def _number(name: str, default: int, *, low: int = 0, high: int | None = None) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    if not text.isdecimal() or int(text) < low or (high is not None and int(text) > high):
        limit = f"{low} or more" if high is None else f"{low} to {high:,}"
        raise UserError(f"{name}={text}: allowed in the environment: a whole number, {limit}", code="launch")
    return int(text)


def wants_cpu() -> bool:
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"


def set_aside() -> list[str]:
    """Takes what does not concern the two networks out of the environment; a warning for each."""
    warnings = []
    for name in _IGNORED:
        if os.environ.pop(name, "false").lower() == "true":
            warnings.append(f"{name}=true of accelerate's config is ignored; networks are in DDP or DeepSpeed here")
    dynamo = os.environ.pop("ACCELERATE_DYNAMO_BACKEND", "no")
    if dynamo.lower() not in ("", "no"):
        warnings.append(
            f"ACCELERATE_DYNAMO_BACKEND={dynamo} of accelerate's config is ignored; networks are not compiled by it"
        )
    if wants_cpu() and "MASTER_PORT" in os.environ and "WORLD_SIZE" not in os.environ:
        warnings.append(
            "accelerate launch was asked for several processes on a CPU and started one; for more: distgan train "
            "--processes N, or accelerate launch --config_file launch/cpu.yaml"
        )
    return warnings


def wants_deepspeed() -> bool:
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"


def deepspeed_file() -> str | None:
    """The JSON file that accelerate launch was given."""
    name = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    return None if name in ("", "none") else name


def zero_stage() -> int | None:
    """The stage that accelerate launch was given; a file has its own."""
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "")
    return int(stage) if stage.isdecimal() and deepspeed_file() is None else None


def precision(chosen: str | None, *, is_cpu: bool) -> str:
    """Return the chosen one, else the launcher's, else float32. Raises UserError for one that can't be had.

    "auto" is the launcher's if that names one, else bf16 where it is faster than float32, else float32.
    """
    said = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if chosen == "auto":
        chosen = said if said != "no" else "bf16" if has_fast_bf16(is_cpu=is_cpu) else "no"
    value, flag = (said, "--mixed_precision") if chosen is None else (chosen, "--precision")
    if value not in PRECISIONS:
        raise UserError(f"{flag} {value}: unknown here; allowed: {', '.join(PRECISIONS)}")
    if PRECISIONS[value].needs_cuda and is_cpu:
        source = "" if chosen else " (of the launcher or accelerate's config; --precision says otherwise)"
        allowed = ", ".join(names_on_cpu(PRECISIONS))
        raise UserError(
            f"{flag} {value}{source}: a CPU would silently compute in float32; allowed on a CPU: {allowed}",
            code="unavailable",
        )
    return value


def slow(precision: str, *, is_cpu: bool) -> list[str]:
    """A warning where the precision that somebody chose for speed costs it."""
    if precision == "bf16" and is_cpu and imitates_bf16():
        return [f"--precision bf16: {cpu_name()} imitates it, and is many times slower so; leave it unset"]
    return []


def shared_cores() -> int | None:
    """The cores for each process of a launcher, which would give it a single one; None without a launcher.

    Plain python has torch's own choice, and with it the user's OMP_NUM_THREADS.
    """
    if not is_launched():
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // _number("LOCAL_WORLD_SIZE", 1, low=1))


# -- distgan train|eval --processes N ----------------------------------------------------------------------


def refuse_other_number(num: int) -> None:
    """Raises UserError for a --processes that the launcher around this process did not start."""
    if world_size() != num:
        raise UserError(
            f"--processes {num}: this process is one of {world_size()} of a launcher already; allowed: the same "
            "number, or leave it out",
            code="launch",
        )


def refuse_more_than_memory_has(num: int) -> None:
    """Raises UserError for processes that would take the machine down before they could complain."""
    available = psutil.virtual_memory().available
    if num * _PROCESS_GIB * 2**30 > available:
        raise UserError(
            f"--processes {num}: a process takes {_PROCESS_GIB} GiB and more, and {available / 2**30:.1f} GiB are "
            f"free; allowed here: at most {max(1, int(available / 2**30 / _PROCESS_GIB))}",
            code="launch",
        )
