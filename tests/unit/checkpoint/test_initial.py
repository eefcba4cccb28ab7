"""Runs that begin with the weights of another one."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.noise_images import COLOUR, UNLABELLED, noise_images
from helpers.runs import Capture, MonkeyPatch, Run, assert_user_error, checkpoint, expect_user_error, fits
from helpers.small_runs import make_cheap

from distgan.checkpoint.format import read_checkpoint
from distgan.checkpoint.initial import describe_differences, load_initial, read_initial
from distgan.config.image_spec import MNIST_SPEC, ImageSpec
from distgan.config.presets import parse_training
from distgan.config.schema import Config, DataConfig, ModelConfig, OptimConfig, RunConfig
from distgan.distributed.runtime import Runtime
from distgan.train import train
from distgan.training import session
from distgan.training.session import Session
from distgan.utils.files import read_json, read_metrics
from distgan.utils.provenance import Startup

REPORT = {"family": "report2023", "width": 0.02}
DCGAN = {"family": "dcgan", "width": 0.05}
CLUSTERED = {"family": "clustered", "width": 0.05, "clusters": 3}


def with_classes(num: int, images: ImageSpec = COLOUR) -> ImageSpec:
    return images.model_copy(update={"num_classes": num, "class_names": [str(n) for n in range(num)]})


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: MonkeyPatch) -> Any:
    """Train two steps into a folder, by the networks' and the run's settings."""
    make_cheap(monkeypatch)

    def begin(
        out: str, images: ImageSpec = MNIST_SPEC, ema: float = 0.0, steps: int = 2, num: int = 60, **more: Any
    ) -> Path:
        monkeypatch.setattr(session, "load_dataset", lambda *_, **__: noise_images(num, images))
        model = {key: more.pop(key) for key in list(more) if key in ModelConfig.model_fields}
        run = {"device": "cpu", "out": str(tmp_path / out), "epochs": 9, "max_steps": steps} | more
        config = Config(
            model=ModelConfig(**({"name": "cgan"} | DCGAN | model)),
            data=DataConfig(name="digits", batch_size=20),
            optim=OptimConfig(ema_decay=ema),
            run=RunConfig(**run, log_every=1, sample_epochs=[], tracker="none", threads=1),
        )
        train(config, "cgan", Startup())
        return tmp_path / out

    return begin


def first(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of step 0, which the newest two checkpoints of a short run still have."""
    return read_checkpoint(folder / "checkpoints" / "step-00000000").tensors


@pytest.mark.parametrize(
    ("model", "before", "now"),
    [
        (REPORT, 0.9, 0.9),
        (REPORT | {"name": "vanilla"}, 0.0, 0.9),
        (CLUSTERED, 0.9, 0.9),
        *((DCGAN, before, now) for before in (0.0, 0.9) for now in (0.0, 0.9)),
    ],
    ids=str,
)
def test_the_first_checkpoint_has_the_weights_of_the_other_run(
    begin: Any, model: dict[str, Any], before: float, now: float
) -> None:
    source = begin("source", ema=before, **model)
    begun = first(begin("new", ema=now, seed=1, steps=1, init_from=str(source), **model))
    theirs = checkpoint(source)[0]
    assert not [key for key in begun if key.startswith(("g_optim", "d_optim"))]
    names = ["generator.", "discriminator.", *(["generator_ema."] if now else [])]
    assert {key.split(".")[0] + "." for key in begun} == {*names, "random."}
    for key, value in begun.items():
        if not key.startswith("random"):
            other = theirs.get(key, theirs[key.replace("generator_ema", "generator")])
            assert torch.equal(value, other), key


def test_what_depends_on_the_number_of_classes_is_new_and_named(begin: Any, capfd: Capture) -> None:
    source = begin("source", with_classes(7), ema=0.9)
    plain = first(begin("plain", with_classes(5), ema=0.9, seed=1, steps=1))
    capfd.readouterr()
    begun = first(begin("new", with_classes(5), ema=0.9, seed=1, steps=1, init_from=str(source)))
    new = ["generator.stem.0.weight", "discriminator.projection.weight", "generator_ema.stem.0.weight"]
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "beginning with" in line]
    assert fits(f"{source}/weights (step 2) ... 5 classes instead of 7: ... {', '.join(new)}", line)
    theirs = checkpoint(source)[0]
    for key, value in begun.items():
        if not key.startswith("random"):
            assert torch.equal(value, (plain if key in new else theirs)[key]), key


