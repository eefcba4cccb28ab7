"""Environment variables set by launchers and users, and checks for `--processes N`.

Each variable of Accelerate, DeepSpeed, MPI or torch that could change a training is either read here and recorded,
ignored with a warning (`remove_launcher_variables`), or an error (`check_environment`).
"""

import logging
import os
import re
import socket
import time
import traceback

import psutil

from distgan.config.registry import AUTO, PRECISIONS, names_on_cpu
from distgan.errors import OUR_LAUNCHER, PARENT, AllRanksUserError, UserError, first_line
from distgan.utils.hardware import cpu_name, emulates_bf16
from distgan.utils.operating_system import count_cores

_CONNECT_S = 5.0  # limit for a connection of this machine to itself
_PROCESS_GIB = 0.5  # memory of a process with the smallest networks
# accelerate launch sets all of these in a single process; a user may set one or two.
_ACCELERATE_LAUNCH = {
    "ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_CPU", "ACCELERATE_DYNAMO_BACKEND", "ACCELERATE_DYNAMO_MODE",
}  # fmt: skip
_TORCHRUN = {"TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"}
_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
# Number of processes under MPI, whose launchers set neither WORLD_SIZE nor MASTER_ADDR.
_MPI_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")

# Prefixes of what Accelerate and DeepSpeed read. Removed from the environment while they are in use.
_LAUNCHER_PREFIXES = (
    "ACCELERATE_", "FSDP_", "MEGATRON_LM_", "PARALLELISM_CONFIG_", "FP8_", "FORK_LAUNCHED", "DS_ACCELERATOR",
    "PMI_SIZE", "PMI_RANK", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_", "MPI_LOCALRANKID", "MPI_LOCALNRANKS",
)  # fmt: skip
# Read in this module, so that no warning is due.
_READ_HERE = {
    "ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_CPU", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_DEEPSPEED_CONFIG_FILE",
    "ACCELERATE_DEEPSPEED_ZERO_STAGE", "ACCELERATE_CONFIG_DS_FIELDS",
}  # fmt: skip
# Boolean, and without effect on numerical results: they stay.
_HARMLESS_FLAGS = ("ACCELERATE_CPU_AFFINITY", "ACCELERATE_DEBUG_MODE")
# Variables with this prefix have no effect unless another variable turns them on; "": never.
_ENABLED_BY = {
    "ACCELERATE_DYNAMO_": "ACCELERATE_DYNAMO_BACKEND",
    "ACCELERATE_DEEPSPEED_": "ACCELERATE_USE_DEEPSPEED",
    "FSDP_": "ACCELERATE_USE_FSDP",
    "MEGATRON_LM_": "ACCELERATE_USE_MEGATRON_LM",
    "PARALLELISM_CONFIG_": "ACCELERATE_USE_PARALLELISM_CONFIG",
    "FP8_": "", "ACCELERATE_FP8_": "", "PMI_": "", "OMPI_": "", "MV2_": "", "MPI_": "",
}  # fmt: skip
_YES, _NO = {"y", "yes", "t", "true", "on", "1"}, {"n", "no", "f", "false", "off", "0"}
# Values by which accelerate launch marks a setting as unset.
_UNSET = _NO | {"", "none", "null", "default"}
# They make a library compute in another precision than --precision, on a GPU and on a CPU.
_PRECISIONS_ON_GPU = ("NVIDIA_TF32_OVERRIDE",)
_PRECISIONS_ON_CPU = ("DNNL_DEFAULT_FPMATH_MODE", "ONEDNN_DEFAULT_FPMATH_MODE")
# Where these are not numeric, torch hangs when ranks meet.
_TORCH_NUMBERS = ("TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE")
# torch's import aborts for a value of another form.
_ALLOCATORS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
_ALLOCATOR = re.compile(r"\s*\w+\s*:\s*(\[[^][]*\]|[^][,:]+)(,\s*\w+\s*:\s*(\[[^][]*\]|[^][,:]+))*")
_READ_AT_IMPORT = ("TORCH_", "TORCHDYNAMO_", "TORCHINDUCTOR_", "PYTORCH_")
# Prefixes of what chooses algorithms, the order of sums, or routes, and so may change rounding. Recorded with the run.
_RECORDED = (
    "ATEN_", "CUBLAS", "CUDA_", "CUDNN_", "DNNL_", "DS_", "GLOO_", "GOMP_", "KMP_", "MKL_", "NCCL_",
    "NVIDIA_TF32_OVERRIDE", "OMP_", "ONEDNN_", "OPENBLAS_", "PYTORCH_", "TORCH_", "TORCHDYNAMO_", "TORCHINDUCTOR_",
    "TRITON_",
)  # fmt: skip


