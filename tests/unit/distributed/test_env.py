"""Variables of the environment that could change a training: recorded, ignored with a warning, or rejected."""

import os
import time

import pytest
import torch
from helpers.launchers import ACCELERATE_LAUNCH
from helpers.runs import ON_CPU, MonkeyPatch, expect_user_error

from distgan import errors
from distgan.config.schema import Config, RunConfig
from distgan.distributed import env
from distgan.distributed.runtime import open_runtime
from distgan.errors import OUR_LAUNCHER, PARENT
from distgan.training.stop import SLURM_END, StopRequest, describe, exit_code, seconds_left

# Nothing of this machine, so that each test has what it sets.
_NAMES = (*env._RANKS, *env._MPI_SIZES, "OMP_NUM_THREADS", "SLURM_JOB_ID", "SLURM_JOB_END_TIME", "TORCHELASTIC_RUN_ID")


@pytest.fixture(autouse=True)
def _clean(monkeypatch: MonkeyPatch) -> None:
    for name in os.environ:
        if name in _NAMES or name.startswith((*env._LAUNCHER_PREFIXES, *env._RECORDED)):
            monkeypatch.delenv(name)


IGNORED = [
    ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "8"),
    ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "auto"),
    ("ACCELERATE_GRADIENT_CLIPPING", "1.0"),
    ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR"),
    ("ACCELERATE_USE_FSDP", "true"),
    ("ACCELERATE_USE_MEGATRON_LM", "true"),
    ("ACCELERATE_USE_PARALLELISM_CONFIG", "true"),
    ("ACCELERATE_TORCH_DEVICE", "meta"),
    ("ACCELERATE_CPU_AFFINITY", "maybe"),
    ("ACCELERATE_DEBUG_MODE", "maybe"),
    ("ACCELERATE_A_SETTING_OF_TOMORROW", "7"),
    ("FORK_LAUNCHED", "maybe"),
    ("DS_ACCELERATOR", "xpu"),
]
SILENT = [
    ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1"),
    ("ACCELERATE_DYNAMO_MODE", "max-autotune"),  # requests nothing without a backend
    ("ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE", "cpu"),  # nor this without DeepSpeed
    ("FSDP_OFFLOAD_PARAMS", "true"),
    ("MEGATRON_LM_TP_DEGREE", "x"),
    ("PARALLELISM_CONFIG_TP_SIZE", "x"),
    ("FP8_BACKEND", "TE"),
    ("PMI_SIZE", "1"),
    ("OMPI_COMM_WORLD_RANK", "x"),
    ("RANK", "0"),
    ("LOCAL_RANK", "1"),
    ("LOCAL_WORLD_SIZE", "3"),
    ("OMP_NUM_THREADS", "4,2"),
]
REJECTED = [
    ("ACCELERATE_USE_CPU", "maybe", "launch"),
    ("ACCELERATE_USE_DEEPSPEED", "maybe", "launch"),
    ("ACCELERATE_MIXED_PRECISION", "fp8", "bad-value"),
    ("ACCELERATE_MIXED_PRECISION", "fp16", "unavailable"),
    ("PMI_SIZE", "4", "launch"),
    ("PMI_SIZE", "x", "launch"),
    ("OMPI_COMM_WORLD_SIZE", "2", "launch"),
    ("MV2_COMM_WORLD_SIZE", "2", "launch"),
    ("WORLD_SIZE", "x", "launch"),
    ("RANK", "3", "launch"),
    ("LOCAL_RANK", "x", "launch"),
    ("LOCAL_WORLD_SIZE", "0", "launch"),
    ("DNNL_DEFAULT_FPMATH_MODE", "BF16", "bad-value"),
    ("ONEDNN_DEFAULT_FPMATH_MODE", "ANY", "bad-value"),
]
RECORDED = [
    ("OMP_NUM_THREADS", "1"),
    ("MKL_CBWR", "COMPATIBLE"),
    ("ATEN_CPU_CAPABILITY", "default"),
    ("ONEDNN_MAX_CPU_ISA", "AVX2"),
    ("ONEDNN_DEFAULT_FPMATH_MODE", "STRICT"),
    ("CUBLAS_WORKSPACE_CONFIG", ":4096:8"),
    ("NVIDIA_TF32_OVERRIDE", "0"),
    ("TORCHINDUCTOR_USE_FAST_MATH", "1"),
    ("TORCHDYNAMO_DISABLE", "1"),
    ("TORCH_COMPILE_DISABLE", "1"),
    ("TORCH_SHOW_CPP_STACKTRACES", "1"),
    ("TORCH_CPP_LOG_LEVEL", "INFO"),
    ("PYTORCH_ALLOC_CONF", "expandable_segments:True"),
    ("NCCL_P2P_DISABLE", "1"),
    ("PYTORCH_TUNABLEOP_ENABLED", "1"),
    ("NCCL_ALGO", "Ring"),
]


