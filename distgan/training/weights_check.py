"""Check of what a user's networks are built of: parameters that can be trained, saved and built again."""

import torch
from torch import Tensor, nn

from distgan.models.user_networks import describe_value


def find_problem(name: str, network: nn.Module, other: nn.Module) -> str:
    """Return the first problem of the network `name`, as a sentence; "" without one. `other`: from the same seed."""
    state, other_state = network.state_dict(), other.state_dict()
    if unlike := sorted(state.keys() ^ other_state.keys()):
        return (
            f"{name}.{unlike[0]} is in one of two builds from the same seed alone. Expected: the same layers each time"
        )
    for key, value in state.items():
        if problem := _find_tensor_problem(value, other_state[key], f"{name}.{key}"):
            return problem
    if not list(network.parameters()):
        return f"{name} has no parameter. Expected: weights to train, as attributes of the module"
    for key, parameter in network.named_parameters():
        if parameter.dtype != torch.float32:
            return f"{name}.{key} is of {parameter.dtype}. Expected: torch.float32 (see --precision)"
        if not parameter.requires_grad:
            return (
                f"{name}.{key} does not require a gradient, but a step trains all parameters. Expected: "
                "register_buffer for a constant"
            )
    return ""


def _find_tensor_problem(value: object, other: Tensor, full: str) -> str:
    if not isinstance(value, Tensor):
        return (
            f"{full} is {describe_value(value)} in state_dict. Expected: tensors alone, by register_buffer in place of "
            "get_extra_state"
        )
    if nn.parameter.is_lazy(value):
        return (
            f"{full.rpartition('.')[0]} has no shape before its first pass. Expected: nn.Linear(in, out) and the like, "
            "no lazy layer"
        )
    if value.layout is not torch.strided or value.is_meta or value.is_quantized:
        return f"{full} is sparse, quantized or without contents. Expected: a plain tensor with values"
    if not value.isfinite().all():
        return (
            f"{full} has NaN or infinite values, which cannot be trained or loaded. Expected: finite ones, or "
            "register_buffer with persistent=False"
        )
    if not torch.equal(value, other):
        return (
            f"{full} differs between two builds from the same seed, so that no run can be repeated. Expected: weights "
            "drawn by torch alone"
        )
    return ""
