"""Faster forms of torch's layers, with equal weights and results up to rounding, and layers that draw from `noise`."""

import itertools
import math
from functools import cache, partial
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distgan.utils.counter_rng import counter_hash, counters


def channels_last(images: Tensor) -> Tensor:
    """Return (N, C, H, W) in torch.channels_last format, which the following layers keep and are faster with.

    With one channel both formats have the same memory, and only the strides tell them apart.
    """
    if images.shape[1] > 1:
        return images.contiguous(memory_format=torch.channels_last)
    return images.reshape(-1, *images.shape[2:], 1).permute(0, 3, 1, 2)


class TransposedConv2d(nn.ConvTranspose2d):
    """nn.ConvTranspose2d, computed in another form where torch's own is slow.

    To one channel with stride 2 it is a convolution at the input's size: each output pixel (2i + a, 2j + b) is a sum
    over a window of 3x3 around (i, j), with other weights for each of the four (a, b), which makes a convolution to
    four channels, shuffled (Shi et al. 2016, section 3.2). With stride 1, in float32 on a CPU, a kernel of 5x5 goes by
    way of `fourier_convolve`, which takes a third of the time (LOG.md).
    """

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: A002
        size, padding = self.kernel_size[0], self.padding[0]
        assert isinstance(padding, int)
        if output_size is not None:
            return super().forward(input, output_size)
        if self.out_channels == 1 and self.stride == (2, 2) and size + self.output_padding[0] == 2 + 2 * padding:
            kernel = sub_pixel_kernel(self.weight, padding)
            bias = None if self.bias is None else self.bias.repeat_interleave(4)
            return F.pixel_shuffle(F.conv2d(input, kernel, bias, padding=kernel.shape[2] // 2), 2)
        if self.stride == (1, 1) and size == 2 * padding + 1 == 5 and _is_faster_by_fourier(input):
            outputs = fourier_convolve(input, self.weight.transpose(0, 1).flip(2, 3), padding)
            return outputs if self.bias is None else outputs + self.bias[:, None, None]
        return super().forward(input)


def _is_faster_by_fourier(images: Tensor) -> bool:
    """Return if `fourier_convolve` was measured to be faster: from 32 images on, of up to 16x16 pixels (LOG.md)."""
    return len(images) >= 32 and images.shape[2] * images.shape[3] <= 256 and _is_plain_float32(images)


def _is_plain_float32(images: Tensor) -> bool:
    """Return if they are float32 on a CPU, outside autocast and torch.compile."""
    in_float32 = images.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return in_float32 and images.device.type == "cpu" and not torch.compiler.is_compiling()


def fourier_convolve(images: Tensor, kernel: Tensor, padding: int) -> Tensor:
    """Return F.conv2d(images, kernel, padding=padding) by way of the Fourier transform (Mathieu et al. 2014).

    Per frequency it is one matrix product of channels: for 7x7 maps and a kernel of 5x5 a fifth of the multiplications.
    The maps are small, so the transforms are matrix products too. `images` (N, C, H, W) and the result are fast with
    their channels last in memory; `kernel` is (K, C, KH, KW) and `padding` less than KH and KW.
    """
    (num, channels, *size), (num_out, _, *taps) = images.shape, kernel.shape
    outputs = [length + 2 * padding - tap + 1 for length, tap in zip(size, taps, strict=True)]
    # The circular convolution wraps around: with this period only in outputs that the padding leaves out.
    period = tuple(max(size[i] + padding, outputs[i] + taps[i] - 1 - padding) for i in (0, 1))
    transform = partial(_fourier_matrix, period=period, dtype=images.dtype)
    spectrum = torch.matmul(transform(tuple(size)), images.permute(0, 2, 3, 1).flatten(1, 2))
    spectrum = spectrum.view(num, -1, 2 * channels).transpose(0, 1)
    of_kernel = transform(tuple(taps), start=-padding) @ kernel.permute(2, 3, 1, 0).flatten(2).flatten(0, 1)
    real, imaginary = of_kernel.view(-1, 2, channels, num_out).unbind(1)
    # F.conv2d is a cross-correlation: the image's spectrum times the complex conjugate of the kernel's.
    product = torch.cat([torch.cat([real, -imaginary], 2), torch.cat([imaginary, real], 2)], 1)
    spectrum = torch.bmm(spectrum, product).transpose(0, 1).reshape(num, -1, num_out)
    return (
        torch.matmul(transform(tuple(outputs), inverse=True), spectrum).view(num, *outputs, num_out).permute(0, 3, 1, 2)
    )


@cache
@torch.inference_mode(False)  # which the first caller may be in, and a later one trains
def _fourier_matrix(
    size: tuple[int, ...], *, period: tuple[int, ...], dtype: torch.dtype, start: int = 0, inverse: bool = False
) -> Tensor:
    """Return the transform of real maps of `size`, beginning at `start`: (2 * frequencies, H * W), or its inverse.

    Of each frequency and its conjugate only one is kept; its real and imaginary part are neighbouring rows.
    """
    kept, weights = [], []
    for y, x in itertools.product(range(period[0]), range(period[1])):
        conjugate = (-y % period[0], -x % period[1])
        if (y, x) <= conjugate:
            kept.append((y / period[0], x / period[1]))
            weights.append(1 if (y, x) == conjugate else 2)
    places = list(itertools.product(range(start, start + size[0]), range(start, start + size[1])))
    # By NumPy, as torch may be set to another device.
    angles = 2 * np.pi * np.array(kept) @ np.array(places).T
    waves = np.stack([np.cos(angles), -np.sin(angles)], axis=1)
    if inverse:
        waves = (waves * np.reshape(weights, (-1, 1, 1)) / math.prod(period)).transpose(2, 0, 1)
        return torch.from_numpy(waves.reshape(len(places), -1)).to(dtype)
    return torch.from_numpy(waves.reshape(-1, len(places))).to(dtype)


def sub_pixel_kernel(weight: Tensor, padding: int) -> Tensor:
    """Return the convolution kernel of a transposed one of stride 2, (C_in, C_out, K, K) -> (4 * C_out, C_in, R, R).

    It reads no index from the host, so that a CUDA graph can capture it.
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
    """nn.Conv2d that skips border outputs which see only padding, when its weights train in float32 on a CPU.

    They equal the bias: in the report's network the first row and column of 10x10. Outputs and the input's gradient
    are bit-identical, the weights' gradient is equal up to rounding. It takes half the time (LOG.md). bfloat16 gains
    nothing by it; on a GPU it was not measured.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        size, stride, padding = self.kernel_size[0], self.stride[0], self.padding[0]
        assert isinstance(padding, int)
        num_empty = -(-(padding + 1 - size) // stride)
        if num_empty < 1 or not (self.weight.requires_grad and _is_plain_float32(input)):
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
    """nn.BatchNorm2d with accurate sums over large inputs on a CPU.

    With channels last torch adds up a channel in float32, one pixel after another: ten times as fast as otherwise, but
    off by 6e-4 over 3,000 images of 14x14 (LOG.md).
    """

    _LONG = 2**16

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        if self.training and input.device.type == "cpu" and input.numel() > self._LONG * input.shape[1]:
            input = input.contiguous()  # noqa: A001
        return super().forward(input)


class ChannelsLastFlatten(nn.Module):
    """(N, C, H, W) as (N, H * W * C), for a ReadOut: without a copy if the channels are last in memory."""

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
    """Source of random bits for the layers, as `training.noise.Noise`."""

    def bits(self, shape: torch.Size, salt: int) -> Tensor: ...


def _mask(module: "Dropout | ChannelDropout | AlphaDropout", shape: torch.Size, like: Tensor) -> tuple[Tensor, float]:
    """Return 1 for what is kept and 0 for what is dropped, in the type of `like`, and the share that is dropped."""
    assert module.noise is not None
    num_dropped = min(round(module.p * 2**16), 2**16 - 1)
    kept = module.noise.bits(shape, module.salt) >= num_dropped - 2**15
    return kept.to(like.dtype), num_dropped / 2**16


class Dropout(nn.Dropout):
    """nn.Dropout whose mask in training comes from `noise`, 16 random bits per element; without `noise` from torch.

    On a CPU torch draws serially, which takes a fifth of a step of the report's GAN (LOG.md). `p` becomes
    the next multiple of 2**-16, which for 0.3 is 0.3 + 3e-6, and the kept elements are scaled by what that leaves.
    """

    noise: BitSource | None = None
    salt = 0

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # its name in torch
        if not self.training or self.p == 0 or self.noise is None:
            return super().forward(input)
        kept, dropped = _mask(self, input.shape, input)
        return input * kept.mul_(1 / (1 - dropped))


class ChannelDropout(nn.Module):
    """nn.Dropout1d, 2d and 3d on (N, C, ...): entire channels are dropped, by random bits of `noise`."""

    noise: BitSource | None = None
    salt = 0

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        if not self.training or self.p == 0:
            return input
        if self.noise is None:
            return torch.feature_dropout(input, self.p, train=True)
        kept, dropped = _mask(self, input.shape[:2], input)
        return input * kept.mul(1 / (1 - dropped)).view(*kept.shape, *[1] * (input.ndim - 2))


class AlphaDropout(nn.Module):
    """nn.AlphaDropout, and with `of_channels` nn.FeatureAlphaDropout, by random bits of `noise` (Klambauer 2017)."""

    noise: BitSource | None = None
    salt = 0
    _LOWEST = -1.7580993408473766  # SELU's output far below zero

    def __init__(self, p: float, *, of_channels: bool = False):
        super().__init__()
        self.p, self.of_channels = p, of_channels

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        if not self.training or self.p == 0:
            return input
        if self.noise is None:
            return (F.feature_alpha_dropout if self.of_channels else F.alpha_dropout)(input, self.p, training=True)
        kept, dropped = _mask(self, input.shape[:2] if self.of_channels else input.shape, input)
        if self.of_channels:
            kept = kept.view(*kept.shape, *[1] * (input.ndim - 2))
        scale = ((1 - dropped) * (1 + dropped * self._LOWEST**2)) ** -0.5
        return scale * (input * kept + self._LOWEST * (1 - kept) + dropped * -self._LOWEST)


class Normal(nn.Module):
    """Normal random numbers of the shape of `like`, (N, ...), in training from `noise`. User networks call it too.

    In eval mode all rows get the same fixed numbers, so that samples are reproducible. Without `noise`, outside
    distgan's training, it is torch.randn_like.
    """

    noise: BitSource | None = None
    salt = 0

    def forward(self, like: Tensor) -> Tensor:
        if not self.training:
            nothing = torch.zeros(2, dtype=torch.int32, device=like.device)
            num = like[0].numel()
            columns = counters(torch.arange(2 * num, dtype=torch.int32, device=like.device), 1)
            bits = counter_hash(nothing[:1], columns, nothing, self.salt) >> 16
            return _to_normals(bits.view(1, 2, num), like.dtype).view(1, *like.shape[1:]).expand_as(like)
        if self.noise is None:
            return torch.randn_like(like)
        num = like[0].numel()
        bits = self.noise.bits(torch.Size((len(like), 2 * num)), self.salt)
        return _to_normals(bits.view(len(like), 2, num), like.dtype).view(like.shape)


def _to_normals(bits: Tensor, dtype: torch.dtype) -> Tensor:
    """Return normals (N, M) from (N, 2, M) of random integers from -2**15 to 2**15 - 1 (Box and Muller 1958)."""
    radius, angle = bits.to(torch.get_default_dtype()).add(2**15 + 0.5).mul(2.0**-16).unbind(1)
    return ((-2 * radius.log()).sqrt() * (2 * math.pi * angle).cos()).to(dtype)


_DRAWING = (Dropout, ChannelDropout, AlphaDropout, Normal)


def swap_dropout(network: nn.Module) -> nn.Module:
    """Return the network with layers of this module in place of torch's dropout, and give each its own salt."""
    network = _replace_layer(network)
    swapped: dict[nn.Module, nn.Module] = {}  # a layer may stand in several places
    for parent in list(network.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None:
                if child not in swapped:
                    swapped[child] = _replace_layer(child)
                parent._modules[name] = swapped[child]
    for salt, module in enumerate(list_noise_layers(network)):
        module.salt = salt * 0x2545F491
    return network


def _replace_layer(layer: nn.Module) -> nn.Module:
    """Return the layer of this module for one of torch's own; a subclass, which may do more, stays."""
    kind, swapped = type(layer), layer
    if kind is nn.Dropout:
        swapped = Dropout(layer.p)  # type: ignore[arg-type]
    if kind in (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d):
        swapped = ChannelDropout(layer.p)  # type: ignore[arg-type]
    if kind in (nn.AlphaDropout, nn.FeatureAlphaDropout):
        swapped = AlphaDropout(layer.p, of_channels=kind is nn.FeatureAlphaDropout)  # type: ignore[arg-type]
    swapped.training = layer.training
    return swapped


def list_noise_layers(network: nn.Module) -> list[Any]:
    """Return the layers that draw random numbers from a BitSource."""
    return [module for module in network.modules() if isinstance(module, _DRAWING)]


def attach_noise(network: nn.Module, noise: BitSource) -> bool:
    """Make every layer that draws random numbers take them from `noise`. True if there is such a layer."""
    layers = list_noise_layers(network)
    for layer in layers:
        layer.noise = noise
    return bool(layers)


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


def concat_one_hot(flat: Tensor, labels: Tensor, num: int) -> Tensor:
    """Return (N, F) with the one-hot label of `num` classes behind it, (N, F + num)."""
    return torch.cat([flat, one_hot(labels, flat, num)], dim=1)