@pytest.mark.parametrize(("name", "value"), [*IGNORED, *SILENT])
def test_ignored(monkeypatch: MonkeyPatch, name: str, value: str) -> None:
    """Nothing that Accelerate makes of it reaches the training, and the process keeps it."""
    monkeypatch.setenv(name, value)
    with open_runtime(ON_CPU) as runtime:
        assert name == "OMP_NUM_THREADS" or os.environ.get(name) is None or name in env._HARMLESS_FLAGS
        accelerator = runtime._accelerator
        assert accelerator.gradient_accumulation_steps == 1
        assert (str(accelerator.device), accelerator.num_processes, accelerator.mixed_precision) == ("cpu", 1, "no")
        assert accelerator.distributed_type == "NO"
        named = [warning for warning in runtime.warnings if f"{name}={value}" in warning]
        assert len(named) == ((name, value) in IGNORED)
    assert os.environ[name] == value


@pytest.mark.parametrize(("name", "value", "code"), REJECTED)
def test_rejected(monkeypatch: MonkeyPatch, name: str, value: str, code: str) -> None:
    monkeypatch.setenv(name, value)
    shown = "--mixed_precision" if "PRECISION" in name else name
    with expect_user_error(shown, value, code=code), open_runtime(ON_CPU):
        pass


