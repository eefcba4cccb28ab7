"""torch.compile for the blocks of both networks, in place; to be undone, and suspended, at any time."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from distgan.training.gan import Gan

_MOST_KINDS = 256


def start(gan: Gan) -> None:
    """The blocks of both networks, in place: inside autocast and DDP, whose own code is not compiled."""
    # All blocks of a process count as one function there; beyond the limit they would be eager without a word.
    torch._dynamo.config.recompile_limit = _MOST_KINDS
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # "No CUDA runtime is found"
    for block in _blocks(gan):
        block.compile(dynamic=False, fullgraph=True)


def stop(gan: Gan) -> None:
    for block in _blocks(gan):
        block._compiled_call_impl = None


@contextmanager
def suspended(gan: Gan) -> Iterator[None]:
    """Lets compiled blocks run eagerly: without it the reference would be what it is compared with."""
    blocks = _blocks(gan)
    compiled = [block._compiled_call_impl for block in blocks]
    stop(gan)
    try:
        yield
    finally:
        for block, call in zip(blocks, compiled, strict=True):
            block._compiled_call_impl = call


def _blocks(gan: Gan) -> list[nn.Module]:
    """But for those in which the ranks talk to each other: their numbers of rows change from batch to batch."""
    return [
        block
        for network in (gan.generator, gan.discriminator)
        for block in network.children()
        if not any("SyncBatchNorm" in type(module).__name__ for module in block.modules())
    ]
