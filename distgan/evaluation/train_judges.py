"""`distgan judge`: trains the judges of a data set, measures them on images that they have not seen, and shows them."""

import hashlib
import json
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import active_children, get_context
from pathlib import Path

import torch
from safetensors.torch import save

from distgan.config.command_settings import JudgeConfig
from distgan.config.schema import DataConfig
from distgan.data.base import Dataset, load_dataset, load_splits
from distgan.errors import CommandFailed, UserError, print_line
from distgan.evaluation.classifiers import NETWORKS, classify, train_classifier
from distgan.evaluation.ensemble import (
    FORMAT,
    RECORD,
    SHIPPED,
    EnsembleRecord,
    JudgeRecord,
    Recipe,
    cache_folder,
    load_ensemble,
    read_record,
)
from distgan.evaluation.scores import confusion_matrix, estimate_proportion
from distgan.utils.devices import device_named
from distgan.utils.files import make_folder, write_atomic
from distgan.utils.hardware import cpu_name
from distgan.utils.output import guarded_output
from distgan.utils.paths import user_path
from distgan.utils.provenance import describe_environment

# Of MNIST's test images, for a judge that is to be relied on.
ENOUGH = 0.995


def train_judges(config: JudgeConfig) -> None:
    """Train, measure and write judges. Raises UserError, and CommandFailed for judges of MNIST below the limit."""
    device = device_named(config.device)
    data = DataConfig(name=config.data, dir=config.data_dir, download=config.download)
    train, test = load_splits(load_dataset(data), data)
    folder = user_path(config.out, "--out") if config.out else cache_folder(train.name)
    _check_free(folder, train.name)
    make_folder(folder)
    print_line(f"training {len(NETWORKS)} judges on {len(train.images):,} images of {train.name}, {train.source}")
    # By the order of their names: another one as the reference changes no weights.
    seeds = [config.seed + sorted(NETWORKS).index(name) for name in NETWORKS]
    # Each in its own process, on one thread: the same bits however many cores there are.
    workers = min(len(NETWORKS), os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, get_context("spawn"), _start) as pool:
        jobs = [
            pool.submit(_train, name, seed, train, test, config.epochs, device)
            for name, seed in zip(NETWORKS, seeds, strict=True)
        ]
        try:
            trained = [job.result() for job in jobs]
        except BaseException:  # Ctrl-C too: nobody waits for the others then
            for process in active_children():
                process.terminate()
            raise
    records = [record for record, _ in trained]
    environment = describe_environment()
    recipe = Recipe(
        command=f"distgan judge train --data {train.name} --epochs {config.epochs} --seed {config.seed}",
        epochs=config.epochs,
        seeds=seeds,
        train=train.fingerprint,
        test=test.fingerprint,
        versions={"python": environment["python"], **environment["versions"]},
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
    )
    text = EnsembleRecord(format=FORMAT, data=train.name, recipe=recipe, judges=records).model_dump_json(indent=1)
    # All at once, when all are there: no older judges are lost to a training that is stopped.
    for each, weights in trained:
        write_atomic(folder / f"{each.name}.safetensors", weights)
    write_atomic(folder / RECORD, _compact(text).encode())
    print_line(f"written to {folder}")
    if train.name == "mnist" and folder != SHIPPED:
        print_line(f"distgan eval takes those in the package; these by --judges {folder}")
    poor = [each.name for each in records if each.num_right < ENOUGH * len(test.images)]
    if train.name == "mnist" and poor:
        raise CommandFailed(f"{', '.join(poor)}: under {ENOUGH:.1%} of MNIST's test images right; more --epochs")


def _check_free(folder: Path, data: str) -> None:
    """Raise UserError for a folder with judges of other data."""
    found = data
    with suppress(UserError):  # none, or a record that nobody can read
        found = read_record(folder).data
    if found != data:
        raise UserError(
            f"--out: has judges of {found[:40]!r} ({folder}). Expected: a new folder, or one with judges of {data}",
            code="output-exists",
        )


def _start() -> None:
    """Prepare a worker process: its parent handles Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


@guarded_output()  # in its own process, which `| head` may leave without a reader
def _train(
    name: str, seed: int, train: Dataset, test: Dataset, epochs: int, device: torch.device
) -> tuple[JudgeRecord, bytes]:
    """Train one judge. Return its record and its weights as a file."""
    judge = train_classifier(name, train.images, train.labels, epochs=epochs, seed=seed, device=device, say=print_line)
    weights = save({key: value.cpu().contiguous() for key, value in judge.state_dict().items()})
    read = classify(judge, test.images)[0].argmax(1)
    record = JudgeRecord(
        name=name,
        sha256=hashlib.sha256(weights).hexdigest(),
        num_parameters=sum(parameter.numel() for parameter in judge.parameters()),
        matrix=confusion_matrix(read, test.labels).tolist(),
    )
    print_line(f"{name}: {_accuracy(record)} of {len(test.images):,} test images right, {len(weights):,} bytes")
    return record, weights


def show_judges(config: JudgeConfig) -> None:
    """Print the errors of the judges that `distgan eval` takes for that data. Raises UserError."""
    ensemble = load_ensemble(config.data, torch.device("cpu"), config.out)
    recipe = ensemble.record.recipe
    for notice in [ensemble.notice] if ensemble.notice else []:
        print_line(f"!! {notice} !!")
    for judge in ensemble.record.judges:
        num = sum(map(sum, judge.matrix))
        print_line(
            f"{judge.name}: {_accuracy(judge)} of {num:,} test images right, {judge.num_parameters:,} parameters"
        )
        print_line(f"  SHA-256 {judge.sha256}")
        for digit, row in enumerate(judge.matrix):
            wrong = {read: count for read, count in enumerate(row) if count and read != digit}
            words = ", ".join(f"{count} as {read}" for read, count in sorted(wrong.items(), key=lambda pair: -pair[1]))
            print_line(f"  {digit}: {sum(row) - sum(wrong.values()):,} right{'; ' if words else ''}{words}")
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
