"""Faults that no training step may have, injected into each, to show that it is noticed; `joined` alone is allowed.

By torch's hook before each step of Adam.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

_kept: list[torch.Tensor] = []


def item() -> None:
    """The host reads a number."""
    torch.ones((), device="cuda").item()


def pageable() -> None:
    """A copy from memory that is not pinned, for which the host waits."""
    torch.zeros(4).to("cuda")


def allocation() -> None:
    """Memory that is not given back, large enough for its own cudaMalloc."""
    _kept.append(torch.empty(16 << 20, dtype=torch.uint8, device="cuda"))


def outside() -> None:
    """Work on a stream that is no part of the capture."""
    with torch.cuda.stream(torch.cuda.Stream()):
        _counter().add_(1)


def unjoined() -> None:
    """Work on a stream that is part of the capture, and that nothing waits for."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        _counter().add_(1)


def joined() -> None:
    """The same, with the wait."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        _counter().add_(1)
    torch.cuda.current_stream().wait_stream(side)


@cache
def _counter() -> torch.Tensor:
    """Made before the capture."""
    return torch.ones(1, device="cuda")


FAULTS: dict[str, Callable[[], None]] = {
    each.__name__: each for each in (item, pageable, allocation, outside, unjoined, joined)
}


def inject(names: str) -> None:
    """Commit the faults that are named, with commas between them, before each step of each optimizer."""
    chosen = [FAULTS[name] for name in names.split(",")]
    register_optimizer_step_pre_hook(lambda *_: [commit() for commit in chosen] and None)