def is_launched() -> bool:
    """True in a process of torchrun, accelerate launch, srun or `--processes N`; one variable alone does not count."""
    environ = os.environ.keys()
    return world_size() > 1 or environ >= _TORCHRUN or environ >= _ACCELERATE_LAUNCH


def is_distgan_launch() -> bool:
    """True if `--processes N` started this process."""
    return os.environ.get(OUR_LAUNCHER) == str(PARENT)


def world_size() -> int:
    """Return the number of processes of the launcher, 1 without one. Raises UserError."""
    return _read_int("WORLD_SIZE", 1, low=1)


def check_environment(*, is_cpu: bool, is_tf32: bool) -> None:
    """Raise UserError for a launcher's variables that are not numeric, missing, or contradict each other.

    Also for variables by which a library would compute in another precision than the chosen one.
    """
    size, rank = world_size(), _read_int("RANK", 0)
    _read_int("LOCAL_RANK", 0)
    _read_int("LOCAL_WORLD_SIZE", 1, low=1)
    if rank >= size:
        raise UserError(
            f"RANK: out of range with WORLD_SIZE={size} ({rank}). Expected: 0 to {size - 1}",
            code="launcher-environment",
        )
    if size > 1:
        for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
            if not os.environ.get(name):
                raise UserError(
                    f"{name}: not set, with WORLD_SIZE={size}. Expected: torchrun or accelerate "
                    "launch, which set it, or WORLD_SIZE unset",
                    code="launcher-environment",
                )
        _read_int("MASTER_PORT", 0, low=1, high=65_535)
        _read_int("TORCHELASTIC_RESTART_COUNT", 0)
        check_network_interface()
    else:
        check_no_mpi()
    for name in _PRECISIONS_ON_CPU if is_cpu else _PRECISIONS_ON_GPU:
        value = os.environ.get(name, "")
        if value and value.lower() not in ({"strict"} if is_cpu else {str(int(is_tf32))}):
            raise UserError(
                f"{name}: sets another precision than --precision ({value}). Expected: unset, or "
                + ("STRICT" if is_cpu else str(int(is_tf32))),
                code="conflicting-settings",
            )


def check_no_mpi() -> None:
    """Raise UserError in one of several processes of an MPI launcher: each would train alone."""
    for name in _MPI_SIZES:
        if (size := _read_int(name, 1, low=1)) > 1:
            raise UserError(
                f"{name}: MPI's launchers are not supported ({size}). Expected: torchrun, accelerate launch or "
                f"--processes {size} (or {name} unset, if it is left over)",
                code="launcher-conflict",
            )


