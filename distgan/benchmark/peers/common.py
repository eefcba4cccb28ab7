"""What the plain loops share: arguments, data, and the clock around their steps."""

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator
from importlib.metadata import version
from itertools import chain, islice, repeat

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from distgan.config.schema import ModelConfig
from distgan.models.base import build_discriminator, build_generator


def build_networks(name: str) -> tuple[nn.Module, nn.Module]:
    """distgan's networks in torch's own layers: its Dropout is quicker on a CPU than the one a plain loop has."""
    config = ModelConfig(name=name)
    generator, discriminator = build_generator(config), build_discriminator(config)
    for parent in discriminator.modules():
        for key, layer in parent.named_children():
            if isinstance(layer, nn.Dropout):
                setattr(parent, key, nn.Dropout(layer.p))
    return generator, discriminator


def parse_args(description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", choices=["vanilla", "cgan"], default="vanilla")
    parser.add_argument("--data-dir", default=os.environ.get("DISTGAN_DATA", "data"), help="holds MNIST/raw")
    parser.add_argument("--steps", type=int, default=20, help="counted steps of a repeat")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--warmup", type=int, default=3, help="steps before them that are not counted")
    parser.add_argument("--precision", choices=["no", "bf16"], default="no")
    parser.add_argument("--batch-size", type=int, default=256)
    return parser.parse_args()


def load_mnist(args: argparse.Namespace) -> DataLoader:
    to_unit = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))])
    images = datasets.MNIST(args.data_dir, download=False, transform=to_unit)
    return DataLoader(images, batch_size=args.batch_size, shuffle=True, num_workers=2)


class Clock:
    """Deals out the batches and times stretches of `--steps` of them; a step includes the wait for its batch.

    A GPU runs behind the program, so it is waited for between two stretches, and nowhere else.
    """

    def __init__(self, args: argparse.Namespace):
        self.warmup, self.steps, self.total = args.warmup, args.steps, args.warmup + args.steps * args.repeats
        self.is_cuda = torch.cuda.is_available()
        self.repeats: list[dict[str, float]] = []
        self.epoch_images = 0

    def batches(self, loader: DataLoader) -> Iterator[tuple[int, list[Tensor]]]:
        """Numbered batches, epoch after epoch."""
        self.epoch_images = len(loader.dataset)
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
        """The result as one JSON object on the last line."""
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
