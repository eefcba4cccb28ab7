"""Programs that train: the examples, a notebook that is interrupted, and a process that does not grow."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.runs import ROOT, Run

from distgan.runs.run_dir import read_status
from distgan.utils.files import read_json

EXAMPLES = ROOT / "examples"


def shortened(program: str) -> str:
    """Return an example that takes 20 steps."""
    assert "epochs=1" in program
    return program.replace("epochs=1", "epochs=1, max_steps=20")


def test_the_example_of_the_docs_runs_in_an_empty_folder(run: Run, tmp_path: Path) -> None:
    found = re.search(r"^```python\n(.*?)^```$", (ROOT / "docs/python_api.md").read_text(), re.M | re.S)
    assert found
    (tmp_path / "program.py").write_text(shortened(found[1]))
    result = run.ok(sys.executable, "program.py")
    fcd, agreement = result.stdout.splitlines()[-1].split(" ", 1)
    quality = read_json(tmp_path / "runs/cgan-quick-1/eval/eval.json", 2**24)
    assert float(fcd) == quality["fcd"]["value"]
    assert agreement.startswith("value=")
    assert (tmp_path / "images.npz").exists()


def test_an_import_is_light_and_ten_trainings_leave_the_memory_as_it_was(run: Run, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        """
import distgan, gc, json, psutil, sys
heavy = sorted({"torch", "numpy", "pydantic", "PIL", "scipy"} & sys.modules.keys())
import numpy as np
data = distgan.Dataset(np.zeros((60, 28, 28), np.uint8), np.arange(60) % 3)
settings = dict(family="dcgan", width=0.1, device="cpu", threads=1, epochs=1, batch_size=20, sample_epochs=[1])
sizes = []
for number in range(14):
    config = distgan.Config.from_preset("cgan", **settings, out=f"runs/{number}", precision="fp32")
    distgan.train(config, dataset=data, quiet=True)
    gc.collect()
    sizes.append(psutil.Process().memory_info().rss / 2**20)
print(json.dumps([heavy, sizes]))
"""
    )
    result = run.ok(sys.executable, "program.py")
    heavy, sizes = json.loads(result.stdout)
    assert heavy == []
    assert sizes[-1] - sizes[3] < 50, sizes
    assert result.stderr == ""


def test_the_example_of_a_script(run: Run, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(shortened((EXAMPLES / "train_from_python.py").read_text()))
    result = run.ok(sys.executable, "program.py")
    assert "runs/from-python: step 20, done" in result.stdout
    assert result.stderr == ""


def test_a_study_prunes_by_metrics_and_its_stages_are_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    optuna = pytest.importorskip("optuna")
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    import sweep  # type: ignore[import-not-found]

    monkeypatch.setattr(sweep, "STEPS", 2)
    monkeypatch.setattr(sweep, "STAGES", 2)
    low = optuna.pruners.ThresholdPruner(upper=0.0)  # no FCD is that good
    for number, pruner in enumerate((optuna.pruners.NopPruner(), low)):
        study = optuna.create_study(pruner=pruner)
        study.enqueue_trial({"g_lr": 1e-3, "d_lr": 1e-3, "dropout": 0.0})
        study.optimize(sweep.objective, n_trials=1)
        (trial,) = study.trials
        assert (trial.state.name, list(trial.intermediate_values)) == [("COMPLETE", [2, 4]), ("PRUNED", [2])][number]
        status = read_status(tmp_path / "runs/sweep/trial-0")
        assert (status["state"], status["step"]) == ("done", [4, 2][number])
        (tmp_path / "runs").rename(tmp_path / f"study-{number}")


# -- Notebooks --


def notebook(folder: Path, *cells: str) -> Any:
    """Return a client that runs cells in `folder`."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    content = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    return nbclient.NotebookClient(content, timeout=240, resources={"metadata": {"path": str(folder)}})


def test_the_notebook_runs_and_shows_pictures(tmp_path: Path) -> None:
    cells = json.loads((EXAMPLES / "own_data.ipynb").read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    shortened = [source.replace("epochs=10", "epochs=1").replace("[10]", "[1]") for source in sources]
    assert shortened != sources
    client = notebook(tmp_path, *shortened)
    client.execute()
    outputs = [output for cell in client.nb.cells for output in cell["outputs"]]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 4
    lines = [output["data"]["text/plain"] for output in outputs if "data" in output]
    (progress,) = [line for line in lines if "left 0:00" in line]
    assert progress.startswith("━━━━━━━━━━━━━━━━━━━━  epoch 1/1  step 29/29")


INTERRUPTED = """
import os, signal, numpy as np, distgan
data = distgan.Dataset(np.zeros((60, 28, 28), np.uint8), np.arange(60) % 3)
settings = dict(family="dcgan", width=0.05, device="cpu", threads=1, batch_size=20, log_every=2, precision="fp32")
class Interrupt:
    def on_metrics(self, step, metrics):
        if step == 4:
            os.kill(os.getpid(), signal.SIGINT)  # as a kernel is interrupted
def go_on(observers=()):
    config = distgan.Config.from_preset("cgan", **settings, epochs=3, out="runs/one", tracker="none")
    return distgan.train(config, dataset=data, observers=observers)
"""


def test_an_interrupted_cell_returns_and_the_next_goes_on(tmp_path: Path) -> None:
    client = notebook(tmp_path, INTERRUPTED, "go_on([Interrupt()])[1::2]", "go_on()[1::2]")
    client.execute()
    _, *results = (
        [each["data"]["text/plain"] for each in cell["outputs"] if "data" in each] for cell in client.nb.cells
    )
    assert [texts[-1] for texts in results] == ["(5, 'by SIGINT')", "(9, None)"]
