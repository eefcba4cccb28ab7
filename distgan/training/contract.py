"""Check a user's networks before the first step: what the guarantees of a training need of them.

Each failure is one sentence that names the layer. What only costs something (the graph engine, independence from the
number of processes) is a note, and what it costs is left out of the training. On one process, in seconds.
"""

import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distgan.config.registry import OWN_LOSS
from distgan.config.schema import Config
from distgan.distributed.sharding import BatchShard
from distgan.errors import UserError
from distgan.models.base import build_discriminator, build_generator
from distgan.models.module_copy import check_pair
from distgan.models.user_networks import describe_value
from distgan.training.forward_watch import watched_draws
from distgan.training.gan import Traits
from distgan.training.losses import find_loss
from distgan.training.network_trial import NetworkTrial
from distgan.training.precision_check import check_precision
from distgan.training.resume_trial import STEPS, ResumeTrial
from distgan.training.state_check import check_copy, check_hidden_state, check_state
from distgan.training.trial_inputs import ROWS
from distgan.training.weights_check import find_problem
from distgan.utils.process_state import default_torch_state

_SCALE = 4.0
_ROW_TOLERANCE = 1e-4  # of the largest output: far more than another batch size rounds by


def check_contract(config: Config, device: torch.device) -> Traits:
    """Return what training has to know of the networks of `config`. Raises UserError for what it can't train.

    Takes no random number of the caller's, and restores what the networks change of torch's settings.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), default_torch_state(), redirect_stdout(sys.stderr):
        return _Contract(config, device).check()


class _Contract(NetworkTrial):
    """The checks, in their order: each may rely on those before it."""

    def check(self) -> Traits:
        generator, discriminator = self.build()
        pair = {"generator": generator, "discriminator": discriminator}
        self.draw_inputs(generator)
        self.check_outputs(generator, discriminator)
        self.check_mixtures(generator)
        self.check_loss()
        for name, network in pair.items():
            check_copy(self, name, network)
        self.check_gradients(generator, discriminator)
        for name, network in pair.items():
            check_state(self, name, network)
            check_hidden_state(self, name, network)
        g_mixes = self.mixes_rows("generator", generator)
        mixes_by_layer = d_mixes = self.mixes_rows("discriminator", discriminator)
        if g_mixes or d_mixes:
            names = " and ".join(name for name, mixes in (("G", g_mixes), ("D", d_mixes)) if mixes)
            self.notes.append(
                f"{names}: an output depends on the other images of the batch by more than BatchNorm, so that the "
                "result depends on the number of processes"
            )
        d_mixes = d_mixes or any(isinstance(each, nn.modules.batchnorm._BatchNorm) for each in discriminator.modules())
        if d_mixes and self.config.optim.d_microbatches > 1:
            raise UserError(
                "--d-microbatches: D mixes the images of a batch, so that microbatches give other results "
                f"({self.config.optim.d_microbatches}). Expected: 1, or a D without BatchNorm and the like",
                code="conflicting-settings",
            )
        if d_mixes:
            self.notes.append("D mixes the images of a batch: real and generated images take separate passes")
        needs_contiguous_weights = not self.takes_channels_last(generator, discriminator)
        depends = g_mixes or mixes_by_layer or any(self.draws.values())
        traits = Traits(d_mixes, self.find_eager_only_reason(), needs_contiguous_weights, depends, tuple(self.notes))
        self.check_steps(pair, traits)
        check_precision(self.config, self.device, traits, self.config.run.precision or "fp32")
        return traits

    # -- building -------------------------------------------------------------------------------------

    def build(self) -> tuple[nn.Module, nn.Module]:
        """Build the pair twice from one seed, and once from another, and return the first."""
        pairs, states = [], []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            pair, after = [], []
            for build in (build_generator, build_discriminator):
                pair.append(build(self.config.model))
                after.append(torch.get_rng_state())
            pairs.append(pair)
            states.append(after)
        check_pair(pairs[0][0], pairs[0][1], self.where)
        for index, name in enumerate(("generator", "discriminator")):
            if problem := find_problem(name, pairs[0][index], pairs[1][index]):
                raise self.contract_error(problem)
            if torch.equal(states[0][index], states[2][index]):
                raise self.contract_error(
                    f"build_{name} sets the seed of torch's random numbers, which are then the same for each --seed. "
                    "Expected: no torch.manual_seed, or one within torch.random.fork_rng()"
                )
        generator, discriminator = (network.to(self.device) for network in pairs[0])
        return generator, discriminator

    def copies(self, generator: nn.Module, discriminator: nn.Module) -> tuple[nn.Module, nn.Module]:
        """Return a copy of both in training."""
        return self.copy("generator", generator).train(), self.copy("discriminator", discriminator).train()

    # -- forward --------------------------------------------------------------------------------------

    def check_outputs(self, generator: nn.Module, discriminator: nn.Module) -> None:
        seen = []
        for is_training in (False, True):
            g, d = (each.train(is_training) for each in self.copies(generator, discriminator))
            with torch.no_grad():
                images = self.run("generator", g, self.z, self.labels)
                self.check_output("generator", images, tuple(self.images.shape), "images (N, C, H, W)")
                logits = self.run("discriminator", d, images, self.labels)
                self.check_output("discriminator", logits, (ROWS, 1), "logits (N, 1)")
            seen.append(images)
        for scale in (_SCALE, -_SCALE):
            with torch.no_grad(), self.errors_named("generator with larger weights"):
                wide = self.copy("generator", generator).train()
                for parameter in wide.parameters():
                    parameter.mul_(scale)
                images = wide(self.z * scale, self.labels)
            # An infinite intermediate of the enlarged weights says nothing.
            seen += [images] if images.isfinite().all() else []
        smallest, largest = min(float(each.min()) for each in seen), max(float(each.abs().max()) for each in seen)
        if largest > 1.001:
            raise self.contract_error(
                f"generator gives pixels up to {largest:.3g} with weights as they are or enlarged. Expected: images in "
                "[-1, 1], for example by a last nn.Tanh()"
            )
        if smallest >= 0 and largest > 0:
            layer = self.sigmoids["generator"]
            self.notes.append(
                f"{f'{layer} ends G with a sigmoid: it' if layer else 'generator'} gives pixels in [0, 1], and the "
                "images that D compares them with are in [-1, 1], for example by a last nn.Tanh()"
            )
        if (layer := self.sigmoids["discriminator"]) and self.config.optim.loss != OWN_LOSS:
            self.notes.append(
                f"{layer} ends D with a sigmoid: its logits are in [0, 1], and --loss {self.config.optim.loss} takes "
                "any number: leave out nn.Sigmoid()"
            )

    def check_output(self, name: str, output: Any, shape: tuple[int, ...], what: str) -> None:
        if not isinstance(output, Tensor):
            raise self.contract_error(f"{name} returns {describe_value(output)}. Expected: a tensor, {what}")
        if tuple(output.shape) != shape:
            raise self.contract_error(f"{name} gives the shape {tuple(output.shape)}. Expected: {shape}, {what}")
        if output.dtype != torch.float32:
            raise self.contract_error(f"{name} gives {output.dtype}. Expected: torch.float32, {what}")
        if not output.isfinite().all():
            raise self.contract_error(
                f"{name} gives NaN or infinite values before the first step. Expected: finite {what}"
            )

    def check_mixtures(self, generator: nn.Module) -> None:
        """Give weights over the classes in place of labels to a generator that says that it takes them."""
        num = self.config.model.num_labels
        if not num or not getattr(generator, "takes_mixtures", False):
            return
        network = self.copy("generator", generator).eval()
        weights = F.one_hot(self.labels, num).float()
        self.expected = f". Expected: weights ({ROWS}, {num}) as labels too, or a generator without takes_mixtures"
        with torch.no_grad():
            by_label = network(self.z, self.labels)
            images = self.run("generator", network, self.z, weights.lerp(weights.roll(1, 0), 0.5))
            self.check_output("generator", images, tuple(self.images.shape), "images (N, C, H, W)")
            of_one = self.run("generator", network, self.z, weights)
        if not self.draws["generator"] and not torch.allclose(by_label, of_one, rtol=1e-3, atol=1e-4):
            raise self.contract_error(
                "generator gives other images for a class as weights, a row of 0 and a 1, than for its number"
                + self.expected
            )
        self.expected = ""

    def check_loss(self) -> None:
        """Call both functions of the loss, which may be that of the file; its penalty is a part of the steps."""
        loss = find_loss(self.config.optim.loss, self.config.model)
        logits = torch.linspace(-2, 2, ROWS, device=self.device).view(-1, 1).requires_grad_()
        for key, function in (("d_loss", loss.d_loss), ("g_loss", loss.g_loss)):
            name, values = f"--loss {self.config.optim.loss}: {key}", []
            for _ in range(2):
                torch.manual_seed(0)
                values.append(self.run(name, LossFunction(function), logits, -logits))
                self.check_output(name, values[-1], (), "a scalar")
                self.check_has_gradient(name, values[-1], "a scalar")
            if not torch.equal(*values):
                raise self.contract_error(
                    f"{name} depends on earlier calls, which no checkpoint keeps. Expected: a function of the logits"
                )

    def check_has_gradient(self, name: str, output: Tensor, what: str) -> None:
        if not output.requires_grad:
            raise self.contract_error(
                f"{name} gives {what} without a gradient, for example after detach(), .data or torch.no_grad(). "
                "Expected: none of these on the way to it"
            )

    def check_gradients(self, generator: nn.Module, discriminator: nn.Module) -> None:
        """Take a gradient of each network by the way that a step takes."""
        g, d = self.copies(generator, discriminator)
        with self.errors_named("the backward pass"):
            images = g(self.z, self.labels)
            self.check_has_gradient("generator", images, "images")
            images.retain_grad()
            logits = d(images, self.labels)
            self.check_has_gradient("discriminator", logits, "logits")
            with watched_draws(generator=g, discriminator=d) as again:
                logits.sum().backward()
        if again:
            raise self.contract_error(
                f"{again[0]} draws anew in the backward pass. Expected: no torch.utils.checkpoint around it"
            )
        # D first, through which G's come.
        self.check_gradients_of("discriminator", d)
        if images.grad is None:
            raise self.contract_error(
                "discriminator gives G no gradient: its logits do not depend on the images, or on detached ones alone. "
                "Expected: images that are used without detach(), .data or torch.no_grad()"
            )
        if not images.grad.isfinite().all():
            raise self.contract_error(
                "discriminator has a gradient by the images that is NaN or infinite. Expected: a finite one"
            )
        self.check_gradients_of("generator", g)

    def check_gradients_of(self, name: str, network: nn.Module) -> None:
        unused = [key for key, parameter in network.named_parameters() if parameter.grad is None]
        if unused:
            more = f", nor do {len(unused) - 1} more" if len(unused) > 1 else ""
            raise self.contract_error(
                f"{name}.{unused[0]} gets no gradient{more}: forward does not use it, or detaches what it gives, and "
                "several processes would wait for it for ever. Expected: parameters that an output depends on, or none"
            )
        for key, parameter in network.named_parameters():
            assert parameter.grad is not None
            if parameter.grad.is_sparse:
                raise self.contract_error(
                    f"{name}.{key} gets a sparse gradient, which Adam and several processes do not take. Expected: a "
                    "layer with sparse=False"
                )
            if not parameter.grad.isfinite().all():
                raise self.contract_error(
                    f"{name}.{key} gets a gradient that is NaN or infinite. Expected: a finite one"
                )

    def takes_channels_last(self, generator: nn.Module, discriminator: nn.Module) -> bool:
        """True if both run with channels-last weights, which GPUs prefer and which not every `view` takes."""
        g, d = self.copies(generator, discriminator)
        try:
            for network in (g, d):
                network.to(memory_format=torch.channels_last)  # which weights of five dimensions do not take
            d(g(self.z, self.labels), self.labels).sum().backward()
        except RuntimeError:
            return False
        return True

    # -- what is the same on many processes -----------------------------------------------------------

    def mixes_rows(self, name: str, network: nn.Module) -> bool:
        """True if a row depends on others by more than BatchNorm, with the initial weights or with other ones."""
        if self.depends_on_other_rows(name, network):
            return True
        changed = self.copy(name, network)
        _perturb(changed)  # a gate of 0, or weights that are small at first, would hide what training brings out
        try:
            return self.depends_on_other_rows(name, changed)
        except UserError:  # of weights that its initialization would not give
            return False

    def depends_on_other_rows(self, name: str, network: nn.Module) -> bool:
        """True if what one of two processes would compute is not its part of what one process computes.

        Where torch's random numbers are drawn, which then differ too, the first row beside other ones is compared.
        """

        def run(inputs: Tensor, rows: slice, shard: BatchShard) -> Tensor:
            own = self.copy(name, network, shard).train()
            for module in own.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
            torch.manual_seed(0)
            with torch.no_grad(), self.errors_named(f"{name} with other rows of the batch"):
                output: Tensor = own(inputs[rows], self.labels[rows])
                return output

        inputs, all_rows = self.inputs.of(name), slice(None)
        full = run(inputs, all_rows, BatchShard())
        if self.draws[name]:
            beside = torch.cat([inputs[:1], self.others.of(name)[1:]])
            expected, actual = full[:1], run(beside, all_rows, BatchShard())[:1]
        else:
            expected, actual = full[1::2], run(inputs, slice(1, None, 2), BatchShard(1, 2))
        difference = float((expected - actual).abs().max())
        # False for NaN too, which perturbed weights may give.
        return difference > _ROW_TOLERANCE * float(full.abs().max())

    def find_eager_only_reason(self) -> str:
        """Note what was drawn and read, and return why neither a graph nor a compiler can take the steps."""
        draws, syncs = (list(dict.fromkeys(each)) for each in (chain(*self.draws.values()), self.syncs))
        if draws:
            self.notes.append(
                f"{_first(draws)} draws torch's random numbers in forward, so that the result depends on the number of "
                "processes, and every step is eager (distgan.noise has layers without either loss)"
            )
        if syncs:
            self.notes.append(
                f"{_first(syncs)} reads or makes a value on the host in forward, so that a GPU waits and every step is "
                "eager"
            )
        if draws:
            return f"{_first(draws)} draws torch's random numbers"
        return f"{_first(syncs)} looks at a value on the host" if syncs else ""

    # -- steps ----------------------------------------------------------------------------------------

    def check_steps(self, pair: dict[str, nn.Module], traits: Traits) -> None:
        """Take steps, save, load into other networks, and take more of them by both: these must end alike."""
        trial = ResumeTrial(self.config, self.device, traits)
        with self.errors_named(f"a step with --loss {self.config.optim.loss}"):
            trial.take_steps()
        with self.errors_named("a checkpoint of its tensors"):
            trial.save()
        if key := trial.find_difference(self.where):
            for name, trained in (("generator", trial.gan.generator), ("discriminator", trial.gan.discriminator)):
                check_hidden_state(self, name, pair[name], trained)
            raise self.contract_error(
                f"{STEPS} steps, a checkpoint, and {STEPS} more do not end as {2 * STEPS} steps: {key} is the "
                "first tensor that differs, by a state of G, D or the loss beside their tensors. Expected: all that a "
                "pass depends on in parameters and buffers"
            )


class LossFunction(nn.Module):
    """A function of a loss as a network, whose calls can be watched."""

    def __init__(self, function: Callable[..., Any]):
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


def _perturb(network: nn.Module) -> None:
    """Move each weight, by an amount that keeps the size of what layers give, up or down at random."""
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            inputs = max(1, parameter[0].numel()) if parameter.dim() > 1 else 4
            signs = torch.randint(2, parameter.shape, generator=source).mul(2).sub(1)
            parameter.add_(signs.to(parameter.device), alpha=0.5 / inputs**0.5)


def _first(found: list[str]) -> str:
    return found[0] + (f" (and {len(found) - 1} more)" if len(found) > 1 else "")
