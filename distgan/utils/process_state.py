"""Save and restore the state of the Python process that a training changes."""

import logging
import os
import random
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import numpy as np
import torch

# Loggers whose level a training raises.
_LOGGERS = ("torch.utils.cpp_extension", "accelerate.accelerator")


@contextmanager
def preserve_process_state() -> Iterator[None]:
    """Restore the state of the process when the block ends.

    That is: environment variables, warning filters, log levels, threading.excepthook, sys.excepthook and sys.exit
    (which trackers replace), TF32 and cuDNN benchmark mode, and what `preserve_torch_state` restores. `training.stop`
    restores signal handlers.
    """
    environment = dict(os.environ)
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    hooks = sys.excepthook, sys.exit, threading.excepthook
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    arithmetic = None
    with suppress(RuntimeError):  # as of `_matmul_precision`
        arithmetic = (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark) if torch.cuda.is_available() else None
    try:
        with warnings.catch_warnings(), preserve_torch_state():
            yield
    finally:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update({name: value for name, value in environment.items() if os.environ.get(name) != value})
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        sys.excepthook, sys.exit, threading.excepthook = hooks
        if arithmetic:
            matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = arithmetic


@contextmanager
def preserve_torch_state() -> Iterator[None]:
    """Restore torch's settings, the random states of torch, NumPy and Python, and the working folder.

    Settings: threads, default dtype and device, grad mode, autocast, float32 matmul precision, deterministic
    algorithms, anomaly detection.
    """
    num_threads, dtype, device = torch.get_num_threads(), torch.get_default_dtype(), torch.get_default_device()
    is_grad_enabled, precision = torch.is_grad_enabled(), _matmul_precision()
    autocast = {kind: torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")}
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    anomaly = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    folder, python, numpy = _working_folder(), random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            torch.set_num_threads(num_threads)
            torch.set_default_dtype(dtype)
            if torch.get_default_device() != device:
                torch.set_default_device(None if device.type == "cpu" else device)
            torch.set_grad_enabled(is_grad_enabled)
            for kind, is_enabled in autocast.items():
                torch.set_autocast_enabled(kind, is_enabled)
            if precision is not None and _matmul_precision() != precision:
                torch.set_float32_matmul_precision(precision)
            torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
            torch.set_anomaly_enabled(*anomaly)
            random.setstate(python)
            np.random.set_state(numpy)
            if folder is not None and folder != _working_folder():
                os.chdir(folder)


def _matmul_precision() -> str | None:
    """Return torch's setting, None where it raises: a program has set `torch.backends...fp32_precision` instead."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


def _working_folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was deleted
        return None


@contextmanager
def default_torch_state() -> Iterator[None]:
    """Compute as a fresh process does, whatever dtype, device, grad mode or autocast the caller has set."""
    with preserve_torch_state(), ExitStack() as contexts:
        torch.set_default_dtype(torch.float32)
        for kind in ("cpu", "cuda"):
            torch.set_autocast_enabled(kind, False)
        contexts.enter_context(torch.inference_mode(False))
        contexts.enter_context(torch.enable_grad())
        if torch.get_default_device().type != "cpu":
            contexts.enter_context(torch.device("cpu"))
        yield
