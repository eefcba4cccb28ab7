"""What the plain loops share: arguments, data, and the clock around their steps."""

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator
from importlib.metadata import version
from itertools import chain, islice, pairwise, repeat
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from distgan.config import ModelConfig
from distgan.models import build_discriminator, build_generator


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
    parser.add_argument("--steps", type=int, default=20, help="counted steps")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them that are not counted")
    parser.add_argument("--precision", choices=["no", "bf16"], default="no")
    parser.add_argument("--batch-size", type=int, default=256)
    return parser.parse_args()


def load_mnist(args: argparse.Namespace) -> DataLoader:
    to_unit = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))])
    images = datasets.MNIST(args.data_dir, download=False, transform=to_unit)
    return DataLoader(images, batch_size=args.batch_size, shuffle=True, num_workers=2)


def seconds_since_process_start() -> float:
    """Imports are part of a start, so the clock is the kernel's: field 22 of Linux's /proc/self/stat."""
    ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(ticks) / os.sysconf("SC_CLK_TCK")


class Clock:
    """Deals out the batches and times what happens between them; a step includes the wait for its batch.

    A GPU runs behind the program, so there it is waited for only around the counted steps, which then
    all get the mean: waiting after each would slow down a loop that does not wait by itself.
    """

    def __init__(self, args: argparse.Namespace):
        self.warmup, self.total = args.warmup, args.warmup + args.steps
        self.is_cuda = torch.cuda.is_available()
        self.marks: list[float] = []
        self.startup_s = 0.0

    def batches(self, loader: DataLoader) -> Iterator[tuple[int, list[Tensor]]]:
        """Numbered batches, epoch after epoch."""
        self.marks = [time.perf_counter()]
        endless = chain.from_iterable(repeat(loader))
        for number, batch in enumerate(islice(endless, self.total), start=1):
            yield number, batch
            if self.is_cuda and number in (1, self.warmup, self.total):
                torch.cuda.synchronize()
            self.marks.append(time.perf_counter())
            if number == 1:
                self.startup_s = seconds_since_process_start()

    def report(self) -> None:
        """The result as one JSON object on the last line."""
        counted = self.marks[self.warmup :]
        step_s = [end - start for start, end in pairwise(counted)]
        if self.is_cuda:
            step_s = [(counted[-1] - counted[0]) / len(step_s)] * len(step_s)
        versions = {"python": platform.python_version(), "torch": torch.__version__}
        result = {
            "step_s": step_s,
            "startup_s": self.startup_s,
            "versions": versions | {name: version(name) for name in ("torchvision", "accelerate")},
            "device": torch.cuda.get_device_name() if self.is_cuda else "cpu",
            "torch_threads": torch.get_num_threads(),
        }
        print(json.dumps(result))