def test_classes_of_other_names_are_reported(begin: Any, capfd: Capture) -> None:
    source = begin("source", with_classes(7))
    capfd.readouterr()
    other = COLOUR.model_copy(update={"class_names": ["0", "1", "cat", "3", "4", "5", "6"]})
    for images, model, expected in ((other, "cgan", True), (with_classes(7), "cgan", False)):
        begin(f"new {expected}", images, name=model, steps=1, init_from=str(source))
        assert ("'2' is 'cat' here" in capfd.readouterr().err) == expected


def test_clusters_are_those_of_the_new_images(begin: Any) -> None:
    source = begin("source", with_classes(7), **CLUSTERED)
    plain = first(begin("plain", with_classes(7), steps=1, num=80, **CLUSTERED))
    begun = first(begin("new", with_classes(7), steps=1, num=80, init_from=str(source), **CLUSTERED))
    assert torch.equal(begun["generator.cluster_counts"], plain["generator.cluster_counts"])
    assert torch.equal(begun["generator.main.0.weight"], checkpoint(source)[0]["generator.main.0.weight"])


@pytest.mark.parametrize(
    ("before", "now", "images", "fragments"),
    [
        (DCGAN, DCGAN | {"width": 0.1}, COLOUR, ("main.0.weight is [13, 6, 4, 4] ... Expected: [26, 13, 4, 4]",
                                                "width is 0.05, here 0.1")),
        (DCGAN, DCGAN | {"name": "vanilla"}, COLOUR, ("name is cgan, here vanilla",)),
        (DCGAN, CLUSTERED, COLOUR, ("no tensor", "family is dcgan, here clustered")),
        (CLUSTERED, CLUSTERED | {"clusters": 2}, COLOUR, ("embedding.weight", "clusters is 3, here 2")),
        (DCGAN, DCGAN, with_classes(7, MNIST_SPEC), ("main.0.weight", "images are 3 x 32 x 32, here 1 x 28 x 28")),
    ],
)  # fmt: skip
def test_weights_of_another_form_are_rejected(
    begin: Any, before: dict[str, Any], now: dict[str, Any], images: ImageSpec, fragments: tuple[str, ...]
) -> None:
    source = begin("source", COLOUR, **before)
    with expect_user_error("--init-from: ", str(source), *fragments, code="initial-weights-mismatch"):
        begin("new", images, init_from=str(source), **now)


def test_networks_of_files_that_differ_are_named() -> None:
    mine = ModelConfig(name="cgan", networks="/lab/my_gan.py", args={"width": 9})
    other = ModelConfig(name="cgan", family="dcgan")
    assert describe_differences(mine, mine) == ""
    reported = describe_differences(mine, other)
    assert "networks are my_gan.py, here dcgan" in reported
    assert "--model-arg are {'width': 9}, here {}" in reported
    assert "None" not in reported
    reported = describe_differences(*(mine.model_copy(update={"networks_sha256": each}) for each in ("a1", "b2")))
    assert reported == "; its networks are my_gan.py of a1, here my_gan.py of b2"
    reported = describe_differences(mine, mine.model_copy(update={"args": {"width": 12}}))
    assert reported == "; its --model-arg are {'width': 9}, here {'width': 12}"


@pytest.mark.parametrize("place", ["", "weights", "checkpoints/latest", "checkpoints/step-00000002"])
def test_what_may_be_named(begin: Any, place: str) -> None:
    source = begin("source", ema=0.9)
    found = read_initial(str(source / place))
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in source.glob("weights/*.safetensors")}
    assert (found.step, found.sha256) == (2, files)
    assert found.tensors.keys() == {key for key in checkpoint(source)[0] if key.startswith(("gen", "disc"))}


def test_a_run_that_went_on_gives_its_newest_weights(begin: Any) -> None:
    source = begin("source")
    shutil.copytree(source / "weights", source / "old")
    begin("source", steps=3)
    shutil.rmtree(source / "weights")
    (source / "old").rename(source / "weights")
    found = read_initial(str(source))
    assert found.step == 3
    assert fits("weights: ... earlier step", found.warnings[0])
    shutil.rmtree(source / "weights")
    assert read_initial(str(source)).step == 3


