"""Training a classifier: the judges themselves, and the fresh one of GAN-train."""

from collections.abc import Callable
from threading import Lock

import torch
import torch.nn.functional as F
from torch import Tensor

from distgan.data.base import distorted
from distgan.evaluation.classifiers import NETWORKS, Judge

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
    """The network of that name, trained on (N, 28, 28) uint8 and (N,) int64; in eval mode.

    AdamW by a one-cycle rate (Smith and Topin 2018) on images that are turned, enlarged and moved a little,
    others at each look. Numbers come from a generator of its own, so a run around it keeps its own.
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
            batch = distorted(images[rows].unsqueeze(1) / 255, amounts)
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
def outputs_of(network: Judge, images: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities (N, 10) and features (N, F), both on the CPU, of (N, 28, 28) uint8."""
    device = next(network.parameters()).device
    parts = [network(part.to(device).unsqueeze(1) / 255) for part in images.split(_PASS)]
    logits, features = (torch.cat(each).cpu() for each in zip(*parts, strict=True))
    return logits.softmax(1), features
