"""`distgan train`, which is also `accelerate launch distgan/train.py`: the whole loop on one page."""

import os
import sys

if __name__ == "__main__":
    # As a script this folder heads sys.path, where our modules could hide libraries of the same name.
    if os.path.abspath(sys.path[0]) == os.path.dirname(os.path.abspath(__file__)):
        sys.path[0] = os.path.dirname(os.path.abspath(sys.path[0]))
    from distgan.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))

from distgan.batches import Batches, per_rank_size
from distgan.config import Config
from distgan.data import load_dataset
from distgan.environment import Startup
from distgan.errors import Stopped, TrainingFailed
from distgan.gan import build_gan
from distgan.metrics import MetricLog
from distgan.outputs import Outputs
from distgan.progress import Display
from distgan.runtime import Runtime
from distgan.steps import build_step


def train(config: Config, preset: str, startup: Startup) -> None:
    """Trains to the last step. All ranks call it.

    Raises UserError, TrainingFailed for a loss that is no number, Stopped for a signal; all three leave
    a folder to go on with.
    """
    runtime = Runtime(config.run)
    startup.mark("processes")
    dataset = runtime.together(
        lambda: load_dataset(config.data, may_download=runtime.is_local_main), local_main_first=True
    )
    runtime.refuse_difference("data's fingerprint", dataset.fingerprint)
    config = config.resolved(dataset.name, runtime.precision)
    startup.mark("data")

    batches = Batches(
        dataset,
        per_rank_size(config.data, runtime.world_size),
        drop_last=config.data.drop_last,
        seed=config.run.seed,
        device=runtime.device,
        rank=runtime.rank,
        world_size=runtime.world_size,
    )
    gan = build_gan(config.model, config.optim, config.run.seed, runtime)
    steps_per_epoch = batches.steps_per_epoch
    total_steps = config.run.epochs * steps_per_epoch
    last_step = min(total_steps, config.run.max_steps or total_steps)
    step = build_step(gan, config.optim, config.run.seed, runtime, total_steps)
    startup.mark("networks")

    outputs = Outputs(config, preset, dataset, runtime, steps_per_epoch, startup)
    outputs.restore(gan)
    batches.seek(gan.step)
    log = MetricLog(outputs.folder, runtime, steps_per_epoch, dataset.notice, gan.step)
    startup.mark("outputs")

    with Display(last_step, steps_per_epoch, gan.step, runtime.is_main) as display, runtime.caught_signals():
        outputs.announce(display, gan)
        if gan.step == 0 and 0 in config.run.sample_epochs:
            outputs.sample(gan)
        log.restart_clock()
        while gan.step < last_step:
            real, labels = next(batches)
            log.add(step(real, labels), len(real) * runtime.world_size)
            display.advance(gan.step)

            # Once in a while, and at the end. All ranks take part.
            signum = runtime.stop_signal(gan.step)
            epoch, into_epoch = divmod(gan.step, steps_per_epoch)
            is_last = gan.step == last_step or signum != 0
            startup.finish()
            if gan.step % config.run.log_every == 0 or into_epoch == 0 or is_last:
                try:
                    display.show(log.write(gan.step))
                    outputs.remember(gan)
                except TrainingFailed as error:
                    raise TrainingFailed(f"{error}; {outputs.save_last_good()}") from error
                outputs.record_start()
                log.restart_clock()
            if is_last or (into_epoch == 0 and epoch in config.run.sample_epochs):
                outputs.sample(gan)
            if into_epoch == 0 and epoch % config.run.save_every == 0 and not is_last:  # the end saves too
                outputs.save(gan)
            if is_last or into_epoch == 0:
                log.restart_clock()
            if signum:
                outputs.finish(gan)
                raise Stopped(signum, f"stopped at step {gan.step:,}; {outputs.how_to_go_on()}")
    outputs.finish(gan)
    outputs.summarise(display, log.elapsed_s)
    runtime.close()
