"""A plain PyTorch loop in the manner of PyTorch's DCGAN example, with distgan's networks and losses."""

import torch
from torch import optim

from distgan.benchmark.peers import common


def main() -> None:
    """Train by the RunSpec in the program's argument, and print its timing."""
    spec = common.read_spec()
    config, settings = spec.config, spec.config.optim
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.run.precision == "bf16")

    generator, discriminator = (network.to(device) for network in common.build_networks(config))
    betas = settings.beta1, settings.beta2
    opt_g = optim.Adam(generator.parameters(), lr=settings.g_lr, betas=betas)
    opt_d = optim.Adam(discriminator.parameters(), lr=settings.d_lr, betas=betas)
    average = common.build_average(generator, config)
    clock = common.Clock(spec)

    for step, (images, classes) in clock.batches(common.load_mnist(config)):
        real, labels = images.to(device), classes.to(device)

        z = common.draw_z(len(real), generator, device)
        discriminator.zero_grad()
        with autocast:
            fake = generator(z, labels)
            loss_d, real_logits = common.d_loss(discriminator, real, fake.detach(), labels, config)
        loss_d.backward()
        opt_d.step()

        generator.zero_grad()
        with autocast:
            loss_g = common.loss_of(config).g_loss(discriminator(fake, labels), real_logits)
        loss_g.backward()
        opt_g.step()
        average(generator)

        print(f"step {step} loss_d {loss_d.item():.4f} loss_g {loss_g.item():.4f}")

    clock.report()


if __name__ == "__main__":
    main()
