"""A training session: ranks, images, networks and batches, built and closed in one place.

Used by `distgan train`, the workers of `distgan bench`, the parity checks and the tests.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from distgan.config.presets import read_run_config
from distgan.config.schema import Config, ModelConfig
from distgan.data.base import Dataset, keep_class_names, load_dataset
from distgan.data.loader import Batches, global_batch_size, min_batch_size
from distgan.distributed.runtime import Runtime, open_runtime
from distgan.errors import UserError
from distgan.models.user_networks import load_networks
from distgan.training.cadence import Cadence
from distgan.training.contract import check_contract
from distgan.training.engines.engine import Clock, Engine, build_engine
from distgan.training.engines.graphs import Capture
from distgan.training.gan import NO_TRAITS, Traits, build_gan
from distgan.training.losses import find_loss, with_penalty_weight
from distgan.utils.provenance import Startup


class Session:
    """All ranks build it and call its methods. `config` is resolved: it has the data set and the precision in use.

    `dataset` replaces the one in the config, and `traits` the check of a user's networks. Raises UserError on all
    ranks if one raises it.
    """

    def __init__(
        self,
        config: Config,
        runtime: Runtime,
        *,
        dataset: Dataset | None = None,
        startup: Startup | None = None,
        traits: Traits | None = None,
    ):
        startup = startup or Startup()
        config = load_networks(config)
        self.runtime = runtime
        self.dataset = dataset or runtime.run_on_all_ranks(
            lambda: load_dataset(config.data, may_download=runtime.is_local_main), local_main_first=True
        )
        check_classes(self.dataset, config.model)
        self.fingerprint = self.dataset.fingerprint  # takes seconds for gigabytes of images
        runtime.check_same_on_ranks("data's fingerprint", self.fingerprint)
        if self.dataset.path:  # rank 0 reads: no other needs the run's folder
            run = runtime.run_on_rank0(lambda: read_run_config(config.run.out, config.run.resume))
            self.dataset = keep_class_names(self.dataset, self.fingerprint, run) if run else self.dataset
        data = self.dataset
        fingerprint = self.fingerprint if data.path else None  # of a user's own images
        self.batch_size = global_batch_size(config.data, runtime.world_size)
        config = config.resolved(data.path or data.name, runtime.precision, data.spec, fingerprint)
        optim = with_penalty_weight(config.optim, config.model, self.batch_size)
        self.config = config = config.model_copy(update={"optim": optim})
        startup.mark("data")
        self.traits = traits or NO_TRAITS
        if config.model.networks and traits is None:
            # Rank 0 may need longer than --timeout; the others wait for it.
            recorded = runtime.run_on_all_ranks(
                lambda: check_contract(config, runtime.device) if runtime.is_main else NO_TRAITS, local_main_first=True
            )
            self.traits = runtime.all_gather_object(recorded)[0]
        self.gan = build_gan(
            config.model,
            config.optim,
            config.run.seed,
            runtime,
            sync_batch_norm=config.processes.sync_batch_norm,
            traits=self.traits,
        )
        self.batches = Batches(
            self.gan.prepare_labels(self.dataset),
            self.batch_size,
            self.gan.shard,
            drop_last=config.data.drop_last,
            seed=config.run.seed,
            device=runtime.device,
            fewest=min_batch_size(config, runtime.world_size),
            flip=config.data.flip,
        )
        self.steps_per_epoch = self.batches.steps_per_epoch
        # The learning rate schedule spans all epochs, whether or not this run takes all steps.
        self.total_steps = config.run.epochs * self.steps_per_epoch
        self.last_step = min(self.total_steps, config.run.max_steps or self.total_steps)
        startup.mark("networks")

    def cadence(self, eval_every_steps: int = 0) -> Cadence:
        """Return the intervals of the run; `eval_every_steps` applies if the config has none."""
        return Cadence.from_config(self.config, self.steps_per_epoch, self.last_step, eval_every_steps)

    def build_engine(
        self, *, total_steps: int | None = None, capture: Capture | None = None, clock: Clock = time.perf_counter
    ) -> Engine:
        """Return the engine for the steps from `gan.step` on. Call it after a resume.

        `total_steps` replaces the run's, for a benchmark. `capture` replaces the capture of CUDA graphs, `clock` the
        clock for timing engines.
        """
        last_step = self.last_step if total_steps is None else total_steps
        total = total_steps or self.total_steps
        return build_engine(self.gan, self.batches, self.config, self.runtime, total, capture, last_step, clock)


def check_classes(dataset: Dataset, model: ModelConfig) -> None:
    """Raise UserError for own images of fewer than two classes with a conditional model."""
    if dataset.listed and model.is_conditional and dataset.spec.num_classes < 2:
        where = {"folder": "a sub-folder for each", ".zip": "a folder for each"}.get(dataset.listed.kind, "labels")
        raise UserError(
            f"--data {dataset.path}: its images have {'one class' if dataset.spec.num_classes else 'no classes'}, as "
            f"{dataset.listed.locate(0)}, and --model {model.name} needs several. Expected: 2 or more classes, by "
            f"{where}, or --preset images-fast-unlabelled",
            code="images-do-not-fit",
        )


@contextmanager
def open_session(
    config: Config, *, runtime: Runtime | None = None, dataset: Dataset | None = None, startup: Startup | None = None
) -> Iterator[Session]:
    """Build a Session on a new runtime; close it and restore the process state when the block ends.

    A given `runtime` is used and left open.
    """
    startup = startup or Startup()
    config = load_networks(config)  # before the ranks compare its hash
    has_penalty = find_loss(config.optim.loss, config.model).penalty is not None
    context = nullcontext(runtime) if runtime else open_runtime(config, has_penalty=has_penalty)
    with context as runtime:
        startup.mark("processes")
        yield Session(config, runtime, dataset=dataset, startup=startup)
