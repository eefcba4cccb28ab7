"""How a label joins a network's input."""

import torch
from torch import Tensor

NUM_CLASSES = 10


def one_hot(labels: Tensor, like: Tensor) -> Tensor:
    """Classes (N,) as (N, 10) in the type of `like`; weights over the classes (N, 10) stay as they are."""
    if labels.ndim == 1:
        # F.one_hot looks at its numbers on the host, which then waits for the device.
        labels = labels.unsqueeze(1) == torch.arange(NUM_CLASSES, device=labels.device)
    return labels.to(like.dtype)


def join(flat: Tensor, labels: Tensor, is_conditional: bool) -> Tensor:
    """(N, F) with the one-hot label behind it, (N, F + 10), where the network has one."""
    return torch.cat([flat, one_hot(labels, flat)], dim=1) if is_conditional else flat
