"""`distgan judge`: trains the judges of a data set, measures them on images that they have not seen, and shows them."""

import hashlib
import json
import os
import shlex
import signal
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import suppress
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from distgan.config.command_settings import JudgeConfig
from distgan.config.image_spec import MNIST_SPEC, ImageSpec
from distgan.config.registry import is_data_path
from distgan.config.schema import DataConfig
from distgan.data.base import load_dataset
from distgan.distributed.runtime import Runtime
from distgan.errors import CommandFailed, UserError, print_line
from distgan.evaluation.classifiers import NETWORKS, classify, enough_epochs, train_classifier
from distgan.evaluation.ensemble import (
    FORMAT,
    RECORD,
    SHIPPED,
    ClassifierEnsemble,
    EnsembleRecord,
    JudgeRecord,
    Recipe,
    cache_folder,
    find_judges,
    load_ensemble,
    read_record,
)
from distgan.evaluation.real_images import RealImages, load_real_images
from distgan.evaluation.scores import confusion_matrix, estimate_proportion
from distgan.utils.devices import device_named
from distgan.utils.files import make_folder, write_atomic
from distgan.utils.hardware import cpu_name
from distgan.utils.locks import hold_lock
from distgan.utils.parts_progress import PartsProgress
from distgan.utils.paths import user_path
from distgan.utils.provenance import describe_environment
from distgan.utils.text import one_line

# Of MNIST's test images, for a judge that is to be relied on.
ENOUGH = 0.995
# Of `distgan judge train`, and of judges that another command trains first; of few images as many as make the steps.
_EPOCHS, _FIRST_EPOCHS, _STEPS = 12, 2, 400
_LOOK_S = 0.2  # between two looks at how far the trainings are


def train_judges(config: JudgeConfig) -> None:
    """Train, measure and write judges. Raises UserError, and CommandFailed for judges of MNIST below the limit."""
    device = device_named(config.device)
    data = _data_config(config)
    real = load_real_images(load_dataset(data), data)
    name = real.judges_name
    folder = user_path(config.out, "--out") if config.out else cache_folder(name)
    _check_free(folder, name)
    epochs = config.epochs or enough_epochs(len(real.train.images), _EPOCHS, _STEPS)
    records = _train_all(real, folder, _data_flags(data), epochs, config.seed, device)
    for record in records:
        size = (folder / f"{record.name}.safetensors").stat().st_size
        print_line(f"{record.name}: {_accuracy(record)} of {len(real.test.images):,} test images right, {size:,} bytes")
    print_line(f"written to {folder}")
    if name == "mnist" and folder != SHIPPED:
        print_line(f"distgan eval takes those in the package; these by --judges {folder}")
    poor = [record.name for record in records if record.num_right < ENOUGH * len(real.test.images)]
    if name == "mnist" and poor:
        raise CommandFailed(f"{', '.join(poor)}: under {ENOUGH:.1%} of MNIST's test images right; more --epochs")


def get_judges(real: RealImages, data: DataConfig, runtime: Runtime, folder: str | None = None) -> ClassifierEnsemble:
    """Load the judges of these images, trained first where there are none. All ranks call it. Raises UserError.

    The first process of each machine trains them, unless another one with the same cache does.
    """
    name = real.judges_name

    def load() -> ClassifierEnsemble:
        if find_judges(name, folder)[0] is None and runtime.is_local_main:
            place = cache_folder(name)
            make_folder(place.parent)
            with hold_lock(place.with_name(f"{name}.lock"), f"another process trains judges, into {place}: waiting"):
                if find_judges(name)[0] is None:
                    epochs = enough_epochs(len(real.train.images), _FIRST_EPOCHS, _STEPS)
                    _train_all(real, place, _data_flags(data), epochs, 0, runtime.device)
        return load_ensemble(name, runtime.device, folder, real.spec)

    ensemble = runtime.run_on_all_ranks(load, local_main_first=True)
    runtime.check_same_on_ranks("judges", ", ".join(judge.sha256 for judge in ensemble.record.judges))
    return ensemble


def _data_config(config: JudgeConfig) -> DataConfig:
    names = ("image_size", "channels", "background", "skip_broken", "cache_dir", "test", "download")
    return DataConfig(name=config.data, dir=config.data_dir, **{name: getattr(config, name) for name in names})


def _data_flags(data: DataConfig) -> str:
    """Return the flags of `distgan judge train` that give these images."""
    values = {"--data": data.name, "--test-data": data.test, "--image-size": data.image_size}
    values |= {"--channels": data.channels, "--background": data.background, "--data-dir": data.dir}
    flags = [word for flag, value in values.items() if value is not None for word in (flag, str(value))]
    return shlex.join(flags + ["--skip-broken"] * data.skip_broken)


