"""Environment variables set by launchers and users, and checks for `--processes N`.

Of each variable that Accelerate, DeepSpeed, MPI or torch reads and that could change a training: it is taken (by the
functions here) and recorded, or ignored with a warning (`remove_foreign`), or an error (`check_environment`).
"""

import logging
import os
import re
import socket
import time
import traceback

import psutil

from distgan.config.registry import AUTO, PRECISIONS, names_on_cpu
from distgan.errors import OUR_LAUNCHER, PARENT, CommonError, UserError, first_line
from distgan.utils.hardware import cpu_name, emulates_bf16
from distgan.utils.operating_system import cores

_CONNECT_S = 5.0  # connecting to this machine itself takes no time
_PROCESS_GIB = 0.5  # of the smallest networks
# Together, what accelerate launch leaves in a single process; one or two of them may be a user's own.
_ACCELERATE_LAUNCH = {
    "ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_CPU", "ACCELERATE_DYNAMO_BACKEND", "ACCELERATE_DYNAMO_MODE",
}  # fmt: skip
_TORCHRUN = {"TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"}
_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
# Number of processes, by MPI: its launchers set neither WORLD_SIZE nor an address to meet at.
_MPI_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")

# What Accelerate and DeepSpeed read. All of it is out of the environment while they are in use.
_FOREIGN = (
    "ACCELERATE_", "FSDP_", "MEGATRON_LM_", "PARALLELISM_CONFIG_", "FP8_", "FORK_LAUNCHED", "DS_ACCELERATOR",
    "PMI_SIZE", "PMI_RANK", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_", "MPI_LOCALRANKID", "MPI_LOCALNRANKS",
)  # fmt: skip
# Read above or below, so that no warning is due.
_TAKEN = {
    "ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_CPU", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_DEEPSPEED_CONFIG_FILE",
    "ACCELERATE_DEEPSPEED_ZERO_STAGE", "ACCELERATE_CONFIG_DS_FIELDS",
}  # fmt: skip
# Yes or no, and without influence on the numbers: they stay.
_HARMLESS_FLAGS = ("ACCELERATE_CPU_AFFINITY", "ACCELERATE_DEBUG_MODE")
# What begins like this says nothing unless another variable switches it on.
_SWITCHES = {
    "ACCELERATE_DYNAMO_": "ACCELERATE_DYNAMO_BACKEND",
    "ACCELERATE_DEEPSPEED_": "ACCELERATE_USE_DEEPSPEED",
    "FSDP_": "ACCELERATE_USE_FSDP",
    "MEGATRON_LM_": "ACCELERATE_USE_MEGATRON_LM",
    "PARALLELISM_CONFIG_": "ACCELERATE_USE_PARALLELISM_CONFIG",
    "FP8_": "", "ACCELERATE_FP8_": "", "PMI_": "", "OMPI_": "", "MV2_": "", "MPI_": "",
}  # fmt: skip
_YES, _NO = {"y", "yes", "t", "true", "on", "1"}, {"n", "no", "f", "false", "off", "0"}
# Values by which accelerate launch marks a setting as unset.
_NOTHING = _NO | {"", "none", "null", "default"}
# They make a library compute in another precision than --precision says: of a GPU, and of a CPU.
_PRECISIONS_ON_GPU = ("NVIDIA_TF32_OVERRIDE",)
_PRECISIONS_ON_CPU = ("DNNL_DEFAULT_FPMATH_MODE", "ONEDNN_DEFAULT_FPMATH_MODE")
# Where these are not numeric, torch hangs when ranks meet.
_TORCH_NUMBERS = ("TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE")
# What is not of this form aborts its import.
_ALLOCATORS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
_ALLOCATOR = re.compile(r"\s*\w+\s*:\s*(\[[^][]*\]|[^][,:]+)(,\s*\w+\s*:\s*(\[[^][]*\]|[^][,:]+))*")
_READ_AT_IMPORT = ("TORCH_", "TORCHDYNAMO_", "TORCHINDUCTOR_", "PYTORCH_")
# They choose algorithms, the order of sums, or routes: another one may round otherwise. Kept with the run.
_RECORDED = (
    "ATEN_", "CUBLAS", "CUDA_", "CUDNN_", "DNNL_", "DS_", "GLOO_", "GOMP_", "KMP_", "MKL_", "NCCL_",
    "NVIDIA_TF32_OVERRIDE", "OMP_", "ONEDNN_", "OPENBLAS_", "PYTORCH_", "TORCH_", "TORCHDYNAMO_", "TORCHINDUCTOR_",
    "TRITON_",
)  # fmt: skip


