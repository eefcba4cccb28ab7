"""Deep copies of a user's networks, as the moving average is one."""

import copy
from typing import Any

from torch import nn

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
