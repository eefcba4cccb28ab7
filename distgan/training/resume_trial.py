"""Try whether a user's networks resume: steps, a checkpoint, and more steps, against as many without a stop."""

import torch
from torch import Tensor

from distgan.config.schema import Config
from distgan.distributed.wrappers import LocalRuntime
from distgan.training.gan import Gan, Traits, build_gan
from distgan.training.losses import with_penalty_weight
from distgan.training.step import Step, build_step
from distgan.training.trial_inputs import ROWS, draw_inputs
from distgan.utils.files import pack_tensors

STEPS = 3
_NOISE = 10  # times the difference of two trainings that should not differ


class ResumeTrial:
    """A training of a few steps on one process. Its methods are called in their order."""

    def __init__(self, config: Config, device: torch.device, traits: Traits, precision: str = "fp32"):
        self.model, self.device, self.traits, self.precision = config.model, device, traits, precision
        optim = with_penalty_weight(config.optim, config.model, ROWS)
        self.optim = optim.model_copy(update={"ema_decay": optim.ema_decay or 0.9, "d_microbatches": 1})
        self.gan, self.step = self._build(1)
        self.inputs = draw_inputs(self.gan.generator, config.model, device)

    def _build(self, seed: int) -> tuple[Gan, Step]:
        runtime = LocalRuntime(self.device, self.precision)
        gan = build_gan(self.model, self.optim, seed, runtime, traits=self.traits)  # type: ignore[arg-type]
        return gan, build_step(gan, self.optim, 0, 2 * STEPS)

    def take_steps(self, step: Step | None = None, num: int = STEPS) -> None:
        """Take steps, of this training or by `step`."""
        for _ in range(num):
            (step or self.step)(self.inputs.images, self.inputs.labels, range(ROWS))

    def save(self) -> None:
        """Keep the state for `find_difference`. Raises what a checkpoint raises for tensors that it can't hold."""
        self.state, is_cuda = self.gan.state(), self.device.type == "cuda"
        pack_tensors(self.state, {})
        self.random_states = torch.get_rng_state(), torch.cuda.get_rng_state(self.device) if is_cuda else None

    def find_difference(self, where: str) -> str:
        """Return the first tensor in which this training and one that resumes it end unlike, "" without one.

        `where` names the networks in errors.
        """
        self.take_steps()
        resumed = self._resume(2, where)
        # A GPU may add up gradients in any order.
        again = self._resume(3, where) if self.device.type == "cuda" else resumed
        return find_difference(self.gan.state(), resumed, again)

    def _resume(self, seed: int, where: str) -> dict[str, Tensor]:
        """Return the end of a training that continues from `state`, with weights of another seed before."""
        gan, step = self._build(seed)
        gan.load_state(self.state, STEPS, where)
        torch.set_rng_state(self.random_states[0])
        if self.random_states[1] is not None:
            torch.cuda.set_rng_state(self.random_states[1], self.device)
        self.take_steps(step)
        return gan.state()


def find_difference(straight: dict[str, Tensor], resumed: dict[str, Tensor], again: dict[str, Tensor]) -> str:
    """Return the first tensor of `straight` that is not that of `resumed`, "" without one.

    All bits count, unless `again`, which was resumed once more, has other ones.
    """
    if unlike := sorted(straight.keys() ^ resumed.keys() | straight.keys() ^ again.keys()):
        return unlike[0]
    is_exact = all(torch.equal(resumed[key], again[key]) for key in resumed)
    for key, value in straight.items():
        if torch.equal(value, resumed[key]) or not value.isfinite().all():
            continue
        one, other, repeated = (each.double() for each in (value, resumed[key], again[key]))
        if is_exact or (one - other).norm() > _NOISE * (repeated - other).norm() + 1e-2 * other.norm():
            return key
    return ""
