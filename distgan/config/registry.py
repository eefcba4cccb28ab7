"""Every name that a setting may take, with its help text: one registry for each kind, without torch.

A built-in entry gives the path of its implementation, which is imported when it is first called. Another package
registers its own before it builds a `Config`; flags, help, validation, benchmarks and resume then know the name:

    LOSSES.register("softplus", Loss("softplus of both logits", d_loss=my_d_loss, g_loss=my_g_loss))
"""

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from distgan.config.image_spec import MNIST_SPEC, ImageSpec


@dataclass(frozen=True)
class Lazy:
    """A callable of another module of this package, `module:name`, imported when it is called."""

    path: str

    def load(self) -> Any:
        module, _, name = self.path.partition(":")
        return getattr(import_module(f"distgan.{module}"), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.load()(*args, **kwargs)


@dataclass(frozen=True)
class Entry:
    """`help`: its line of `--help`. `old_names`: names that it had, which flags and files may still hold."""

    help: str
    old_names: tuple[str, ...] = field(default=(), kw_only=True)

    def describe(self) -> str:
        return self.help


E = TypeVar("E", bound=Entry)


class Registry(dict[str, E]):
    """Entries by name, in the order in which help lists them."""

    def register(self, name: str, entry: E) -> None:
        """Add an entry. Raises ValueError for a name that is taken or that a flag could not carry."""
        if self.current(name) in self or not re.fullmatch(r"(?!auto$)[a-z0-9]+([.-][a-z0-9]+)*", name):
            raise ValueError(f"{name}: taken or malformed; expected: a new name as my-name.2, other than {list(self)}")
        self[name] = entry

    def current(self, name: str) -> str:
        """Return the name that an entry has now, for one that it had before; any other name as it is."""
        return next((now for now, entry in self.items() if name in entry.old_names), name)


@dataclass(frozen=True)
class Mode(Entry):
    """A precision or an engine, which may need a GPU."""

    needs_cuda: bool = False


@dataclass(frozen=True)
class Precision(Mode):
    """`mixed_precision`: what Accelerate calls it. `tolerance`: how far an engine's steps may be from the eager ones.

    The largest relative difference of a loss or a mean logit, and of what the steps added to a network's weights
    (0: the same, 1: one of the two stood still). Rounding differs, and Adam's first steps have the sign of a gradient
    that may be no more than rounding.
    """

    tolerance: tuple[float, float] = (1e-1, 0.6)
    mixed_precision: str = "no"


@dataclass(frozen=True)
class Engine(Mode):
    """`build(builder)` takes a `training.engines.engine.EngineBuilder` and returns an `Engine` of that module.

    It raises `EngineUnavailable` on all ranks where it can't take the steps, for which the eager engine then stands in.
    `captures_graphs`: on a GPU its steps may be CUDA graphs. `compiles`: its steps go through compiled code.
    """

    build: Callable[[Any], Any] = field(kw_only=True)
    captures_graphs: bool = False
    compiles: bool = False


@dataclass(frozen=True)
class Order(Entry):
    """A step takes D's gradients, then G's. `updates_d_first`: D's update is between the two, not after both.

    `draws_anew`: G's loss is of images from a new z, not of those that D has seen. `g_forwards`: passes of G in a step.
    """

    updates_d_first: bool = True
    draws_anew: bool = False

    @property
    def g_forwards(self) -> int:
        return 1 + self.draws_anew


@dataclass(frozen=True)
class Loss(Entry):
    """`d_loss(real_logits, fake_logits)`, `g_loss(fake_logits, real_logits)`, and a gradient penalty if it has one.

    Both take logits (N, 1) and return a scalar; `g_loss` gets the real logits of D's own step, detached. The scalar
    `penalty(D, real, fake, labels, uniform)` may call `uniform()` for a number between 0 and 1 per image, (N,).
    `penalty_batch`: the batch that `penalty_weight` is for, at MNIST's size; None: it is for any batch and size.
    `undecided_d_loss`: D's loss in nats where all its logits are 0, for a line in the report.
    """

    d_loss: Callable[..., Any]
    g_loss: Callable[..., Any]
    penalty: Callable[..., Any] | None = None
    penalty_weight: float = 0.0
    penalty_batch: int | None = None
    undecided_d_loss: float | None = None

    def describe(self) -> str:
        return self.help + (f", weight {self.penalty_weight:g} unless set" if self.penalty else "")


@dataclass(frozen=True)
class Family(Entry):
    """`build_generator(spec)` and `build_discriminator(spec)` take a `NetworkSpec` and return an nn.Module.

    See `models/base.py` for what the networks take and give. `settings`: those of `[model]` that are arguments of
    the functions that name them. `models`: those that the family supports.
    `unsupported`: which images it can be built for, in words, if it can't be built for these; else "".
    """

    build_generator: Callable[..., Any]
    build_discriminator: Callable[..., Any]
    settings: tuple[str, ...] = ()
    models: tuple[str, ...] = ("vanilla", "cgan")
    takes_noise_map: bool = False
    takes_clusters: bool = False
    unsupported: Callable[[ImageSpec], str] = lambda images: ""


@dataclass(frozen=True)
class DataSource(Entry):
    """`load(config, split)` takes a `DataConfig` and "train" or "test", and returns a `data.base.Dataset`.

    All ranks call it, the first of each machine before the others. `has_mnist_digits`: MNIST's judges can read it.
    """

    load: Callable[..., Any]
    has_mnist_digits: bool = False


@dataclass(frozen=True)
class Tracker(Entry):
    """`start(folder, run_id, step, settings)` returns a `distributed.trackers.TrackerRun`. Rank 0 calls it.

    `install`: what pip installs where its package is missing.
    """

    start: Callable[..., Any]
    install: str


AUTO = "auto"  # of a precision or an engine: what is found to be the best here


def names_on_cpu(modes: Registry[Any]) -> list[str]:
    """Return the names of entries that need no CUDA device."""
    return [name for name, mode in modes.items() if not mode.needs_cuda]


MODELS = Registry({"vanilla": Entry("no labels"), "cgan": Entry("both networks see the label")})

PRECISIONS = Registry({
    "fp32": Precision("float32", tolerance=(1e-3, 0.1), old_names=("no",)),
    "tf32": Precision("float32 with TF32 products, on GPUs", needs_cuda=True, tolerance=(2e-2, 0.3)),
    "fp16": Precision("autocast to float16 with a loss scaler, on GPUs", needs_cuda=True, mixed_precision="fp16"),
    "bf16": Precision("autocast to bfloat16", mixed_precision="bf16"),
})  # fmt: skip

_R = "training.engines.recipes:"
ENGINES = Registry({
    "auto": Engine("on a GPU the faster of eager and graph, by a one-second timing; else eager",
                   build=Lazy(_R + "build_fastest"), captures_graphs=True),
    "eager": Engine("torch, one operator at a time", build=Lazy(_R + "build_eager")),
    "compile": Engine("the networks by torch.compile", build=Lazy(_R + "build_compiled"), compiles=True),
    "graph": Engine("steps as CUDA graphs, compiled inside where that pays", True, build=Lazy(_R + "build_graph"),
                    captures_graphs=True),
    "graph-compiled": Engine("the same, always compiled inside", True, build=Lazy(_R + "build_graph_compiled"),
                             captures_graphs=True, compiles=True),
})  # fmt: skip

ORDERS = Registry({
    "simultaneous": Order("both gradients before either update", updates_d_first=False),
    "alternating": Order("D's update, then G's, on the fakes that D saw", old_names=("reuse",)),
    "alternating-fresh": Order("D's update, then G's, on fakes of a new z", draws_anew=True, old_names=("fresh",)),
})  # fmt: skip
PLAIN_LOOP_ORDER = "alternating"  # of PyTorch's DCGAN example, and so of the loops in distgan/benchmark/peers

_L = "training.losses:"
_BCE, _MINUS_MEAN, _PAIRS = (Lazy(_L + "bce_d"), Lazy(_L + "bce_g")), Lazy(_L + "minus_mean"), Lazy(_L + "relativistic")

LOSSES = Registry({
    "bce": Loss("cross-entropy on logits, G non-saturating", *_BCE, undecided_d_loss=2 * math.log(2)),
    "hinge": Loss("hinge on logits", Lazy(_L + "hinge_d"), _MINUS_MEAN),
    "wgan-gp": Loss("Wasserstein, and a penalty on the gradient between real and fake",
                    Lazy(_L + "wasserstein_d"), _MINUS_MEAN, Lazy(_L + "gradient_penalty"), 10.0),
    "r1": Loss("bce and a gradient penalty on real images", *_BCE, Lazy(_L + "r1"), 10.0, 256, 2 * math.log(2)),
    "r3gan": Loss("each fake against a real image of its label, and the penalty on both",
                  _PAIRS, _PAIRS, Lazy(_L + "r1_r2"), 0.3, 128),
})  # fmt: skip

OWN_LOSS = "own"  # that of build_loss() in a user's file, which is no entry


def _unlike_mnist(images: ImageSpec) -> str:
    return "" if images.model_copy(update={"class_names": MNIST_SPEC.class_names}) == MNIST_SPEC else _MNIST_ONLY


def _unlike_multiples_of_4(images: ImageSpec) -> str:
    sides = (images.height, images.width)
    return "" if all(16 <= side <= 128 and side % 4 == 0 for side in sides) else _MULTIPLES_OF_4


_MNIST_ONLY = f"those of the report, {MNIST_SPEC.describe()}"
_MULTIPLES_OF_4 = "sides of 16 to 128 that are multiples of 4, for example by --image-size 32"


def _lazy_builders(module: str) -> tuple[Lazy, Lazy]:
    return Lazy(f"models.{module}:build_generator"), Lazy(f"models.{module}:build_discriminator")


_SHAPED = ("leaky_slope", "dropout")

FAMILIES = Registry({
    "report2023": Family("the networks of the 2023 report", *_lazy_builders("report2023"),
                         settings=("stem", "logit_tail", *_SHAPED), takes_noise_map=True,
                         unsupported=_unlike_mnist, old_names=("seed",)),
    "dcgan": Family("a small DCGAN pair for a laptop", *_lazy_builders("dcgan"), settings=_SHAPED,
                    unsupported=_unlike_multiples_of_4, old_names=("small",)),
    "clustered": Family("the dcgan pair, conditioned on k-means clusters of the training images",
                        *_lazy_builders("clustered"), settings=("clusters", *_SHAPED),
                        takes_clusters=True, unsupported=_unlike_multiples_of_4),
})  # fmt: skip


def _not_loaded(spec: Any) -> Any:
    raise AssertionError("models.user_networks.load_networks comes first")


# What is known of a user's networks before their file is loaded.
OWN_FAMILY = Family("your own networks", _not_loaded, _not_loaded)

# Of files and folders of images that are no registered name; a name is one first.
DATA_FILES = (".zip", ".npz", ".parquet")


# In place of the path of images, where a program passes them.
IN_MEMORY = "(in memory)/images"


def is_data_path(name: str) -> bool:
    """Return True for text that is the path of images: by its form, or as something of that name is there."""
    return name not in DATASETS and (
        "/" in name
        or os.sep in name
        or name.startswith(("~", "."))
        or name.lower().endswith(DATA_FILES)
        or Path(name).exists()
    )


DATASETS = Registry({
    "mnist": DataSource("handwritten digits", Lazy("data.mnist:MNIST"), has_mnist_digits=True),
    "fashion-mnist": DataSource("clothes", Lazy("data.mnist:FASHION_MNIST")),
    "kmnist": DataSource("Japanese characters", Lazy("data.mnist:KMNIST")),
    "qmnist": DataSource("a reconstruction of MNIST", Lazy("data.mnist:QMNIST"), has_mnist_digits=True),
    "emnist-digits": DataSource("240,000 digits of EMNIST", Lazy("data.mnist:EMNIST_DIGITS"), has_mnist_digits=True),
    "cifar10": DataSource("photographs of 10 classes", Lazy("data.torchvision_sets:load_cifar10")),
    "cifar100": DataSource("photographs of 100 classes", Lazy("data.torchvision_sets:load_cifar100")),
    "svhn": DataSource("digits of house numbers, in colour", Lazy("data.torchvision_sets:load_svhn")),
    "digits": DataSource("scikit-learn's 8x8 digits, which need no download", Lazy("data.base:digits_source"),
                         has_mnist_digits=True),
})  # fmt: skip

_T = "distributed.trackers:"
TRACKERS = Registry({
    "tensorboard": Tracker("event files in the run's folder", Lazy(_T + "TensorBoardRun"), "tensorboard"),
    "wandb": Tracker("Weights & Biases, offline without a login", Lazy(_T + "WandbRun"), "distgan[wandb]"),
    "mlflow": Tracker("MLflow, in the run's folder without a server", Lazy(_T + "MlflowRun"), "distgan[mlflow]"),
    "trackio": Tracker("Trackio, in its database on this machine", Lazy(_T + "TrackioRun"), "distgan[trackio]"),
})  # fmt: skip
NO_TRACKER = "none"
