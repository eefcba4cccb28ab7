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
    return _find_unregistered(name, network)


def _find_unregistered(name: str, network: nn.Module) -> str:
    """Return a sentence on a layer or a weight that stands in an attribute which torch does not look into; or ""."""
    known: set[object] = {*network.modules(), *network.parameters()}
    for path, module in network.named_modules():
        for key, value in vars(module).items():
            if key.startswith("_"):  # torch's own
                continue
            values = (
                value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
            )
            for each in values:
                has_weights = isinstance(each, nn.Module) and bool(each.state_dict())
                is_weight = isinstance(each, Tensor) and each.is_leaf and each.requires_grad
                if (has_weights or is_weight) and each not in known:
                    full = ".".join(filter(None, (name, path, key)))
                    return (
                        f"{full} holds {describe_value(each)} that is not registered, and so neither trained nor "
                        "saved. Expected: nn.ModuleList, nn.ModuleDict or nn.Parameter"
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


def find_differing_buffer(one: nn.Module, other: nn.Module) -> str:
    """Return the name of a buffer that differs between two copies; "" without one. BatchNorm's are synchronised."""
    synced = {path for path, each in one.named_modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)}
    others = dict(other.named_buffers())
    found = (key for key, value in one.named_buffers() if not torch.equal(value, others[key]))
    return next((key for key in found if key.rpartition(".")[0] not in synced), "")
