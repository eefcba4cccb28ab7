"""Numbers to the device and back without making the host wait."""

import torch
from torch import Tensor


def upload(values: Tensor, into: Tensor) -> None:
    """Copies to a tensor on the device, after what is under way there. Only page-locked memory spares the wait."""
    into.copy_(values.pin_memory() if into.is_cuda else values, non_blocking=True)


class Reading:
    """Numbers on their way from the device; `wait` gives them as a tensor on the CPU."""

    def __init__(self, values: Tensor):
        self._event = None
        self._values = values
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def wait(self) -> Tensor:
        if self._event is not None:
            self._event.synchronize()
        return self._values
