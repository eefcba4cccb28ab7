"""Images of a user's own in every form, by the command line."""

import json
from pathlib import Path

import numpy as np
from helpers.image_forms import FORMS, header, write_form
from helpers.runs import BIN, Run, Start, wait_for

from distgan.config.schema import DataConfig
from distgan.data.base import load_dataset

NUM = 6_000  # of 60,000 pictures writing and decoding take a minute
FLAGS = (
    *("--width", 0.1, "--batch-size", 16, "--max-steps", 50, "--ema-decay", 0.9, "--tracker", "none", "--threads", 1),
    *("--sample-epochs", 99, "--cache-dir", "cache", "--precision", "fp32"),
)


def weights(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "weights").glob("*.safetensors")}


def test_any_form_trains_to_the_same_bytes_in_fifty_steps(distgan: Run, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (140, 32, 32, 3), dtype=np.uint8)
    labels = np.repeat(np.arange(7), 20)
    for form in FORMS:
        path = write_form(form, tmp_path / "secret", images, labels, [f"kitten {number}" for number in range(7)])
        distgan.ok("train", "--preset", "images-fast", *FLAGS, "--clusters", 2, "--data", path, "--out", form)
        assert weights(tmp_path / form) == weights(tmp_path / FORMS[0])
        for file in (tmp_path / form / "weights").glob("*.safetensors"):
            text, facts = header(file)
            assert facts == {"format": "pt", "network": file.stem, "step": "50"}
            assert not [word for word in ("secret", form, "kitten", "/") if word in text]


def test_mnist_as_pictures_trains_to_the_bits_of_mnist(distgan: Run, mnist_dir: Path, tmp_path: Path) -> None:
    """A part of it, sorted by class as folders of classes are, by its own two files and by pictures."""
    full = load_dataset(DataConfig(dir=str(mnist_dir)), may_download=False)
    images, labels = full.images[:NUM].numpy(), full.labels[:NUM].numpy()
    order = np.argsort(labels, kind="stable")
    images, labels = images[order], labels[order]
    folder = tmp_path / "idx"
    folder.mkdir()
    for kind, array in (("images-idx3", images), ("labels-idx1", labels.astype(np.uint8))):
        head = bytes([0, 0, 8, array.ndim]) + b"".join(num.to_bytes(4, "big") for num in array.shape)
        (folder / f"train-{kind}-ubyte").write_bytes(head + array.tobytes())
    path = write_form("folder", tmp_path, images, labels, list("0123456789"))
    flags = ("train", "--preset", "cgan-quick", *FLAGS)
    distgan.ok(*flags, "--data", "mnist", "--data-dir", "idx", "--data-md5", "accept", "--out", "named")
    distgan.ok(*flags, "--data", path, "--out", "pictures")
    assert weights(tmp_path / "named") == weights(tmp_path / "pictures")


def test_of_processes_that_start_at_once_one_decodes(start: Start, tmp_path: Path) -> None:
    """And one that is killed while it decodes leaves nothing that the next has to mind."""
    images = np.random.default_rng(0).integers(0, 256, (600, 32, 32, 3), dtype=np.uint8)
    path = write_form("zip", tmp_path, images, None, [])
    command = (BIN / "distgan", "data", path, "--json", "--cache-dir", "cache")
    killed = start(*command)
    wait_for(lambda: any((tmp_path / "cache").glob("*.lock")) if (tmp_path / "cache").exists() else False, killed)
    killed.kill()
    killed.communicate()
    found = [json.loads(process.communicate()[0]) for process in [start(*command) for _ in range(3)]]
    assert len({facts["fingerprint"] for facts in found}) == 1
    assert found[0]["num_images"] == 600
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 1
    assert not list((tmp_path / "cache").glob(".*"))
