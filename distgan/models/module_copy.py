"""Deep copies of a user's networks (the moving average is one), and checks for what a copy can't hold."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from distgan.errors import UserError, first_line


def copy_network(network: nn.Module, name: str, where: str) -> nn.Module:
    """Return a deep copy of the network `name`.

    Raises UserError, which begins with `where` and names the attribute that can't be copied.
    """
    try:
        return copy.deepcopy(network)
    except Exception as error:
        has_history = "graph leaves" in str(error)
        attribute = _find_attribute(name, network) or name
        what = (
            "holds a tensor of a pass with its history"
            if has_history
            else f"raises {type(error).__name__}, {first_line(error)}"
        )
        expected = (
            "nothing of a pass kept in an attribute, or detached and in a buffer (nn.utils.parametrizations in place "
            "of nn.utils.weight_norm and spectral_norm)"
            if has_history
            else "attributes that copy.deepcopy takes"
        )
        raise UserError(
            f"{where}: {name} can't be copied, as the moving average needs: {attribute} {what}. Expected: {expected}",
            code="bad-networks",
        ) from error


def check_pair(generator: nn.Module, discriminator: nn.Module | None, where: str) -> None:
    """Raise UserError for a parameter that both networks have, or for a TorchScript module."""
    names = {id(value): key for key, value in generator.named_parameters()}
    networks = {"generator": generator} | ({"discriminator": discriminator} if discriminator else {})
    for key, value in discriminator.named_parameters() if discriminator else ():
        if id(value) in names:
            raise UserError(
                f"{where}: generator.{names[id(value)]} and discriminator.{key} are one parameter, which both would "
                "train. Expected: a layer for each network",
                code="bad-networks",
            )
    for name, network in networks.items():
        for path, module in network.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                raise UserError(
                    f"{where}: {'.'.join(filter(None, (name, path)))} is a TorchScript module, which takes no hooks. "
                    "Expected: the nn.Module that it was made from (scripted functions are taken)",
                    code="bad-networks",
                )


def check_attributes(network: nn.Module, name: str, where: str) -> None:
    """Raise UserError for a tensor in a plain attribute of a given module: nothing could restore it on a resume."""
    for path, module in network.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, Tensor) and value.grad_fn is None:  # those with a history can't be copied
                place = ".".join(filter(None, (name, path, key)))
                raise UserError(
                    f"{where}: {place} is a tensor in a plain attribute, which no checkpoint keeps. Expected: "
                    f"self.register_buffer({key!r}, ...)",
                    code="bad-networks",
                )


def _find_attribute(name: str, network: nn.Module) -> str:
    """Return `generator.main.kept (Linear)`, the first attribute that can't be copied; "" without one."""
    for is_torchs in (False, True):  # hooks of torch's tables may refer to the entire network
        for path, module in network.named_modules():
            for key, value in vars(module).items():
                if key.startswith("_") == is_torchs and key != "_modules" and not _can_be_copied(value):
                    return f"{'.'.join(filter(None, (name, path, key)))} ({type(module).__name__})"
    return ""


def _can_be_copied(value: Any) -> bool:
    try:
        copy.deepcopy(value)
    except Exception:
        return False
    return True