def is_launched() -> bool:
    """True for a process of torchrun, accelerate launch, srun or our own launcher, and not by one variable alone."""
    environ = os.environ.keys()
    return world_size() > 1 or environ >= _TORCHRUN or environ >= _ACCELERATE_LAUNCH


def is_ours() -> bool:
    """True if `--processes N` of ours started this process."""
    return os.environ.get(OUR_LAUNCHER) == str(PARENT)


def world_size() -> int:
    """Return the number of processes of the launcher, 1 without one. Raises UserError."""
    return _number("WORLD_SIZE", 1, low=1)


def check_environment(*, is_cpu: bool, is_tf32: bool) -> None:
    """Raise UserError for what no launcher leaves: variables that are not numeric, missing, or contradict others.

    Also for those by which a library would compute in another precision than the chosen one.
    """
    size, rank = world_size(), _number("RANK", 0)
    _number("LOCAL_RANK", 0)
    _number("LOCAL_WORLD_SIZE", 1, low=1)
    if rank >= size:
        raise UserError(
            f"RANK: out of range with WORLD_SIZE={size} ({rank}). Expected: 0 to {size - 1}",
            code="launcher-environment",
        )
    if size > 1:
        for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
            if not os.environ.get(name):
                raise UserError(
                    f"{name}: not set, with WORLD_SIZE={size}. Expected: what a launcher sets",
                    code="launcher-environment",
                )
        _number("MASTER_PORT", 0, low=1, high=65_535)
        _number("TORCHELASTIC_RESTART_COUNT", 0)
        check_network_interface()
    else:
        check_no_mpi()
    for name in _PRECISIONS_ON_CPU if is_cpu else _PRECISIONS_ON_GPU:
        value = os.environ.get(name, "")
        if value and value.lower() not in ({"strict"} if is_cpu else {str(int(is_tf32))}):
            raise UserError(
                f"{name}: another precision than the chosen one ({value}). Expected: unset, or "
                + ("STRICT" if is_cpu else str(int(is_tf32))),
                code="conflicting-settings",
            )


def check_no_mpi() -> None:
    """Raise UserError in one of several processes of an MPI launcher: each would train for itself."""
    for name in _MPI_SIZES:
        if (size := _number(name, 1, low=1)) > 1:
            raise UserError(
                f"{name}: MPI's launchers are not supported ({size}). Expected: torchrun, accelerate launch or "
                f"--processes {size} (or {name} unset, if it is an old one)",
                code="launcher-conflict",
            )


def check_address(address: str, setting: str) -> None:
    """Raise UserError where a process of this machine can't reach another one of it at its own `address`."""
    try:
        with socket.create_server((address, 0)) as server:
            socket.create_connection(server.getsockname(), timeout=_CONNECT_S).close()
    except OSError as error:
        raise UserError(
            f"{setting}: no answer from {address} ({error.strerror or error}). Expected: its network interface up (of "
            "127.0.0.1: ip link set lo up), or one process",
            code="rendezvous-failed",
        ) from error


def check_network_interface() -> None:
    """Raise UserError for a network interface set for gloo that does not exist."""
    names = psutil.net_if_addrs()
    for name in filter(None, os.environ.get("GLOO_SOCKET_IFNAME", "").split(",")):
        if name not in names:
            raise UserError(
                f"GLOO_SOCKET_IFNAME: no such network interface ({name}). Expected: {', '.join(names)}, or unset",
                code="launcher-environment",
            )


def _number(name: str, default: int, *, low: int = 0, high: int | None = None) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    if not text.isdecimal() or int(text) < low or (high is not None and int(text) > high):
        limit = f"{low} or more" if high is None else f"{low} to {high:,}"
        raise UserError(
            f"{name}: invalid environment variable ({text}). Expected: an integer, {limit}", code="launcher-environment"
        )
    return int(text)


def _flag(name: str) -> bool:
    """Return a boolean variable of Accelerate, parsed as Accelerate does. Raise UserError for other values."""
    value = os.environ.get(name, "").lower()
    if value and value not in _YES | _NO:
        raise UserError(
            f"{name}: invalid environment variable ({value}). Expected: true, false", code="launcher-environment"
        )
    return value in _YES


