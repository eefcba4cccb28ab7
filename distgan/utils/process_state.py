"""Save and restore the state of the Python process that a training changes."""

import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from operator import attrgetter
from typing import Any

import numpy as np
import torch

# Loggers whose level a training raises.
_LOGGERS = ("torch.utils.cpp_extension", "accelerate.accelerator")


@contextmanager
def preserve_process_state() -> Iterator[None]:
    """Restore the state of the process when the block ends: `preserve_settings`, and the random states."""
    with preserve_settings(), _preserve_random_states():
        yield


def seed_random_states() -> None:
    """Let random numbers of torch on the CPU, NumPy and Python begin at a fixed place."""
    torch.default_generator.manual_seed(0)
    np.random.seed(0)  # what code draws from that takes no generator
    random.seed(0)


@contextmanager
def preserve_torch_state() -> Iterator[None]:
    """Restore torch's settings, the random states of torch, NumPy and Python, and the working folder."""
    with _preserve_torch_settings(), _preserve_random_states():
        yield


@contextmanager
def preserve_settings() -> Iterator[None]:
    """Restore the settings of the process when the block ends, but not its random states.

    That is: environment variables, warning filters, log levels, threading.excepthook, sys.excepthook and sys.exit
    (which trackers replace), signal handlers in the main thread, the working folder, and torch's settings.
    """
    environment = dict(os.environ)
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    hooks = sys.excepthook, sys.exit, threading.excepthook
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()} if _is_main_thread() else {}
    try:
        with warnings.catch_warnings(), _preserve_torch_settings():
            yield
    finally:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update({name: value for name, value in environment.items() if os.environ.get(name) != value})
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        sys.excepthook, sys.exit, threading.excepthook = hooks
        for number, handler in handlers.items():
            if handler is not None and signal.getsignal(number) != handler:  # None: not of Python
                signal.signal(number, handler)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextmanager
def _preserve_torch_settings() -> Iterator[None]:
    """Restore torch's settings and the working folder.

    Threads, default dtype and device, grad mode, autocast, deterministic algorithms, anomaly detection, and what
    `torch.backends` has of precision, libraries and attention.
    """
    device, folder = torch.get_default_device(), _working_folder()
    autocast = {kind: torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")}
    deterministic = _deterministic()
    anomaly = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    settings = [(get, set_, _value(get)) for get, set_ in _SETTINGS]
    try:
        yield
    finally:
        if torch.get_default_device() != device:
            torch.set_default_device(None if device.type == "cpu" else device)
        for kind, is_enabled in autocast.items():
            torch.set_autocast_enabled(kind, is_enabled)
        if _deterministic() != deterministic:  # to set it imports the compiler, which takes seconds
            torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
        torch.set_anomaly_enabled(*anomaly)
        for get, set_, value in settings:
            if value is not None and _value(get) != value:
                with suppress(RuntimeError):
                    set_(value)
        if folder is not None and folder != _working_folder():
            os.chdir(folder)


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _flag(owner: str, name: str) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """Return two functions that read and write a flag of a module of torch.backends."""
    module = attrgetter(owner)
    return lambda: getattr(module(torch), name), lambda value: setattr(module(torch), name, value)


_MATMUL, _CUDNN, _MKLDNN = "backends.cuda.matmul", "backends.cudnn", "backends.mkldnn"

# Each as two functions. The newer interface of precision comes last: to set the older one sets the newer one too.
_SETTINGS: list[tuple[Callable[[], Any], Callable[[Any], Any]]] = [
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    *(_flag(_MATMUL, name) for name in ("allow_tf32", "allow_fp16_accumulation")),
    _flag(_MATMUL, "allow_fp16_reduced_precision_reduction"),
    _flag(_MATMUL, "allow_bf16_reduced_precision_reduction"),
    *(_flag(_CUDNN, name) for name in ("enabled", "benchmark", "deterministic", "allow_tf32")),
    *(_flag(_MKLDNN, name) for name in ("enabled", "deterministic")),
    *(
        (getattr(torch.backends.cuda, f"{kind}_sdp_enabled"), getattr(torch.backends.cuda, f"enable_{kind}_sdp"))
        for kind in ("flash", "mem_efficient", "math", "cudnn")
    ),
    *(_flag(owner, "fp32_precision") for owner in ("backends", _MATMUL, _CUDNN, f"{_CUDNN}.conv", f"{_CUDNN}.rnn")),
    *(_flag(owner, "fp32_precision") for owner in (_MKLDNN, *(f"{_MKLDNN}.{op}" for op in ("matmul", "conv", "rnn")))),
]


def _value(get: Callable[[], Any]) -> Any:
    """Return a setting; None where torch does not have it, or raises as a program has set the newer interface."""
    try:
        return get()
    except (RuntimeError, AttributeError):
        return None


@contextmanager
def _preserve_random_states() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


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