def _train_all(
    real: RealImages, folder: Path, data_flags: str, epochs: int, seed: int, device: torch.device
) -> list[JudgeRecord]:
    """Train, measure and write judges. `data_flags`: those of `distgan judge train` that give the images."""
    train, test = real.train, real.test
    make_folder(folder)
    print_line(
        f"training {len(NETWORKS)} judges on {len(train.images):,} images of {train.name}, {epochs} epochs, into "
        f"{folder}",
        error=True,
    )
    # By the order of their names: another one as the reference changes no weights.
    seeds = [seed + sorted(NETWORKS).index(name) for name in NETWORKS]
    # Each in its own process, on one thread: the same bits however many cores there are.
    context = get_context("spawn")
    images = (train.images, train.labels, test.images, test.labels)
    num_done = context.Value("i", 0)
    workers = min(len(NETWORKS), os.cpu_count() or 1)
    with (
        ProcessPoolExecutor(workers, context, _start, (num_done,)) as pool,
        PartsProgress(len(NETWORKS) * epochs, "training judges") as progress,
    ):
        jobs = [
            pool.submit(_train, name, judge_seed, real.spec, *images, epochs, device)
            for name, judge_seed in zip(NETWORKS, seeds, strict=True)
        ]
        try:
            while (state := wait(jobs, timeout=_LOOK_S)).not_done:
                for job in state.done:
                    job.result()  # raises its error
                if num := num_done.value - progress.num_done:
                    progress.advance(num)
            trained = [job.result() for job in jobs]
        except BaseException:  # Ctrl-C too: nobody waits for the others then
            for process in active_children():
                process.terminate()
            raise
    records = [record for record, _ in trained]
    environment = describe_environment()
    recipe = Recipe(
        command=f"distgan judge train {data_flags} --epochs {epochs} --seed {seed}",
        epochs=epochs,
        seeds=seeds,
        train=real.train_fingerprint,
        test=real.test_fingerprint,
        versions={"python": environment["python"], **environment["versions"]},
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
    )
    ensemble = EnsembleRecord(format=FORMAT, data=real.judges_name, images=real.spec, recipe=recipe, judges=records)
    # All at once, when all are there: no older judges are lost to a training that is stopped.
    for record, weights in trained:
        write_atomic(folder / f"{record.name}.safetensors", weights)
    write_atomic(folder / RECORD, _compact(ensemble.model_dump_json(indent=1, exclude_defaults=True)).encode())
    return records


def _check_free(folder: Path, data: str) -> None:
    """Raise UserError for a folder with judges of other data."""
    recorded = data
    with suppress(UserError):  # none, or a record that nobody can read
        recorded = read_record(folder).data
    if recorded != data:
        raise UserError(
            f"--out: has judges of {recorded[:40]!r} ({folder}). Expected: a new folder, or one with judges of {data}",
            code="output-exists",
        )


_num_done: Any = None  # of a worker process: epochs of all of them together


def _start(num_done: Any) -> None:
    """Prepare a worker process: its parent handles Ctrl-C."""
    global _num_done
    _num_done = num_done
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def _train(
    name: str,
    seed: int,
    spec: ImageSpec,
    images: Tensor,
    labels: Tensor,
    test_images: Tensor,
    test_labels: Tensor,
    epochs: int,
    device: torch.device,
) -> tuple[JudgeRecord, bytes]:
    """Train one judge, and read the test images. Return its record and its weights as a file."""

    def count(epoch: int) -> None:
        with _num_done.get_lock():
            _num_done.value += 1

    judge = train_classifier(name, spec, images, labels, epochs=epochs, seed=seed, device=device, after_epoch=count)
    weights = save({key: value.cpu().contiguous() for key, value in judge.state_dict().items()})
    read = classify(judge, test_images)[0].argmax(1)
    record = JudgeRecord(
        name=name,
        sha256=hashlib.sha256(weights).hexdigest(),
        num_parameters=sum(parameter.numel() for parameter in judge.parameters()),
        matrix=confusion_matrix(read, test_labels, spec.num_classes).tolist(),
    )
    return record, weights


def show_judges(config: JudgeConfig) -> None:
    """Print the errors of the judges that `distgan eval` takes for that data. Raises UserError."""
    name, images, data = config.data, MNIST_SPEC, _data_config(config)
    if config.out:
        record = read_record(user_path(config.out, "--out"))
        name, images = record.data, record.images
    elif is_data_path(name) or not find_judges(name)[0]:
        real = load_real_images(load_dataset(data), data)
        name, images = real.judges_name, real.spec
    ensemble = load_ensemble(name, torch.device("cpu"), config.out, images, _data_flags(data))
    recipe, names = ensemble.record.recipe, [one_line(name) for name in images.class_names]
    for notice in [ensemble.notice] if ensemble.notice else []:
        print_line(f"!! {notice} !!")
    for judge in ensemble.record.judges:
        num = sum(map(sum, judge.matrix))
        print_line(
            f"{judge.name}: {_accuracy(judge)} of {num:,} test images right, {judge.num_parameters:,} parameters"
        )
        print_line(f"  SHA-256 {judge.sha256}")
        for label, row in enumerate(judge.matrix):
            wrong = {read: count for read, count in enumerate(row) if count and read != label}
            by_count = sorted(wrong.items(), key=lambda pair: -pair[1])
            errors = ", ".join(f"{count} as {names[read]}" for read, count in by_count)
            print_line(f"  {names[label]}: {sum(row) - sum(wrong.values()):,} right{'; ' if errors else ''}{errors}")
    print_line(f"trained on {ensemble.record.data} ({recipe.train}), measured on {recipe.test}, by: {recipe.command}")
    print_line(f"on {recipe.device}, {', '.join(f'{name} {version}' for name, version in recipe.versions.items())}")


def _compact(text: str) -> str:
    """Return the JSON with a matrix row per line."""
    content = json.loads(text)
    rows: dict[str, str] = {}
    for judge in content["judges"]:
        for number, row in enumerate(judge["matrix"]):
            key = f"@{judge['name']}{number}@"
            rows[f'"{key}"'], judge["matrix"][number] = json.dumps(row), key
    text = json.dumps(content, indent=1)
    for key, row in rows.items():
        text = text.replace(key, row)
    return text + "\n"


def _accuracy(record: JudgeRecord) -> str:
    return f"{estimate_proportion(record.num_right, sum(map(sum, record.matrix))):.2%}"
