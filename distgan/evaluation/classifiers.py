"""The judges' networks: three small classifiers, deliberately unlike one another, so that their errors are.

Each gives (logits (N, K), features (N, 64)) from images (N, C, H, W) in [0, 1] of the `ImageSpec` that it is built
for.
"""

from collections.abc import Callable
from threading import Lock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distgan.config.image_spec import MNIST_SPEC, ImageSpec
from distgan.data.base import distort
from distgan.models.layers import channels_last

NUM_FEATURES = 64
# Of MNIST's training pixels, as fractions of white. Other images need no more: BatchNorm follows the first layer.
_MEAN, _STD = 0.1307, 0.3081
_SIDE = MNIST_SPEC.height  # pixels of the shorter side that the layers are sized for


class Judge(nn.Module):
    """A trunk of convolutions that ends in NUM_FEATURES numbers an image, and a linear layer on them."""

    def __init__(self, images: ImageSpec, *trunk: nn.Module):
        super().__init__()
        self.trunk = nn.Sequential(*trunk)
        self.read_out = nn.Linear(NUM_FEATURES, images.num_classes)

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


def _first_stride(images: ImageSpec) -> int:
    """Return the stride of the first layer, which brings the shorter side to 28 to 55 pixels: 1 below 56."""
    return max(1, min(images.height, images.width) // _SIDE)


def _first(images: ImageSpec, num_out: int, size: int, *, padding: int | None = None) -> nn.Module:
    """Build the first convolution, whose kernel grows with its stride so that it sees every pixel."""
    stride = _first_stride(images)
    return _conv(images.channels, num_out, size + 2 * (stride // 2), stride=stride, padding=padding)


def _plain(images: ImageSpec) -> Judge:
    """Build small kernels one after the other, 28 -> 14 -> 7, and a maximum per channel (mean: 99.52 %)."""
    return Judge(
        images,
        _first(images, 24, 5),
        _conv(24, 48, 3, stride=2),
        _conv(48, 48, 3),
        _conv(48, 64, 3, stride=2),
        _conv(64, NUM_FEATURES, 3),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
    )


def _residual(images: ImageSpec) -> Judge:
    """Build residual blocks, 28 -> 14 -> 7, and a maximum per channel."""
    return Judge(
        images,
        _first(images, 32, 3),
        nn.MaxPool2d(2),
        _Residual(32, 32),
        _Residual(32, 64, stride=2),
        _Residual(64, NUM_FEATURES),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
    )


def _wide(images: ImageSpec) -> Judge:
    """Build large kernels without padding, 28 -> 22 -> 9 -> 5, and a linear layer over positions.

    Smaller images are padded at the first layer, and larger ones where its steps would leave out the last pixels; maps
    of another size than 5 x 5 are averaged to it.
    """
    is_small = min(images.height, images.width) < _SIDE
    is_padded = is_small or _first_stride(images) > 1
    has_own_size = (images.height, images.width) == (_SIDE, _SIDE)
    return Judge(
        images,
        _first(images, 32, 7, padding=None if is_padded else 0),
        _conv(32, 48, 5, stride=2, padding=0),
        _conv(48, 64, 5, padding=None if is_small else 0),
        nn.Flatten() if has_own_size else nn.Sequential(nn.AdaptiveAvgPool2d(5), nn.Flatten()),
        nn.Linear(64 * 5 * 5, NUM_FEATURES, bias=False),
        nn.BatchNorm1d(NUM_FEATURES),
        nn.ReLU(),
    )


# The first is the reference: its features are those of every distance. They separate real digits with noise from
# such without, in multiples of the baseline, better than the others' (LOG.md).
NETWORKS: dict[str, Callable[[ImageSpec], Judge]] = {"wide": _wide, "plain": _plain, "residual": _residual}


# -- Training a classifier: the judges themselves, and the fresh one of GAN-train --

BATCH = 128
_DRAWING = Lock()  # torch's global generator is one for all threads
_PASS = 1000  # images of a pass without gradients


def enough_epochs(num: int, least: int, steps: int) -> int:
    """Return `least` epochs, or more, at most 200, where those are fewer than `steps` batches."""
    return max(least, min(200, round(steps * BATCH / num)))


def to_batch(images: Tensor) -> Tensor:
    """Return uint8 (N, H, W) of greys, or (N, 3, H, W), as float32 (N, C, H, W) of 0 to 1."""
    return (images.unsqueeze(1) if images.ndim == 3 else images) / 255


def train_classifier(
    name: str,
    spec: ImageSpec,
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    seed: int,
    device: torch.device,
    after_epoch: Callable[[int], None] = lambda epoch: None,
) -> Judge:
    """Train the network of that name on uint8 (N, H, W) or (N, 3, H, W) and (N,) int64. Return it in eval mode.

    AdamW by a one-cycle rate (Smith and Topin 2018) on images that are turned, enlarged and moved a little,
    anew in each epoch. Random numbers come from a separate generator, so that a run around it keeps its state.
    """
    with _DRAWING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = NETWORKS[name](spec).to(device)
    images, labels = images.to(device), labels.to(device)
    generator = torch.Generator().manual_seed(seed)
    steps = (len(images) - 2) // BATCH + 1  # without a last batch of one image
    optim = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optim, 4e-3, epochs * steps, pct_start=0.2)
    # Black beside a digit is part of the image; beside a photograph turned by some degrees it would be news.
    padding = "zeros" if spec.channels == 1 else "border"
    network.train()
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=generator).to(device)
        for rows in order.split(BATCH):
            if len(rows) < 2:  # BatchNorm has no variance of one
                continue
            amounts = torch.empty(4, len(rows)).uniform_(-1, 1, generator=generator).to(device)
            batch = distort(to_batch(images[rows]), amounts, padding)
            loss = F.cross_entropy(network(batch)[0], labels[rows])
            optim.zero_grad()
            loss.backward()
            optim.step()
            schedule.step()
        after_epoch(epoch)
    return network.eval()


@torch.inference_mode()
def classify(network: Judge, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return probabilities (N, K) and features (N, F), both on the CPU, of uint8 (N, H, W) or (N, 3, H, W)."""
    device = next(network.parameters()).device
    parts = [network(to_batch(part.to(device))) for part in images.split(_PASS)]
    logits, features = (torch.cat(outputs).cpu() for outputs in zip(*parts, strict=True))
    return logits.softmax(1), features
