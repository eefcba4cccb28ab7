"""`--processes N` before anything is started."""

import yaml
from helpers.launchers import ACCELERATE_LAUNCH, LAUNCH
from helpers.runs import ROOT, MonkeyPatch, Run, assert_user_error, quick


def test_every_launch_file_is_told_of_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    files = sorted(path.name for path in LAUNCH.glob("*.yaml"))
    assert {"cpu.yaml", "one_gpu.yaml", "multi_gpu.yaml", "multi_node.yaml"} < set(files)
    for name in files:
        assert f"launch/{name}" in readme, name
        assert yaml.safe_load((LAUNCH / name).read_text())["compute_environment"] == "LOCAL_MACHINE"


def test_processes_under_a_launcher_are_refused(distgan: Run, monkeypatch: MonkeyPatch) -> None:
    for name, value in ACCELERATE_LAUNCH.items():
        monkeypatch.setenv(name, value)
    result = distgan("train", *quick("run"), "--processes", 2)
    assert_user_error(result, "--processes 2: this process is one of 1 of a launcher already", code="launch")


def test_dry_run_starts_no_processes(distgan: Run) -> None:
    result = distgan.ok("train", *quick("run"), "--processes", 3, "--dry-run")
    assert "processes  3 x cpu (DDP), precision no" in result.stdout
    assert "of 32 images, 10.67 a process" in result.stdout


def test_fp16_of_a_default_file_is_refused_on_a_cpu_by_its_name(distgan: Run, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    result = distgan("train", *quick("run"))
    assert_user_error(result, "--mixed_precision fp16 (of the launcher or accelerate's config", "allowed on a CPU: no")
