"""What a launcher leaves in the environment of a process; and the launcher of `--processes N`."""

import logging
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

from distgan.environment import cpu_name, imitates_bf16
from distgan.errors import FAILED, OUR_LAUNCHER, OUT_OF_TIME, UserError

# What accelerate launch and torchrun leave in the environment of a process of theirs.
_MARKS = {"ACCELERATE_MIXED_PRECISION", "LOCAL_WORLD_SIZE"}
_SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2"
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
        raise UserError(f"RANK={rank}: with WORLD_SIZE={size}; allowed: 0 to {size - 1}")
    if size > 1:
        for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
            if not os.environ.get(name):
                raise UserError(f"{name}: is not set, with WORLD_SIZE={size}; allowed: what a launcher sets")
        _number("MASTER_PORT", 0, low=1, high=65_535)


def _number(name: str, default: int, *, low: int = 0, high: int | None = None) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    if not text.isdecimal() or int(text) < low or (high is not None and int(text) > high):
        limit = f"{low} or more" if high is None else f"{low} to {high:,}"
        raise UserError(f"{name}={text}: allowed in the environment: a whole number, {limit}")
    return int(text)


def wants_cpu() -> bool:
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"


def set_aside() -> list[str]:
    """Takes what does not concern the two networks out of the environment; a warning for each."""
    warnings = []
    for name in _IGNORED:
        if os.environ.pop(name, "false").lower() == "true":
            warnings.append(
                f"{name}=true of accelerate's config is ignored; networks are in DDP or DeepSpeed here"
            )
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
    """The chosen one, else the launcher's, else float32. Raises UserError for one that can't be had."""
    said = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    value, flag = (said, "--mixed_precision") if chosen is None else (chosen, "--precision")
    if value not in ("no", "tf32", "fp16", "bf16"):
        raise UserError(f"{flag} {value}: unknown here; allowed: no, tf32, fp16, bf16")
    if value in ("fp16", "tf32") and is_cpu:
        source = "" if chosen else " (of the launcher or accelerate's config; --precision says otherwise)"
        raise UserError(
            f"{flag} {value}{source}: a CPU would silently compute in float32; allowed on a CPU: no, bf16"
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
            "number, or leave it out"
        )


def launch(num: int, arguments: list[str], *, script: str = "train.py", timeout_s: float = 120.0) -> int:
    """Runs a script of ours with these arguments in `num` processes of this machine; the exit code for all of them.

    By torch's own elastic agent. It stops all when one fails, and the words of that one come last.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    refuse_more_than_memory_has(num)
    logging.disable(logging.CRITICAL)  # the agent's reports, of which ours takes the place
    os.environ[OUR_LAUNCHER] = str(os.getpid())
    # Each process takes its share of the cores; torch would warn of the one that it would set instead.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    agent = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        run_id=f"distgan-{os.getpid()}",
        max_restarts=0,
        signals_to_handle=_SIGNALS,
    )
    grace_s = max(5.0, min(30.0, timeout_s))
    threading.Thread(target=_end_stragglers, args=(script, grace_s), daemon=True).start()
    try:
        elastic_launch(agent, sys.executable)("-u", str(Path(__file__).with_name(script)), *arguments)
    except SignalException as error:
        return 128 + error.sigval
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        return _report(rank, failure.exitcode, failure.message)
    return 0


def refuse_more_than_memory_has(num: int) -> None:
    """Raises UserError for processes that would take the machine down before they could complain."""
    available = psutil.virtual_memory().available
    if num * _PROCESS_GIB * 2**30 > available:
        raise UserError(
            f"--processes {num}: a process takes {_PROCESS_GIB} GiB and more, and {available / 2**30:.1f} GiB are "
            f"free; allowed here: at most {max(1, int(available / 2**30 / _PROCESS_GIB))}"
        )


def _report(rank: int, exit_code: int, message: str) -> int:
    """Says what the first process that failed left to say, which a stop in good order has said itself."""
    if exit_code < 0:
        name = signal.Signals(-exit_code).name
        message = f"rank {rank} was ended by {name}" + (
            " (often: out of memory)" if name == "SIGKILL" else ""
        )
        exit_code = FAILED
    elif message.startswith("To enable traceback"):  # torch's words for none
        message = f"rank {rank} ended with exit code {exit_code} and without a word"
    if exit_code < OUT_OF_TIME:
        for line in message.splitlines():
            print(f"distgan: {line}", file=sys.stderr, flush=True)
    return exit_code


def _end_stragglers(script: str, grace_s: float) -> None:
    """Kills processes that outlive another by `grace_s`: hung, or stopped. The agent gives them 30 s more."""
    most = 0
    while True:
        time.sleep(0.5)
        ranks = [child for child in psutil.Process().children() if script in " ".join(_words(child))]
        most = max(most, len(ranks))
        if len(ranks) < most:
            break
    for straggler in psutil.wait_procs(ranks, timeout=grace_s)[1]:
        with suppress(psutil.Error):
            straggler.kill()


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
