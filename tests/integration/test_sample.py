"""`distgan sample` in several processes."""

from pathlib import Path

import numpy as np
from helpers.made_up_runs import weights
from helpers.runs import BIN, MonkeyPatch, Run

from distgan.config.command_settings import SampleConfig
from distgan.runs.sample import sample


def draw(where: Path, out: Path, **settings: object) -> dict[str, np.ndarray]:
    sample(str(where), SampleConfig(out=str(out), **settings))
    with np.load(out) as arrays:
        return dict(arrays)


def test_same_pictures_across_processes(distgan: Run, run: Run, tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    folder = weights(tmp_path / "run")
    here = draw(folder, tmp_path / "here.npz", num=300)
    for threads in ("1", "2"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        distgan.ok("sample", folder, "--num", 300, "--out", "there.npz")
        with np.load(tmp_path / "there.npz") as there:
            assert np.array_equal(here["images"], there["images"])
    for name in ("a.png", "b.png"):
        run.ok(BIN / "distgan", "sample", folder, "--out", name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
