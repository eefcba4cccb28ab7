"""`distgan train`, also `accelerate launch distgan/train.py`: START HERE: the training loop is in this file."""

import os
import sys

if __name__ == "__main__":
    # Python puts a script's folder first on sys.path, where our modules would shadow libraries of the same name.
    here = os.path.dirname(os.path.realpath(__file__))
    sys.path[:] = [os.path.dirname(here), *(path for path in sys.path if os.path.realpath(path or ".") != here)]
    from distgan.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))

from typing import TYPE_CHECKING

from distgan.config.schema import Config
from distgan.data.base import Dataset
from distgan.distributed.rendezvous import name_lost_ranks
from distgan.errors import TrainingFailed
from distgan.evaluation import build_monitor
from distgan.runs.artifacts import RunArtifacts
from distgan.runs.observers import Observers, RunResult
from distgan.runs.progress import ProgressDisplay
from distgan.runs.run_dir import has_checkpoints
from distgan.training.engines.engine import Engine
from distgan.training.gan import check_ranks_equal
from distgan.training.session import Session, open_session
from distgan.training.stop import SLURM_END, TIME_LIMIT, StopRequest, describe, seconds_left, stop_error
from distgan.utils.provenance import Startup

if TYPE_CHECKING:
    from distgan.evaluation.during_training import QualityMonitor


def train(
    config: Config, preset: str, startup: Startup, dataset: Dataset | None = None, observers: Observers | None = None
) -> RunResult:
    """Train to the last step, or until the targets of `--stop-at` are met (exit code 0). All ranks call it.

    `dataset` replaces the config's. Raises UserError (exit code 2), TrainingFailed for a non-finite number (1), Stopped
    for a signal (128 + its number) or a time limit (75). From the first step on the run's folder holds a checkpoint to
    resume from. Signal handlers, environment variables and torch's settings are restored (`utils/process_state.py`).
    """
    with open_session(config, dataset=dataset, startup=startup) as session:
        gan, runtime = session.gan, session.runtime
        # Judges may take minutes: they come before a new run's folder, but after an old one's settings are compared.
        is_begun = runtime.run_on_rank0(lambda: has_checkpoints(config.run.out))
        monitor = None if is_begun else build_monitor(session, startup)
        with RunArtifacts(session, preset, startup, observers) as artifacts:
            start = artifacts.checkpoints.restore()
            monitor = build_monitor(session, startup) if is_begun else monitor
            if monitor:
                monitor.resume(artifacts.log.path)
            is_over = gan.step >= session.last_step or bool(monitor and monitor.reason_to_stop)
            artifacts.begin(start, is_over=is_over)
            startup.mark("outputs")
            engine = session.build_engine()
            artifacts.log.engine = engine.selection.name
            startup.mark("engine")
            left_s = runtime.run_on_rank0(lambda: seconds_left(config.run.time_limit, startup.born))
            with (
                engine,
                ProgressDisplay(session.last_step, session.steps_per_epoch, gan.step, runtime.is_main) as display,
                artifacts.record_status(),
                StopRequest(left_s, runtime.is_launched, TIME_LIMIT if config.run.time_limit else SLURM_END) as request,
                name_lost_ranks(),
            ):
                artifacts.announce(display, engine.selection)
                try:
                    _take_steps(session, engine, artifacts, monitor, display, request)
                except TrainingFailed as error:
                    raise TrainingFailed(f"{error}; {artifacts.export_last_good(error.advice)}") from error
                artifacts.finish(display)
            artifacts.summarise(display)
            return artifacts.result(artifacts.end_reason or None)


def _take_steps(
    session: Session, engine: Engine, artifacts: RunArtifacts, monitor: "QualityMonitor | None",
    display: ProgressDisplay, request: StopRequest,
) -> None:  # fmt: skip
    gan, runtime, log, checkpoints = session.gan, session.runtime, artifacts.log, artifacts.checkpoints
    cadence = session.cadence(monitor.eval_every_steps if monitor else 0)
    if gan.step == 0 and 0 in cadence.sample_epochs:
        display.say(artifacts.sample())
    log.start_clock()
    while gan.step < session.last_step and not (monitor and monitor.reason_to_stop):
        # One step, or several in a CUDA graph, up to the next that logs, saves or samples. Losses stay on the device.
        log.add(*engine.advance(cadence.next_event(gan.step)))
        display.advance(gan.step)
        # Non-zero if any rank has to stop. By the maximum over ranks all stop after the same step.
        reason = runtime.all_reduce_stop_reason(request.reason(), gan.step)
        due = cadence.due(gan.step, is_stopping=reason != 0)
        artifacts.startup.finish()
        # The rest is slow and rare. All ranks call it; rank 0 writes files, and the others wait for it.
        quality = {}
        if due.evaluate and monitor:
            with log.paused():
                quality = monitor.evaluate(gan, gan.step / session.steps_per_epoch, log.elapsed_s, display.say)
            if monitor.reason_to_stop:
                due, reason = cadence.due(gan.step, is_stopping=True), 0
        if due.log:
            display.show(log.write(gan.step, is_kept=due.log_is_kept, quality=quality))
            checkpoints.check_skipped_updates()  # like every check here, raises TrainingFailed
            artifacts.record_startup()
            checkpoints.report_written()
            display.warn(artifacts.write_errors.warnings())
        if due.check_ranks:
            with log.paused():
                check_ranks_equal(gan, runtime)
        if due.sample:  # before the checkpoint: if killed between the two, a resume draws it again
            display.say(artifacts.sample())
        if due.save:
            checkpoints.save(wait=due.is_last)
            request.save_s = checkpoints.last_s  # time to keep free before a time limit
        if reason:
            artifacts.finish(display, is_done=False)
            raise stop_error(reason, gan.step, artifacts.resume_hint(), artifacts.result(describe(reason)))
    artifacts.end_reason = monitor.reason_to_stop if monitor else ""
