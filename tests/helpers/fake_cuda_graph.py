"""A CUDA graph's rules on a CPU: the operators of a capture, done again on the same memory, with no Python between.

What a graph would bake in is baked in here too: a number from the host, a random number, a tensor made anew. A value
that the host reads during a capture is an error, as it is there.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

WARM_UP = 3
_READS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default}


class Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple, dict, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in _READS:
            raise RuntimeError(f"{func}: the host waits for the device during a capture")
        result = func(*args, **(kwargs or {}))
        memory = {t.untyped_storage().data_ptr() for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)}
        outputs = [t for t in tree_flatten(result)[0] if isinstance(t, Tensor)]
        # What lies in memory of its own is written there again; a view or an update in place is there already.
        made = [t if t.untyped_storage().data_ptr() not in memory else None for t in outputs]
        self.calls.append((func, args, kwargs or {}, made))
        return result

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, made in self.calls:
                results = tree_flatten(func(*args, **kwargs))[0]
                for work in results:
                    if hasattr(work, "wait") and not isinstance(work, Tensor):
                        work.wait()  # a sum over the ranks
                again = [t for t in results if isinstance(t, Tensor)]
                for old, new in zip(made, again, strict=True):
                    if old is not None and old.numel():
                        old.copy_(new)


def record(work: Callable[[], None], before: Callable[[], object]) -> Callable[[], None]:
    """As `graphs.CudaRecorder`: warm-up, then a capture."""
    for _ in range(WARM_UP):
        before()
        work()
    before()  # where CUDA takes down what it does not do, this does it once more
    tape = Tape()
    with tape:
        work()
    return tape.replay