@pytest.mark.parametrize(("name", "value"), RECORDED)
def test_taken_and_recorded(monkeypatch: MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with open_runtime(ON_CPU) as runtime:
        assert runtime.describe()["variables"] == {name: value}
        assert not runtime.warnings


@pytest.mark.parametrize("value", ["bf16", "BF16"])
def test_the_launchers_precision_is_taken_where_none_is_chosen(monkeypatch: MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", value)
    with open_runtime(ON_CPU) as runtime:
        assert runtime.describe()["precision"] == "bf16"
    with open_runtime(Config(run=RunConfig(device="cpu", precision="fp32"))) as runtime:
        assert runtime.describe()["precision"] == "fp32"


@pytest.mark.parametrize(
    ("requested", "own", "is_rejected"),
    [
        ("bf16", "no", True),
        ("fp16", "bf16", True),
        ("no", "bf16", False),
        ("bf16", "bf16", False),
        ("bf16", None, False),
    ],
)
def test_the_launchers_precision_beside_that_of_a_run(
    monkeypatch: MonkeyPatch, requested: str, own: str | None, is_rejected: bool
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", requested)
    if not is_rejected:
        env.check_launcher_precision(own)
        return
    with expect_user_error(f"--mixed_precision: ... {own} ... {requested} ... --precision", code="mismatch"):
        env.check_launcher_precision(own)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, False),
        ({"ACCELERATE_MIXED_PRECISION": "no"}, False),
        ({"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_USE_CPU": "true"}, False),
        ({"LOCAL_WORLD_SIZE": "1"}, False),
        ({"WORLD_SIZE": "1", "RANK": "0"}, False),
        ({"TORCHELASTIC_RESTART_COUNT": "1"}, False),
        ({OUR_LAUNCHER: "1"}, False),
        (ACCELERATE_LAUNCH, True),
        ({"TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_RESTART_COUNT": "1"}, False),
        (
            dict.fromkeys(("RANK", "LOCAL_RANK"), "0")
            | dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), "1")
            | {"TORCHELASTIC_RUN_ID": "x"},
            True,
        ),
        ({"WORLD_SIZE": "2", "RANK": "1"}, True),
    ],
)
def test_no_launcher_is_guessed_from_one_variable(
    monkeypatch: MonkeyPatch, variables: dict[str, str], expected: bool
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert env.is_launched() == expected


@pytest.mark.parametrize(("run_id", "parent"), [("distgan-77", 77), ("distgan-7", os.getppid()), ("", os.getppid())])
def test_a_rank_knows_its_launcher_by_its_word_and_not_by_who_is_the_parent_now(
    monkeypatch: MonkeyPatch, run_id: str, parent: int
) -> None:
    """It may have been killed before this process could look."""
    monkeypatch.setenv(OUR_LAUNCHER, "77")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", run_id)
    assert errors._parent() == parent


def test_our_launcher_is_the_parent(monkeypatch: MonkeyPatch) -> None:
    for value, expected in (("1", False), (str(PARENT), True)):
        monkeypatch.setenv(OUR_LAUNCHER, value)
        assert env.is_distgan_launch() == expected


def test_a_process_of_accelerate_launch_has_no_warning(monkeypatch: MonkeyPatch) -> None:
    for name, value in ACCELERATE_LAUNCH.items():
        monkeypatch.setenv(name, value)
    with open_runtime(ON_CPU) as runtime:
        assert not runtime.warnings
        assert runtime.is_launched


@pytest.mark.parametrize("interfaces", ["nosuch0", "lo,nosuch0"])
def test_a_network_interface_that_is_not_there_is_named(monkeypatch: MonkeyPatch, interfaces: str) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", interfaces)
    with expect_user_error("GLOO_SOCKET_IFNAME ... nosuch0 ... [launcher-environment]", code="launch"):
        env.check_environment(is_cpu=True, is_tf32=False)


def test_tf32_of_the_driver_must_be_that_of_the_precision(monkeypatch: MonkeyPatch) -> None:
    for value, is_tf32, is_rejected in (("1", False, True), ("0", True, True), ("1", True, False), ("0", False, False)):
        monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", value)
        if is_rejected:
            with expect_user_error("NVIDIA_TF32_OVERRIDE", f"or {int(is_tf32)}", code="bad-value"):
                env.check_environment(is_cpu=False, is_tf32=is_tf32)
        else:
            env.check_environment(is_cpu=False, is_tf32=is_tf32)


@pytest.mark.parametrize("end", ["1700000000", "soon", "-1"])
def test_the_end_of_an_older_slurm_job_is_ignored(monkeypatch: MonkeyPatch, end: str) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_END_TIME", end)
    with open_runtime(ON_CPU) as runtime:
        (warning,) = runtime.warnings
        assert f"SLURM_JOB_END_TIME={end}" in warning
        assert "SLURM_JOB_END_TIME" not in os.environ
    assert os.environ["SLURM_JOB_END_TIME"] == end


def test_a_stop_by_slurms_limit_names_slurm(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 3))
    with open_runtime(ON_CPU) as runtime, StopRequest(seconds_left(None, 0), False, SLURM_END) as request:
        assert not runtime.warnings
        assert request.reason() == SLURM_END
    assert "SLURM's job 7" in describe(SLURM_END)
    assert exit_code(SLURM_END) == 75


def test_a_list_of_thread_numbers_reaches_accelerate_as_one(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")
    with open_runtime(ON_CPU):
        assert os.environ["OMP_NUM_THREADS"] == str(torch.get_num_threads())
