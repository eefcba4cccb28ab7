"""What is trained: two networks, their optimizers, the moving average, and a step count."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from distgan.batchnorm import synchronised
from distgan.config import ModelConfig, OptimConfig
from distgan.ema import Ema
from distgan.errors import UserError
from distgan.models import build_discriminator, build_generator
from distgan.models.dropout import share_rows
from distgan.runtime import Runtime


@dataclass
class Gan:
    """`generator` and `discriminator` are the bare networks; `ddp_*` are the same inside DDP, if any."""

    generator: nn.Module
    discriminator: nn.Module
    ddp_generator: nn.Module
    ddp_discriminator: nn.Module
    g_optim: Any
    d_optim: Any
    ema: Ema | None
    step: int = 0

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return self.generator.latent_shape  # type: ignore[return-value]  # Module's attributes have no types

    def sampling_state(self) -> dict[str, Tensor]:
        """The weights to draw samples with: the moving average where there is one."""
        return (self.ema.network if self.ema else self.generator).state_dict()

    def networks(self) -> dict[str, nn.Module]:
        """Each network by the name of its file."""
        networks = {"generator": self.generator, "discriminator": self.discriminator}
        return networks | {"generator_ema": self.ema.network} if self.ema else networks

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, as flat tensors on the CPU that later steps do not change."""
        tensors = {
            f"{name}.{key}": value.detach().to("cpu", copy=True)
            for name, network in self.networks().items()
            for key, value in network.state_dict().items()
        }
        for name, optim, network in self._optimizers():
            for parameter, moments in zip(parameter_names(network), _adam_states(optim), strict=False):
                for key, value in moments.items():
                    tensors[f"{name}.{parameter}.{key}"] = value.to("cpu", copy=True)
        return tensors

    def load_state(self, tensors: dict[str, Tensor], step: int, where: str) -> None:
        """The inverse of `state`. Raises UserError that names `where` for a state of other networks.

        A moving average that the state does not have starts at G's weights.
        """
        if not below(tensors, "generator_ema"):
            average = {f"generator_ema.{key}": value for key, value in below(tensors, "generator").items()}
            tensors = tensors | average
        for name, network in self.networks().items():
            load_weights(network, below(tensors, name), f"{where}: {name}")
        for name, optim, network in self._optimizers():
            own = below(tensors, name)
            # Before the first step Adam has no moments, and so they are not in the file either.
            moments = _moments(own, network, f"{where}: {name}") if own or step else []
            state = dict(enumerate(moments))
            optim.load_state_dict({"state": state, "param_groups": optim.state_dict()["param_groups"]})
        self.step = step

    def is_finite(self) -> bool:
        """Whether every weight is a number. Waits for the device."""
        norms = torch._foreach_norm([p for network in self.networks().values() for p in network.parameters()])
        return bool(torch.stack(list(norms)).isfinite().all())

    def _optimizers(self) -> Iterable[tuple[str, Any, nn.Module]]:
        return (("g_optim", self.g_optim, self.generator), ("d_optim", self.d_optim, self.discriminator))


def build_gan(model: ModelConfig, optim: OptimConfig, seed: int, runtime: Runtime) -> Gan:
    """Both networks with weights drawn from `seed`, the same on every rank."""
    torch.manual_seed(seed)
    generator, discriminator = build_generator(model), build_discriminator(model)
    if runtime.world_size > 1:
        generator = synchronised(generator, runtime.device)
    for network in (generator, discriminator):
        share_rows(network, runtime.rank, runtime.world_size)
    # Copied before `prepare`, which puts autocast around the forward of what it is given.
    ema = Ema(generator.to(runtime.device), optim.ema_decay) if optim.ema_decay else None
    betas = (optim.beta1, optim.beta2)
    ddp_generator, ddp_discriminator, g_optim, d_optim = runtime.prepare(
        generator,
        discriminator,
        Adam(generator.parameters(), lr=optim.g_lr, betas=betas),
        Adam(discriminator.parameters(), lr=optim.d_lr, betas=betas),
    )
    return Gan(
        runtime.unwrap(ddp_generator),
        runtime.unwrap(ddp_discriminator),
        ddp_generator,
        ddp_discriminator,
        g_optim,
        d_optim,
        ema,
    )


def load_weights(network: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Raises UserError that names the first tensor that is missing, of another shape or unknown."""
    expected = network.state_dict()
    for key, value in expected.items():
        if key not in tensors:
            raise UserError(
                f"{where}: lacks the tensor {key}; allowed: the weights of the network in its config"
            )
        if tensors[key].shape != value.shape:
            raise UserError(
                f"{where}: {key} has the shape {list(tensors[key].shape)}; the network in its config has "
                f"{list(value.shape)}"
            )
    for key in tensors:
        if key not in expected:
            raise UserError(f"{where}: {key} is no tensor of the network in its config")
    network.load_state_dict(tensors)


def _moments(tensors: dict[str, Tensor], network: nn.Module, where: str) -> list[dict[str, Tensor]]:
    """Adam's state of each parameter. Raises UserError for one that is missing or of another shape."""
    moments = []
    for name, parameter in network.named_parameters():
        own = below(tensors, name)
        shapes = {"exp_avg": parameter.shape, "exp_avg_sq": parameter.shape, "step": torch.Size([])}
        for key, shape in shapes.items():
            if key not in own or own[key].shape != shape:
                found = list(own[key].shape) if key in own else "not there"
                raise UserError(
                    f"{where}: {name}.{key} is {found}; allowed: a tensor of the shape {list(shape)}"
                )
        moments.append(own)
    return moments


def parameter_names(network: nn.Module) -> list[str]:
    return [name for name, _ in network.named_parameters()]


def _adam_states(optim: Any) -> list[dict[str, Tensor]]:
    state = optim.state_dict()["state"]
    return [state[index] for index in sorted(state)]


def below(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors whose key starts with `name.`, without it."""
    return {key[len(name) + 1 :]: value for key, value in tensors.items() if key.startswith(name + ".")}
