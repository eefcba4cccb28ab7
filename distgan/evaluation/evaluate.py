"""`distgan eval`: draw images or read those of a file, evaluate them, and write eval.json and pictures."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from distgan.config.command_settings import EvalConfig
from distgan.config.schema import Config, DataConfig, ProcessesConfig, RunConfig
from distgan.data.base import keep_class_names, load_dataset
from distgan.data.in_memory import Dataset as InMemoryDataset
from distgan.distributed.runtime import Runtime, open_runtime
from distgan.errors import UserError, WriteErrorPolicy, print_line
from distgan.evaluation import measure
from distgan.evaluation.classifiers import classify, enough_epochs, train_classifier
from distgan.evaluation.ensemble import draw_and_read, read_images, requested_classes, run_jobs
from distgan.evaluation.inputs import (
    FILE,
    EvalInput,
    data_config,
    is_same_place,
    load_input,
    out_folder,
    read_input_images,
    record_source,
)
from distgan.evaluation.pictures import save_pictures
from distgan.evaluation.real_images import RealImages, load_real_images
from distgan.evaluation.reference import build_reference, check_enough_images
from distgan.evaluation.schema import Estimate, Quality
from distgan.evaluation.scores import confusion_matrix, estimate_proportion
from distgan.evaluation.train_judges import get_judges
from distgan.utils.files import make_folder, write_atomic

# GAN-train: the fresh classifier, and how long it learns.
_GAN_TRAIN, _GAN_TRAIN_EPOCHS, _GAN_TRAIN_STEPS = "wide", 2, 60


def start_runtime(config: EvalConfig) -> AbstractContextManager[Runtime]:
    """Start the processes of an evaluation, in float32 whatever the launcher's precision."""
    run = RunConfig(device=config.device, threads=config.threads, precision="fp32", engine="eager")
    return open_runtime(Config(run=run, processes=ProcessesConfig(num=config.processes, timeout=config.timeout)))


def evaluate(
    where: str,
    config: EvalConfig,
    runtime: Runtime | None = None,
    *,
    images: InMemoryDataset | None = None,
    given: str | None = None,
) -> tuple[Quality, Path]:
    """Measure the run, weights, checkpoint or `.npz` at `where`. Return the result and its folder.

    `images`: the real ones of a program, in place of those of the settings. `given`: the hash of a program's modules.
    All ranks call it; the first one writes. Raises UserError.
    """
    with nullcontext(runtime) if runtime else start_runtime(config) as runtime:
        return _evaluate(where, config, runtime, images, given)


def _evaluate(
    where: str, config: EvalConfig, runtime: Runtime, images_of_program: InMemoryDataset | None, given: str | None
) -> tuple[Quality, Path]:
    seconds: dict[str, float] = {}
    with _time_phase(seconds, "start"):
        eval_input = runtime.run_on_all_ranks(lambda: load_input(where, config, given))
        data = data_config(eval_input, config)
        real, is_test_seen, changed = runtime.run_on_all_ranks(
            lambda: _real(data, eval_input, images_of_program, may_download=runtime.is_local_main),
            local_main_first=True,
        )
        runtime.check_same_on_ranks("real data's fingerprint", real.test_fingerprint)
        eval_input = runtime.run_on_all_ranks(lambda: read_input_images(eval_input, config, real))
        n = _num_images(eval_input, config, real)
        folder = runtime.run_on_rank0(lambda: out_folder(where, config, n))
        if eval_input.unused and runtime.is_main:
            names = ", ".join(eval_input.unused)[:200]
            print_line(f"warning: {where}: not used: {names}. Expected: images, labels, notice", error=True)
        ensemble = get_judges(real, data, runtime, config.judges)
        source = record_source(where, eval_input, config, real, ensemble, is_test_seen=is_test_seen)
        notices = [*eval_input.notices, *filter(None, (ensemble.notice, changed))]
        if eval_input.images is None and "num" in config.model_fields_set and n < config.num and runtime.is_main:
            print_line(
                f"warning: --num: more than the real images to compare with ({config.num:,}). Evaluating {n:,}",
                error=True,
            )
    runtime.run_on_rank0(lambda: make_folder(folder))  # before minutes are spent
    is_drawn, num_classes = eval_input.generator is not None, real.spec.num_classes
    labels = requested_classes(n, num_classes) if is_drawn and eval_input.is_conditional else eval_input.labels
    with _time_phase(seconds, "real_images"):
        reference = build_reference(ensemble, real, n, labels, runtime)
    with _time_phase(seconds, "images"):
        if eval_input.generator is not None:
            generator = eval_input.generator.to(runtime.device)
            images, reading = draw_and_read(generator, ensemble, n, config.seed, runtime)
        else:
            assert eval_input.images is not None
            images, reading = eval_input.images, read_images(ensemble, eval_input.images, runtime)
    with _time_phase(seconds, "numbers"):
        overview = measure.measure_overview(reading, labels, reference)
        classes = measure.measure_classes(reading, labels, overview, reference)
        closest = measure.measure_copies(images, reading.classes if labels is None else labels, real)
    gan_train, gan_train_real = None, None
    if labels is not None and config.gan_train:
        with _time_phase(seconds, "gan_train"):
            gan_train, gan_train_real = _gan_train(images, labels, real, runtime)
    assert overview.sample.fcd is not None
    assert reference.baseline.fcd is not None
    quality = Quality(
        n=n,
        agreement=overview.agreement,
        per_digit=classes,
        shares=overview.shares,
        class_names=real.spec.class_names,
        class_noun=real.class_noun,
        expected_shares=reference.shares.tolist(),
        kl=overview.kl,
        recognisable=overview.sample.recognisable,
        fcd=overview.sample.fcd,
        fcd_floor=reference.baseline.fcd,
        density=overview.sample.density,
        coverage=overview.sample.coverage,
        real=reference.baseline,
        gan_train=gan_train,
        gan_train_real=gan_train_real,
        copies=closest.copies,
        matrix=None if labels is None else confusion_matrix(reading.classes, labels, num_classes).tolist(),
        jury_matrix=reference.matrix.tolist(),
        confusions=[] if labels is None else measure.measure_confusions(reading, labels, reference),
        ambiguities=measure.measure_ambiguities(reading),
        judges=measure.measure_judges(reading, labels, reference),
        alarms=overview.alarms,
        notices=notices,
        source=source,
        seconds=seconds,
    )

    def write() -> None:
        write_atomic(folder / FILE, (quality.model_dump_json(indent=1) + "\n").encode())
        pictures = WriteErrorPolicy(stops=False)
        pictures.warn_on_error(
            lambda: save_pictures(folder, quality, images, reading, labels, closest, real.trained_on.images),
            f"a picture in {folder} is",
        )
        for warning in pictures.warnings():
            print_line(f"warning: {warning}", error=True)

    runtime.run_on_rank0(write)
    return quality, folder


