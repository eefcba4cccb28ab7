"""Train, sample and evaluate from a program: the functions that `import distgan` offers.

They restore what they change of the process (`utils/process_state.py`), raise `errors.DistganError`, and never exit.
Under `accelerate launch` or torchrun all processes of the program make the same calls.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from distgan.checkpoint import export
from distgan.checkpoint.export import CodeTrust
from distgan.config.command_settings import EvalConfig, SampleConfig
from distgan.config.presets import settings_from
from distgan.config.schema import Config
from distgan.data.in_memory import Dataset
from distgan.distributed import env
from distgan.errors import IS_QUIET, Stopped, UserError, as_user_error
from distgan.evaluation.schema import Quality
from distgan.models.given_modules import given_modules, with_modules
from distgan.models.network_copies import check_settings_apply, with_networks
from distgan.runs.observers import Observers, RunResult
from distgan.runs.sample import draw_images
from distgan.train import train as run_training
from distgan.utils.process_state import default_torch_state
from distgan.utils.provenance import Startup

Device = Literal["auto", "cpu", "cuda"]
PathLike = str | os.PathLike[str]


def train(
    config: Config,
    *,
    dataset: Dataset | None = None,
    generator: nn.Module | None = None,
    discriminator: nn.Module | None = None,
    observers: Sequence[object] = (),
    quiet: bool = False,
) -> RunResult:
    """Train a run to its end, or on from where it was: as `distgan train` with the same settings, to the same bits.

    SIGINT and SIGTERM, in the main thread, and a time limit save the run and end it early: `RunResult.stopped` says so.

    Args:
        config: the settings, as `Config.from_preset` gives them.
        dataset: images to train on, instead of those that the config names.
        generator: G, (z (N, latent_dim), labels (N,) or None) -> (N, C, H, W) in [-1, 1]; it is copied, not changed.
            The same checks as for --networks apply. To resume the run, pass it again.
        discriminator: D, (images, labels) -> (N, 1), likewise.
        observers: objects with `on_metrics(step, dict)`, `on_samples(step, array)` or `on_checkpoint(path)`.
            `array` is uint8 (N, H, W), or (N, H, W, 3) in colour.
        quiet: print nothing.

    Raises:
        UserError: for settings, data or networks that can't be trained.
        TrainingFailed: for a number that is not finite; the run keeps its last checkpoint.
    """
    if not isinstance(config, Config):
        raise UserError(f"config: not a distgan.Config ({type(config).__name__}). Expected: a distgan.Config")
    env.check_before_imports()
    _check_processes(config.processes.num)
    startup = Startup(time.time())
    with _isolated_call(quiet=quiet), given_modules(generator, discriminator) as modules:
        if modules:
            check_settings_apply(config, are_modules=True)
        config = with_modules(config, modules) if modules else with_networks(config)
        images = given.prepare(config.data) if (given := _check_dataset(dataset)) else None
        try:
            return run_training(config, config.origin.preset, startup, images, Observers(observers))
        except Stopped as error:
            result: RunResult = error.result
            return result


def sample(
    folder: PathLike,
    num: int = 64,
    *,
    labels: Sequence[int | str] | np.ndarray | torch.Tensor | None = None,
    seed: int = 0,
    ema: bool = True,
    generator: nn.Module | None = None,
    networks: str | None = None,
    trust_networks: bool = False,
    device: Device = "auto",
) -> np.ndarray:
    """Draw images of a run, a checkpoint or a weights folder: uint8 (num, H, W), or (num, H, W, 3) in colour.

    The same seed gives the same images, those of `distgan sample --seed`.

    Args:
        folder: the run, checkpoint, weights folder or .safetensors file.
        num: how many images.
        labels: classes by number or name, which the images take in turn; None: all classes, or none if unconditional.
        seed: of z.
        ema: take the moving average of G where there is one.
        generator: the same G, if the run was trained with modules passed by a program; a copy gets the run's weights.
        networks: for a run of --networks, that file; it is executed.
        trust_networks: execute the copy of that file in the run.
        device: where to draw.

    Raises:
        UserError: for weights that are missing or damaged, and labels that they do not have.
    """
    values = labels.tolist() if isinstance(labels, np.ndarray | torch.Tensor) else labels
    if isinstance(values, str) or not isinstance(values, Sequence | None):
        raise UserError(
            f"labels: a {type(values).__name__} ({values!r}). Expected: a list of numbers or names of classes"
        )
    settings = {"num": num, "seed": seed, "ema": ema, "networks": networks, "trust_networks": trust_networks}
    config = settings_from(SampleConfig, settings | {"device": device})
    with _isolated_call(), given_modules(generator, None) as modules:
        return draw_images(os.fspath(folder), config, values, modules)


def evaluate(
    folder: PathLike,
    *,
    dataset: Dataset | None = None,
    generator: nn.Module | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Quality:
    """Measure the images of a run, weights, a checkpoint or an `.npz` against real ones, as `distgan eval` does.

    It writes eval.json and pictures to the same place, and returns what eval.json holds: each number with a 95 %
    interval (docs/metrics.md has the fields).

    Args:
        folder: what to measure.
        dataset: the real images, where the run was trained on images of a program.
        generator: the same G, if the run was trained with modules passed by a program.
        quiet: print nothing.
        settings: flags of `distgan eval` with underscores, such as `num=2000`, `out="quality"`.

    Raises:
        UserError: for what can't be measured, and settings that are unknown.
    """
    config = settings_from(EvalConfig, settings)
    _check_processes(config.processes)
    from distgan.evaluation.evaluate import evaluate  # scipy and matplotlib

    with _isolated_call(quiet=quiet), given_modules(generator, None) as modules:
        return evaluate(os.fspath(folder), config, images=_check_dataset(dataset), given=modules)[0]


def load_generator(
    folder: PathLike,
    *,
    ema: bool = True,
    generator: nn.Module | None = None,
    networks: str | None = None,
    trust_networks: bool = False,
) -> nn.Module:
    """Return G of a run, a checkpoint or a weights folder, on the CPU in eval mode.

    It takes z (N, *G.latent_shape) of a normal distribution and labels int64 (N,), which networks without classes
    ignore, and returns (N, C, H, W) in [-1, 1]. Labels of a clustered pair are clusters, which
    `G.draw_labels(z, classes)` draws.

    Args:
        folder: the run, checkpoint, weights folder or .safetensors file.
        ema: take the moving average of G where there is one.
        generator: the same G, if the run was trained with modules passed by a program; a copy is returned.
        networks: for a run of --networks, that file; it is executed.
        trust_networks: execute the copy of that file in the run.

    Raises:
        UserError: for weights that are missing or damaged, or of other networks.
    """
    with _isolated_call(), given_modules(generator, None) as modules:
        loaded = export.load_generator(os.fspath(folder), ema=ema, code=CodeTrust(networks, trust_networks, modules))
    return loaded.generator.eval()


def _check_processes(num: int | None) -> None:
    """Raise UserError for processes that nobody has started: a program can't start itself again."""
    if (num or 1) > 1 and not env.is_launched():
        raise UserError(
            f"processes: a program is one process ({num}). Expected: unset, and the program started by torchrun or "
            "accelerate launch",
            code="conflicting-settings",
        )


def _check_dataset(dataset: Dataset | None) -> Dataset | None:
    """Return `dataset`. Raises UserError for anything else."""
    if dataset is not None and not isinstance(dataset, Dataset):
        raise UserError(f"dataset: not a distgan.Dataset ({type(dataset).__name__}). Expected: a distgan.Dataset")
    return dataset


@contextmanager
def _isolated_call(*, quiet: bool = False) -> Iterator[None]:
    """Print nothing if `quiet`, compute as a fresh process does, and raise a disk's errors as UserErrors."""
    token = IS_QUIET.set(quiet or IS_QUIET.get())
    try:
        with default_torch_state():
            yield
    except OSError as error:
        if user_error := as_user_error(error):
            raise user_error from error
        raise
    finally:
        IS_QUIET.reset(token)
