"""cuDNN's operators without cuDNN: outputs of its shapes and layouts, whose numbers are whatever lies there.

Each logs one piece of work, as if cuDNN had one kernel for it.
"""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor, library
from torch._prims_common import suggest_memory_format

STAND_IN = ctypes.CDLL(None)  # what is preloaded
STAND_IN.stand_in_work.argtypes = (ctypes.c_char_p, ctypes.c_void_p)
_OVERRIDES = library.Library("aten", "IMPL")


def install() -> None:
    """Replace the operators for this process. Their callers, and the choice of cuDNN among others, stay torch's."""
    operators = (
        cudnn_convolution,
        cudnn_convolution_transpose,
        convolution_backward,
        cudnn_batch_norm,
        cudnn_batch_norm_backward,
    )
    for operator in operators:
        # Compiled networks call them too, and are not to be compiled into them.
        _OVERRIDES.impl(operator.__name__, torch._disable_dynamo(operator), "CUDA", allow_override=True)


def cudnn_convolution(
    x: Tensor, weight: Tensor, padding: Sequence[int], stride: Sequence[int], dilation: Sequence[int], *_: object
) -> Tensor:
    """(N, C, H, W) and (K, C, h, w) -> (N, K, H', W')."""
    _log("convolution forward")
    sizes = [
        (size + 2 * padding[i] - dilation[i] * (weight.shape[2 + i] - 1) - 1) // stride[i] + 1
        for i, size in enumerate(x.shape[2:])
    ]
    return _empty((x.shape[0], weight.shape[0], *sizes), x, weight)


def cudnn_convolution_transpose(
    x: Tensor, weight: Tensor, padding: Sequence[int], output_padding: Sequence[int], stride: Sequence[int],
    dilation: Sequence[int], groups: int, *_: object,
) -> Tensor:  # fmt: skip
    """(N, C, H, W) and (C, K / groups, h, w) -> (N, K, H', W')."""
    _log("transposed convolution forward")
    sizes = [
        (size - 1) * stride[i] - 2 * padding[i] + dilation[i] * (weight.shape[2 + i] - 1) + output_padding[i] + 1
        for i, size in enumerate(x.shape[2:])
    ]
    return _empty((x.shape[0], weight.shape[1] * groups, *sizes), x, weight)


def convolution_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, bias_sizes: object, stride: object, padding: object, dilation: object,
    transposed: bool, output_padding: object, groups: int, wanted: Sequence[bool],
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """The gradients of input, weight and bias that are wanted, of either convolution."""
    kind = "transposed convolution" if transposed else "convolution"
    for is_wanted, name in zip(wanted, ("of the input", "of the weight"), strict=False):
        if is_wanted:
            _log(f"{kind} gradient {name}")
    return (
        _empty(x.shape, x, weight) if wanted[0] else None,
        _empty(weight.shape, x, weight) if wanted[1] else None,
        gradient.sum((0, 2, 3)) if wanted[2] else None,  # which torch itself adds up
    )


def cudnn_batch_norm(x: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The output, the batch's mean and inverse deviation per channel, and cuDNN's own notes."""
    _log("batch norm forward")
    statistics = [torch.empty(x.shape[1], device=x.device, dtype=torch.float32) for _ in range(2)]
    return torch.empty_like(x), *statistics, torch.empty(0, device=x.device, dtype=torch.uint8)


def cudnn_batch_norm_backward(x: Tensor, gradient: Tensor, weight: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of input, weight and bias."""
    _log("batch norm backward")
    return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)


def _log(name: str) -> None:
    STAND_IN.stand_in_work(f"cuDNN {name}".encode(), torch.cuda.current_stream().cuda_stream)


def _empty(shape: Sequence[int], x: Tensor, weight: Tensor) -> Tensor:
    """In the layout that cuDNN takes: channels last where either has it."""
    is_channels_last = torch.channels_last in (suggest_memory_format(x), suggest_memory_format(weight))
    layout = torch.channels_last if is_channels_last else torch.contiguous_format
    return torch.empty(shape, device=x.device, dtype=x.dtype, memory_format=layout)
