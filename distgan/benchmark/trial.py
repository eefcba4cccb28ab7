"""Trainings of `distgan bench convergence`: presets on numbers of processes, by `distgan train --stop-at`."""

import math
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Event
from typing import NamedTuple

from distgan.benchmark.convergence_results import ArmFacts, Clocks, TrialResult
from distgan.benchmark.exit_with_parent import GRACE_S
from distgan.benchmark.options import ConvergenceConfig
from distgan.benchmark.results import check_runs_here
from distgan.config.flags import setting_paths
from distgan.config.presets import parse_training, preset_words
from distgan.config.schema import Config, DataConfig
from distgan.data.base import Dataset, load_dataset
from distgan.data.loader import global_batch_size, min_batch_size, steps_in_epoch
from distgan.errors import FAILED, UserError
from distgan.evaluation.real_images import load_real_images
from distgan.evaluation.targets import EarlyStop, Protocol, Targets, evaluation_lines
from distgan.models.user_networks import load_networks, with_own_loss
from distgan.runs.run_dir import lock, read_status
from distgan.utils.child_process import kill_tree, summarise_error
from distgan.utils.files import read_environment
from distgan.utils.hardware import count_gpus
from distgan.utils.operating_system import STOP_SIGNALS, count_cores

# The module to run by `python -m`, and its command; tests replace it.
TRAINING = ("distgan", "train")

_POLL_S = 0.1
# Matches the messages of TrainingFailed about losses, gradients and weights.
_NON_FINITE = re.compile(r" is (nan|-?inf)\b|\bnon-finite\b")


class Arm(NamedTuple):
    """A preset on a number of processes. `words`: arguments of `distgan train` without the seed and the folder.

    `batch_size` is over all processes.
    """

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
        """Return the images seen up to a step; the last batch of an epoch may be short."""
        epochs, steps = divmod(step, self.steps_per_epoch)
        epoch_images = self.steps_per_epoch * self.batch_size
        return (
            epochs * (epoch_images if self.config.data.drop_last else len(self.dataset.images))
            + steps * self.batch_size
        )

    def facts(self) -> ArmFacts:
        """Return the facts for results.json, which must stay the same when a bench is resumed."""
        return ArmFacts.model_validate({
            "name": self.name, "preset": self.preset, "processes": self.processes,
            "steps_per_epoch": self.steps_per_epoch,
            "data": {"name": self.dataset.name, "fingerprint": self.dataset.fingerprint},
            # The targets are compared separately, and older benches did not have their path here. Of networks the
            # contents count.
            "config": self.config.model_dump(mode="json", exclude={"run": {"stop_at"}, "model": {"networks"}}),
        })  # fmt: skip


