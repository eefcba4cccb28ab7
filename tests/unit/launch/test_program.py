"""The Python interface: the same runs as by the command line, and a process that is left as it was."""

import logging
import os
import random
import signal
import sys
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.runs import Capture, expect_user_error
from torch import nn

import distgan
from distgan.checkpoint.format import NETWORKS
from distgan.cli import run_command
from distgan.config.flags import list_flags
from distgan.errors import CODES, UserError
from distgan.runs.run_dir import read_status

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (60, 28, 28), np.uint8)
LABELS = np.arange(60) % 3
SETTINGS: dict[str, Any] = {
    "device": "cpu", "threads": 1, "epochs": 3, "batch_size": 20, "width": 0.05, "log_every": 2, "sample_epochs": [1],
    "tracker": "none", "family": "dcgan", "precision": "fp32",
}  # fmt: skip


class Generator(nn.Module):
    def __init__(self, width: int = 8):
        super().__init__()
        self.main = nn.Sequential(nn.Linear(100, width), nn.ReLU(), nn.Linear(width, 784), nn.Tanh())

    def forward(self, z: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        images: torch.Tensor = self.main(z).view(-1, 1, 28, 28)
        return images


class Discriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.main = nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.Dropout(0.5), nn.Linear(8, 1))

    def forward(self, images: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        logits: torch.Tensor = self.main(images)
        return logits


def config(out: Path, preset: str = "cgan", **settings: Any) -> distgan.Config:
    return distgan.Config.from_preset(preset, **(SETTINGS | {"out": out} | settings))


def train(out: Path, preset: str = "cgan", *, observers: Any = (), quiet: bool = True, **settings: Any) -> Any:
    dataset = distgan.Dataset(IMAGES, LABELS)
    return distgan.train(config(out, preset, **settings), dataset=dataset, observers=observers, quiet=quiet)


def weights(folder: Path) -> dict[str, bytes]:
    found = {name: folder / "weights" / f"{name}.safetensors" for name in NETWORKS}
    return {name: path.read_bytes() for name, path in found.items() if path.exists()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return train(tmp_path_factory.mktemp("trained") / "run")


def test_a_program_and_the_command_end_with_equal_bits(tmp_path: Path, trained: distgan.RunResult) -> None:
    np.savez(tmp_path / "images.npz", images=IMAGES, labels=LABELS)
    words = ["--device=cpu", "--threads=1", "--epochs=3", "--batch-size=20", "--width=0.05", "--family=dcgan"]
    more = [
        "--tracker",
        "none",
        "--precision",
        "fp32",
        "--sample-epochs",
        "1",
        "--log-every",
        "2",
        "--out",
        str(tmp_path / "run"),
    ]
    run_command("train", "--preset", "cgan", "--data", str(tmp_path / "images.npz"), *words, *more)
    assert weights(tmp_path / "run") == weights(trained.folder)
    assert trained[1:] == (9, trained.metrics, None)
    assert trained.metrics["step"] == 9
    assert (trained.folder / "samples" / "epoch-0001.png").exists()


@pytest.mark.parametrize("shape", ["NCHW", "NHWC", "tensor"])
def test_arrays_of_any_layout_are_the_same_images(shape: str) -> None:
    colours = RANDOM.integers(0, 256, (4, 3, 8, 12), np.uint8)
    given: Any = {"NCHW": colours, "NHWC": colours.transpose(0, 2, 3, 1), "tensor": torch.from_numpy(colours)}[shape]
    dataset = distgan.Dataset(given, [0, 1, 1, 0], class_names=["cat", "dog"])
    assert torch.equal(dataset.images, torch.from_numpy(colours))
    assert (dataset.spec.height, dataset.spec.width, dataset.spec.class_names) == (8, 12, ["cat", "dog"])
    assert distgan.Dataset(IMAGES[..., None]).images.shape == (60, 28, 28)
    assert distgan.Dataset(IMAGES).spec.num_classes == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((IMAGES / 255,), "images: float64 ... (60, 28, 28) ... uint8 ... [bad-images]"),
        ((IMAGES[0],), "images: uint8 ... (28, 28) ... [bad-images]"),
        ((IMAGES[:1],), "images: uint8 ... (1, 28, 28) ... two or more ... [bad-images]"),
        (("photos/",), "images: a str ... [bad-images]"),
        (([[1, 2], [3]],), "images: not of one shape ... [bad-images]"),
        ((IMAGES, LABELS[:5]), "labels: int64 of shape (5,) ... (60,) [bad-images]"),
        ((IMAGES, LABELS - 1), "labels: from -1 to 1 ... [bad-images]"),
        ((IMAGES, LABELS / 2), "labels: float64 ... [bad-images]"),
        ((IMAGES, LABELS, ["a", "b"]), "class_names: 2 for labels up to 2 ... [bad-images]"),
        ((IMAGES, None, ["a", "b"]), "class_names: there are no labels ... [bad-images]"),
    ],
)
def test_arrays_that_are_no_images(arguments: tuple[Any, ...], message: str) -> None:
    with expect_user_error(message):
        distgan.Dataset(*arguments[:2], class_names=arguments[2] if len(arguments) > 2 else None)


