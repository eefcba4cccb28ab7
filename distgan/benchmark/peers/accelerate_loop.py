"""A plain Hugging Face Accelerate loop, with distgan's networks."""

import common
import torch
from accelerate import Accelerator
from torch import nn, optim


def main() -> None:
    args = common.parse_args(__doc__)
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision=args.precision)
    device = accelerator.device

    generator, discriminator = common.build_networks(args.model)
    latent_shape = generator.latent_shape
    opt_g = optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    opt_d = optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    generator, discriminator, opt_g, opt_d, loader = accelerator.prepare(
        generator, discriminator, opt_g, opt_d, common.load_mnist(args)
    )
    criterion = nn.BCEWithLogitsLoss()
    clock = common.Clock(args)

    for step, (real, labels) in clock.batches(loader):
        ones, zeros = torch.ones(len(real), 1, device=device), torch.zeros(len(real), 1, device=device)

        opt_d.zero_grad()
        loss_real = criterion(discriminator(real, labels), ones)
        accelerator.backward(loss_real)
        fake = generator(torch.randn(len(real), *latent_shape, device=device), labels)
        loss_fake = criterion(discriminator(fake.detach(), labels), zeros)
        accelerator.backward(loss_fake)
        opt_d.step()

        opt_g.zero_grad()
        loss_g = criterion(discriminator(fake, labels), ones)
        accelerator.backward(loss_g)
        opt_g.step()

        if step % 50 == 0:
            loss_d = loss_real.item() + loss_fake.item()
            accelerator.print(f"step {step} loss_d {loss_d:.4f} loss_g {loss_g.item():.4f}")

    clock.report()


if __name__ == "__main__":
    main()
