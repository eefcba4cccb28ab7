"""A training as a program sees it: observers that are called while it runs, and the result at its end."""

import logging
import traceback
from collections.abc import Callable, Sequence
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any, NamedTuple

from distgan.errors import UserError
from distgan.utils.process_state import preserve_torch_state

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

    Called on the main process with copies. What they change of random states, torch's settings and the working folder
    is restored (`utils/process_state.py`). An exception of one is a warning with its traceback: by logging, if the
    program has set that up.
    """

    def __init__(self, observers: Sequence[object] = ()):
        if not isinstance(observers, Sequence):
            raise UserError(f"observers: a {type(observers).__name__}. Expected: a list of objects")
        for observer in observers:
            methods = [method for event in EVENTS if callable(method := getattr(observer, event, None))]
            if not methods or any(map(iscoroutinefunction, methods)):
                what = "has an async method, which is never awaited" if methods else "has none of the methods"
                raise UserError(f"observers: {type(observer).__name__} {what}. Expected: {', '.join(EVENTS)}")
        self._observers = tuple(observers)
        self.warn: Callable[[str], None] = lambda message: None

    def notify(self, event: str, *values: Any) -> None:
        """Call the method `event` of each observer that has it; `values` are this call's own."""
        for observer in self._observers:
            if call := getattr(observer, event, None):
                try:
                    with preserve_torch_state():
                        call(*(value.copy() if hasattr(value, "copy") else value for value in values))
                except (Exception, SystemExit) as error:
                    self._report(f"{type(observer).__name__}.{event} failed, and training continues", error)

    def _report(self, message: str, error: BaseException) -> None:
        logger = logging.getLogger("distgan")
        if logger.hasHandlers():
            logger.warning(message, exc_info=error)
        else:
            self.warn(f"{message}:\n{''.join(traceback.format_exception(error)).rstrip()}")
