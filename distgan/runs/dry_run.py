"""`--dry-run`: the resolved config and the size of a training. Writes nothing."""

import json

from distgan.checkpoint.initial import describe, match_weights, read_initial
from distgan.checkpoint.resume import newest_valid, read_named
from distgan.config.image_spec import MNIST_SPEC
from distgan.config.presets import read_run_config
from distgan.config.registry import is_data_path
from distgan.config.schema import Config
from distgan.data.base import SOURCES, data_folder, find_folder, keep_class_names, load_dataset
from distgan.data.loader import global_batch_size, min_batch_size, steps_in_epoch
from distgan.distributed.runtime import Runtime, open_runtime
from distgan.distributed.trackers import check_installed
from distgan.errors import UserError
from distgan.evaluation.real_images import class_noun_of, load_real_images, with_folder
from distgan.evaluation.schema import noun_of
from distgan.evaluation.targets import check_targets_fit, find_targets, read_targets
from distgan.models.base import build_discriminator, build_generator, num_parameters
from distgan.models.user_networks import load_networks
from distgan.runs.run_dir import check_unused_folder
from distgan.training.losses import find_loss
from distgan.training.session import check_classes
from distgan.utils.paths import user_path


def plan(config: Config, preset: str) -> str:
    """Return a description of a training. Raises UserError for invalid data, batch size or folder; writes nothing."""
    config = load_networks(config)
    with open_runtime(config, has_penalty=find_loss(config.optim.loss, config.model).penalty is not None) as runtime:
        return _plan(config, preset, runtime)


def _plan(config: Config, preset: str, runtime: Runtime) -> str:
    if config.run.out is not None:
        check_unused_folder(config.run.out, may_hold_run=config.run.resume != "never")
    check_installed(config.run.tracker)
    name = "mnist" if config.data.name == "auto" else config.data.name
    folder, _ = data_folder(config.data)
    side, channels, is_own = config.data.image_size, config.data.channels, is_data_path(name)
    requested = {"height": side, "width": side, "channels": channels}
    images = MNIST_SPEC.model_copy(update={key: value for key, value in requested.items() if value})
    if name not in SOURCES or find_folder(SOURCES[name], folder):
        settings = config.data.model_copy(update={"download": False})
        try:
            dataset = load_dataset(settings, keep=False)
        except UserError as error:
            if is_own or error.code != "no-data":
                raise
            raise UserError(f"--dry-run: does not download, and {error}", code="no-data") from error
        if is_own and (run := read_run_config(config.run.out, config.run.resume)):
            dataset = keep_class_names(dataset, dataset.fingerprint, run)
        check_classes(dataset, config.model)
        images, noun = dataset.spec, class_noun_of(dataset)
        num_images, data = len(dataset.images), f"{dataset.name} from {dataset.source}"
        data += f" (warning: {dataset.warning})" if dataset.warning else ""
    else:
        num_images, noun = SOURCES[name].num_images, noun_of(name, has_labels=True)
        data = f"{name}, not in {folder} yet: " + ("to be downloaded" if config.data.download else "missing")
        data += ", or digits instead" if config.data.name == "auto" else ""
    num = runtime.world_size if runtime.is_launched else config.processes.num or 1
    size = global_batch_size(config.data, num)
    min_size = min_batch_size(config, num)
    steps = steps_in_epoch(num_images, size, config.data.drop_last, fewest=min_size)
    total = min(config.run.epochs * steps, config.run.max_steps or config.run.epochs * steps)
    config = config.with_images(images)
    if config.run.stop_at:
        read_targets(find_targets(config.run.stop_at, "--stop-at"))
        check_targets_fit(config.run.stop_at, "--stop-at", noun)
    if config.run.evaluates_quality and is_own:
        load_real_images(dataset, with_folder(config.data, config.run.eval_reference, "--eval-data-dir"), keep=False)
    generator, discriminator = build_generator(config.model), build_discriminator(config.model)
    lines = [
        json.dumps(config.model_dump(mode="json"), indent=2),
        f"preset     {preset}",
        f"networks   G {num_parameters(generator):,} and D {num_parameters(discriminator):,} parameters",
        f"data       {data}, {num_images:,} images",
        f"processes  {num} x {runtime.device.type} ({runtime.strategy}), {runtime.describe_precision()}",
        f"steps      {total:,} ({steps} per epoch) of {size} images, {size / num:.4g} per process",
        f"folder     {config.run.out or f'runs/{preset}-<number>'}",
        f"starts     {_describe_start(config)}",
        *(f"warning    {warning}" for warning in runtime.warnings),
        "dry run: nothing was trained or written",
    ]
    return "\n".join(lines) if runtime.is_main else ""


def _describe_start(config: Config) -> str:
    """Return at which step the run would start, and from which checkpoint, or with which weights."""
    run = config.run
    if run.resume not in ("auto", "never"):
        start = read_named(user_path(run.resume, "--resume"))
    elif run.out is None or (newest := newest_valid(user_path(run.out, "--out") / "checkpoints")) is None:
        if run.init_from is None:
            return "at step 0"
        initial = read_initial(run.init_from)
        matched = match_weights(initial, config.model, has_ema=bool(config.optim.ema_decay))
        return f"at step 0, with {describe(initial, matched, config.model)}"
    else:
        start = newest
    path, checkpoint, damaged = start
    return f"at step {checkpoint.state.step:,}, from {path}" + "".join(f" (warning: {reason})" for _, reason in damaged)
