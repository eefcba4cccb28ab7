"""Train GANs on one process or many.

    import distgan

    run = distgan.train(distgan.Config.from_preset("cgan-fast", epochs=3))
    images = distgan.sample(run.folder, num=64, labels=[3, 8])

`import distgan` imports nothing heavy: each name is imported when it is first used.
"""

import random
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distgan import errors as errors
    from distgan import noise as noise
    from distgan.config.schema import Config as Config
    from distgan.data.in_memory import Dataset as Dataset
    from distgan.launch.program import evaluate as evaluate
    from distgan.launch.program import load_generator as load_generator
    from distgan.launch.program import sample as sample
    from distgan.launch.program import train as train
    from distgan.runs.observers import RunResult as RunResult

__version__ = "0.1.0"
__all__ = ["Config", "Dataset", "RunResult", "evaluate", "load_generator", "sample", "train"]

_MODULES = {
    "Config": "config.schema",
    "Dataset": "data.in_memory",
    "RunResult": "runs.observers",
    "evaluate": "launch.program",
    "load_generator": "launch.program",
    "sample": "launch.program",
    "train": "launch.program",
}


def __getattr__(name: str) -> Any:
    if name in ("errors", "noise"):  # modules, of which a program needs no import
        return import_module(f"distgan.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module 'distgan' has no attribute {name!r}")
    return _load(name)


def _load(name: str) -> Any:
    state = random.getstate()  # which the import of a library may change
    try:
        return getattr(import_module(f"distgan.{_MODULES[name]}"), name)
    finally:
        random.setstate(state)


def __dir__() -> list[str]:
    return [*__all__, "__version__", "errors", "noise"]


class _Package(ModuleType):
    """This package, whose `train` stays the function also after an import of the module distgan/train.py."""

    @property
    def train(self) -> Any:
        return self.__dict__.get("_train") or _load("train")

    @train.setter
    def train(self, value: Any) -> None:
        if not isinstance(value, ModuleType):
            self.__dict__["_train"] = value

    @train.deleter
    def train(self) -> None:
        self.__dict__.pop("_train", None)


sys.modules[__name__].__class__ = _Package
