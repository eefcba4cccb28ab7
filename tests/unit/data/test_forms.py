"""The form of the data is no part of it: any of them gives the same images, facts and weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.image_forms import FORMS, header, write_form
from helpers.runs import Capture, MonkeyPatch, Run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distgan.config.command_settings import InspectConfig
from distgan.config.presets import parse_training
from distgan.data.base import Dataset
from distgan.data.image_source import natural_key
from distgan.distributed.runtime import Runtime
from distgan.runs import artifacts
from distgan.runs.data_inspection import inspect
from distgan.training.session import Session

WORDS = ["--family", "dcgan", "--width", "0.02", "--batch-size", "2", "--device", "cpu", "--threads", "1"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(artifacts, "save_curves", lambda *_: None)  # matplotlib would list the fonts anew


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    counts=st.lists(st.integers(1, 4), min_size=1, max_size=4).filter(lambda counts: sum(counts) > 1),
    names=st.lists(st.text("aZ2 ä猫'", min_size=1, max_size=5), min_size=4, max_size=4, unique_by=str.casefold),
    size=st.sampled_from([(16, 16), (28, 20)]), has_colour=st.booleans(), has_labels=st.booleans(),
    seed=st.integers(0, 2**31),
)  # fmt: skip
def test_data_says_of_any_form_what_training_uses(
    tmp_path: Path, capfd: Capture, counts: list[int], names: list[str], size: tuple[int, int], has_colour: bool,
    has_labels: bool, seed: int,
) -> None:  # fmt: skip
    folder = tmp_path / f"{seed}-{len(list(tmp_path.iterdir()))}"
    names = [name if name.strip() else name + "x" for name in names]
    classes = sorted(names[: len(counts)], key=natural_key) if has_labels and len(counts) > 1 else []
    num = sum(counts)
    labels = np.repeat(np.arange(len(counts)), counts) if classes else None
    images = np.random.default_rng(seed).integers(0, 256, (num, *size, *([3] if has_colour else [])), dtype=np.uint8)
    expected = images.transpose(0, 3, 1, 2) if has_colour else images
    fingerprints = set()
    for form in FORMS:
        path = write_form(form, folder, images, labels, classes)
        capfd.readouterr()
        inspect(str(path), InspectConfig(as_json=True))
        facts = json.loads(capfd.readouterr().out)
        preset = "cgan-quick" if classes else "vanilla-quick"
        config, _ = parse_training(["--preset", preset, *WORDS, "--data", str(path), "--drop-last"])
        built = Session(config, Runtime(config))
        used: Dataset = built.dataset
        assert np.array_equal(used.images, expected), form
        assert used.labels.tolist() == ([0] * num if labels is None else labels.tolist()), form
        assert facts["num_images"] == len(used.images) == num
        assert facts["images"] == built.config.model.images.model_dump(mode="json")
        assert list(facts["classes"].values()) == (counts if classes else [])
        assert list(facts["classes"]) == (["0", "1", "2", "3"][: len(classes)] if form == "npz" else classes)
        assert facts["fingerprint"] == built.config.data.fingerprint
        assert facts["sizes"] == {f"{size[1]} x {size[0]}": num}
        assert facts["networks"]["cgan" if classes else "vanilla"]
        spec = built.config.model.images
        assert (spec.channels, spec.height, spec.width) == (3 if has_colour else 1, *size)
        assert tuple(built.gan.generator(*_inputs(built)).shape[1:]) == (spec.channels, *size)
        fingerprints.add(facts["fingerprint"])
    assert len(fingerprints) == 1


def _inputs(built: Session) -> tuple[torch.Tensor, torch.Tensor]:
    shape: tuple[int, ...] = built.gan.generator.latent_shape  # type: ignore[assignment]
    return torch.zeros(2, *shape), torch.zeros(2, dtype=torch.int64)


@pytest.mark.parametrize("has_labels", [True, False])
def test_any_form_trains_to_the_same_bytes(distgan: Run, tmp_path: Path, has_labels: bool) -> None:
    """And nothing of where the images are from, or how their classes are called, is in the files of weights."""
    images = np.random.default_rng(0).integers(0, 256, (24, 16, 16, *([3] if has_labels else [])), dtype=np.uint8)
    labels = np.repeat(np.arange(3), [9, 8, 7]) if has_labels else None
    found = set()
    for form in FORMS:
        path = write_form(form, tmp_path / "secret-place", images, labels, ["kitten", "puppy", "squirrel"])
        flags = ("--preset", f"{'cgan' if has_labels else 'vanilla'}-quick", *WORDS, "--ema-decay", 0.9, "--mirror")
        more = ("--max-steps", 8, "--batch-size", 6, "--tracker", "none", "--sample-epochs", 9)
        distgan.ok("train", *flags, *more, "--data", path, "--out", form)
        files = sorted((tmp_path / form / "weights").glob("*.safetensors"))
        assert len(files) == 3
        found.add(tuple(file.read_bytes() for file in files))
        for file in files:
            text, facts = header(file)
            assert facts == {"format": "pt", "network": file.stem, "step": "8"}
            assert not [word for word in ("secret", form, "kitten", "puppy", "/") if word in text]
    assert len(found) == 1
