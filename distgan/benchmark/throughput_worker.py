"""One turn of one cell of `distgan bench throughput`, in a process of its own.

`python -m distgan.benchmark.throughput_worker SPEC` takes a CellSpec as JSON and prints what it found as JSON,
as its last line.
"""

import json
import sys
import tempfile
import time
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from distgan.benchmark.flops import flops_per_image
from distgan.benchmark.matrix import CellSpec
from distgan.benchmark.results import gpus
from distgan.config.registry import ENGINES
from distgan.errors import TrainingFailed, UserError
from distgan.training.engines.eager_check import measure_parity
from distgan.training.session import Session, open_session
from distgan.utils.files import read_within
from distgan.utils.provenance import Startup

_COUNTED_STEPS = 3
_MAX_TRACE = 2**30


class Turn:
    """The training of a cell."""

    def __init__(self, session: Session, spec: CellSpec, startup: Startup):
        self.session, self.config, self.runtime = session, session.config, session.runtime
        self.gan, self.batches = session.gan, session.batches
        own_steps = spec.gate_steps + spec.warmup + spec.steps * spec.repeats + 2 * _COUNTED_STEPS
        # An engine may take its time to start where there are many steps to take.
        total_steps = max(own_steps, session.total_steps) if spec.whole_run else own_steps
        self.engine = session.build_engine(total_steps=total_steps)
        startup.mark("engine")
        self.build_s, self.fingerprint = startup.phases, session.dataset.fingerprint
        drops, num = self.config.data.drop_last, len(session.dataset.images)
        self.epoch_images = session.steps_per_epoch * session.batch_size if drops else num

    def advance(self, steps: int) -> tuple[torch.Tensor, int]:
        """That many steps: the last STATS, and how many images were in them. Does not wait for the device."""
        limit, images = self.gan.step + steps, 0
        stats = torch.zeros(1, 4)
        while self.gan.step < limit:
            stats, more = self.engine.advance(limit)
            images += more
        return stats[-1], images

    def timed(self, steps: int) -> dict[str, float]:
        """Seconds of a repeat, by the device's own clock where it has one, and by the host's; and its images."""
        device = self.runtime.device
        self.runtime.wait()
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if device.type == "cuda" else []
        start = time.perf_counter()
        for event in events[:1]:
            event.record()
        stats, images = self.advance(steps)
        for event in events[1:]:
            event.record()
        self.runtime.wait()
        host_s = time.perf_counter() - start
        if not bool(stats.isfinite().all()):
            raise TrainingFailed(f"non-finite loss at step {self.gan.step}")
        device_s = events[0].elapsed_time(events[1]) / 1e3 if events else host_s
        return {"seconds": device_s, "host_s": host_s, "steps": steps, "images": images}


def measure(spec: CellSpec) -> dict[str, Any]:
    """What a turn found; all that is a speed is absent where the gate failed."""
    startup = Startup()
    with open_session(spec.config, startup=startup) as session:
        turn = Turn(session, spec, startup)
        with turn.engine:
            return _measure(turn, spec)


def _measure(turn: Turn, spec: CellSpec) -> dict[str, Any]:
    choice, config = turn.engine.selection, turn.config
    start = time.perf_counter()
    engine = turn.engine
    parity = measure_parity(
        turn.gan, turn.batches, turn.runtime.precision, engine.reference, engine.advance, spec.gate_steps
    )
    found: dict[str, Any] = {
        "engine": choice.describe(),
        "build_s": turn.build_s,
        "start_s": dict(choice.start_s),
        "gate": {
            "steps": parity.steps,
            "losses": _finite(parity.losses),
            "weights": _finite(parity.weights),
            "tolerance": list(parity.tolerance),
            "passed": parity.passed,
            "words": str(parity),
            "seconds": time.perf_counter() - start,
        },
        "runtime": {key: value for key, value in turn.runtime.describe().items() if key != "host"},
        "tf32": {"matmul": torch.backends.cuda.matmul.allow_tf32, "cudnn": torch.backends.cudnn.allow_tf32},
        "data": {"name": config.data.name, "fingerprint": turn.fingerprint},
    }
    if not parity.passed:
        return found
    is_cuda = turn.runtime.device.type == "cuda"
    if is_cuda:
        torch.cuda.empty_cache()  # of what the gate has taken besides
        torch.cuda.reset_peak_memory_stats(turn.runtime.device)
    start = time.perf_counter()
    if spec.warmup:
        turn.timed(spec.warmup)
    found["warmup"] = {"steps": spec.warmup, "seconds": time.perf_counter() - start}
    found["repeats"] = [turn.timed(spec.steps) for _ in range(spec.repeats)]
    # A capture may have taken place only now.
    found["start_s"] = dict(choice.start_s)
    if is_cuda:
        found["gpus"] = gpus()  # their clocks while they are warm
    found["epoch_images"] = turn.epoch_images
    found["peak_memory_gib"] = turn.runtime.peak_memory_gib()
    found["flops_per_image"] = flops_per_image(config.model, config.optim)
    found |= _launches(turn, Path(spec.trace) if spec.trace else None)
    return found


def _launches(turn: Turn, trace: Path | None) -> dict[str, float | None]:
    """Kernels per step on a GPU, by torch's profiler; operators per step that reach the CPU below autograd.

    Operators inside compiled code are not seen: on a CPU they are None for an engine that compiles.
    """
    is_cuda = turn.runtime.device.type == "cuda"
    result: dict[str, float | None] = {"kernels_per_step": None, "operators_per_step": None}
    if not is_cuda and not ENGINES[turn.engine.selection.name].compiles:
        with _Counter() as counter:
            turn.advance(_COUNTED_STEPS)
        result["operators_per_step"] = counter.num / _COUNTED_STEPS
    if not is_cuda and trace is None:
        return result
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] if is_cuda else []
    with torch.profiler.profile(activities=activities) as profile:
        turn.timed(_COUNTED_STEPS)
    with tempfile.TemporaryDirectory() as folder:
        path = trace or Path(folder, "trace.json")
        profile.export_chrome_trace(str(path))
        if is_cuda:
            events = json.loads(read_within(path, _MAX_TRACE))["traceEvents"]
            # Copies and fills have categories of their own.
            result["kernels_per_step"] = sum(event.get("cat") == "kernel" for event in events) / _COUNTED_STEPS
    return result


class _Counter(TorchDispatchMode):
    num = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.num += 1
        return func(*args, **(kwargs or {}))


def _finite(value: float) -> float | str:
    """Return a finite number unchanged, and NaN or infinity as text: JSON has neither."""
    return value if isfinite(value) else str(value)


def main() -> None:
    try:
        found = measure(CellSpec.model_validate_json(sys.argv[1]))
    except (UserError, TrainingFailed) as error:
        found = {"error": str(error)}
    print(json.dumps(found, allow_nan=False))


if __name__ == "__main__":
    main()
