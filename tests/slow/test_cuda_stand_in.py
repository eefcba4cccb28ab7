"""More of CUDA's engines on a machine without a GPU: every preset, resume, two ranks, compilers."""

import importlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cuda_stand_in.nodes import SLOW_LINES, assert_nodes
from cuda_stand_in.stand_in import HERE, STEPS, missing, run_on_stand_in, train
from helpers.gpu_reports import read, statuses
from helpers.runs import BIN, ROOT, TINY, Run, checkpoint

pytestmark = pytest.mark.skipif(missing() is not None, reason=f"no stand-in for CUDA: {missing()}")
QUICK = ("--preset", "cgan-quick", "--data", "digits", *TINY)


@pytest.mark.timeout(1000)
@pytest.mark.parametrize(("preset", "precision", "engine"), SLOW_LINES)
def test_steps_have_few_kernels_and_wait_for_nothing(
    run: Run, tmp_path: Path, record_property: Callable[[str, object], None], data_flags: tuple[str, ...],
    preset: str, precision: str, engine: str,
) -> None:  # fmt: skip
    assert_nodes(run, tmp_path, record_property, preset, precision, engine, *data_flags)


@pytest.mark.parametrize(("fault", "name"), [("joined", "graph"), ("unjoined", "eager")])
def test_streams_of_a_capture(run: Run, tmp_path: Path, fault: str, name: str) -> None:
    (log,), engine, _ = train(run, tmp_path, *QUICK, "--engine", "graph", faults=fault)
    assert engine["name"] == name, engine["why"]
    assert bool(log.violations) == (fault == "unjoined"), log.violations


def test_a_graphed_run_resumes(run: Run, tmp_path: Path) -> None:
    (before,), _, _ = train(run, tmp_path, *QUICK, "--engine", "graph")
    (after,), engine, _ = train(run, tmp_path, *QUICK, "--engine", "graph", steps=2 * STEPS)
    assert engine["name"] == "graph", engine["why"]
    assert checkpoint(tmp_path / "run")[1] == 2 * STEPS
    assert len(after.graphs[0]) == len(before.graphs[0])
    after.assert_clean()


@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_two_ranks(run: Run, tmp_path: Path, engine: str) -> None:
    """By DDP, and by graphs with NCCL's sums in them."""
    logs, chosen, _ = train(run, tmp_path, *QUICK, "--processes", 2, "--engine", engine, devices=2)
    assert chosen["name"] == engine, chosen["why"]
    assert len(logs) == 2
    for log in logs:
        step = log.graphs[0] if engine == "graph" else log.intervals[-1].launches
        assert "ncclAllReduce" in step
        if engine == "graph":
            log.assert_clean()
        else:  # outside of a capture torch's SyncBatchNorm waits for the device, to leave out ranks without rows
            assert not log.violations, log.violations


@pytest.mark.parametrize(
    ("flags", "requested"),
    [(("--loss", "r1"), "graph-compiled"), (("--precision", "fp16"), "graph")],
    ids=["r1", "fp16"],
)
def test_a_fallback_is_reported(run: Run, tmp_path: Path, flags: tuple[str, ...], requested: str) -> None:
    """torch.compile has no second derivatives, which a penalty needs; and the scaler of fp16 decides on the host."""
    (log,), engine, said = train(run, tmp_path, *QUICK, *flags, "--engine", requested)
    assert engine["asked"] == requested != engine["name"]
    assert f"engine {engine['name']}: {engine['why']}" in said
    assert "not compiled inside" in engine["why"] or "not taken" in engine["why"]
    assert not log.violations, log.violations


# What `make gpu-wheels` takes along.
WHEELS = ("pydantic", "pydantic_core", "annotated_types", "typing_inspection", "typing_extensions", "filelock")
# In the quick form all but the tests of tests/gpu, which look at numbers.
PARTS = ("facts", "profile", "compiled", "run-vanilla", "run-cgan", "throughput")


@pytest.mark.timeout(1000)
def test_a_gpu_report_where_packages_are_missing(run: Run, tmp_path: Path) -> None:
    """Without git and a compiler, and with pydantic from a folder."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for name in WHEELS:
        source = Path(importlib.import_module(name).__file__ or "")
        if source.name == "__init__.py":
            shutil.copytree(source.parent, wheels / name)
        else:
            shutil.copy(source, wheels)
    ran = run_on_stand_in(
        run, tmp_path, ROOT / "benchmarks" / "gpu_report.py", "--quick", "--out", "report", "--budget-s", 900,
        "--parts", ",".join(PARTS), timeout=900, PATH=BIN, PYTHONPATH=f"{HERE / 'child'}:{wheels}",
        CUDA_STAND_IN_HIDDEN=",".join([*WHEELS, "deepspeed"]),
    )  # fmt: skip
    assert ran.result.returncode == 0, ran.result.stderr
    found, parts = statuses(tmp_path / "report"), read(tmp_path / "report")["parts"]
    assert {found[name] for name in PARTS} == {"done"}, found
    assert parts["facts"]["found"]["device"] == "CUDA stand-in"
    for name in ("run-vanilla", "run-cgan"):
        assert parts[name]["found"]["engine"]["name"] == "graph"
    assert not [text for log in ran.logs for text in log.violations]
