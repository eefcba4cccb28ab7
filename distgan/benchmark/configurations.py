"""What `distgan bench convergence` runs: presets on numbers of processes, and the words of `distgan train` for each."""

import math
import os
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from distgan.benchmark.options import ConvergenceConfig
from distgan.benchmark.results import check_runs_on_cpu
from distgan.config.flags import paths_by
from distgan.config.presets import preset_words, training_of
from distgan.config.registry import ENGINES, PRECISIONS
from distgan.config.schema import Config, DataConfig
from distgan.data.base import Dataset, load_dataset, load_splits
from distgan.data.loader import global_batch_size, min_batch_size, steps_in_epoch
from distgan.errors import UserError
from distgan.evaluation.targets import Protocol
from distgan.utils.hardware import count_gpus
from distgan.utils.operating_system import cores


class Arm(NamedTuple):
    """`words` are those of `distgan train` but for the seed and the folder; `batch_size` is over all processes."""

    preset: str
    processes: int
    words: list[str]
    config: Config
    dataset: Dataset
    batch_size: int
    steps_per_epoch: int

    @property
    def name(self) -> str:
        return self.preset if self.processes == 1 else f"{self.preset} on {self.processes} processes"

    @property
    def id(self) -> str:
        return self.preset if self.processes == 1 else f"{self.preset}-processes{self.processes}"

    @property
    def max_epochs(self) -> float:
        run = self.config.run
        return min(run.epochs, (run.max_steps or math.inf) / self.steps_per_epoch)

    def images(self, step: int) -> int:
        """Those seen up to a step; the last batch of an epoch may be short."""
        epochs, steps = divmod(step, self.steps_per_epoch)
        whole = self.steps_per_epoch * self.batch_size
        return epochs * (whole if self.config.data.drop_last else len(self.dataset.images)) + steps * self.batch_size

    def facts(self) -> dict[str, Any]:
        """What results.json has of it, and what stays the same where a bench is resumed."""
        return {
            "name": self.name,
            "preset": self.preset,
            "processes": self.processes,
            "steps_per_epoch": self.steps_per_epoch,
            "data": {"name": self.dataset.name, "fingerprint": self.dataset.fingerprint},
            # What the targets are is compared by itself, and older benches did not have their path here.
            "config": self.config.model_dump(mode="json", exclude={"run": {"stop_at"}}),
        }


def slots(config: ConvergenceConfig, *, is_cuda: bool) -> list[dict[str, str]]:
    """Return the environment of each of the runs at a time: its GPUs. Raises UserError."""
    if not is_cuda:
        return [{} for _ in range(config.jobs or 1)]
    gpus, each = _gpus(), config.processes
    most = len(gpus) // each
    if not most:
        raise UserError(
            f"--processes {each}: there are {len(gpus)} GPUs here; allowed: at most {len(gpus)}", code="unavailable"
        )
    if config.jobs and config.jobs > most:
        raise UserError(
            f"--jobs {config.jobs}: each takes {each} of the {len(gpus)} GPUs here; allowed: at most {most}",
            code="unavailable",
        )
    return [
        {"CUDA_VISIBLE_DEVICES": ",".join(gpus[slot * each : (slot + 1) * each])} for slot in range(config.jobs or most)
    ]


def _gpus() -> list[str]:
    """As CUDA_VISIBLE_DEVICES has them, which may leave this process only some."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[: count_gpus()] if visible else [str(index) for index in range(count_gpus())]


def arms(config: ConvergenceConfig, protocol: Protocol, targets: Path, num_jobs: int, *, is_cuda: bool) -> list[Arm]:
    """Each preset on each number of processes. Raises UserError for what can't be run, or not compared."""
    if config.preset is None:
        raise UserError("names no preset; allowed: --preset NAME, or --preset FILE.toml")
    build = partial(
        _arm, config=config, protocol=protocol, targets=targets, num_jobs=num_jobs, is_cuda=is_cuda, load=cache(_load)
    )
    own = [build("--preset", config.preset, num) for num in dict.fromkeys((config.processes, 1))]
    if config.against is None:
        return own
    others = [build("--against", config.against, num) for num in dict.fromkeys((config.processes, 1))]
    ours, theirs = own[0], others[0]
    for what, one, other in (
        ("trains", ours.config.model.name, theirs.config.model.name),
        ("has the data", ours.dataset.name, theirs.dataset.name),
    ):
        if one != other:
            raise UserError(
                f"--against {config.against}: {what} {other}, {config.preset} {one}; allowed: the same of both"
            )
    # Of all of them: a file may have the name that another has on more processes.
    taken = {name for arm in own for name in (arm.id, arm.name)}
    if any(taken & {arm.id, arm.name} for arm in others):
        raise UserError(f"--against {config.against}: has the name of --preset {config.preset}; allowed: another name")
    return own + others


def _load(config: DataConfig) -> Dataset:
    """And the test images, so that what has to be downloaded is so once, before several runs would."""
    dataset = load_dataset(config)
    load_splits(dataset, config)
    return dataset


def _arm(
    flag: str,
    preset: str,
    processes: int,
    *,
    config: ConvergenceConfig,
    protocol: Protocol,
    targets: Path,
    num_jobs: int,
    is_cuda: bool,
    load: Any,
) -> Arm:
    words = preset_words(flag, preset)
    for (key,) in paths_by(ConvergenceConfig, "is_passed_on", True):
        if (value := getattr(config, key)) is not None:
            words += [f"--{key.replace('_', '-')}", value]
    threads = config.threads
    if threads is None and num_jobs > 1 and not is_cuda:
        threads = max(1, cores() // (num_jobs * processes))
    words += ["--threads", str(threads)] if threads else []
    words += ["--processes", str(processes), "--tracker", "none"]
    training, name = training_of(words)
    if not is_cuda:
        check_runs_on_cpu("--engine", [training.run.engine], ENGINES)
        if (precision := training.run.precision) not in (None, "auto"):
            check_runs_on_cpu("--precision", [str(precision)], PRECISIONS)
    dataset = load(training.data)
    size = global_batch_size(training.data, processes)
    steps = steps_in_epoch(
        len(dataset.images), size, training.data.drop_last, fewest=min_batch_size(training, processes)
    )
    # Counted in steps: where an epoch can't be divided so, an evaluation comes a step early, and says so in its epoch.
    every = max(1, steps // protocol.evaluations_per_epoch)
    words += ["--eval-every", "0", "--eval-every-steps", str(every), "--eval-num", str(protocol.num)]
    words += ["--stop-at", str(targets)]
    if config.epochs is not None:
        words += _cap(config.epochs, training, steps)
    return Arm(name, processes, words, training_of(words)[0], dataset, size, steps)


def _cap(epochs: int, training: Config, steps_per_epoch: int) -> list[str]:
    """Ends a run early without another schedule of its rates. Raises UserError where it would need one."""
    own = training.run.epochs
    if epochs <= own:
        cap = epochs * steps_per_epoch
        return ["--max-steps", str(min(cap, training.run.max_steps or cap))]
    if training.optim.lr_schedule != "constant":
        raise UserError(
            f"--epochs {epochs}: the rates of this preset fall over its {own} epochs; allowed: at most {own}"
        )
    return ["--epochs", str(epochs)]