def assign_gpus(config: ConvergenceConfig, *, is_cuda: bool) -> list[dict[str, str]]:
    """Return the environment of each concurrent run: its GPUs. Raises UserError."""
    if not is_cuda:
        return [{} for _ in range(config.jobs or 1)]
    per_run, visible, num = config.processes, os.environ.get("CUDA_VISIBLE_DEVICES"), count_gpus()
    # As CUDA_VISIBLE_DEVICES has them, which may leave this process only some.
    gpus = visible.split(",")[:num] if visible else [str(index) for index in range(num)]
    if not (most := len(gpus) // per_run):
        raise UserError(
            f"--processes: more than the GPUs of this machine ({per_run}). Expected: at most {len(gpus)}",
            code="unavailable",
        )
    if config.jobs and config.jobs > most:
        raise UserError(
            f"--jobs: too many for {len(gpus)} GPUs with {per_run} per run ({config.jobs}). Expected: at most {most}",
            code="unavailable",
        )
    dealt = (gpus[slot * per_run : (slot + 1) * per_run] for slot in range(config.jobs or most))
    return [{"CUDA_VISIBLE_DEVICES": ",".join(slot_gpus)} for slot_gpus in dealt]


def build_arms(
    config: ConvergenceConfig, protocol: Protocol, targets: Path, num_jobs: int, *, is_cuda: bool
) -> list[Arm]:
    """Build an arm for each preset and number of processes. Raises UserError if they can't be run or compared."""
    if config.preset is None:
        raise UserError("--preset: missing. Expected: --preset NAME, or --preset FILE.toml", code="missing-value")
    load = cache(_load)

    def build(flag: str, preset: str, processes: int) -> Arm:
        flags = preset_words(flag, preset)
        for (key,) in setting_paths(ConvergenceConfig, "is_passed_on", True):
            if (value := getattr(config, key)) is not None:
                flags += [f"--{key.replace('_', '-')}", value]
        threads = config.threads
        if threads is None and num_jobs > 1 and not is_cuda:
            threads = max(1, count_cores() // (num_jobs * processes))
        flags += ["--threads", str(threads)] if threads else []
        flags += ["--processes", str(processes), "--tracker", "none"]
        training, name = _training_of(flags)
        precision = training.run.precision
        precisions = [] if precision in (None, "auto") else [str(precision)]
        check_runs_here([training.run.engine], precisions, is_cuda=is_cuda)
        dataset, size = load(training.data), global_batch_size(training.data, processes)
        fewest = min_batch_size(training, processes)
        steps = steps_in_epoch(len(dataset.images), size, training.data.drop_last, fewest=fewest)
        # Counted in steps: where they don't divide an epoch evenly, an evaluation comes a step early, and its epoch
        # shows it.
        every = max(1, steps // protocol.evaluations_per_epoch)
        flags += ["--eval-every", "0", "--eval-every-steps", str(every), "--eval-num", str(protocol.num)]
        flags += ["--stop-at", str(targets)]
        flags += [] if config.epochs is None else _epoch_limit_flags(config.epochs, training, steps)
        return Arm(name, processes, flags, _training_of(flags)[0], dataset, size, steps)

    numbers = dict.fromkeys((config.processes, 1))
    base = [build("--preset", config.preset, num) for num in numbers]
    if config.against is None:
        return base
    others = [build("--against", config.against, num) for num in numbers]
    (model, data), (other_model, other_data) = ((a.config.model.name, a.dataset.name) for a in (base[0], others[0]))
    for what, one, other in (("model", model, other_model), ("data", data, other_data)):
        if one != other:
            raise UserError(
                f"--against: {what} differs ({config.against}: {other}, {config.preset}: {one}). Expected: the same",
                code="conflicting-settings",
            )
    # Among all of them: a file may have the name that another has on more processes.
    taken = {name for arm in base for name in (arm.id, arm.name)}
    if any(taken & {arm.id, arm.name} for arm in others):
        raise UserError(
            f"--against: has the same name as --preset {config.preset} ({config.against}). Expected: another name",
            code="conflicting-settings",
        )
    return base + others


def _training_of(flags: list[str]) -> tuple[Config, str]:
    """Return the config for flags of `distgan train`, with its networks' hash and loss, and the preset's name."""
    training, name = parse_training(flags)
    return with_own_loss(load_networks(training)), name


def _load(config: DataConfig) -> Dataset:
    """Load training and test images, so that they are downloaded once, before several runs need them."""
    dataset = load_dataset(config)
    load_real_images(dataset, config)
    return dataset


def _epoch_limit_flags(epochs: int, training: Config, steps_per_epoch: int) -> list[str]:
    """Return the flags that limit a run to `epochs` with the same learning rates. Raises UserError if they can't."""
    scheduled = training.run.epochs
    if epochs <= scheduled:
        cap = epochs * steps_per_epoch
        return ["--max-steps", str(min(cap, training.run.max_steps or cap))]
    if training.optim.lr_schedule != "constant":
        raise UserError(
            f"--epochs: longer than the preset's learning rate schedule ({epochs}). Expected: at most {scheduled}",
            code="conflicting-settings",
        )
    return ["--epochs", str(epochs)]


# -- One training --


class Trial:
    """A training of an arm with one seed. `cell` is its entry in results.json."""

    def __init__(self, arm: Arm, seed: int, out: Path, targets: Targets):
        self.arm, self.targets = arm, targets
        self.folder = out / "runs" / f"{arm.id}-seed{seed}"
        self.words = [*arm.words, "--seed", str(seed), "--out", str(self.folder)]
        command = shlex.join(["distgan", "train", *self.words])
        self.cell = TrialResult(id=self.folder.name, arm=arm.name, seed=seed, command=command)
        self.stopped = 0  # the exit code of a training that another has stopped: a signal's sender, a time limit
        self._process: subprocess.Popen[bytes] | None = None
        # The run's first state is saved before its first step.
        self._is_resumed = (self.folder / "checkpoints").is_dir()

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.log")

    def await_folder(self, say: Callable[[str], None]) -> None:
        """Wait for a training that a killed bench has left running there. Raises UserError if it keeps running."""
        if not self.folder.is_dir():
            return
        try:
            held = lock(self.folder, 0.0)
        except UserError:
            say(f"{self.cell.name}: waiting for a training that a killed bench has left in its folder")
            held = lock(self.folder, GRACE_S)
        held.release()

    def run(
        self, environment: dict[str, str], halted: Event, timeout_s: float, log_progress: Callable[["Trial"], None]
    ) -> None:
        """Train until the run ends or `halted` is set, and store the outcome in `cell`. Leaves no process running.

        Calls `log_progress` about every 0.1 s. Sets `halted` if something else stopped the run: a signal, a time limit.
        """
        if halted.is_set():
            return
        if read_status(self.folder).get("state") == "done":
            self._conclude(0, "")  # it ended before the bench could record it
            return
        # In a new session it receives no Ctrl-C from the terminal: only the bench signals it, once.
        with self.log.open("wb") as log:
            self._process = process = subprocess.Popen(
                [sys.executable, "-m", "distgan.benchmark.exit_with_parent", *TRAINING, *self.words], env=environment,
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log, start_new_session=True,
            )  # fmt: skip
        code, end, why = None, time.monotonic() + timeout_s, f"not done after --timeout {timeout_s:g} s"
        is_terminated = False
        try:
            while code is None and time.monotonic() < end:
                if halted.is_set() and not is_terminated:
                    process.terminate()
                    is_terminated, end, why = True, time.monotonic() + GRACE_S, f"did not stop within {GRACE_S:g} s"
                with suppress(subprocess.TimeoutExpired):
                    code = process.wait(_POLL_S)
                log_progress(self)
        finally:
            self.kill()
            assert process.stdin is not None
            process.stdin.close()
        if code is not None:
            why = summarise_error(code, self.log.read_bytes())
        if code and not is_terminated and (stopped := _stop_exit_code(code, self.folder)):
            self.stopped = stopped
            halted.set()
        if code == 0 or not halted.is_set():
            self._conclude(code, why)

    def kill(self) -> None:
        if self._process is not None:
            kill_tree(self._process)

    def progress(self) -> str:
        """Return the epoch of a running training, and the targets it misses; "" before its first evaluation."""
        progress = self._early_stop()
        if not progress.evaluations:
            return ""
        where = f"epoch {progress.evaluations[-1].epoch:.4g} of at most {self.arm.max_epochs:g}"
        return f"{where}, {progress.describe()}"

    def _early_stop(self) -> EarlyStop:
        early_stop = EarlyStop(self.targets, is_conditional=self.arm.config.model.is_conditional)
        early_stop.add(*evaluation_lines(self.folder / "metrics.jsonl"))
        return early_stop

    def _conclude(self, code: int | None, why: str) -> None:
        progress = self._early_stop()
        evaluations, (reached, not_reached, targets) = progress.evaluations, progress.detected
        outcome = "error"
        if reached is not None:
            outcome, why = "converged", ""
        elif code == 0 and not evaluations:
            why = f"no evaluation in {self.folder / 'metrics.jsonl'} of a finished run"
        elif code == 0:
            outcome, why = "not converged", not_reached
        elif code == FAILED and _NON_FINITE.search(why):
            outcome, why = "diverged", why.partition(";")[0]
        last, facts = evaluations[-1] if evaluations else None, read_environment(self.folder)
        clocks = Clocks() if reached is None else Clocks.at(evaluations, reached, is_resumed=self._is_resumed)
        end = last if reached is None else evaluations[reached]
        # A new object, as another thread may be writing the old one to results.json.
        self.cell = TrialResult.model_validate({
            **self.cell.model_dump(include={"id", "arm", "seed", "command"}), **clocks.model_dump(),
            # What `auto` selected in this run.
            **{key: facts.get(key) for key in ("engine", "precision")},
            "outcome": outcome, "why": why, "targets": targets, "resumed": self._is_resumed, "evaluations": evaluations,
            "last": {target.name: target.of(last) if last else None for target in progress.wanted},
            "images": self.arm.images(end.step) if end else 0,
        })  # fmt: skip


def _stop_exit_code(code: int, folder: Path) -> int:
    """Return the exit code of a training that another process has stopped, 0 of any other."""
    if -code in STOP_SIGNALS:  # which kills a process that has no handler yet
        return 128 - code
    return code if read_status(folder).get("state") == "stopped" else 0
