"""A plain PyTorch loop in the manner of PyTorch's DCGAN example, with distgan's networks."""

import common
import torch
from torch import nn, optim


def main() -> None:
    args = common.parse_args(__doc__)
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16")

    generator, discriminator = (network.to(device) for network in common.build_networks(args.model))
    opt_g = optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    opt_d = optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    criterion = nn.BCEWithLogitsLoss()
    clock = common.Clock(args)

    for step, (images, classes) in clock.batches(common.load_mnist(args)):
        real, labels = images.to(device), classes.to(device)
        ones, zeros = torch.ones(len(real), 1, device=device), torch.zeros(len(real), 1, device=device)

        discriminator.zero_grad()
        with autocast:
            loss_real = criterion(discriminator(real, labels), ones)
        loss_real.backward()
        z = torch.randn(len(real), *generator.latent_shape, device=device)
        with autocast:
            fake = generator(z, labels)
            loss_fake = criterion(discriminator(fake.detach(), labels), zeros)
        loss_fake.backward()
        opt_d.step()

        generator.zero_grad()
        with autocast:
            loss_g = criterion(discriminator(fake, labels), ones)
        loss_g.backward()
        opt_g.step()

        loss_d = loss_real.item() + loss_fake.item()
        print(f"step {step} loss_d {loss_d:.4f} loss_g {loss_g.item():.4f}")

    clock.report()


if __name__ == "__main__":
    main()
