"""Compile the blocks of both networks by torch.compile, one graph each; autocast and DDP around them stay eager."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from distgan.training.engines.selection import EngineUnavailable
from distgan.training.gan import Gan

_RECOMPILE_LIMIT = 256


def compile_blocks(blocks: Sequence[nn.Module], backend: str = "inductor") -> None:
    """Let the blocks run as compiled code, in place. Each is compiled when it is first called with a new shape.

    The backend aot_eager traces as all others do and generates no code, which is what takes long.

    Raises EngineUnavailable where torch.compile is switched off, and would silently run them eagerly.
    """
    for name in ("TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE"):
        if os.environ.get(name) == "1":
            raise EngineUnavailable(f"{name}=1 switches torch.compile off")
    # All blocks of a process count as one function there; beyond the limit they would silently be eager.
    torch._dynamo.config.recompile_limit = _RECOMPILE_LIMIT
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # "No CUDA runtime is found"
    for block in blocks:
        if block._compiled_call_impl is None:
            block._compiled_call_impl = torch.compile(
                _as_function(block), dynamic=False, fullgraph=True, backend=backend
            )


def start_compiler(device: torch.device) -> None:
    """Compile next to nothing: what a compiler needs once (imports, worker processes) is not the price of a block."""
    torch.compile(lambda x: x + 1, dynamic=False)(torch.zeros(2, device=device))


def _as_function(block: nn.Module) -> Callable[..., Tensor]:
    """Return what `block` computes: given the module, torch 2.11 compiles its layers one by one and fuses nothing."""

    def forward(*inputs: Tensor) -> Tensor:
        return block.forward(*inputs)

    return forward


def uncompile(gan: Gan) -> None:
    """Let all blocks run eagerly again."""
    for block in blocks_of(gan):
        block._compiled_call_impl = None


@contextmanager
def uncompiled(gan: Gan) -> Iterator[None]:
    """Let compiled blocks run eagerly within: without it the reference would be what it is compared with."""
    blocks = blocks_of(gan)
    compiled = [block._compiled_call_impl for block in blocks]
    uncompile(gan)
    try:
        yield
    finally:
        for block, call in zip(blocks, compiled, strict=True):
            block._compiled_call_impl = call


def blocks_of(gan: Gan) -> list[nn.Module]:
    """Return the blocks that can be compiled.

    Not those with SyncBatchNorm: their numbers of rows over the ranks change from batch to batch.
    """
    return [
        block
        for network in (gan.generator, gan.discriminator)
        for block in network.children()
        if not any("SyncBatchNorm" in type(module).__name__ for module in block.modules())
    ]


def num_operators(block: nn.Module) -> int:
    """Return the number of layers with an operator of their own, by which the time to compile a block is estimated."""
    return sum(not list(module.children()) for module in block.modules())


def smallest_block(gan: Gan) -> nn.Module | None:
    """Return the block with weights that has the fewest layers; None where there is nothing to compile."""
    blocks = [block for block in blocks_of(gan) if any(True for _ in block.parameters())]
    return min(blocks, key=num_operators, default=None)
