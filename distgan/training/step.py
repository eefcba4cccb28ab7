"""One training step, of D and of G, for every model, loss and update order."""

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor

from distgan.config.registry import ORDERS
from distgan.config.schema import OptimConfig
from distgan.training.gan import Gan
from distgan.training.losses import penalty_weight
from distgan.training.lr_schedule import Schedule, StepScalars

STATS = ("d_loss", "g_loss", "real_logits", "fake_logits")

# (real, labels, scalars) -> the STATS of one step, (4,), of the rows in `gan.shard`. All tensors are on the device, and
# `gan.step` is not read, so that a CUDA graph can replay it for any step. STATS are weighted: their mean over the ranks
# is the mean over the global batch.
DeviceStep = Callable[[Tensor, Tensor, StepScalars], Tensor]

# (real, labels, rows) of a Batch -> the same, and `gan.step` is incremented.
Step = Callable[[Tensor, Tensor, range], Tensor]


def build_step(gan: Gan, config: OptimConfig, seed: int, total_steps: int) -> Step:
    """Return a function that takes one step on a Batch and increments `gan.step`."""
    device_step, schedule = build_device_step(gan, config), Schedule(config, seed, total_steps, gan.device)

    def step(real: Tensor, labels: Tensor, rows: range) -> Tensor:
        with gan.shard.bind(rows):
            stats = device_step(real, labels, schedule.at(gan.step))
        gan.step += 1
        return stats

    return step


def build_device_step(gan: Gan, config: OptimConfig) -> DeviceStep:
    """Return the device-only step of the configured loss and update order."""
    G, D, shard, noise = gan.g, gan.d, gan.shard, gan.noise
    loss, order = gan.loss, ORDERS[config.order]
    weight = penalty_weight(config, loss)

    def d_backward(real: Tensor, fake: Tensor, labels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Accumulate D's gradients: by one pass of real and fake joined, which equals two, or by two if D mixes rows.

        Also returns D's logits on the real images of each microbatch, for G's loss.
        """
        D.zero_grad()
        stats, all_real_logits, batch_rows = [], [], shard.rows

        @cache
        def uniform() -> Tensor:
            """Draw for all microbatches at once, and only if the penalty needs it."""
            with shard.bind(batch_rows):
                return noise.uniform()

        for index, (rows, share) in enumerate(shard.microbatches(config.d_microbatches)):
            with D.accumulating(is_last=index == config.d_microbatches - 1):
                if D.module._distgan_mixes_rows:
                    noise.begin_forward()
                    real_logits = D(real[rows], labels[rows])
                    noise.begin_forward()
                    fake_logits = D(fake[rows], labels[rows])
                else:
                    inputs = torch.cat([real[rows], fake[rows]]), torch.cat([labels[rows], labels[rows]])
                    noise.begin_forward()
                    real_logits, fake_logits = D(*inputs).chunk(2)
                d_loss = total = loss.d_loss(real_logits, fake_logits)
                if loss.penalty is not None and weight:
                    # On D's module: DDP expects one forward per backward, whose gradients it averages.
                    noise.begin_forward()
                    penalty = loss.penalty(
                        D.module, real[rows], fake[rows], labels[rows], partial(_draw_rows, uniform, rows)
                    )
                    total = d_loss + weight * penalty
                D.backward(_weight(total, share))
            means = [d_loss.detach(), real_logits.detach().mean(), fake_logits.detach().mean()]
            stats.append(_weight(torch.stack(means), share))
            all_real_logits.append(real_logits.detach())
        return stats[0] if len(stats) == 1 else torch.stack(stats).sum(0), all_real_logits

    def g_backward(fake: Tensor, labels: Tensor, all_real_logits: list[Tensor]) -> Tensor:
        """Accumulate G's gradients through D, which is frozen: its gradients are not needed.

        D processes microbatches; G the full batch at once, as its BatchNorm needs.
        """
        G.zero_grad()
        D.module.requires_grad_(False)
        if config.d_microbatches == 1:
            noise.begin_forward()
            g_loss = _weight(loss.g_loss(D.module(fake, labels), all_real_logits[0]), shard.weight)
            G.backward(g_loss)
        else:
            leaf, losses = fake.detach().requires_grad_(True), []
            for (rows, share), real_logits in zip(
                shard.microbatches(config.d_microbatches), all_real_logits, strict=True
            ):
                noise.begin_forward()
                losses.append(loss.g_loss(D.module(leaf[rows], labels[rows]), real_logits) * share)
                G.backward_to_leaf(losses[-1])
            assert leaf.grad is not None
            G.backward_from(fake, leaf.grad)
            g_loss = torch.stack(losses).sum()
        D.module.requires_grad_(True)
        return g_loss.detach()

    def generate(network: Callable[..., Tensor], labels: Tensor) -> Tensor:
        z = noise.z()
        if gan.g_draws:
            noise.begin_forward()
        return network(z, labels)

    def update(real: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if order.draws_anew:  # these fakes are only for D
            with torch.no_grad():
                fake = generate(G.module, labels)
        else:
            fake = generate(G, labels)
        d_stats, all_real_logits = d_backward(real, fake.detach(), labels)
        if order.updates_d_first:
            D.step()
        g_loss = g_backward(generate(G, labels) if order.draws_anew else fake, labels, all_real_logits)
        if not order.updates_d_first:
            D.step()
        G.step()
        return d_stats, g_loss

    def step(real: Tensor, labels: Tensor, scalars: StepScalars) -> Tensor:
        noise.begin_step(scalars.key)
        if config.lr_schedule != "constant":
            G.set_lr(scalars.rates[0])
            D.set_lr(scalars.rates[1])
        (d_loss, real_logits, fake_logits), g_loss = update(real, labels)
        if gan.ema:
            with G.full_params():
                gan.ema.update(G.module, scalars.rates[2])
        return torch.stack([d_loss, g_loss, real_logits, fake_logits])

    return step


def _weight(loss: Tensor, weight: float) -> Tensor:
    """Return `loss * weight`, without a kernel for a weight of 1, as on one process."""
    return loss if weight == 1 else loss * weight


def _draw_rows(draw: Callable[[], Tensor], rows: slice) -> Tensor:
    return draw()[rows]
