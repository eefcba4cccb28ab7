"""torch's layers in the exact form that is quickest for these networks: the same weights, the same result."""

from functools import cache
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def channels_last(images: Tensor) -> Tensor:
    """Return the same (N, C, H, W) with channels last in memory, which following layers keep and are faster by.

    Of one channel both orders are one, and only the strides say which it is.
    """
    if images.shape[1] > 1:
        return images.contiguous(memory_format=torch.channels_last)
    return images.reshape(-1, *images.shape[2:], 1).permute(0, 3, 1, 2)


class TransposedConv2d(nn.ConvTranspose2d):
    """nn.ConvTranspose2d. To one channel, where libraries are slow, by way of a convolution at the small size.

    Of stride 2 each output pixel (2i + a, 2j + b) is a sum over a window of 3x3 around (i, j), with other weights for
    each of the four (a, b): a convolution to four channels, shuffled (Shi et al. 2016, section 3.2).
    """

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: A002
        size, padding = self.kernel_size[0], self.padding[0]
        assert isinstance(padding, int)
        doubles = self.stride == (2, 2) and size + self.output_padding[0] == 2 + 2 * padding
        if self.out_channels > 1 or not doubles or output_size is not None:
            return super().forward(input, output_size)
        kernel = sub_pixel_kernel(self.weight, padding)
        bias = None if self.bias is None else self.bias.repeat_interleave(4)
        return F.pixel_shuffle(F.conv2d(input, kernel, bias, padding=kernel.shape[2] // 2), 2)


def sub_pixel_kernel(weight: Tensor, padding: int) -> Tensor:
    """Return the convolution kernel of a transposed one of stride 2, (C_in, C_out, K, K) -> (4 * C_out, C_in, R, R).

    No index lies on the host: a graph takes this up as it is.
    """
    size = weight.shape[2]
    # Output 2i + a reads input i + d through tap k = a + padding - 2d, if there is one.
    reach = max(padding // 2, size // 2 - padding // 2)
    low, high = padding - 2 * reach, 1 + padding + 2 * reach
    edges = (-low, high + 1 - size)
    # By falling k: d from -reach to reach, and for each d first a = 1, then a = 0.
    taps = F.pad(weight.transpose(0, 1), edges + edges).flip(2, 3)
    num = 2 * reach + 1
    taps = taps.unflatten(3, (num, 2)).unflatten(2, (num, 2)).flip(3, 5)
    return taps.permute(0, 3, 5, 1, 2, 4).flatten(0, 2)


class Conv2d(nn.Conv2d):
    """nn.Conv2d. Where its weights train in float32 on a CPU, border outputs that see only padding are not computed.

    They equal the bias: of the report's 10x10 outputs the first row and column. Outputs and the input's gradient stay
    the same to the bit, the weights' to rounding, which takes half the time (LOG.md). bfloat16 gains nothing by it;
    on a GPU it was not measured.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        size, stride, padding = self.kernel_size[0], self.stride[0], self.padding[0]
        assert isinstance(padding, int)
        num_empty = -(-(padding + 1 - size) // stride)
        is_float32 = input.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if num_empty < 1 or not (self.weight.requires_grad and is_float32 and input.device.type == "cpu"):
            return super().forward(input)
        before = padding - num_empty * stride
        # F.conv2d pads both sides alike: what the far side needs besides is padded ahead (or cut off, below 0).
        more = []
        for length in (input.shape[3], input.shape[2]):
            last_start = (length + 2 * padding - size) // stride * stride - padding
            more += [0, last_start + size - length - before]
        inner = F.conv2d(F.pad(input, more), self.weight, None, stride, before)
        outputs = F.pad(inner, (num_empty, 0, num_empty, 0))
        return outputs if self.bias is None else outputs + self.bias[:, None, None]


class BatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d, but for what its sums cost in digits where they are long.

    On a CPU torch adds up a channel in float32, one pixel after another, where the channels come last: ten times as
    quick as otherwise, but over 3,000 images of 14x14 off by 6e-4 (LOG.md).
    """

    _LONG = 2**16

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        if self.training and input.device.type == "cpu" and input.numel() > self._LONG * input.shape[1]:
            input = input.contiguous()  # noqa: A001
        return super().forward(input)


class ChannelsLastFlatten(nn.Module):
    """(N, C, H, W) as (N, H * W * C), for a ReadOut: no copy where the channels come last in memory."""

    def forward(self, images: Tensor) -> Tensor:
        return images.movedim(1, -1).flatten(1)


class ReadOut(nn.Linear):
    """nn.Linear on flattened (C, H, W), which takes its input from a ChannelsLastFlatten."""

    def __init__(self, channels: int, height: int, width: int, out_features: int):
        super().__init__(channels * height * width, out_features)
        self.map_shape = (channels, height, width)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        weight = self.weight.view(-1, *self.map_shape).movedim(1, -1).flatten(1)
        return F.linear(input, weight, self.bias)


# -- nn.Dropout, the same on one process and on many, eagerly, compiled and in a graph --


class BitSource(Protocol):
    """`training.noise.Noise` is one."""

    def bits(self, shape: torch.Size, salt: int) -> Tensor: ...


class Dropout(nn.Dropout):
    """In training its mask comes from `noise`, by 16 random bits an element; without one it is torch's own.

    torch draws one number after another on a CPU, a fifth of a step of the report's GAN (LOG.md). `p` becomes
    the next multiple of 2**-16, which for 0.3 is 0.3 + 3e-6, and the kept elements are scaled by what that leaves.
    """

    noise: BitSource | None = None
    salt = 0

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # its name in torch
        if not self.training or self.p == 0 or self.noise is None:
            return super().forward(input)
        num_dropped = min(round(self.p * 2**16), 2**16 - 1)
        kept = self.noise.bits(input.shape, self.salt) >= num_dropped - 2**15
        return input * kept.to(input.dtype).mul_(2**16 / (2**16 - num_dropped))


def draw_from(network: nn.Module, noise: BitSource) -> None:
    """Let every Dropout of a network draw from `noise`, each other numbers."""
    for salt, module in enumerate(module for module in network.modules() if isinstance(module, Dropout)):
        module.noise, module.salt = noise, salt * 0x2545F491


# -- How a label joins a network's input --


def one_hot(labels: Tensor, like: Tensor, num: int) -> Tensor:
    """Return classes (N,) as (N, num) in the type of `like`; weights over classes (N, num) stay as they are."""
    if labels.ndim == 1:
        # F.one_hot looks at its numbers on the host, which then waits for the device.
        labels = labels.unsqueeze(1) == _classes(num, labels.device)
    return labels.to(like.dtype)


@cache
def _classes(num: int, device: torch.device) -> Tensor:
    """Return 0, 1, ... num - 1, made once: a graph would otherwise make it in every step."""
    return torch.arange(num, device=device)


def join(flat: Tensor, labels: Tensor, num: int) -> Tensor:
    """Return (N, F) with the one-hot label of `num` classes behind it, (N, F + num)."""
    return torch.cat([flat, one_hot(labels, flat, num)], dim=1)
