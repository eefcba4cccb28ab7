"""The judges' networks: three small classifiers of 28x28 greys, unlike one another on purpose.

Each gives (logits (N, 10), features (N, 64)) from images (N, 1, 28, 28) in [0, 1]. What one of them alone
sees in an image is more likely its own than the image's.
"""

from collections.abc import Callable
from threading import Lock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distgan.data.base import distort
from distgan.models.layers import channels_last

NUM_FEATURES = 64
# Of MNIST's training pixels, as fractions of white.
_MEAN, _STD = 0.1307, 0.3081


class Judge(nn.Module):
    """A trunk of convolutions that ends in NUM_FEATURES numbers an image, and a linear layer on them."""

    def __init__(self, *trunk: nn.Module):
        super().__init__()
        self.trunk = nn.Sequential(*trunk)
        self.read_out = nn.Linear(NUM_FEATURES, 10)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.trunk(channels_last((images - _MEAN) / _STD))
        return self.read_out(features), features


def _conv(num_in: int, num_out: int, size: int, *, stride: int = 1, padding: int | None = None) -> nn.Module:
    padding = size // 2 if padding is None else padding
    return nn.Sequential(
        nn.Conv2d(num_in, num_out, size, stride, padding, bias=False), nn.BatchNorm2d(num_out), nn.ReLU()
    )


class _Residual(nn.Module):
    """Two convolutions beside a shortcut (He et al. 2016, figure 2)."""

    def __init__(self, num_in: int, num_out: int, stride: int = 1):
        super().__init__()
        self.first = _conv(num_in, num_out, 3, stride=stride)
        self.second = nn.Sequential(nn.Conv2d(num_out, num_out, 3, padding=1, bias=False), nn.BatchNorm2d(num_out))
        self.shortcut = (
            nn.Identity()
            if (num_in, stride) == (num_out, 1)
            else nn.Sequential(nn.Conv2d(num_in, num_out, 1, stride, bias=False), nn.BatchNorm2d(num_out))
        )

    def forward(self, maps: Tensor) -> Tensor:
        return (self.second(self.first(maps)) + self.shortcut(maps)).relu()


def _plain() -> Judge:
    """Build small kernels one after the other, 28 -> 14 -> 7, and a maximum per channel (mean: 99.52 %)."""
    return Judge(
        _conv(1, 24, 5),
        _conv(24, 48, 3, stride=2),
        _conv(48, 48, 3),
        _conv(48, 64, 3, stride=2),
        _conv(64, NUM_FEATURES, 3),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
    )


def _residual() -> Judge:
    """Build residual blocks, 28 -> 14 -> 7, and a maximum per channel."""
    return Judge(
        _conv(1, 32, 3),
        nn.MaxPool2d(2),
        _Residual(32, 32),
        _Residual(32, 64, stride=2),
        _Residual(64, NUM_FEATURES),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
    )


def _wide() -> Judge:
    """Build large kernels without padding, 28 -> 22 -> 9 -> 5, and a linear layer over positions."""
    return Judge(
        _conv(1, 32, 7, padding=0),
        _conv(32, 48, 5, stride=2, padding=0),
        _conv(48, 64, 5, padding=0),
        nn.Flatten(),
        nn.Linear(64 * 5 * 5, NUM_FEATURES, bias=False),
        nn.BatchNorm1d(NUM_FEATURES),
        nn.ReLU(),
    )


# The first is the reference: its features are those of every distance. They separate real digits with noise from
# such without, in multiples of the floor, better than the others' (LOG.md).
NETWORKS: dict[str, Callable[[], Judge]] = {"wide": _wide, "plain": _plain, "residual": _residual}


# -- Training a classifier: the judges themselves, and the fresh one of GAN-train --

BATCH = 128
_DRAWING = Lock()  # torch's global generator is one for all threads
_PASS = 1000  # images of a pass without gradients


def train_classifier(
    name: str,
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    seed: int,
    device: torch.device,
    say: Callable[[str], None] | None = None,
) -> Judge:
    """Train the network of that name on (N, 28, 28) uint8 and (N,) int64. Return it in eval mode.

    AdamW by a one-cycle rate (Smith and Topin 2018) on images that are turned, enlarged and moved a little,
    others at each look. Numbers come from a separate generator, so that a run around it keeps its state.
    """
    with _DRAWING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = NETWORKS[name]().to(device)
    images, labels = images.to(device), labels.to(device)
    generator = torch.Generator().manual_seed(seed)
    steps = -(-len(images) // BATCH)
    optim = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optim, 4e-3, epochs * steps, pct_start=0.2)
    network.train()
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=generator).to(device)
        total = torch.zeros((), device=device)
        for rows in order.split(BATCH):
            amounts = torch.empty(4, len(rows)).uniform_(-1, 1, generator=generator).to(device)
            batch = distort(images[rows].unsqueeze(1) / 255, amounts)
            loss = F.cross_entropy(network(batch)[0], labels[rows])
            optim.zero_grad()
            loss.backward()
            optim.step()
            schedule.step()
            total += loss.detach() * len(rows)
        if say is not None:
            say(f"{name}: epoch {epoch + 1}/{epochs}, loss {total.item() / len(images):.4f}")
    return network.eval()


@torch.inference_mode()
def classify(network: Judge, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return probabilities (N, 10) and features (N, F), both on the CPU, of (N, 28, 28) uint8."""
    device = next(network.parameters()).device
    parts = [network(part.to(device).unsqueeze(1) / 255) for part in images.split(_PASS)]
    logits, features = (torch.cat(each).cpu() for each in zip(*parts, strict=True))
    return logits.softmax(1), features
