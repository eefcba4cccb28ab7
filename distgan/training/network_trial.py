"""Passes of a user's networks whose errors are sentences that name the layer, for the checks of the contract."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from distgan.config.schema import Config
from distgan.distributed.sharding import BatchShard
from distgan.errors import UserError
from distgan.models.module_copy import copy_network
from distgan.models.user_networks import describe_error, loaded
from distgan.training.forward_watch import ForwardWatch
from distgan.training.trial_inputs import TrialInputs, draw_inputs, with_noise


class NetworkTrial:
    """The inputs of all passes, and what these have shown: `notes`; `draws` by network, and `syncs`, as `layer: op`.

    `sigmoids`: the layer whose sigmoid the last output of a network is, "" for another one. Errors begin with `where`;
    those of a pass that fails end with `expected`.
    """

    expected = ""
    inputs: TrialInputs
    others: TrialInputs

    def __init__(self, config: Config, device: torch.device):
        self.config, self.device = config, device
        networks = loaded(config.model)
        self.where = f"--networks {networks.path}" if networks else f"--family {config.model.family}"
        self.root = networks.root if networks else None
        self.notes: list[str] = []
        self.draws: dict[str, list[str]] = defaultdict(list)
        self.syncs: list[str] = []
        self.sigmoids: dict[str, str] = {}

    def draw_inputs(self, generator: nn.Module) -> None:
        """Draw two sets of inputs of one size. Raises UserError for a latent shape that can't be drawn."""
        with self.errors_named("z of generator.latent_shape"):
            self.inputs, self.others = (draw_inputs(generator, self.config.model, self.device, seed) for seed in (0, 1))
        self.z, self.images, self.labels = self.inputs

    def contract_error(self, text: str, error: BaseException | None = None) -> UserError:
        """Return the error to raise for a failed check, with the exception that caused it."""
        contract_error = UserError(f"{self.where}: {text}", code="bad-networks")
        contract_error.__cause__ = error
        return contract_error

    @contextmanager
    def errors_named(self, what: str) -> Iterator[None]:
        try:
            yield
        except (UserError, torch.OutOfMemoryError):
            raise
        except (Exception, SystemExit) as error:
            raise self.contract_error(f"{what} fails: {self.describe(error)}{self.expected}", error) from error

    def describe(self, error: BaseException) -> str:
        return describe_error(error, self.root) if self.root else f"{type(error).__name__}: {error}"

    def copy(self, name: str, network: nn.Module, shard: BatchShard | None = None) -> nn.Module:
        """Return a copy that draws as in the first pass of a step."""
        return with_noise(copy_network(network, name, self.where), self.device, shard)

    def run(self, name: str, network: nn.Module, *inputs: Tensor) -> Any:
        """Return what a pass gives, and note what it draws and reads."""
        watch = ForwardWatch(name, network)
        try:
            with watch.watching(*inputs):
                output = network(*inputs)
        except (Exception, SystemExit) as error:
            takes = f"forward({'z' if name == 'generator' else 'images'}, labels)"
            expected = (
                f". Expected: {takes}" if isinstance(error, TypeError) and "argument" in str(error) else self.expected
            )
            raise self.contract_error(f"{watch.layer} fails: {self.describe(error)}{expected}", error) from error
        self.draws[name] += [f"{layer}: {what}" for layer, what in watch.draws.items()]
        self.syncs += [f"{layer}: {what}" for layer, what in watch.syncs.items()]
        self.sigmoids[name] = watch.ending_sigmoid(output) if isinstance(output, Tensor) else ""
        if watch.foreign:
            raise self.contract_error(
                f"{name} draws from {watch.foreign[0]} in forward, which no checkpoint keeps. Expected: "
                "distgan.noise.Normal, or torch's"
            )
        if watch.written:
            what = {"generator": ("z", "labels"), "discriminator": ("images", "labels")}.get(name, ("logits", "logits"))
            raise self.contract_error(
                f"{watch.written[0]} changes {what[watch.written[1]]} in place, which other parts of a step read too. "
                "Expected: an operation that returns a new tensor, or inputs that are cloned first"
            )
        if watch.printed:
            note = f"{name} prints in forward, in every step: {watch.printed.splitlines()[0][:60]!r}"
            self.notes += [note] if note not in self.notes else []
        return output
