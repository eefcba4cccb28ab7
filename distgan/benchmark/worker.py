"""Measure a configuration once, on one process or several: `bench throughput` and `bench scaling` start it.

`python -m distgan.benchmark.worker SPEC`, directly or by torchrun, takes a RunSpec of measurement.py as JSON. Rank 0
prints a TimedRun as its last line.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from distgan.benchmark.measurement import Engine, Gate, Repeat, RunSpec, TimedRun
from distgan.benchmark.results import list_gpus
from distgan.config.registry import ENGINES, ORDERS
from distgan.distributed.runtime import Runtime
from distgan.errors import TrainingFailed, run_and_report
from distgan.training.engines.eager_check import measure_parity
from distgan.training.gan import Gan, check_ranks_equal
from distgan.training.session import Session, open_session
from distgan.utils.files import read_limited
from distgan.utils.provenance import Startup

_COUNTED_STEPS = 3
_MAX_TRACE = 2**30
_ALL_REDUCES = {"cpu": 5, "cuda": 50}


class Seconds(NamedTuple):
    """Elapsed seconds by the device's events, and by the host's clock."""

    device_s: float
    host_s: float


def time_on_ranks(work: Callable[[], object], runtime: Runtime) -> Seconds:
    """Return the slowest rank's seconds, by the device's events if it has them, and by the host's clock.

    All ranks must call it. Synchronizes device and ranks before and after `work`, never in between.
    """
    is_cuda = runtime.device.type == "cuda"
    if runtime.world_size > 1:  # a rank that is still busy would count as waiting time
        runtime.mean(torch.zeros(1, device=runtime.device))
    runtime.synchronize()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if is_cuda else []
    start = time.perf_counter()
    for event in events[:1]:
        event.record()
    work()
    for event in events[1:]:
        event.record()
    runtime.synchronize()
    host_s = time.perf_counter() - start
    seconds = [events[0].elapsed_time(events[1]) / 1e3 if events else host_s, host_s]
    if runtime.world_size > 1:
        local = torch.tensor(seconds, dtype=torch.float64, device=runtime.device)
        seconds = runtime.all_gather(local).amax(0).tolist()
    return Seconds(*seconds)


class TimedTraining:
    """The training of a configuration: `advance` takes steps, `timed` times them, `gate` checks them."""

    def __init__(self, session: Session, spec: RunSpec, startup: Startup):
        self.session, self.config, self.runtime = session, session.config, session.runtime
        self.gan, self.is_cuda = session.gan, session.runtime.device.type == "cuda"
        own_steps = spec.gate_steps + spec.warmup + spec.steps * spec.repeats + 2 * _COUNTED_STEPS
        # An engine may start more slowly if there are many steps to take.
        total_steps = max(own_steps, session.total_steps) if spec.whole_run else own_steps
        self.engine = session.build_engine(total_steps=total_steps)
        startup.mark("engine")

    def advance(self, steps: int) -> tuple[torch.Tensor, int]:
        """Take `steps` steps; return the last STATS, and the number of images. Does not synchronize the device."""
        limit, images = self.gan.step + steps, 0
        stats = torch.zeros(1, 4)
        while self.gan.step < limit:
            stats, more = self.engine.advance(limit)
            images += more
        return stats[-1], images

    def timed(self, steps: int) -> Repeat:
        """Time `steps` steps. Raises TrainingFailed for a non-finite loss. All ranks must call it."""
        done: list[tuple[torch.Tensor, int]] = []
        seconds = time_on_ranks(lambda: done.append(self.advance(steps)), self.runtime)
        ((stats, images),) = done
        if not bool(stats.isfinite().all()):
            raise TrainingFailed(f"non-finite loss at step {self.gan.step}: its timing is not valid")
        return Repeat(seconds=seconds.device_s, host_s=seconds.host_s, steps=steps, images=images)

    def gate(self, steps: int) -> Gate:
        """Compare `steps` steps of the engine with eager ones. All ranks must call it."""
        start, advance, reference = time.perf_counter(), self.engine.advance, self.engine.reference
        parity = measure_parity(self.gan, self.session.batches, self.runtime.precision, reference, advance, steps)
        off = {key: _to_json_number(getattr(parity, key)) for key in ("losses", "weights")}
        passed = all(self.runtime.all_gather_object(parity.passed))  # or a rank would continue alone
        known = {"steps": steps, "tolerance": parity.tolerance, "passed": passed, "words": str(parity)}
        return Gate.model_validate(known | off | {"seconds": time.perf_counter() - start})


def measure(spec: RunSpec) -> TimedRun:
    """Measure a configuration once; the result has no speeds if the gate failed. All ranks must call it."""
    startup = Startup()
    with open_session(spec.config, startup=startup) as session:
        training = TimedTraining(session, spec, startup)
        with training.engine:
            return _measure(training, spec, startup)


def _measure(training: TimedTraining, spec: RunSpec, startup: Startup) -> TimedRun:
    choice, runtime = training.engine.selection, training.runtime
    timed_run = TimedRun(
        engine=Engine.model_validate(choice.describe()),
        build_s=startup.phases,
        start_s=dict(choice.start_s),
        gate=training.gate(spec.gate_steps),
        runtime={key: value for key, value in runtime.describe().items() if key != "host"},
        tf32={"matmul": torch.backends.cuda.matmul.allow_tf32, "cudnn": torch.backends.cudnn.allow_tf32},
        data={"name": training.config.data.name, "fingerprint": training.session.fingerprint},
    )
    if not timed_run.gate or not timed_run.gate.passed:
        return timed_run
    if training.is_cuda:
        torch.cuda.empty_cache()  # memory that only the gate needed
        torch.cuda.reset_peak_memory_stats(runtime.device)
    start = time.perf_counter()
    if spec.warmup:
        training.timed(spec.warmup)
    timed_run.warmup_s = time.perf_counter() - start
    timed_run.repeats = [training.timed(spec.steps) for _ in range(spec.repeats)]
    # A capture may have happened only during the repeats.
    timed_run.start_s = dict(choice.start_s)
    more: dict[str, object] = {"gpus": list_gpus()} if training.is_cuda else {}  # their clocks while they are warm
    more["peak_memory_gib"] = runtime.peak_memory_gib()
    check_ranks_equal(training.gan, runtime)
    more["messages_bytes"] = sizes = message_sizes(training.gan, training.config.optim.order, is_cuda=training.is_cuda)
    more["all_reduce_s"] = _all_reduces(sizes, runtime, spec.repeats)
    return timed_run.model_copy(update=more | _profile(training, spec))


def _profile(training: TimedTraining, spec: RunSpec) -> dict[str, float | None]:
    """Count kernels per step on a GPU; on a CPU operators per step below autograd, and the all-reduces' share of time.

    Operators inside compiled code are not counted: the value is missing for an engine that compiles. The share is that
    of gloo's all-reduces, including the wait for other ranks; on a GPU they overlap with computation.
    """
    is_cuda, is_alone = training.is_cuda, training.runtime.world_size == 1
    counts: dict[str, float | None] = {}
    if spec.counts and not is_cuda and not ENGINES[training.engine.selection.name].compiles:
        with _Counter() as counter:
            training.advance(_COUNTED_STEPS)
        counts["operators_per_step"] = counter.num / _COUNTED_STEPS
    if not spec.trace and (not spec.counts if is_cuda else is_alone):
        return counts
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] if is_cuda else []
    with torch.profiler.profile(activities=activities) as profile:
        seconds = training.timed(_COUNTED_STEPS).host_s or 0
    if not is_cuda and not is_alone:
        events = [event for event in profile.key_averages() if event.key == "gloo:all_reduce"]
        counts["all_reduce_share"] = sum(event.cpu_time_total for event in events) / 1e6 / seconds
    if training.runtime.is_main and (is_cuda or spec.trace):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(spec.trace or Path(folder, "trace.json"))
            profile.export_chrome_trace(str(path))
            if is_cuda:  # copies and fills have other categories
                trace = json.loads(read_limited(path, _MAX_TRACE))["traceEvents"]
                counts["kernels_per_step"] = sum(event.get("cat") == "kernel" for event in trace) / _COUNTED_STEPS
    return counts


class _Counter(TorchDispatchMode):
    num = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.num += 1
        return func(*args, **(kwargs or {}))


def message_sizes(gan: Gan, order: str, *, is_cuda: bool) -> dict[str, list[int]]:
    """Return the bytes of each message that a step all-reduces, in float32, also for a single rank.

    G's and D's gradients, as one message each; those of BatchNorm over all ranks, by layer of C channels: on CPUs
    two sums of C in the forward pass and two in the backward (sync_batchnorm.py), on GPUs 2 C + 1 there, an all-gather
    that counts as a sum here, and 2 C back (torch's SyncBatchNorm). `tiny` is a single number, for the latency.
    """
    g, d = (sum(4 * p.numel() for p in network.parameters()) for network in (gan.generator, gan.discriminator))
    batch_norm = []
    for layer in gan.generator.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            size = 4 * layer.num_features
            forward, backward = ([2 * size + 4], [2 * size]) if is_cuda else ([size, size], [size, size])
            batch_norm += forward * ORDERS[order].g_forwards + backward
    return {"tiny": [4], "generator": [g], "discriminator": [d], "batch_norm": batch_norm}


def _all_reduces(sizes: dict[str, list[int]], runtime: Runtime, repeats: int) -> dict[str, list[float]]:
    """Measure the seconds of a step's messages by kind, in isolation and in sequence, for each repeat."""
    if runtime.world_size == 1:
        return {}
    calls, times = _ALL_REDUCES[runtime.device.type], {}
    for kind, kind_sizes in sizes.items():
        buffers = [torch.zeros(size // 4, device=runtime.device) for size in kind_sizes]

        def work(buffers: list[torch.Tensor] = buffers) -> None:
            for _ in range(calls):
                for buffer in buffers:
                    dist.all_reduce(buffer)

        work()  # the first call creates connections and buffers
        timed = [time_on_ranks(work, runtime) for _ in range(repeats if buffers else 0)]
        times[kind] = [seconds.host_s / calls for seconds in timed]
    return times


def _to_json_number(value: float) -> float | str:
    """Return a finite number unchanged, and NaN or infinity as text: JSON has neither."""
    return value if isfinite(value) else str(value)


def main(spec: str) -> int:
    """Measure by a RunSpec (JSON), print the TimedRun on rank 0, and return the exit code."""

    def work() -> None:
        timed_run = measure(RunSpec.model_validate_json(spec))
        if int(os.environ.get("RANK", "0")) == 0:
            print(json.dumps(timed_run.model_dump(), allow_nan=False))

    return run_and_report(work)


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    # As in cli/__init__.py: gloo's threads may abort an interpreter that exits normally.
    os._exit(code)
