"""BatchNorm over the rows of all ranks where torch's own SyncBatchNorm does not run: on CPUs."""

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from distgan.distributed.sharding import BatchShard


class _AllReduceSum(torch.autograd.Function):
    """y = sum of x over the ranks. Each rank has its own loss, so the gradients of y are summed too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _all_reduce_sum(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # Through the same function, as a gradient penalty differentiates it once more.
        return _AllReduceSum.apply(gradients[0])


def _all_reduce_sum(x: Tensor) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm with the statistics of the global batch; ranks may have different numbers of rows.

    Two all-reduces per pass, of the mean and of the variance about it: E[x^2] - E[x]^2 would need one, but loses
    precision where the mean is large. In eval mode it is torch's BatchNorm.
    """

    shard = BatchShard()

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002  # torch's name
        pass

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        if not self.training and self.track_running_stats:
            return super().forward(input)
        dims = [0, *range(2, input.ndim)]
        shape = (1, -1, *[1] * (input.ndim - 2))
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        # The share of all rows that is on this rank: means over the ranks' rows, weighted by it, sum to the mean.
        share = len(input) / self.shard.num_rows_over_ranks(len(input))
        mean = _AllReduceSum.apply(x.mean(dims) * share)
        centred = x - mean.view(shape)
        variance = _AllReduceSum.apply(centred.square().mean(dims) * share)
        if self.track_running_stats:
            with torch.no_grad():
                num = input.numel() // input.shape[1] / share
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
    """Return the network with each BatchNorm synchronized over the ranks. Parameters stay the same objects."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for name, child in network.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            synced = SyncBatchNorm(
                child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
            )
            synced.weight, synced.bias = child.weight, child.bias
            synced.load_state_dict(child.state_dict())
            synced.train(child.training)
            synced.shard = shard
            setattr(network, name, synced)
        else:
            convert_sync_batchnorm(child, shard, device)
    return network
