"""Watch the forward passes of a network: its layers that draw torch's random numbers, wait, or change inputs."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from io import StringIO
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from distgan.errors import print_line
from distgan.models.layers import list_noise_layers

# Calls that read or write values on the host, and leave no trace among the operators.
_ON_HOST = ("tolist", "numpy", "cpu")
_MADE_ON_HOST = ("lift_fresh",)  # torch.tensor(...): a copy from the host
_PLAIN = (bool, int, float, complex, str, bytes, type(None))


class ForwardWatch:
    """Record of a network's passes: `draws` and `syncs` by layer, with the operator; `foreign` generators, prints.

    `written`: `layer: operator` of the first that changes an input in place, with the input's number; None without one.
    `sigmoid`: the last layer that took one, and its result.
    """

    def __init__(self, name: str, network: nn.Module):
        self.name, self.network = name, network
        self.draws: dict[str, str] = {}
        self.syncs: dict[str, str] = {}
        self.foreign: list[str] = []
        self.printed = ""
        self.written: tuple[str, int] | None = None
        self.sigmoid: tuple[str, Tensor] | None = None
        self.inputs: dict[int, int] = {}  # address -> number
        self._stack: list[str] = []

    @property
    def layer(self) -> str:
        """Name of the layer whose forward runs, or ran last."""
        return self._stack[-1] if self._stack else self.name

    @contextmanager
    def watching(self, *inputs: Tensor) -> Iterator["ForwardWatch"]:
        """Watch the calls of the network within the block, with these inputs."""
        out = StringIO()
        self.inputs = {each.untyped_storage().data_ptr(): index for index, each in enumerate(inputs)}
        before = random.getstate(), _numpy_state()
        try:
            with ExitStack() as stack:
                for name, module in self.network.named_modules():
                    full = f"{self.name}.{name}" if name else self.name
                    words = f"{full} ({type(module).__name__})"
                    stack.callback(
                        module.register_forward_pre_hook(lambda *_, words=words: self._stack.append(words)).remove
                    )
                    stack.callback(module.register_forward_hook(lambda *_: self._leave()).remove)
                stack.enter_context(redirect_stdout(out))
                stack.enter_context(_Operators(self))
                stack.enter_context(_Calls(self))
                yield self
        finally:
            self.printed += out.getvalue()
            if out.getvalue():
                print_line(out.getvalue().rstrip("\n"), error=True)
        self._stack.clear()
        if before[0] != random.getstate():
            self.foreign.append("Python's random")
        if before[1] != _numpy_state():
            self.foreign.append("numpy.random")

    def ending_sigmoid(self, output: Tensor) -> str:
        """Return the layer whose sigmoid `output` is, or a view of it; "" for another output."""
        if self.sigmoid is None or _address(self.sigmoid[1]) != _address(output):
            return ""
        return self.sigmoid[0]

    def _leave(self) -> None:
        if len(self._stack) > 1:  # of an error the layer in which it was raised stays
            self._stack.pop()


def _numpy_state() -> str:
    state: Any = np.random.get_state(legacy=False)
    return f"{state['state']['pos']} {state['state']['key'].tobytes()!r}"


class _Operators(TorchDispatchMode):
    def __init__(self, watch: ForwardWatch):
        super().__init__()
        self.watch = watch

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        for argument in _written(func, args, kwargs or {}):
            if self.watch.written is None and (index := self.watch.inputs.get(_address(argument))) is not None:
                self.watch.written = f"{self.watch.layer}: {name}", index
        if torch.Tag.nondeterministic_seeded in func.tags and not _draws_nothing(func, args, kwargs or {}):
            self.watch.draws.setdefault(self.watch.layer, name)
        elif torch.Tag.data_dependent_output in func.tags or name in _MADE_ON_HOST:
            self.watch.syncs.setdefault(self.watch.layer, {"_local_scalar_dense": "item"}.get(name, name))
        elif torch.Tag.dynamic_output_shape in func.tags and (name != "index" or _by_mask(args)):
            self.watch.syncs.setdefault(self.watch.layer, name)
        result = func(*args, **(kwargs or {}))
        if name in ("sigmoid", "sigmoid_"):
            self.watch.sigmoid = self.watch.layer, result
        return result


def _written(func: Any, args: Any, kwargs: dict[str, Any]) -> Iterator[Tensor]:
    """Yield the tensors that an operator changes."""
    for index, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[index] if index < len(args) else kwargs.get(argument.name)
            yield from value if isinstance(value, list | tuple) else [] if value is None else [value]


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else -1


def _draws_nothing(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    """True for dropout of an operator that may do without, as attention, at a probability of 0."""
    names = [argument.name for argument in func._schema.arguments]
    given = dict(zip(names, args, strict=False)) | kwargs
    defaults = {argument.name: argument.default_value for argument in func._schema.arguments}
    chances = [name for name in ("dropout_p", "dropout", "p") if name in names]
    return any(given.get(name, defaults[name]) == 0 for name in chances)


def _by_mask(args: Any) -> bool:
    return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1])


class _Calls(TorchFunctionMode):
    def __init__(self, watch: ForwardWatch):
        super().__init__()
        self.watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in _ON_HOST:
            self.watch.syncs.setdefault(self.watch.layer, func.__name__)
        return func(*args, **(kwargs or {}))


@contextmanager
def watched_draws(**networks: nn.Module) -> Iterator[list[str]]:
    """Yield the names of layers with counter-based numbers whose forward runs within the block."""
    found: list[str] = []
    with ExitStack() as stack:
        for name, network in networks.items():
            layers = set(list_noise_layers(network))
            for path, module in network.named_modules():
                if module in layers:
                    words = f"{name}.{path} ({type(module).__name__})"
                    hook = module.register_forward_pre_hook(lambda *_, words=words: found.append(words))
                    stack.callback(hook.remove)
        yield found


# -- Python attributes --


def module_state(module: nn.Module) -> dict[str, Any]:
    """Return the plain values, arrays and tensors among the attributes of a module, as text; nothing of torch's own."""
    own = {"_parameters", "_buffers", "_modules", "noise", "salt"}
    return {
        key: _as_text(value)
        for key, value in vars(module).items()
        if key not in own and not key.endswith("_hooks") and is_plain(value)
    }


def _as_text(value: Any) -> str:
    if isinstance(value, Tensor):
        value = value.detach().cpu().to(torch.float64).numpy() if value.layout is torch.strided else 0
    if isinstance(value, np.ndarray):
        return f"{value.shape} {hashlib.blake2b(np.ascontiguousarray(value).tobytes(), digest_size=8).hexdigest()}"
    if isinstance(value, dict):
        return str({key: _as_text(each) for key, each in value.items()})
    return str([_as_text(each) for each in value]) if isinstance(value, list | tuple) else repr(value)


def is_plain(value: Any, depth: int = 0) -> bool:
    """True for numbers, text, arrays and tensors, and for lists and tables of them."""
    if isinstance(value, (*_PLAIN, Tensor, np.ndarray)):
        return True
    if depth > 3:
        return False
    if isinstance(value, dict):
        return all(is_plain(each, depth + 1) for each in value.values())
    return isinstance(value, list | tuple | set) and all(is_plain(each, depth + 1) for each in value)