def check_address(address: str, setting: str) -> None:
    """Raise UserError if a process can't connect to another one of this machine at `address`."""
    try:
        with socket.create_server((address, 0)) as server:
            socket.create_connection(server.getsockname(), timeout=_CONNECT_S).close()
    except OSError as error:
        raise UserError(
            f"{setting}: no answer from {address} ({error.strerror or error}). Expected: an interface that is up "
            "(for 127.0.0.1: ip link set lo up), or one process",
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


def _read_int(name: str, default: int, *, low: int = 0, high: int | None = None) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    if not text.isdecimal() or int(text) < low or (high is not None and int(text) > high):
        limit = f"{low} or more" if high is None else f"{low} to {high:,}"
        raise UserError(
            f"{name}: invalid environment variable ({text}). Expected: an integer, {limit}", code="launcher-environment"
        )
    return int(text)


def _read_bool(name: str) -> bool:
    """Return a boolean variable of Accelerate, parsed as Accelerate does. Raises UserError for other values."""
    value = os.environ.get(name, "").lower()
    if value and value not in _YES | _NO:
        raise UserError(
            f"{name}: invalid environment variable ({value}). Expected: true, false", code="launcher-environment"
        )
    return value in _YES


def check_before_imports() -> None:
    """Raise UserError for variables with which importing Accelerate or torch fails, or torch aborts or hangs."""
    for name in ("USE_TORCH_XLA", "ACCELERATE_ENABLE_RICH"):
        _read_bool(name)
    for name in _TORCH_NUMBERS:
        _read_int(name, 0)
    level = os.environ.get("TORCH_DISTRIBUTED_DEBUG", "")
    if level and level.upper() not in ("OFF", "INFO"):
        reason = ", with which torch's DDP crashes" if level.upper() == "DETAIL" else ""
        raise UserError(
            f"TORCH_DISTRIBUTED_DEBUG: invalid environment variable ({level}{reason}). Expected: OFF, INFO",
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
    """Return a UserError if importing a module of torch raised `error` while variables that torch reads are set.

    It names them all: only torch's message says which one it was. None if torch is not installed, and for any other
    error.
    """
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    is_import = any(
        frame.f_code.co_name == "<module>" and str(frame.f_globals.get("__name__")).partition(".")[0] == "torch"
        for frame in frames
    )
    variables = _list_variables(_READ_AT_IMPORT)
    if not is_import or not variables or isinstance(error, ImportError):
        return None
    return UserError(
        f"{variables}: torch does not import ({first_line(error)}). Expected: unset", code="launcher-environment"
    )


def explain_group_error(error: Exception) -> UserError:
    """Return the error for a process group that can't be created although all ranks have joined."""
    variables = _list_variables(("GLOO_", "NCCL_", "TORCH_GLOO_", "TORCH_DIST"))
    return AllRanksUserError(
        f"{variables or 'the processes'}: no process group ({first_line(error)}). Expected: these variables unset, or "
        "values that this torch supports",
        code="rendezvous-failed",
    )


def _list_variables(prefixes: tuple[str, ...]) -> str:
    """Return the set variables with these prefixes as `NAME=value, ...`, for a message."""
    return ", ".join(f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith(prefixes))[:300]


def wants_cpu() -> bool:
    """True if the launcher's environment selects the CPU."""
    return _read_bool("ACCELERATE_USE_CPU")


def remove_launcher_variables(num_threads: int) -> list[str]:
    """Remove variables that Accelerate and DeepSpeed would read besides the settings of the run.

    `num_threads`: torch's. Returns warnings that name the ignored variables. Call it after the other functions here,
    and inside `preserve_process_state`, which restores them.
    """
    warnings = []
    if wants_cpu() and "MASTER_PORT" in os.environ and "WORLD_SIZE" not in os.environ:
        warnings.append(
            "accelerate launch started one process on a CPU, not several; for several: distgan train --processes N, "
            "or accelerate launch --config_file launch/cpu.yaml"
        )
    end = os.environ.get("SLURM_JOB_END_TIME", "")
    if end and "SLURM_JOB_ID" in os.environ and (not end.isdecimal() or int(end) <= time.time()):
        del os.environ["SLURM_JOB_END_TIME"]
        warnings.append(f"SLURM_JOB_END_TIME={end}: in the past, of an older job; ignored")
    variables = {name: value for name, value in sorted(os.environ.items()) if name.startswith(_LAUNCHER_PREFIXES)}
    ignored = [f"{name}={value}" for name, value in variables.items() if _would_have_effect(name, value)]
    if ignored:
        warnings.append(
            f"{', '.join(ignored)}: ignored. Of Accelerate's variables only the precision, the device, and DeepSpeed's "
            "config file and stage are used; the rest is set by flags"
        )
    for name, value in variables.items():
        if not _is_harmless(name, value):
            del os.environ[name]
    if world_size() == 1:  # however it was started
        for name in _RANKS:
            os.environ.pop(name, None)
    # OpenMP also takes a list, Accelerate only a number.
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    return warnings


def _is_harmless(name: str, value: str) -> bool:
    if name == "ACCELERATE_LOG_LEVEL":
        return value.upper() in logging.getLevelNamesMapping()  # Accelerate raises for others
    return name in _HARMLESS_FLAGS and value.lower() in _YES


def _would_have_effect(name: str, value: str) -> bool:
    """True if an ignored variable would have changed something."""
    if name in _READ_HERE or value.lower() in _UNSET or _is_harmless(name, value):
        return False
    if name == "ACCELERATE_GRADIENT_ACCUMULATION_STEPS" and value == "1":
        return False
    switch = next((switch for prefix, switch in _ENABLED_BY.items() if name.startswith(prefix)), name)
    return switch == name or os.environ.get(switch, "").lower() not in _UNSET


def numerics_variables() -> dict[str, str]:
    """Return the set variables that may change rounding in torch and the libraries that it uses."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(_RECORDED)}


def wants_deepspeed() -> bool:
    """True if the launcher's environment selects DeepSpeed."""
    return _read_bool("ACCELERATE_USE_DEEPSPEED")


def deepspeed_config_file() -> str | None:
    """Return the JSON file given to accelerate launch, None without one."""
    name = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    return None if name.lower() in ("", "none") else name


def zero_stage() -> int | None:
    """Return the ZeRO stage given to accelerate launch, None if a config file sets it. Raises UserError if invalid."""
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "")
    if not stage or deepspeed_config_file() is not None:
        return None
    return _read_int("ACCELERATE_DEEPSPEED_ZERO_STAGE", 2, high=3)


def _launcher_precision() -> str:
    """Return the launcher's precision, float32 if none, by its name in PRECISIONS if it is one of them."""
    return PRECISIONS.current(os.environ.get("ACCELERATE_MIXED_PRECISION", "").lower() or "no")


def check_launcher_precision(run_precision: str | None) -> None:
    """Raise UserError if the launcher's precision is not that of the run or preset.

    Do not call it where --precision is given, which takes precedence.
    """
    requested = _launcher_precision()
    if run_precision not in (None, AUTO) and requested not in (PRECISIONS.current("no"), run_precision):
        raise UserError(
            f"--mixed_precision: the run has {run_precision} ({requested}, by launcher or ACCELERATE_MIXED_PRECISION). "
            "Expected: the same, or --precision as a flag of the training",
            code="mismatch",
        )


def resolve_precision(requested: str | None, *, is_cpu: bool) -> str:
    """Return the requested precision, else the launcher's, else float32. Raises UserError if it is not available.

    "auto" becomes the launcher's if that names one; else it stays "auto", for a probe on all ranks (`precision.py`).
    """
    launcher_precision = _launcher_precision()
    if requested == AUTO:
        if launcher_precision == PRECISIONS.current("no"):
            return AUTO
        requested = launcher_precision
    value, flag = (launcher_precision, "--mixed_precision") if requested is None else (requested, "--precision")
    if value not in PRECISIONS:
        raise UserError(f"{flag}: unknown precision ({value}). Expected: {', '.join(PRECISIONS)}", code="unknown-name")
    if PRECISIONS[value].needs_cuda and is_cpu:
        source = "" if requested else ", of the launcher or accelerate's config; --precision overrides it"
        allowed = ", ".join(names_on_cpu(PRECISIONS))
        raise UserError(
            f"{flag}: needs a GPU, as a CPU computes it in float32 ({value}{source}). Expected on a CPU: {allowed}",
            code="precision-unavailable",
        )
    return value


def precision_warnings(precision: str, *, is_cpu: bool) -> list[str]:
    """Return a warning where the chosen precision is slow on this device."""
    if precision == "bf16" and is_cpu and emulates_bf16():
        return [f"--precision bf16: {cpu_name()} emulates it, which is many times slower; leave it unset"]
    return []


def cores_per_process() -> int | None:
    """Return the cores per process under a launcher, which sets one thread each; None without a launcher.

    Without a launcher torch's default, and with it OMP_NUM_THREADS, applies.
    """
    if not is_launched():
        return None
    return max(1, count_cores() // _read_int("LOCAL_WORLD_SIZE", 1, low=1))


def check_num_processes(num: int) -> None:
    """Raise UserError if `num` is not the launcher's number of processes."""
    if world_size() != num:
        raise UserError(
            f"--processes: a launcher started {world_size()} processes already ({num}). Expected: the same number, or "
            "unset",
            code="launcher-conflict",
        )


def check_memory(num: int) -> None:
    """Raise UserError for more processes than the free memory holds."""
    available = psutil.virtual_memory().available
    if num * _PROCESS_GIB * 2**30 > available:
        raise UserError(
            f"--processes: a process takes {_PROCESS_GIB} GiB or more, and {available / 2**30:.1f} GiB are free "
            f"({num}). Expected here: at most {max(1, int(available / 2**30 / _PROCESS_GIB))}",
            code="not-enough-memory",
        )
