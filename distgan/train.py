"""`distgan train`, which is also `accelerate launch distgan/train.py`: the whole loop on one page."""

import os
import sys

if __name__ == "__main__":
    # As a script this folder heads sys.path, where our modules could hide libraries of the same name.
    if os.path.abspath(sys.path[0]) == os.path.dirname(os.path.abspath(__file__)):
        sys.path[0] = os.path.dirname(os.path.abspath(sys.path[0]))
    from distgan.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))

from contextlib import nullcontext

from distgan.checkpoint.manager import Saver
from distgan.checkpoint.resume import Identity
from distgan.config.schema import Config
from distgan.data.base import load_dataset
from distgan.data.loader import Batches, fewest_rows, global_batch_size
from distgan.distributed.rendezvous import losses_named
from distgan.distributed.runtime import ASK_EVERY, Runtime
from distgan.errors import Stopped, Tolerance, TrainingFailed
from distgan.runs.artifacts import Outputs
from distgan.runs.progress import Display
from distgan.runs.run_dir import recorded
from distgan.training.engines.engine import build_engine, next_due
from distgan.training.gan import build_gan, refuse_divergence
from distgan.training.losses import has_penalty
from distgan.training.metrics import MetricLog
from distgan.training.stop import StopRequest, describe, exit_code, seconds_left
from distgan.utils.provenance import Startup


def train(config: Config, preset: str, startup: Startup) -> None:
    """Trains to the last step. All ranks call it.

    Raises UserError, TrainingFailed for a loss that is no number, Stopped for a signal or the time limit;
    all three leave a folder to go on with.
    """
    runtime = Runtime(config, has_penalty=has_penalty(config.optim.loss))
    startup.mark("processes")
    dataset = runtime.together(
        lambda: load_dataset(config.data, may_download=runtime.is_local_main), local_main_first=True
    )
    runtime.refuse_difference("data's fingerprint", dataset.fingerprint)
    config = config.resolved(dataset.name, runtime.precision)
    startup.mark("data")

    gan = build_gan(
        config.model, config.optim, config.run.seed, runtime, sync_batch_norm=config.processes.sync_batch_norm
    )
    size = global_batch_size(config.data, runtime.world_size)
    batches = Batches(
        gan.labelled(dataset),
        size,
        gan.share,
        drop_last=config.data.drop_last,
        seed=config.run.seed,
        device=runtime.device,
        fewest=fewest_rows(config, runtime.world_size),
    )
    steps_per_epoch = batches.steps_per_epoch
    total_steps = config.run.epochs * steps_per_epoch
    last_step = min(total_steps, config.run.max_steps or total_steps)
    startup.mark("networks")

    tolerance = Tolerance(stops=config.run.on_save_error == "stop")
    for warning in runtime.warnings:
        tolerance.warn(warning)
    watch, eval_steps = None, config.run.eval_every_steps or 0
    if config.run.eval_every or eval_steps:
        from distgan.evaluation.watch import Watch  # scipy and torchmetrics: seconds

        watch = Watch(config, dataset, runtime)
        startup.mark("judges")
    outputs = Outputs(config, preset, dataset, runtime, steps_per_epoch, startup, tolerance)
    log = MetricLog(outputs.folder, runtime, steps_per_epoch, dataset.notice, tolerance)
    identity = Identity(dataset.fingerprint, steps_per_epoch, size)
    saver = Saver(outputs.folder, config, runtime, gan, log, identity, dataset.notice, tolerance)
    start = saver.restore(last_step)
    # The first state of a new run, or of one that goes on changed: never a step without one.
    saver.save(wait=True)
    outputs.describe(start, gan.step)
    startup.mark("outputs")
    engine = build_engine(gan, batches, config, runtime, total_steps, last_step=last_step)
    log.engine = engine.choice.name
    startup.mark("engine")
    log_every, check_every = config.run.log_every, config.processes.check_ranks_every
    dues = (log_every, steps_per_epoch, eval_steps, saver.every, check_every, ASK_EVERY)
    left = runtime.on_main(lambda: seconds_left(config.run.time_limit, startup.born))

    with (
        engine,
        Display(last_step, steps_per_epoch, gan.step, runtime.is_main) as display,
        recorded(outputs.folder, lambda: gan.step) if runtime.is_main else nullcontext(),
        StopRequest(left, runtime.is_launched) as request,
        losses_named(),
    ):
        outputs.announce(display, gan, engine.choice)
        if gan.step == 0 and 0 in config.run.sample_epochs:
            outputs.sample(gan)
        log.start_clock()
        try:
            while gan.step < last_step:
                log.add(*engine.advance(next_due(gan.step, last_step, *dues)))
                display.advance(gan.step)

                # Once in a while, and at the end. All ranks take part.
                reason = runtime.highest(request.reason(), gan.step)
                epoch, into_epoch = divmod(gan.step, steps_per_epoch)
                is_last = gan.step == last_step or reason != 0
                startup.finish()
                found = {}
                if watch and watch.is_due(gan.step, steps_per_epoch):
                    with log.paused():
                        found = watch.look(gan, gan.step / steps_per_epoch, display.say)
                if (is_due := bool(found) or gan.step % log_every == 0 or into_epoch == 0) or is_last:
                    display.show(log.write(gan.step, is_due=is_due, quality=found))
                    saver.refuse_skipped()
                    outputs.record_start()
                    display.warn(tolerance.warnings())
                if check_every and gan.step % check_every == 0:
                    with log.paused():
                        refuse_divergence(gan, runtime)
                # Drawn before it is saved: a run that is killed between the two draws it again.
                if is_last or (into_epoch == 0 and epoch in config.run.sample_epochs):
                    with log.paused():
                        outputs.sample(gan)
                if is_last or saver.is_due(gan.step):
                    saver.save(wait=is_last)
                    request.save_s = saver.last_s
                if reason:
                    outputs.finish(saver)
                    raise Stopped(
                        exit_code(reason), f"stopped {describe(reason)} at step {gan.step:,}; {outputs.how_to_go_on()}"
                    )
        except TrainingFailed as error:
            kept = outputs.keep_last_good(saver, error.advice)
            raise TrainingFailed(f"{error}; {kept}") from error
        with log.paused():
            outputs.finish(saver)
        display.warn(tolerance.warnings())
    outputs.summarise(display, log.elapsed_s, saver)
    runtime.close()
