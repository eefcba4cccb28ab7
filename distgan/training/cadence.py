"""When evaluations, logs, checks, samples and checkpoints are due: pure functions of the step."""

from typing import NamedTuple

from distgan.config.schema import Config
from distgan.distributed.runtime import STOP_POLL_STEPS


class Due(NamedTuple):
    """Tasks that are due after a step, in the order in which they run."""

    evaluate: bool
    log: bool
    check_ranks: bool
    sample: bool
    save: bool
    is_last: bool
    # The log line is due by an interval, not only at a stop: a resume keeps it.
    log_is_kept: bool


class Cadence(NamedTuple):
    """The intervals of a run, in steps or epochs; 0 means never."""

    steps_per_epoch: int
    last_step: int
    epochs: int
    log_every: int
    check_ranks_every: int
    eval_every: int
    eval_every_steps: int
    save_every: int
    save_every_steps: int
    sample_epochs: tuple[int, ...]

    @classmethod
    def from_config(cls, config: Config, steps_per_epoch: int, last_step: int, eval_every_steps: int = 0) -> "Cadence":
        run = config.run
        return cls(
            steps_per_epoch=steps_per_epoch,
            last_step=last_step,
            epochs=run.epochs,
            log_every=run.log_every,
            check_ranks_every=config.processes.check_ranks_every,
            eval_every=run.eval_every,
            eval_every_steps=run.eval_every_steps or eval_every_steps,
            save_every=run.save_every,
            save_every_steps=run.save_every_steps or 0,
            sample_epochs=tuple(run.sample_epochs),
        )

    def next_event(self, step: int) -> int:
        """Return the first step after `step` at which something may be due, or the last step of the run.

        An engine may run all steps up to it without returning.
        """
        intervals = (
            self.log_every, self.steps_per_epoch, self.eval_every_steps, self.save_every_steps, self.check_ranks_every,
            STOP_POLL_STEPS,
        )  # fmt: skip
        return min([self.last_step, *((step // every + 1) * every for every in intervals if every)])

    def due(self, step: int, *, is_stopping: bool = False) -> Due:
        """Return what is due after `step` steps.

        `is_stopping`: the run stops here and logs, samples and saves as after its last step.
        """
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        ends_epoch, is_last = step_in_epoch == 0, is_stopping or step == self.last_step
        evaluate = _divides(self.eval_every_steps, step) or (
            ends_epoch and (_divides(self.eval_every, epoch) or (self.eval_every > 0 and epoch == self.epochs))
        )
        log_is_kept = evaluate or ends_epoch or _divides(self.log_every, step)
        return Due(
            evaluate=evaluate,
            log=log_is_kept or is_last,
            check_ranks=_divides(self.check_ranks_every, step),
            sample=is_last or (ends_epoch and epoch in self.sample_epochs),
            save=is_last or (ends_epoch and _divides(self.save_every, epoch)) or _divides(self.save_every_steps, step),
            is_last=is_last,
            log_is_kept=log_is_kept,
        )


def _divides(interval: int, count: int) -> bool:
    return interval > 0 and count % interval == 0
