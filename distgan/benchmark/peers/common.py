"""Shared code of the plain loops: arguments, networks, losses, data, and the timing of their steps."""

import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from itertools import chain, islice, repeat

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from distgan.benchmark.measurement import RunSpec
from distgan.config.registry import Loss
from distgan.config.schema import Config
from distgan.data.base import data_folder
from distgan.data.clustering import cluster_within
from distgan.data.loader import global_batch_size
from distgan.models.base import build_discriminator, build_generator
from distgan.models.layers import Conv2d, Dropout, TransposedConv2d
from distgan.models.user_networks import load_networks
from distgan.training.losses import find_loss, penalty_weight, with_penalty_weight


def read_spec() -> RunSpec:
    """Return the RunSpec in the program's argument, as JSON: a config for MNIST, and the number of steps to time."""
    spec = RunSpec.model_validate_json(sys.argv[1])
    config = load_networks(spec.config)
    optim = with_penalty_weight(config.optim, config.model, global_batch_size(config.data, 1))
    return spec.model_copy(update={"config": config.model_copy(update={"optim": optim})})


def loss_of(config: Config) -> Loss:
    """Return the loss that a config names."""
    return find_loss(config.optim.loss, config.model)


def build_networks(config: Config) -> tuple[nn.Module, nn.Module]:
    """Return distgan's networks with torch's layers in place of distgan's three that are faster on a CPU."""
    networks = build_generator(config.model), build_discriminator(config.model)
    for parent in (module for network in networks for module in network.modules()):
        for key, layer in parent.named_children():
            if isinstance(layer, Dropout):
                setattr(parent, key, nn.Dropout(layer.p))
            elif isinstance(layer, Conv2d):
                layer.forward = partial(nn.Conv2d.forward, layer)  # type: ignore[method-assign]
            elif isinstance(layer, TransposedConv2d):
                layer.forward = partial(nn.ConvTranspose2d.forward, layer)  # type: ignore[method-assign]
    return networks


def build_average(generator: nn.Module, config: Config) -> Callable[[nn.Module], None]:
    """Return a function that updates the moving average of G's weights; it does nothing if the preset has none."""
    if not config.optim.ema_decay:
        return lambda _: None
    return AveragedModel(
        generator, multi_avg_fn=get_ema_multi_avg_fn(config.optim.ema_decay), use_buffers=True
    ).update_parameters


def d_loss(
    discriminator: nn.Module, real: Tensor, fake: Tensor, labels: Tensor, config: Config
) -> tuple[Tensor, Tensor]:
    """Return D's loss with its penalty, and its logits on the real images, detached."""
    loss = loss_of(config)
    real_logits, fake_logits = discriminator(real, labels), discriminator(fake, labels)
    total = loss.d_loss(real_logits, fake_logits)
    if loss.penalty is not None and (weight := penalty_weight(config.optim, loss)):
        uniform = lambda: torch.rand(len(real), device=real.device)  # noqa: E731
        total = total + weight * loss.penalty(discriminator, real, fake, labels, uniform)
    return total, real_logits.detach()


def draw_z(num: int, generator: nn.Module, device: torch.device) -> Tensor:
    """Return standard normal noise (num, *latent_shape)."""
    shape: tuple[int, ...] = generator.latent_shape  # type: ignore[assignment]  # Module's attributes have no types
    return torch.randn(num, *shape, device=device)


def load_mnist(config: Config) -> DataLoader:
    """Return a loader of MNIST's training images in -1 to 1, labels by cluster if the model has clusters."""
    to_unit = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))])
    images = datasets.MNIST(str(data_folder(config.data)[0]), download=False, transform=to_unit)
    if config.model.clusters:
        labels = images.targets if config.model.is_conditional else torch.zeros_like(images.targets)
        images.targets = cluster_within(images.data, labels, config.model.clusters)
    return DataLoader(images, batch_size=config.data.batch_size, shuffle=True, num_workers=2)


class Clock:
    """Iterator over batches that times stretches of `steps` of them; a step includes the wait for its batch.

    A GPU runs asynchronously: it is synchronized between two stretches only.
    """

    def __init__(self, spec: RunSpec):
        self.warmup, self.steps, self.total = spec.warmup, spec.steps, spec.warmup + spec.steps * spec.repeats
        self.is_cuda = torch.cuda.is_available()
        self.repeats: list[dict[str, float]] = []
        self.epoch_images = 0

    def batches(self, loader: DataLoader) -> Iterator[tuple[int, list[Tensor]]]:
        """Yield numbered batches, epoch after epoch."""
        self.epoch_images = len(loader.dataset)  # type: ignore[arg-type]  # its type has no length
        endless = chain.from_iterable(repeat(loader))
        start, images = self._now(), 0
        for number, batch in enumerate(islice(endless, self.total), start=1):
            yield number, batch
            images += len(batch[1])
            counted = number - self.warmup
            if counted >= 0 and counted % self.steps == 0:
                end = self._now()
                if counted:
                    self.repeats.append({"seconds": end - start, "steps": self.steps, "images": images})
                start, images = end, 0

    def _now(self) -> float:
        if self.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def report(self) -> None:
        """Print the result as one JSON object on the last line."""
        versions = {"python": platform.python_version(), "torch": torch.__version__}
        result = {
            "repeats": self.repeats,
            "epoch_images": self.epoch_images,
            "versions": versions | {name: version(name) for name in ("torchvision", "accelerate")},
            "device": torch.cuda.get_device_name() if self.is_cuda else "cpu",
            "threads": torch.get_num_threads(),
            "tf32": {"matmul": torch.backends.cuda.matmul.allow_tf32, "cudnn": torch.backends.cudnn.allow_tf32},
        }
        print(json.dumps(result))
