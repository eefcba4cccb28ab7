"""A training as a program sees it: observers that are called while it runs, and the result at its end."""

import logging
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from distgan.errors import UserError

EVENTS = ("on_metrics", "on_samples", "on_checkpoint")


class RunResult(NamedTuple):
    """Result of a training, the same on all ranks.

    `metrics`: the last line of metrics.jsonl. `stopped`: why the run ended before its last step, as "by SIGINT" or
    "before its time limit" (such a run can be resumed) or "targets met at step 940"; None at its last step.
    """

    folder: Path
    step: int
    metrics: dict[str, Any]
    stopped: str | None


class Observers:
    """Objects of a program with `on_metrics(step, dict)`, `on_samples(step, array)` or `on_checkpoint(path)`.

    Called on the main process with copies. Their random numbers, and torch's settings that they change, are not the
    training's. An exception of one is a warning with its traceback: by logging, if the program has set that up.
    """

    def __init__(self, observers: Sequence[object] = ()):
        if not isinstance(observers, Sequence):
            raise UserError(f"observers: a {type(observers).__name__}. Expected: a list of objects")
        for each in observers:
            if not any(callable(getattr(each, event, None)) for event in EVENTS):
                raise UserError(
                    f"observers: {type(each).__name__} has none of the methods. Expected: {', '.join(EVENTS)}"
                )
        self._observers = tuple(observers)
        self.warn: Callable[[str], None] = lambda message: None

    def notify(self, event: str, *values: Any) -> None:
        """Call the method `event` of each observer that has it; `values` are this call's own."""
        for observer in self._observers:
            if call := getattr(observer, event, None):
                try:
                    with _kept_torch_state():
                        call(*(value.copy() if hasattr(value, "copy") else value for value in values))
                except Exception as error:
                    self._report(f"{type(observer).__name__}.{event} failed, and training continues", error)

    def _report(self, message: str, error: Exception) -> None:
        logger = logging.getLogger("distgan")
        if logger.hasHandlers():
            logger.warning(message, exc_info=error)
        else:
            self.warn(f"{message}:\n{''.join(traceback.format_exception(error)).rstrip()}")


@contextmanager
def _kept_torch_state() -> Iterator[None]:
    """Restore torch's random state, threads, default dtype and grad mode at the end of the block."""
    num_threads, dtype, is_grad_enabled = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            torch.set_num_threads(num_threads)
            torch.set_default_dtype(dtype)
            torch.set_grad_enabled(is_grad_enabled)
