"""One D step and one G step for every model and loss, and the three orders in which they are taken."""

from collections.abc import Callable

import torch
from torch import Tensor

from distgan.config import OptimConfig
from distgan.gan import Gan
from distgan.losses import LOSSES
from distgan.noise import Noise
from distgan.runtime import Runtime

STATS = ("d_loss", "g_loss", "real_logits", "fake_logits")

# (real, labels) -> the STATS of one step, (4,), on the device: nothing here waits for it.
Step = Callable[[Tensor, Tensor], Tensor]


def build_step(gan: Gan, config: OptimConfig, seed: int, runtime: Runtime, total_steps: int) -> Step:
    """The step in the order that the config names."""
    loss = LOSSES[config.loss]
    weight = loss.penalty_weight if config.penalty_weight is None else config.penalty_weight
    noise = Noise(seed, gan.latent_shape, runtime.device, runtime.rank, runtime.world_size)

    def d_backward(real: Tensor, fake: Tensor, labels: Tensor) -> Tensor:
        """D's gradients. D has no BatchNorm, so real and fake joined in one pass are two passes."""
        D = gan.ddp_discriminator
        real_logits, fake_logits = D(torch.cat([real, fake]), torch.cat([labels, labels])).chunk(2)
        d_loss = total = loss.d_loss(real_logits, fake_logits)
        if loss.penalty is not None and weight:
            # On the bare D: DDP adds up all gradients of a backward, but expects one forward before it.
            total = d_loss + weight * loss.penalty(gan.discriminator, real, fake, labels, noise.uniform)
        gan.d_optim.zero_grad()
        runtime.backward(total)
        return torch.stack([d_loss.detach(), real_logits.detach().mean(), fake_logits.detach().mean()])

    def g_backward(fake: Tensor, labels: Tensor) -> Tensor:
        """G's gradients through a frozen D, whose own would be computed only to be thrown away."""
        gan.discriminator.requires_grad_(False)
        g_loss = loss.g_loss(gan.discriminator(fake, labels))
        gan.g_optim.zero_grad()
        runtime.backward(g_loss)
        gan.discriminator.requires_grad_(True)
        return g_loss.detach()

    def simultaneous(real: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        fake = gan.ddp_generator(noise.z(len(real)), labels)
        d_stats = d_backward(real, fake.detach(), labels)
        g_loss = g_backward(fake, labels)
        gan.d_optim.step()
        gan.g_optim.step()
        return d_stats, g_loss

    def reuse(real: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        fake = gan.ddp_generator(noise.z(len(real)), labels)
        d_stats = d_backward(real, fake.detach(), labels)
        gan.d_optim.step()
        g_loss = g_backward(fake, labels)
        gan.g_optim.step()
        return d_stats, g_loss

    def fresh(real: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            fake = gan.generator(noise.z(len(real)), labels)
        d_stats = d_backward(real, fake, labels)
        gan.d_optim.step()
        g_loss = g_backward(gan.ddp_generator(noise.z(len(real)), labels), labels)
        gan.g_optim.step()
        return d_stats, g_loss

    order = {"simultaneous": simultaneous, "reuse": reuse, "fresh": fresh}[config.order]

    def step(real: Tensor, labels: Tensor) -> Tensor:
        noise.start(gan.step)
        if config.lr_schedule == "linear":
            set_lr(gan.g_optim, config.g_lr * (1 - gan.step / total_steps))
            set_lr(gan.d_optim, config.d_lr * (1 - gan.step / total_steps))
        (d_loss, real_logits, fake_logits), g_loss = order(real, labels)
        gan.step += 1
        if gan.ema:
            gan.ema.update(gan.generator, gan.step)
        return torch.stack([d_loss, g_loss, real_logits, fake_logits])

    return step


def set_lr(optim: torch.optim.Optimizer, lr: float) -> None:
    for group in optim.param_groups:
        group["lr"] = lr
