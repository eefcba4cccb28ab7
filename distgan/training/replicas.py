"""Whether all ranks hold the same weights to the bit, which DDP relies on and does not look at."""

import torch
from torch import Tensor

from distgan.distributed.runtime import Runtime
from distgan.errors import TrainingFailed
from distgan.training.gan import Gan

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def refuse_divergence(gan: Gan, runtime: Runtime) -> None:
    """Raises TrainingFailed that names the first tensor that is not the same everywhere. All ranks call it."""
    if runtime.world_size == 1:
        return
    with gan.g.whole(), gan.d.whole():
        tensors = {
            f"{name}.{key}": value
            for name, network in gan.networks().items()
            for key, value in (
                network.state_dict() if gan.is_replicated else dict(network.named_parameters())
            ).items()
        }
        if not gan.is_sharded:
            tensors |= {f"g_optim.{key}": value for key, value in gan.g.adam_state().items()}
            tensors |= {f"d_optim.{key}": value for key, value in gan.d.adam_state().items()}
        sums = torch.stack([_sum_of_bits(value).to(runtime.device) for value in tensors.values()])
    everywhere = runtime.gathered(sums)
    differs = everywhere != everywhere[0]
    if differs.any():
        index = int(differs.any(0).nonzero()[0])
        rank = int(differs[:, index].nonzero()[0])
        raise TrainingFailed(
            f"rank {rank}: {list(tensors)[index]} is not that of rank 0 after step {gan.step}: the processes no longer "
            "train one network",
            advice="go on from a checkpoint, and look for what made them differ: memory, a library, a GPU",
        )


def _sum_of_bits(tensor: Tensor) -> Tensor:
    """Changes with any one bit, and not with the order in which a device adds up."""
    return tensor.detach().contiguous().view(_BITS[tensor.element_size()]).sum(dtype=torch.int64)