def check_before_imports() -> None:
    """Raise UserError for variables at which the import of Accelerate or torch would fail, or torch abort or hang."""
    for name in ("USE_TORCH_XLA", "ACCELERATE_ENABLE_RICH"):
        _flag(name)
    for name in _TORCH_NUMBERS:
        _number(name, 0)
    level = os.environ.get("TORCH_DISTRIBUTED_DEBUG", "")
    if level and level.upper() not in ("OFF", "INFO"):
        reason = " (with it torch's DDP crashes)" if level.upper() == "DETAIL" else ""
        raise UserError(
            f"TORCH_DISTRIBUTED_DEBUG: invalid environment variable ({level}){reason}. Expected: OFF, INFO",
            code="launcher-environment",
        )
    for name in _ALLOCATORS:
        value = os.environ.get(name, "")
        if value and not _ALLOCATOR.fullmatch(value):
            raise UserError(
                f"{name}: invalid environment variable ({value}). Expected: key:value,key:value, as "
                "expandable_segments:True",
                code="launcher-environment",
            )


def explain_import_error(error: BaseException) -> UserError | None:
    """Return the user's mistake if the import of a module of torch ended in `error` by variables that torch reads.

    Only torch's message says which one it was. None for a torch that is not installed, and for any other error.
    """
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    is_import = any(
        frame.f_code.co_name == "<module>" and str(frame.f_globals.get("__name__")).partition(".")[0] == "torch"
        for frame in frames
    )
    named = _set_variables(_READ_AT_IMPORT)
    if not is_import or not named or isinstance(error, ImportError):
        return None
    return UserError(
        f"{named}: torch does not import ({first_line(error)}). Expected: unset", code="launcher-environment"
    )


def explain_group_error(error: Exception) -> UserError:
    """Return what to raise for a process group that can't be made, though all ranks are there."""
    named = _set_variables(("GLOO_", "NCCL_", "TORCH_GLOO_", "TORCH_DIST"))
    return CommonError(
        f"{named or 'the processes'}: no process group ({first_line(error)}). Expected: what this torch supports",
        code="rendezvous-failed",
    )


def _set_variables(prefixes: tuple[str, ...]) -> str:
    """Return the variables that are set and begin so, for a message."""
    return ", ".join(f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith(prefixes))[:300]


def wants_cpu() -> bool:
    """True if the launcher's environment selects the CPU."""
    return _flag("ACCELERATE_USE_CPU")


def remove_foreign(num_threads: int) -> list[str]:
    """Take out of the environment what Accelerate and DeepSpeed would read beside the settings of the run.

    `num_threads` are those of torch. Returns warnings that name the ignored settings. To be called after all else
    here, and inside of `preserve_process_state`, which puts it back.
    """
    warnings = []
    if wants_cpu() and "MASTER_PORT" in os.environ and "WORLD_SIZE" not in os.environ:
        warnings.append(
            "accelerate launch was to start several processes on a CPU and started one; for more: distgan train "
            "--processes N, or accelerate launch --config_file launch/cpu.yaml"
        )
    end = os.environ.get("SLURM_JOB_END_TIME", "")
    if end and "SLURM_JOB_ID" in os.environ and (not end.isdecimal() or int(end) <= time.time()):
        del os.environ["SLURM_JOB_END_TIME"]
        warnings.append(f"SLURM_JOB_END_TIME={end}: is over, and is ignored; it is that of an older job")
    foreign = {name: value for name, value in sorted(os.environ.items()) if name.startswith(_FOREIGN)}
    ignored = [f"{name}={value}" for name, value in foreign.items() if _asks_for_something(name, value)]
    if ignored:
        warnings.append(
            f"{', '.join(ignored)}: ignored. Of Accelerate's environment the precision, the device, DeepSpeed's file "
            "and its stage are taken; for all else there are flags"
        )
    for name, value in foreign.items():
        if not _is_harmless(name, value):
            del os.environ[name]
    if world_size() == 1:  # one process needs no others, whoever has started it
        for name in _RANKS:
            os.environ.pop(name, None)
    # Accelerate reads a plain number, where OpenMP takes a list.
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    return warnings


def _is_harmless(name: str, value: str) -> bool:
    if name == "ACCELERATE_LOG_LEVEL":
        return value.upper() in logging.getLevelNamesMapping()  # of another one Accelerate makes an error
    return name in _HARMLESS_FLAGS and value.lower() in _YES


