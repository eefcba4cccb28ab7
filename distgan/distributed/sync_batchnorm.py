"""BatchNorm over the rows of all ranks where torch's own SyncBatchNorm does not run: on CPUs."""

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from distgan.distributed.sharding import BatchShard


class _SumOverRanks(torch.autograd.Function):
    """y = sum of x over the ranks; so the gradient of x is the sum of theirs (each has its own loss)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _sum(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # Through the same function, as a gradient penalty differentiates it once more.
        return _SumOverRanks.apply(gradients[0])


def _sum(x: Tensor) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Statistics of the global batch, of which the ranks may hold unlike numbers of rows.

    Two all-reduces a pass, of the mean and of the squared distance from it: the difference of two means
    would be one, but loses digits where the mean is large. In eval mode it is torch's own BatchNorm.
    """

    shard = BatchShard()

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002  # its name in torch
        pass

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        if not self.training and self.track_running_stats:
            return super().forward(input)
        dims = [0, *range(2, input.ndim)]
        shape = (1, -1, *[1] * (input.ndim - 2))
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        # The part of all rows that are here: what makes a sum over the ranks of their means the mean.
        part = len(input) / self.shard.num_all(len(input))
        mean = _SumOverRanks.apply(x.mean(dims) * part)
        centred = x - mean.view(shape)
        variance = _SumOverRanks.apply(centred.square().mean(dims) * part)
        if self.track_running_stats:
            with torch.no_grad():
                num = input.numel() // input.shape[1] / part
                assert self.running_mean is not None
                assert self.running_var is not None
                assert self.num_batches_tracked is not None
                self.num_batches_tracked += 1
                # Without a momentum torch takes the mean of all batches.
                momentum: Any = self.momentum
                if momentum is None:
                    momentum = (1 / self.num_batches_tracked).to(mean.dtype)
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(variance * (num / (num - 1)), momentum)
        scale = (variance + self.eps).rsqrt()
        scale = scale if self.weight is None else self.weight * scale
        outputs = centred * scale.view(shape)
        return (outputs if self.bias is None else outputs + self.bias.view(shape)).to(input.dtype)


def convert_sync_batchnorm(network: nn.Module, shard: BatchShard, device: torch.device) -> nn.Module:
    """Return the network with its BatchNorms over all ranks. Its parameters stay the same objects."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for name, child in network.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            own = SyncBatchNorm(child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats)
            own.weight, own.bias = child.weight, child.bias
            own.load_state_dict(child.state_dict())
            own.train(child.training)
            own.shard = shard
            setattr(network, name, own)
        else:
            convert_sync_batchnorm(child, shard, device)
    return network