def test_keywords_are_the_flags_with_underscores() -> None:
    found = distgan.Config.from_preset(
        "cgan-fast", data="digits", d_microbatches=2, ema_decay=0.5, sync_batch_norm=False
    )
    assert (found.data.name, found.optim.d_microbatches, found.optim.ema_decay) == ("digits", 2, 0.5)
    assert (found.processes.sync_batch_norm, found.origin.preset) == (False, "cgan-fast")
    numbers = distgan.Config.from_preset(
        "cgan", epochs=np.int64(2), width=np.float32(0.5), batch_size=torch.tensor(8).item()
    )
    assert (numbers.run.epochs, numbers.model.width, numbers.data.batch_size) == (2, 0.5, 8)
    assert distgan.Config.from_preset("cgan", precision="no") == distgan.Config.from_preset("cgan", precision="fp32")
    defaults = {flag.name[2:].replace("-", "_"): flag.field.default for flag in list_flags(distgan.Config)}
    settable = {key: value for key, value in defaults.items() if key not in ("model", "resume", "family", "batch_size")}
    assert distgan.Config.from_preset("cgan", **settable).run.seed == 0
    with expect_user_error("epoch: ... epochs? ... [unknown-setting]"):
        distgan.Config.from_preset("cgan", epoch=3)
    with expect_user_error("--batch-size: invalid value ('many') ... [bad-value]"):
        distgan.Config.from_preset("cgan", batch_size="many")
    with expect_user_error("data: a ndarray ... distgan.Dataset ... [bad-value]"):
        distgan.Config.from_preset("cgan", data=IMAGES)
    with expect_user_error("name: ... (cgan-fats) ... cgan-fast? ... [unknown-name]"):
        distgan.Config.from_preset("cgan-fats")


def test_a_config_of_a_file_is_one_of_a_preset(tmp_path: Path, trained: distgan.RunResult) -> None:
    assert distgan.Config.from_preset(trained.folder).optim == config(tmp_path).optim
    copied = distgan.Config.from_preset(str(trained.folder / "config.json"), out=tmp_path / "again", data="digits")
    assert (copied.optim, copied.run.epochs, copied.origin.preset) == (config(tmp_path).optim, 3, "run")


def test_train_and_sample_are_functions_on_every_access(trained: distgan.RunResult) -> None:
    import distgan.runs.sample
    import distgan.train

    for _ in range(2):
        assert distgan.sample(trained.folder, num=1).shape == (1, 28, 28)
        assert distgan.train.__name__ == "train"
    from distgan import train as imported

    assert imported is distgan.train
    assert sorted(distgan.__all__) == [
        "Config", "Dataset", "RunResult", "evaluate", "load_generator", "sample", "train",
    ]  # fmt: skip
    with pytest.raises(AttributeError, match="trian"):
        _ = distgan.trian  # type: ignore[attr-defined]


