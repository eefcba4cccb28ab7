"""How a label joins a network's input."""

import torch
from torch import Tensor

NUM_CLASSES = 10


def one_hot(labels: Tensor, like: Tensor, num: int = NUM_CLASSES) -> Tensor:
    """Classes (N,) as (N, num) in the type of `like`; weights over the classes (N, num) stay as they are."""
    if labels.ndim == 1:
        # F.one_hot looks at its numbers on the host, which then waits for the device.
        labels = labels.unsqueeze(1) == torch.arange(num, device=labels.device)
    return labels.to(like.dtype)


def join(flat: Tensor, labels: Tensor, is_conditional: bool) -> Tensor:
    """(N, F) with the one-hot label behind it, (N, F + 10), where the network has one."""
    return torch.cat([flat, one_hot(labels, flat)], dim=1) if is_conditional else flat
