"""Files of networks as a user writes them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distgan.models import user_networks
from helpers.own_architectures import HEAD, TRAINS

# Dropout and spectral norm in D, BatchNorm in G, labels by embedding; any size and number of classes.
PAIR = """\
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm


class Generator(nn.Module):
    def __init__(self, spec, width):
        super().__init__()
        self.shape = (spec.channels, spec.height, spec.width)
        self.embed = nn.Embedding(spec.num_classes, spec.latent_dim) if spec.num_classes else None
        num = spec.channels * spec.height * spec.width
        self.main = nn.Sequential(
            nn.Linear(spec.latent_dim, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, num),
            nn.Tanh(),
        )

    def forward(self, z, labels):
        z = z if labels is None else z * self.embed(labels)
        return self.main(z).view(-1, *self.shape)


class Discriminator(nn.Module):
    def __init__(self, spec, width, dropout):
        super().__init__()
        num = spec.channels * spec.height * spec.width
        self.features = nn.Sequential(
            nn.Flatten(), spectral_norm(nn.Linear(num, width)), nn.LeakyReLU(0.2), nn.Dropout(dropout)
        )
        self.read_out = spectral_norm(nn.Linear(width, 1))
        self.embed = nn.Embedding(spec.num_classes, width) if spec.num_classes else None

    def forward(self, images, labels):
        features = self.features(images)
        logits = self.read_out(features)
        return logits if labels is None else logits + (self.embed(labels) * features).sum(1, keepdim=True)


def build_generator(spec, width: int = 24):
    return Generator(spec, width)


def build_discriminator(spec, width: int = 24, dropout: float = 0.3):
    return Discriminator(spec, width, dropout)
"""


def path_of(name: str, folder: Path) -> str:
    """Write the pair, or an architecture of own_architectures.py, for this process, and return the file."""
    path = folder / f"own-{os.getpid()}" / f"{name}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(PAIR if name == "pair" else HEAD + TRAINS[name][0])
    return str(path)


# A file's own loss: one of the registry, by its name.
LOSS = """

def build_loss():
    from distgan.config.registry import LOSSES

    return LOSSES["{}"]
"""


@contextmanager
def none_loaded() -> Iterator[None]:
    """Know no file of another test within the block, as at the start of a process, and none of these after it."""
    user_networks._loaded.clear()
    yield
    user_networks._loaded.clear()


def write_pair(folder: Path, name: str = "my_gan.py", *changes: tuple[str, str]) -> Path:
    """Write the pair with some of its text replaced."""
    text = PAIR
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path
