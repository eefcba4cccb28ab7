"""Compile the blocks of both networks by torch.compile, one FX graph each; autocast and DDP stay eager."""

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
    """Compile the blocks in place, each at its first call with a new shape.

    The backend aot_eager traces as all others do and generates no code, which is what takes long.

    Raises EngineUnavailable if torch.compile is disabled, and would silently run them eagerly.
    """
    for name in ("TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE"):
        if os.environ.get(name) == "1":
            raise EngineUnavailable(f"{name}=1 disables torch.compile")
    # torch counts all blocks of a process as one function, and above the limit silently runs them eagerly.
    torch._dynamo.config.recompile_limit = _RECOMPILE_LIMIT
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # "No CUDA runtime is found"
    for block in blocks:
        if block._compiled_call_impl is None:
            block._compiled_call_impl = torch.compile(
                _as_function(block), dynamic=False, fullgraph=True, backend=backend
            )


def start_compiler(device: torch.device) -> None:
    """Compile a trivial function, so that timing a block does not include the compiler's start (imports, processes)."""
    torch.compile(lambda x: x + 1, dynamic=False)(torch.zeros(2, device=device))


def _as_function(block: nn.Module) -> Callable[..., Tensor]:
    """Return a function that calls `block`: given a module, torch 2.11 compiles its layers one by one, unfused."""

    def forward(*inputs: Tensor) -> Tensor:
        return block.forward(*inputs)

    return forward


def uncompile(gan: Gan) -> None:
    """Make all blocks run eagerly again."""
    for block in blocks_of(gan):
        block._compiled_call_impl = None


@contextmanager
def uncompiled(gan: Gan) -> Iterator[None]:
    """Run compiled blocks eagerly within the block, as the reference of a comparison."""
    blocks = blocks_of(gan)
    compiled = [block._compiled_call_impl for block in blocks]
    uncompile(gan)
    try:
        yield
    finally:
        for block, call in zip(blocks, compiled, strict=True):
            block._compiled_call_impl = call


def blocks_of(gan: Gan) -> list[nn.Module]:
    """Return the blocks that can be compiled: those without SyncBatchNorm, whose rows vary over ranks and batches."""
    return [
        block
        for network in (gan.generator, gan.discriminator)
        for block in network.children()
        if not any("SyncBatchNorm" in type(module).__name__ for module in block.modules())
    ]


def num_leaf_modules(block: nn.Module) -> int:
    """Return the number of leaf modules, by which the time to compile a block is estimated."""
    return sum(not list(module.children()) for module in block.modules())


def smallest_block(gan: Gan) -> nn.Module | None:
    """Return the block with weights that has the fewest layers; None if there is none."""
    blocks = [block for block in blocks_of(gan) if any(True for _ in block.parameters())]
    return min(blocks, key=num_leaf_modules, default=None)
