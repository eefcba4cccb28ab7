"""README's commands run, what they write has the documented fields, and the site builds where MkDocs is installed."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
from generate_reference import keys_of
from helpers.readme_commands import short_commands
from helpers.runs import ROOT, Run

from distgan.distributed.runtime import Runtime
from distgan.evaluation.during_training import QualityMonitor
from distgan.evaluation.measure import to_metrics
from distgan.runs import run_dir
from distgan.runs.artifacts import RunArtifacts
from distgan.training.metrics import MetricLog, MetricRecord
from distgan.utils.files import read_metrics
from distgan.utils.provenance import describe_environment


@pytest.mark.timeout(600)
def test_commands_of_the_readme_run_in_an_empty_folder(
    distgan: Run, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for words in short_commands(tmp_path_factory.mktemp("preset") / "tiny.toml"):
        distgan.ok(*words)
    with_samples, evaluated = (tmp_path / "runs" / name for name in ("cgan-fast-1", "cgan-fast-2"))

    documented = {name.rstrip("/") for name in run_dir.CONTENTS}
    assert {path.name for path in with_samples.iterdir()} <= documented
    assert documented <= {path.name for path in with_samples.iterdir()} | {
        "metrics.jsonl.old",
        "networks",
        "images.safetensors",
        "wandb",
        "mlruns",
        "trackers.json",
    }
    assert json.loads((with_samples / "status.json").read_text()).keys() == keys_of(run_dir.record_status).keys()
    environment = json.loads((with_samples / "environment.json").read_text())
    writers = describe_environment, Runtime.describe, RunArtifacts._write_environment, RunArtifacts.finish
    assert environment.keys() == {key for writer in writers for key in keys_of(writer)}

    keys = [
        *MetricRecord._fields,
        *(key for each in (to_metrics, QualityMonitor.evaluate, MetricLog.__init__) for key in keys_of(each)),
    ]
    parts = {"{prefix}": "(raw|ema)", "{name}": "[a-z]+", "{end}": "(_low|_high)?"}
    patterns = [re.sub(r"\{\w+\}", lambda part: parts[part[0]], key) for key in keys]
    line = read_metrics(evaluated / "metrics.jsonl")[-1]
    assert not [key for key in line if not any(re.fullmatch(pattern, key) for pattern in patterns)]
    assert not [pattern for pattern in patterns if not any(re.fullmatch(pattern, key) for key in line)]


@pytest.mark.skipif(not importlib.util.find_spec("material"), reason="no MkDocs Material: pip install '.[docs]'")
def test_the_site_builds_without_a_warning_and_loads_nothing_from_other_hosts(run: Run, tmp_path: Path) -> None:
    run.ok(sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", ROOT / "mkdocs.yml", "-d", tmp_path)
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        assert not re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"?(?:https?:)?//[^>]*>", page.read_text())