def test_what_holds_no_weights_of_both_networks_is_rejected(begin: Any, tmp_path: Path) -> None:
    source = begin("source")
    with expect_user_error("--init-from: ", "nowhere", code="no-weights"):
        read_initial(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with expect_user_error("--init-from: ", "empty: ... generator.safetensors", code="no-weights"):
        read_initial(str(tmp_path / "empty"))
    for place in ("weights/generator.safetensors", "weights/discriminator.safetensors"):
        if place.startswith("weights/d"):
            (source / place).unlink()
        with expect_user_error("--init-from: ", "both networks", code="no-weights"):
            read_initial(str(source / (place if place.startswith("weights/g") else "weights")))
    with expect_user_error("--init-from: ", "~nobody", code="bad-path"):
        read_initial("~nobody-of-this-name/run")


def test_non_finite_weights_are_rejected(begin: Any) -> None:
    source = begin("source")
    found = read_initial(str(source))
    found.tensors["discriminator.read_out.bias"][0] = torch.nan
    config = parse_training(["--preset", "cgan-quick", "--family", "dcgan", "--width", "0.05", "--device", "cpu"])[0]
    built = Session(config, Runtime(config), dataset=noise_images(300))
    with expect_user_error("--init-from: ", "read_out.bias", code="non-finite-values"):
        load_initial(built.gan, found, built.config.model)


def test_it_is_recorded_and_no_conflict_on_resume(begin: Any, tmp_path: Path, capfd: Capture) -> None:
    source, other = begin("source"), begin("other", seed=3)
    new = begin("new", steps=1, init_from=str(source))
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in source.glob("weights/*.safetensors")}
    record = {"path": str(source), "sha256": files}

    def records(run: Path) -> list[Any]:
        found = [json.loads((run / name).read_text())["run"] for name in ("config.json", "weights/config.json")]
        return [{"path": one["init_from"], "sha256": one["init_sha256"]} for one in found] + [
            read_json(run / "environment.json", 2**20)["init_from"]
        ]

    assert records(new) == [record] * 3
    capfd.readouterr()
    begin("new", steps=2, init_from=str(source))  # a requeued job repeats its command
    begin("new", steps=3)
    assert "--init-from" not in capfd.readouterr().err
    begin("new", steps=4, init_from=str(other))
    assert fits(f"warning: --init-from: ... ({other}) ... {source}", capfd.readouterr().err)
    assert records(new) == [record] * 3
    assert [line["step"] for line in read_metrics(new / "metrics.jsonl")] == [1, 2, 3, 4]
    begin("branch", steps=5, resume=str(new))
    assert records(tmp_path / "branch") == [record] * 3
    begin("other", steps=3, seed=3, init_from=str(source))
    assert fits("warning: --init-from: ... new weights", capfd.readouterr().err)
    assert records(other) == [{"path": None, "sha256": None}] * 2 + [None]
    straight = begin("straight", steps=4, init_from=str(source))
    ours, theirs = checkpoint(straight)[0], checkpoint(new)[0]
    assert all(torch.equal(ours[key], theirs[key]) for key in ours), "resumed to the bits of an unbroken run"


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_so_again(begin: Any) -> None:
    source = begin("source")
    new = begin("new", steps=1, seed=1, init_from=str(source))
    for path in new.iterdir():
        if path.name != "config.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    config, _ = parse_training(["--out", str(new)])
    assert config.run.init_from == str(source)


def test_unlabelled_images_and_the_dry_run(begin: Any, distgan: Run, tmp_path: Path) -> None:
    source = begin("source", UNLABELLED, name="vanilla", **CLUSTERED)
    begun = first(begin("new", UNLABELLED, name="vanilla", steps=1, init_from=str(source), **CLUSTERED))
    assert torch.equal(begun["generator.stem.0.weight"], checkpoint(source)[0]["generator.stem.0.weight"])
    words = ("train", "--preset", "cgan-quick", *("--family", "dcgan", "--width", "0.05", "--data", "digits"))
    digits = begin("digits", ema=0.9)
    assert fits(f"starts ... step 0, with the weights of {digits}/weights (step 2)",
                distgan.ok(*words, "--init-from", digits, "--dry-run").stdout)  # fmt: skip
    result = distgan(*words, "--width", "0.1", "--init-from", digits, "--dry-run")
    assert_user_error(result, "--init-from: ... [initial-weights-mismatch]")
    result = distgan(*words, "--init-from", digits, "--resume", digits, "--out", "x")
    assert_user_error(result, "--resume, --init-from: ... [conflicting-settings]")