def test_samples_cycle_the_labels_and_are_those_of_the_command(tmp_path: Path, trained: distgan.RunResult) -> None:
    images = distgan.sample(trained.folder, num=5, labels=[2, "0"], seed=7)
    out = tmp_path / "images.npz"
    run_command("sample", str(trained.folder), "--num", "5", "--classes", "2,0", "--seed", "7", "--out", str(out))
    with np.load(out) as arrays:
        assert np.array_equal(arrays["images"], images)
    assert (images.dtype, distgan.sample(trained.folder, num=3).shape) == (np.uint8, (3, 28, 28))
    assert np.array_equal(distgan.sample(trained.folder, num=5, labels=np.array([2, 0]), seed=7), images)
    for labels in ([5], ["five"]):
        with expect_user_error(f"labels: ... ({labels[0]}) ... 0, 1, 2 [unknown-name]"):
            distgan.sample(trained.folder, labels=labels)
    for labels in ("2", 2):
        with expect_user_error("labels: ... [bad-value]"):
            distgan.sample(trained.folder, labels=labels)  # type: ignore[arg-type]
    with expect_user_error("--num: invalid value (0) ... [bad-value]"):
        distgan.sample(trained.folder, num=0)


def test_an_integer_is_the_number_of_a_class_and_a_text_its_name(tmp_path: Path) -> None:
    dataset = distgan.Dataset(IMAGES, LABELS, class_names=["1", "0", "cat"])
    run = distgan.train(config(tmp_path / "run", max_steps=1), dataset=dataset, quiet=True)
    images = {
        label: distgan.sample(run.folder, num=1, labels=[label]).tobytes() for label in (0, 1, 2, "0", "1", "cat")
    }
    assert (images[0], images[1], images[2]) == (images["1"], images["0"], images["cat"])
    assert images[0] != images[1]


@pytest.mark.parametrize("part", ["", "weights", "checkpoints/step-00000009"])
def test_a_generator_is_a_module_in_eval_mode(part: str, trained: distgan.RunResult) -> None:
    generator = distgan.load_generator(trained.folder / part)
    assert not generator.training
    images = generator(torch.zeros(2, 100), torch.tensor([0, 1]))
    assert (images.shape, bool(images.abs().max() <= 1)) == ((2, 1, 28, 28), True)


