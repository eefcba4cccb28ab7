"""A fake CUDA graph on a CPU: captures operators and replays them on the same memory, without Python code between.

As in a CUDA graph, numbers from the host, random numbers and new tensors are those of the capture. Reading a value on
the host during a capture raises an error.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

WARM_UP = 3
_READS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default}


class FakeCudaGraph(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple, dict, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in _READS:
            raise RuntimeError(f"{func}: the host waits for the device during a capture")
        result = func(*args, **(kwargs or {}))
        memory = {t.untyped_storage().data_ptr() for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)}
        outputs = [t for t in tree_flatten(result)[0] if isinstance(t, Tensor)]
        # A replay copies new tensors into the captured memory; views and in-place results are there already.
        new = [t if t.untyped_storage().data_ptr() not in memory else None for t in outputs]
        self.calls.append((func, args, kwargs or {}, new))
        return result

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, captured in self.calls:
                results = tree_flatten(func(*args, **kwargs))[0]
                for work in results:
                    if hasattr(work, "wait") and not isinstance(work, Tensor):
                        work.wait()  # an all-reduce
                outputs = [t for t in results if isinstance(t, Tensor)]
                for old, new in zip(captured, outputs, strict=True):
                    if old is not None and old.numel():
                        old.copy_(new)


def capture(work: Callable[[], None], before_each: Callable[[], object]) -> Callable[[], None]:
    """Warm up, capture `work`, and return its replay: replaces `graphs.CudaGraphCapture`."""
    for _ in range(WARM_UP):
        before_each()
        work()
    before_each()  # this capture runs the work, where CUDA only records it
    graph = FakeCudaGraph()
    with graph:
        work()
    return graph.replay
