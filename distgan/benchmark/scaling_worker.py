"""One turn of one setting of `distgan bench scaling`, in processes of its own: how long its steps take.

`python -m distgan.benchmark.scaling_worker SPEC`, alone or by torchrun, with the JSON of a Spec in the file SPEC.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pydantic import BaseModel
from torch import nn

from distgan.config.registry import ORDERS
from distgan.config.schema import Config
from distgan.distributed.runtime import Runtime
from distgan.errors import TrainingFailed, exit_code_of
from distgan.training.engines.engine import Engine
from distgan.training.gan import Gan, check_ranks_equal
from distgan.training.session import Session, open_session
from distgan.utils.files import write_json

# Those of 150 epochs of 235: what an engine takes its time for.
_TOTAL_STEPS = 150 * 235
_CALLS = {"cpu": 5, "cuda": 50}


class Spec(BaseModel):
    """What a turn is to measure; unset steps are those of the device. `out` is the JSON file for what it found."""

    config: Config
    steps: int | None
    warmup: int | None
    repeats: int
    out: str


class Clock:
    """Seconds of what all ranks do together: of each repeat those of the slowest rank."""

    def __init__(self, runtime: Runtime, repeats: int):
        self._runtime, self._repeats = runtime, repeats

    def time(self, work: Callable[[], object]) -> list[float]:
        """Of each repeat. All ranks call it. Waits for the device before and after, never between."""
        seconds = torch.zeros(self._repeats, dtype=torch.float64)
        for repeat in range(self._repeats):
            self._align()
            start = time.perf_counter()
            work()
            self._wait()
            seconds[repeat] = time.perf_counter() - start
        return self._slowest(seconds)

    def _align(self) -> None:
        """Lets no rank begin while another still has something to do, which would count as a wait."""
        self._runtime.mean(torch.zeros(1, device=self._runtime.device))
        self._wait()

    def _wait(self) -> None:
        if self._runtime.device.type == "cuda":
            torch.cuda.synchronize()

    def _slowest(self, values: torch.Tensor) -> list[float]:
        if self._runtime.world_size == 1:
            return values.tolist()
        return self._runtime.all_gather(values.to(self._runtime.device)).amax(0).tolist()


def measure(spec: Spec) -> None:
    """Writes what was found to `spec.out`. All ranks call it; raises UserError and TrainingFailed."""
    with open_session(spec.config) as session, session.build_engine(total_steps=_TOTAL_STEPS) as engine:
        _measure(session, engine, spec)


def _measure(session: Session, engine: Engine, spec: Spec) -> None:
    config, runtime, dataset, gan = session.config, session.runtime, session.dataset, session.gan
    is_cuda = runtime.device.type == "cuda"
    steps, warmup = spec.steps or (200 if is_cuda else 3), spec.warmup or (30 if is_cuda else 2)
    clock, images = Clock(runtime, spec.repeats), 0

    def advance(num: int) -> torch.Tensor:
        nonlocal images
        limit, images = gan.step + num, 0
        while gan.step < limit:
            stats, seen = engine.advance(limit)
            images += seen
        return stats

    advance(warmup)
    seconds = clock.time(lambda: advance(steps))
    timed_images = images
    if not advance(1).isfinite().all():
        raise TrainingFailed("a loss is non-finite: what was timed is not a training")
    check_ranks_equal(gan, runtime)
    sizes = messages(gan, config.optim.order, is_cuda)
    found = {
        "step_s": [each / steps for each in seconds],
        "steps": steps,
        "warmup": warmup,
        "images_per_step": timed_images / steps,
        "num_images": len(dataset.images),
        "data": dataset.name,
        "engine": engine.selection.describe(),
        "messages": sizes,
        "all_reduce_s": _all_reduces(sizes, runtime, clock),
        "all_reduce_share": _share(advance, runtime),
        "peak_memory_gib": runtime.peak_memory_gib(),
    } | runtime.describe()
    found.pop("host")
    if runtime.is_main:
        write_json(Path(spec.out), found)


def messages(gan: Gan, order: str, is_cuda: bool) -> dict[str, list[int]]:
    """Bytes of each message that a step sends to all ranks, in float32, whether there are others or not.

    G's and D's gradients, as one message each; those of BatchNorm over all ranks, by layer of C channels: on CPUs
    two sums of C in the forward pass and two in the backward (sync_batchnorm.py), on GPUs 2 C + 1 there, an all-gather
    that counts as a sum here, and 2 C back (torch's SyncBatchNorm). `tiny` is a single number, for the latency.
    """
    grads = [sum(4 * p.numel() for p in network.parameters()) for network in (gan.generator, gan.discriminator)]
    batch_norm = []
    for layer in gan.generator.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            num = layer.num_features
            forward, backward = ([2 * num + 1], [2 * num]) if is_cuda else ([num, num], [num, num])
            batch_norm += forward * ORDERS[order].g_forwards + backward
    return {
        "tiny": [4],
        "generator": [grads[0]],
        "discriminator": [grads[1]],
        "batch_norm": [4 * num for num in batch_norm],
    }


def _all_reduces(sizes: dict[str, list[int]], runtime: Runtime, clock: Clock) -> dict[str, list[float]]:
    """Seconds of a step's messages of each kind, alone and one after the other, of each repeat."""
    if runtime.world_size == 1:
        return {}
    calls, found = _CALLS[runtime.device.type], {}
    for kind, each in sizes.items():
        buffers = [torch.zeros(size // 4, device=runtime.device) for size in each]

        def work(buffers: list[torch.Tensor] = buffers) -> None:
            for _ in range(calls):
                for buffer in buffers:
                    dist.all_reduce(buffer)

        work()  # connections and their memory are made at the first
        found[kind] = [seconds / calls for seconds in clock.time(work)] if buffers else []
    return found


def _share(advance: Callable[[int], Any], runtime: Runtime) -> float | None:
    """The part of 3 steps that torch's profiler gives to gloo's all-reduces, with the wait for other ranks in them.

    None on a GPU, where they run beside the rest.
    """
    if runtime.world_size == 1 or runtime.device.type != "cpu":
        return None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        start = time.perf_counter()
        advance(3)
        seconds = time.perf_counter() - start
    events = [event for event in profile.key_averages() if event.key == "gloo:all_reduce"]
    return sum(event.cpu_time_total for event in events) / 1e6 / seconds


def main(path: str) -> int:
    def work() -> None:
        spec = Spec.model_validate_json(Path(path).read_text())
        measure(spec)

    return exit_code_of(work)


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    # As in cli/__init__.py: threads of gloo may abort an interpreter that ends in good order.
    os._exit(code)