def _num_images(eval_input: EvalInput, config: EvalConfig, real: RealImages) -> int:
    """Return how many images to evaluate: all of a file. Raises UserError for too few."""
    if eval_input.images is not None:
        num = len(eval_input.images)
        check_enough_images(num, "--num" if num == config.num else f"{eval_input.what}: images")
        return num
    check_enough_images(config.num)
    return real.max_images(config.num)


class _RealData(NamedTuple):
    real: RealImages
    is_test_seen: bool | None  # the network was trained on the test images; None where that is not known
    changed: str  # a notice


def _real(
    config: DataConfig, eval_input: EvalInput, images: InMemoryDataset | None = None, *, may_download: bool
) -> _RealData:
    """Return the real images, and a notice if they are others of the name that the network was trained on."""
    try:
        data = images.prepare(config) if images else load_dataset(config, may_download=may_download)
        run = eval_input.loaded and eval_input.loaded.config
        # Of a user's own images: seconds, where there are gigabytes of them.
        fingerprint = data.fingerprint if run and run.data.fingerprint else None
        data = keep_class_names(data, fingerprint, run) if run and fingerprint else data
        real = load_real_images(data, config, may_download=may_download)
    except UserError as error:  # without the advice for a training
        raise UserError(str(error).removesuffix(", or --data digits"), code=error.code) from error
    if run is None:
        return _RealData(real, None, "")
    is_same_name = is_same_place(data.path or config.name, run.data.name)
    is_same = is_same_name if fingerprint is None else run.data.fingerprint == fingerprint
    changed = f"the images in {config.name} have changed since the training" if is_same_name and not is_same else ""
    return _RealData(real, (is_same or None) if real.is_test_seen else False, changed)


def _gan_train(images: Tensor, labels: Tensor, real: RealImages, runtime: Runtime) -> list[Estimate]:
    """Return GAN-train (Shmelkov et al. 2018), and the same with as many real images."""
    train, test = real.train, real.test
    epochs = enough_epochs(len(images), _GAN_TRAIN_EPOCHS, _GAN_TRAIN_STEPS)
    chosen = torch.randperm(len(train.images), generator=torch.Generator().manual_seed(2))[: len(images)]

    def accuracy(images: Tensor, labels: Tensor) -> Estimate:
        network = train_classifier(_GAN_TRAIN, real.spec, images, labels, epochs=epochs, seed=0, device=runtime.device)
        read = classify(network, test.images)[0].argmax(1)
        return estimate_proportion(int((read == test.labels).sum()), len(read))

    jobs = [lambda: accuracy(images, labels), lambda: accuracy(train.images[chosen], train.labels[chosen])]
    return run_jobs(jobs, runtime)


@contextmanager
def _time_phase(seconds: dict[str, float], phase: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[phase] = round(time.perf_counter() - start, 2)