def _asks_for_something(name: str, value: str) -> bool:
    """True if a variable that is about to be ignored would have changed something."""
    if name in _TAKEN or value.lower() in _NOTHING or _is_harmless(name, value):
        return False
    if name == "ACCELERATE_GRADIENT_ACCUMULATION_STEPS" and value == "1":
        return False
    switch = next((switch for prefix, switch in _SWITCHES.items() if name.startswith(prefix)), name)
    return switch == name or os.environ.get(switch, "").lower() not in _NOTHING


def recorded_variables() -> dict[str, str]:
    """Return the variables that torch and the libraries below it read and that may change how numbers are rounded."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(_RECORDED)}


def wants_deepspeed() -> bool:
    """True if the launcher's environment selects DeepSpeed."""
    return _flag("ACCELERATE_USE_DEEPSPEED")


def deepspeed_file() -> str | None:
    """Return the JSON file given to accelerate launch, None without one."""
    name = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    return None if name.lower() in ("", "none") else name


def zero_stage() -> int | None:
    """Return the ZeRO stage given to accelerate launch, None if a config file sets it. Raise UserError if invalid."""
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "")
    if not stage or deepspeed_file() is not None:
        return None
    return _number("ACCELERATE_DEEPSPEED_ZERO_STAGE", 2, high=3)


def _launchers_precision() -> str:
    """Return the precision that the launcher was given, float32 if none, by its name in PRECISIONS where it has one."""
    return PRECISIONS.current(os.environ.get("ACCELERATE_MIXED_PRECISION", "").lower() or "no")


def check_launcher_precision(own: str | None) -> None:
    """Raise UserError for a precision that the launcher was given beside that of the run or preset.

    Not to be called where --precision is given, which is stronger.
    """
    requested = _launchers_precision()
    if own not in (None, AUTO) and requested not in (PRECISIONS.current("no"), own):
        raise UserError(
            f"--mixed_precision: the run has {own} ({requested}, of the launcher or ACCELERATE_MIXED_PRECISION). "
            "Expected: the same, or --precision as a flag of the training",
            code="mismatch",
        )


def precision(chosen: str | None, *, is_cpu: bool) -> str:
    """Return the chosen one, else the launcher's, else float32. Raises UserError for one that can't be had.

    "auto" is the launcher's if that names one, else "auto": it takes a race of all ranks (`precision.py`).
    """
    said = _launchers_precision()
    if chosen == AUTO:
        if said == PRECISIONS.current("no"):
            return AUTO
        chosen = said
    value, flag = (said, "--mixed_precision") if chosen is None else (chosen, "--precision")
    if value not in PRECISIONS:
        raise UserError(f"{flag}: unknown here ({value}). Expected: {', '.join(PRECISIONS)}", code="unknown-name")
    if PRECISIONS[value].needs_cuda and is_cpu:
        source = "" if chosen else " (of the launcher or accelerate's config; --precision says otherwise)"
        allowed = ", ".join(names_on_cpu(PRECISIONS))
        raise UserError(
            f"{flag}: a CPU would silently compute in float32 ({value}{source}). Expected on a CPU: {allowed}",
            code="precision-unavailable",
        )
    return value


def precision_warnings(precision: str, *, is_cpu: bool) -> list[str]:
    """Return a warning where the chosen precision is slow on this device."""
    if precision == "bf16" and is_cpu and emulates_bf16():
        return [f"--precision bf16: {cpu_name()} emulates it, which is many times slower; leave it unset"]
    return []


def shared_cores() -> int | None:
    """Return the cores per process under a launcher, which would give each a single one; None without a launcher.

    Plain python has torch's own choice, and with it the user's OMP_NUM_THREADS.
    """
    if not is_launched():
        return None
    return max(1, cores() // _number("LOCAL_WORLD_SIZE", 1, low=1))


# -- distgan train|eval --processes N ----------------------------------------------------------------------


def check_num_processes(num: int) -> None:
    """Raise UserError for a --processes that is not the launcher's number."""
    if world_size() != num:
        raise UserError(
            f"--processes: this process is one of {world_size()} of a launcher already ({num}). Expected: the same "
            "number, or unset",
            code="launcher-conflict",
        )


def check_memory(num: int) -> None:
    """Raise UserError for more processes than the free memory holds."""
    available = psutil.virtual_memory().available
    if num * _PROCESS_GIB * 2**30 > available:
        raise UserError(
            f"--processes: a process takes {_PROCESS_GIB} GiB or more, and {available / 2**30:.1f} GiB are free "
            f"({num}). "
            f"Expected here: at most {max(1, int(available / 2**30 / _PROCESS_GIB))}",
            code="not-enough-memory",
        )
