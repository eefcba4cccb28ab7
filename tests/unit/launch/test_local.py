"""`--processes N` before anything is started."""

import errno
import os
import socket
from pathlib import Path

import pytest
import yaml
from helpers.launchers import ACCELERATE_LAUNCH, LAUNCH
from helpers.runs import ROOT, MonkeyPatch, Run, assert_user_error, expect_user_error, quick

from distgan.config.image_spec import MNIST_SPEC
from distgan.config.schema import Config, DataConfig, ModelConfig
from distgan.distributed import env, precision, rendezvous


def test_every_launch_file_is_documented() -> None:
    page = (ROOT / "docs" / "multi-gpu.md").read_text()
    files = sorted(path.name for path in LAUNCH.glob("*.yaml"))
    assert {"cpu.yaml", "one_gpu.yaml", "multi_gpu.yaml", "multi_node.yaml"} < set(files)
    for name in files:
        assert f"launch/{name}" in page, name
        assert yaml.safe_load((LAUNCH / name).read_text())["compute_environment"] == "LOCAL_MACHINE"


def test_processes_under_a_launcher_are_rejected(distgan: Run, monkeypatch: MonkeyPatch) -> None:
    for name, value in ACCELERATE_LAUNCH.items():
        monkeypatch.setenv(name, value)
    result = distgan("train", *quick("run"), "--processes", 2)
    assert_user_error(result, "--processes ... 2 ... [launcher-conflict]", code="launch")


@pytest.mark.parametrize(
    ("name", "value"), [("GLOO_SOCKET_IFNAME", "nosuch0"), ("PMI_SIZE", "4"), ("OMPI_COMM_WORLD_SIZE", "2")]
)
def test_what_processes_could_not_meet_by_is_named_before_they_start(
    distgan: Run, monkeypatch: MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert_user_error(distgan("train", *quick("run"), "--processes", 2), f"{name}: ... {value}", code="launch")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("USE_TORCH_XLA", "maybe"),
        ("ACCELERATE_ENABLE_RICH", "maybe"),
        ("TORCH_DISTRIBUTED_DEBUG", "maybe"),
        ("TORCH_DISTRIBUTED_DEBUG", "DETAIL"),
        ("PYTORCH_ALLOC_CONF", "nonsense"),
        ("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:"),
        ("TORCH_FR_BUFFER_SIZE", "x"),
    ],
)
@pytest.mark.parametrize("command", [("train", *quick("run")), ("eval", "run"), ("sample", "run"), ("judge", "show")])
def test_what_libraries_could_not_be_imported_with_is_named(
    distgan: Run, monkeypatch: MonkeyPatch, command: tuple[object, ...], name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert_user_error(distgan(*command), f"{name}: ... {value}", code="launch")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TORCH_DISTRIBUTED_DEBUG", "info"),
        ("PYTORCH_ALLOC_CONF", "expandable_segments:True, roundup_power2_divisions:[256:1,512:2,>:8]"),
        ("TORCH_FR_BUFFER_SIZE", "2000"),
    ],
)
def test_what_torch_takes_is_taken(monkeypatch: MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    env.check_before_imports()


def test_variables_at_which_torchs_import_fails_are_named(distgan: Run, monkeypatch: MonkeyPatch) -> None:
    """Torch is imported here already: a module of its name stands for it."""
    failing = compile('raise ValueError("Invalid log settings: nonsense,\\n valid settings: all")', "torch", "exec")
    monkeypatch.setenv("TORCH_LOGS", "nonsense")
    monkeypatch.setattr("distgan.runs.inspection.verify", lambda where: exec(failing, {"__name__": "torch._logging"}))
    result = distgan("checkpoint", "verify", "run")
    assert_user_error(result, "TORCH_LOGS=nonsense ... (", code="launcher-environment")
    for name in [name for name in os.environ if name.startswith(env._READ_AT_IMPORT)]:  # torch sets some itself
        monkeypatch.delenv(name)
    assert "Traceback" in distgan("checkpoint", "verify", "run").stderr


def test_a_machine_without_loopback_is_reported_before_processes_start(distgan: Run, monkeypatch: MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))

    monkeypatch.setattr(socket, "create_connection", unreachable)
    result = distgan("train", *quick("run"), "--processes", 2)
    assert_user_error(result, "--processes 2 ... 127.0.0.1 ... [rendezvous-failed]", os.strerror(errno.ENETUNREACH))
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with expect_user_error("MASTER_ADDR ... 127.0.0.1 ... [rendezvous-failed]", os.strerror(errno.ENETUNREACH)):
        rendezvous.join_process_group(Config(), "gloo", "fp32", None)


def test_dry_run_starts_no_processes(distgan: Run) -> None:
    result = distgan.ok("train", *quick("run"), "--processes", 3, "--dry-run")
    assert "processes  3 x cpu (DDP), precision fp32" in result.stdout
    assert "of 32 images, 10.67 per process" in result.stdout


def test_fp16_of_a_default_file_is_rejected_on_a_cpu_by_its_name(distgan: Run, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    result = distgan("train", *quick("run"))
    assert_user_error(
        result, "--mixed_precision ... fp16 ... [precision-unavailable]", "CPU: fp32 ... [precision-unavailable]"
    )


def test_the_launchers_precision_is_not_dropped_on_a_run_of_another(
    distgan: Run, tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    config = Config(model=ModelConfig(name="cgan"), data=DataConfig(name="digits")).resolved(
        "digits", "fp32", MNIST_SPEC
    )
    (run / "config.json").write_text(config.model_dump_json())
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    words = ("train", "--out", "run", "--dry-run")
    assert_user_error(distgan(*words), "--mixed_precision: ... fp32 (bf16, ... [mismatch]")
    assert "precision fp32" in distgan.ok(*words, "--precision", "fp32").stdout
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert "precision fp32" in distgan.ok(*words).stdout


def test_a_run_goes_on_in_its_own_precision_where_auto_comes_to_another(
    distgan: Run, tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    """As on another machine of a cluster, by the command that began it."""
    monkeypatch.setattr(precision, "time_precisions", lambda _: (2.0, 1.0))
    words = ("train", "--preset", "cgan-fast", "--data", "digits", "--out", "run", "--dry-run")
    assert "precision bf16" in distgan.ok(*words).stdout
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"model": {"name": "cgan"}, "run": {"precision": "fp32"}}')
    assert "precision fp32" in distgan.ok(*words).stdout
