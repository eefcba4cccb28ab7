"""Networks that a program passes as modules, in place of a file of `--networks`."""

import hashlib
import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from torch import nn

from distgan.config.network_spec import NetworkSpec
from distgan.config.registry import Family
from distgan.config.schema import Config, ModelConfig
from distgan.errors import UserError
from distgan.models.module_copy import check_attributes, check_pair, copy_network
from distgan.models.user_networks import UserNetworks, describe_value, replace_loaded

# In place of a file in the config of a run.
GIVEN = "(modules of a program)"
_LENGTH = 8
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


@contextmanager
def given_modules(generator: nn.Module | None, discriminator: nn.Module | None) -> Iterator[str | None]:
    """Let a config with the yielded hash build copies of these modules, until the block ends; None without modules.

    The hash is over the code of their methods and the shapes of all tensors, not over values: half of it of each.
    Without `discriminator` they can only be drawn with. Raises UserError for what is no module.
    """
    if generator is None and discriminator is None:
        yield None
        return
    for name, module in (("generator", generator), ("discriminator", discriminator)):
        if module is not None and not isinstance(module, nn.Module):
            raise UserError(f"{name}: {describe_value(module)}. Expected: an nn.Module", code="bad-networks")
    if generator is None:
        raise UserError("generator: not given, though a discriminator is. Expected: both", code="missing-value")

    check_pair(generator, discriminator, f"--networks {GIVEN}")
    for name, module in (("generator", generator), ("discriminator", discriminator)):
        if module is not None:
            check_attributes(module, name, f"--networks {GIVEN}")

    def build_generator(spec: NetworkSpec) -> nn.Module:
        return copy_network(generator, "generator", f"--networks {GIVEN}")

    def build_discriminator(spec: NetworkSpec) -> nn.Module:
        if discriminator is None:
            raise UserError("discriminator: not given, though a generator is. Expected: both", code="missing-value")
        return copy_network(discriminator, "discriminator", f"--networks {GIVEN}")

    family = Family("modules of a program", build_generator, build_discriminator)
    sha256 = _hash(generator) + _hash(discriminator)
    before = replace_loaded(sha256, UserNetworks(Path(GIVEN), Path(), {}, sha256, family, None))
    try:
        yield sha256
    finally:
        replace_loaded(sha256, before)


def with_modules(config: Config, sha256: str) -> Config:
    """Return the config with the modules of that hash in place of its family."""
    changes: dict[str, Any] = {"networks": GIVEN, "networks_sha256": sha256, "family": None, "args": {}}
    model = config.model.model_dump(mode="json") | changes | {"clusters": None, "stem": "linear"}
    return config.model_copy(update={"model": ModelConfig.model_validate(model)})


def changed_modules(before: str, now: str) -> str:
    """Return which of the two modules has other code or sizes, by their hashes: `generator and discriminator`."""
    names = ["generator"] if before[:_LENGTH] != now[:_LENGTH] else []
    return " and ".join(names + (["discriminator"] if before[_LENGTH:] != now[_LENGTH:] else []))


def is_same_generator(sha256: str, other: str | None) -> bool:
    """True for two hashes of `given_modules` of the same generator."""
    return sha256[:_LENGTH] == (other or "")[:_LENGTH]


def _hash(network: nn.Module | None) -> str:
    if network is None:
        return "0" * _LENGTH
    digest = hashlib.sha256(_ADDRESS.sub("", repr(network)).encode())
    for module in network.modules():
        own = {name: value for name, value in vars(module).items() if isinstance(value, FunctionType)}
        if not type(module).__module__.startswith("torch."):
            own |= {name: value for name, value in vars(type(module)).items() if isinstance(value, FunctionType)}
        for name, function in own.items():
            digest.update(f"{name}\0{_code_of(function)}\0".encode())
    for key, value in network.state_dict().items():
        digest.update(f"{key}\0{tuple(value.shape)}\0{value.dtype}\0".encode())
    return digest.hexdigest()[:_LENGTH]


def _code_of(function: FunctionType) -> str:
    """Return the source of a function, or where there is none, as of one in exec'd text, its bytecode."""
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return _bytecode(function.__code__)


def _bytecode(code: CodeType) -> str:
    constants = [_bytecode(each) if isinstance(each, CodeType) else repr(each) for each in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {constants}"