def test_modules_are_copied_and_resumed_by_passing_them_again(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, discriminator = Generator(), Discriminator()
    before = {key: value.clone() for key, value in generator.state_dict().items()}
    dataset, settings = (
        distgan.Dataset(IMAGES),
        {key: value for key, value in SETTINGS.items() if key not in ("family", "width")},
    )

    def resume(out: str, G: nn.Module, D: nn.Module | None, **more: Any) -> distgan.RunResult:
        config = distgan.Config.from_preset("vanilla", **(settings | more), out=tmp_path / out)
        return distgan.train(config, dataset=dataset, generator=G, discriminator=D, quiet=True)

    full = resume("full", generator, discriminator)
    assert resume("parts", generator, discriminator, max_steps=5).step == 5
    # Other values of the same form: the run has its own.
    assert resume("parts", Generator(), Discriminator()).step == 9
    assert weights(tmp_path / "parts") == weights(full.folder)
    assert all(torch.equal(value, before[key]) for key, value in generator.state_dict().items())
    with expect_user_error("... networks_sha256 ... generator: ... [resume-mismatch] ..."):
        resume("parts", Generator(width=9), Discriminator(), epochs=4)
    with monkeypatch.context() as patch, expect_user_error("... discriminator: ... [resume-mismatch] ..."):
        patch.setattr(Discriminator, "forward", lambda self, images, labels: self.main(images) + 1)
        resume("parts", Generator(), Discriminator(), epochs=4)
    with expect_user_error("... dataset= ... [resume-mismatch] ..."):
        distgan.train(config(full.folder, "vanilla", data="digits"), quiet=True)
    with expect_user_error("... generator= ... [resume-mismatch] ..."):
        distgan.train(config(full.folder, "vanilla"), dataset=dataset, quiet=True)
    with expect_user_error("discriminator: not given ... [missing-value]"):
        resume("new", generator, None)
    with expect_user_error("generator: a list ... [bad-networks]"):
        resume("new", [], discriminator)
    other = Discriminator()
    other.constant = torch.ones(2)
    with expect_user_error("discriminator.constant ... register_buffer('constant', ...) ... [bad-networks]"):
        resume("new", generator, other)
    other = Discriminator()
    other.first = generator.main[0]
    with expect_user_error("generator.main.0.weight ... discriminator.first.weight ... [bad-networks]"):
        resume("new", generator, other)

    images = distgan.sample(full.folder, num=3, generator=generator)
    assert images.shape == (3, 28, 28)
    loaded = distgan.load_generator(full.folder, generator=generator)
    assert not torch.equal(loaded.main[0].weight, generator.main[0].weight)  # type: ignore
    for call in (lambda: distgan.sample(full.folder), lambda: run_command("sample", str(full.folder))):
        with expect_user_error("... generator= ... [no-networks]"):
            call()
    with expect_user_error("... generator= ... [no-networks]"):
        run_command("train", "--out", str(full.folder))
    with expect_user_error("--data: ... dataset= ... [no-data]"):
        distgan.evaluate(full.folder, generator=generator, quiet=True)
    capsys.readouterr()


def test_networks_go_through_the_contract(tmp_path: Path) -> None:
    class Wide(Generator):
        def forward(self, z: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
            return super().forward(z, labels)[..., :27]

    class Broken(Generator):
        def forward(self, z: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
            return nn.functional.linear(z, z[:, :1])

    settings = {key: value for key, value in SETTINGS.items() if key not in ("family", "width")}
    config = distgan.Config.from_preset("vanilla", **settings, out=tmp_path / "run")
    for name, value in (("width", 0.5), ("dropout", 0.1), ("family", "dcgan")):
        named = distgan.Config.from_preset("vanilla", **settings, **{name: value}, out=tmp_path / "run")
        with expect_user_error("--...: generator= ... [setting-not-applicable]"):
            distgan.train(named, generator=Generator(), discriminator=Discriminator())
    with expect_user_error("... (4, 1, 28, 27) ... [bad-networks]"):
        distgan.train(config, dataset=distgan.Dataset(IMAGES), generator=Wide(), discriminator=Discriminator())
    with expect_user_error("... (test_program.py, line ...: ... [bad-networks]"):
        distgan.train(config, dataset=distgan.Dataset(IMAGES), generator=Broken(), discriminator=Discriminator())
    used = Generator()
    used.last = used.main(torch.zeros(1, 100))
    with expect_user_error("... generator.last (Generator) ... [bad-networks]"):
        distgan.train(config, dataset=distgan.Dataset(IMAGES), generator=used, discriminator=Discriminator())
    with expect_user_error("generator: ... [setting-not-applicable]"):
        distgan.sample(train(tmp_path / "cgan", max_steps=1).folder, generator=Generator())


class Recorder:
    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def on_metrics(self, step: int, metrics: dict[str, Any]) -> None:
        self.seen.append(("metrics", step, metrics["step"]))

    def on_samples(self, step: int, images: np.ndarray) -> None:
        self.seen.append(("samples", step, images.shape))

    def on_checkpoint(self, path: Path) -> None:
        self.seen.append(("checkpoint", path.name, (path / "manifest.json").exists()))


class Vandal:
    """Changes all that it can reach."""

    def on_metrics(self, step: int, metrics: dict[str, Any]) -> None:
        metrics.clear()
        torch.manual_seed(step)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        torch.set_autocast_enabled("cpu", True)
        torch.set_float32_matmul_precision("medium")
        torch.use_deterministic_algorithms(True)
        os.chdir("/")
        random.seed(1)
        np.random.seed(1)
        raise ValueError("no reason")

    def on_checkpoint(self, path: Path) -> None:
        sys.exit("no reason")

    def on_samples(self, step: int, images: np.ndarray) -> None:
        images[:] = 0


class Async:
    async def on_metrics(self, step: int, metrics: dict[str, Any]) -> None:
        pass


def torch_state() -> list[Any]:
    return [
        torch.get_default_device(), torch.get_default_dtype(), torch.get_float32_matmul_precision(), os.getcwd(),
        torch.are_deterministic_algorithms_enabled(), torch.is_autocast_enabled("cpu"), random.getstate(),
        np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(),
    ]  # fmt: skip


def test_observers_are_called_and_change_nothing(
    tmp_path: Path, trained: distgan.RunResult, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recorder, before = Recorder(), torch_state()
    result = train(Path("run"), observers=[Vandal(), recorder])
    assert torch_state() == before
    assert weights(result.folder) == weights(trained.folder)
    assert (result.folder / "samples/epoch-0003.png").read_bytes() == (
        trained.folder / "samples/epoch-0003.png"
    ).read_bytes()
    assert [step for kind, step, *_ in recorder.seen if kind == "metrics"] == [2, 3, 4, 6, 8, 9]
    assert [entry[1:] for entry in recorder.seen if entry[0] == "samples"] == [(3, (30, 28, 28)), (9, (30, 28, 28))]
    names = [f"step-{step:08}" for step in (0, 3, 6, 9)]
    assert [entry[1:] for entry in recorder.seen if entry[0] == "checkpoint"] == [(name, True) for name in names]
    assert capfd.readouterr() == ("", ""), "quiet"
    with expect_user_error("observers: object ... on_metrics ... [bad-value]"):
        train(tmp_path / "new", observers=[object()])
    with expect_user_error("observers: Async ... [bad-value]"):
        train(tmp_path / "new", observers=[Async()])
    with expect_user_error("observers: ... Recorder ... [bad-value]"):
        train(tmp_path / "new", observers=recorder)


def test_an_error_of_an_observer_is_a_warning_with_its_traceback(
    tmp_path: Path, capfd: Capture, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(logging.Logger, "hasHandlers", lambda self: False)  # pytest has some
        train(tmp_path / "printed", observers=[Vandal()], quiet=False, max_steps=2)
    err = capfd.readouterr().err
    assert err.count("warning: Vandal.on_metrics") == 1
    assert 'raise ValueError("no reason")\nValueError: no reason\n' in err
    with caplog.at_level(logging.WARNING):
        train(tmp_path / "logged", observers=[Vandal()], max_steps=2)
    record = next(each for each in caplog.records if "on_metrics" in each.getMessage())
    assert (record.name, record.levelname, record.exc_info is not None) == ("distgan", "WARNING", True)


@pytest.mark.parametrize("name", ["autocast", "float64", "no_grad", "inference_mode", "device", "default device"])
def test_settings_of_the_program_are_not_those_of_the_run(
    tmp_path: Path, trained: distgan.RunResult, name: str
) -> None:
    contexts: dict[str, Any] = {
        "autocast": lambda: torch.autocast("cpu", torch.bfloat16), "no_grad": torch.no_grad,
        "inference_mode": torch.inference_mode, "device": lambda: torch.device("meta"),
    }  # fmt: skip
    images = distgan.sample(trained.folder, num=2)
    with contexts.get(name, nullcontext)():
        if name == "float64":
            torch.set_default_dtype(torch.float64)
        if name == "default device":
            torch.set_default_device("meta")
        try:
            assert weights(train(tmp_path / "run").folder) == weights(trained.folder)
            assert np.array_equal(distgan.sample(trained.folder, num=2), images)
            weight = next(distgan.load_generator(trained.folder).parameters())
        finally:
            torch.set_default_dtype(torch.float32)
            torch.set_default_device(None)
    assert (weight.dtype, weight.device.type) == (torch.float32, "cpu")


def test_a_thread_trains_and_handles_no_signals(tmp_path: Path, trained: distgan.RunResult) -> None:
    results: list[Any] = []
    handler = signal.getsignal(signal.SIGINT)

    class Look:
        def on_metrics(self, step: int, metrics: dict[str, Any]) -> None:
            results.append(signal.getsignal(signal.SIGINT) is handler)
            with expect_user_error("... [process-in-use]"):
                threading_error(lambda: train(tmp_path / "other"))

    thread = threading.Thread(target=lambda: results.append(train(tmp_path / "run", observers=[Look()])))
    thread.start()
    thread.join()
    assert results[:-1] == [True] * 6
    assert weights(results[-1].folder) == weights(trained.folder)


def threading_error(call: Any) -> None:
    """Raise what `call` raises in another thread."""
    errors: list[Exception] = []

    def run() -> None:
        try:
            call()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    raise errors[0]


def test_an_interrupt_returns_a_run_that_goes_on_to_the_same_bits(tmp_path: Path, trained: distgan.RunResult) -> None:
    class Interrupt:
        def on_metrics(self, step: int, metrics: dict[str, Any]) -> None:
            if step == 4:
                signal.raise_signal(signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    result = train(tmp_path / "run", observers=[Interrupt()])
    assert (result.stopped, result.step, result.metrics["step"]) == ("by SIGINT", 5, 5)
    assert read_status(result.folder)["state"] == "stopped"
    assert signal.getsignal(signal.SIGINT) is handler
    result = train(tmp_path / "run")
    assert (result.stopped, result.step) == (None, 9)
    assert weights(result.folder) == weights(trained.folder)
    done = train(tmp_path / "run")
    assert (done.step, done.metrics) == (9, result.metrics)


def test_a_time_limit_counts_from_the_call(tmp_path: Path) -> None:
    assert train(tmp_path / "long", time_limit="10m").stopped is None
    short = train(tmp_path / "short", time_limit="1s")
    assert (short.stopped, short.step) == ("before its time limit", 1)


def test_an_evaluation_takes_flags_and_the_images_of_a_program(trained: distgan.RunResult) -> None:
    with expect_user_error("nun: ... num? ... [unknown-setting]"):
        distgan.evaluate(trained.folder, nun=100)
    with expect_user_error("... (60) ... 130 ... [not-measurable] ..."):
        distgan.evaluate(trained.folder, num=65, dataset=distgan.Dataset(IMAGES, LABELS), quiet=True)


def test_errors_are_one_tree_with_codes(tmp_path: Path) -> None:
    with pytest.raises(distgan.errors.DistganError) as failed:
        train(tmp_path / "nan", d_lr=1e30, g_lr=1e30)
    assert failed.value.code == "training-failed"
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as caught:
        train(tmp_path / "file" / "run")
    assert caught.value.code in CODES
    with expect_user_error("processes: ... (2) ... torchrun ... [conflicting-settings]"):
        train(tmp_path / "run", processes=2)
    with expect_user_error("processes: ... (2) ... torchrun ... [conflicting-settings]"):
        distgan.evaluate(tmp_path, processes=2)
    with expect_user_error("config: ... (dict) ... [bad-value]"):
        distgan.train({})  # type: ignore[arg-type]
    with expect_user_error("dataset: ... (tuple) ... [bad-value]"):
        distgan.train(config(tmp_path / "run"), dataset=(IMAGES, LABELS))  # type: ignore[arg-type]
