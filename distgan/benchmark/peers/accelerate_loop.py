"""A plain Hugging Face Accelerate loop, with distgan's networks and losses."""

import torch
from accelerate import Accelerator
from torch import optim

from distgan.benchmark.peers import common


def main() -> None:
    """Train by the RunSpec in the program's argument, and print its timing."""
    spec = common.read_spec()
    config, settings = spec.config, spec.config.optim
    torch.manual_seed(0)
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(), mixed_precision="bf16" if config.run.precision == "bf16" else "no"
    )
    device = accelerator.device

    generator, discriminator = common.build_networks(config)
    betas = settings.beta1, settings.beta2
    opt_g = optim.Adam(generator.parameters(), lr=settings.g_lr, betas=betas)
    opt_d = optim.Adam(discriminator.parameters(), lr=settings.d_lr, betas=betas)
    generator, discriminator, opt_g, opt_d, loader = accelerator.prepare(
        generator, discriminator, opt_g, opt_d, common.load_mnist(config)
    )
    network = accelerator.unwrap_model(generator)
    average = common.build_average(network, config)
    clock = common.Clock(spec)

    for step, (real, labels) in clock.batches(loader):
        opt_d.zero_grad()
        fake = generator(common.draw_z(len(real), network, device), labels)
        loss_d, real_logits = common.d_loss(discriminator, real, fake.detach(), labels, config)
        accelerator.backward(loss_d)
        opt_d.step()

        opt_g.zero_grad()
        loss_g = common.loss_of(config).g_loss(discriminator(fake, labels), real_logits)
        accelerator.backward(loss_g)
        opt_g.step()
        average(network)

        if step % 50 == 0:
            accelerator.print(f"step {step} loss_d {loss_d.item():.4f} loss_g {loss_g.item():.4f}")

    clock.report()


if __name__ == "__main__":
    main()
