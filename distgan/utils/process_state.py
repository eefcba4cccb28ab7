"""Save and restore the state of the Python process that a training changes."""

import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Loggers whose level a training raises.
_LOGGERS = ("torch.utils.cpp_extension", "accelerate.accelerator")


@contextmanager
def preserve_process_state() -> Iterator[None]:
    """Restore the state of the process when the block ends.

    That is: environment variables, warning filters, log levels, threading.excepthook, sys.excepthook and sys.exit
    (which trackers replace), and torch's number of threads, random states, default dtype, TF32 and cuDNN benchmark
    mode. `training.stop` restores signal handlers.
    """
    environment = dict(os.environ)
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    hooks = sys.excepthook, sys.exit, threading.excepthook
    num_threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    arithmetic = (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark) if torch.cuda.is_available() else None
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices):
            yield
    finally:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update({name: value for name, value in environment.items() if os.environ.get(name) != value})
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        sys.excepthook, sys.exit, threading.excepthook = hooks
        torch.set_num_threads(num_threads)
        torch.set_default_dtype(dtype)
        if arithmetic:
            matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = arithmetic
