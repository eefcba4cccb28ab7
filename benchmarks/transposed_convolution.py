"""The exact forms of the seed generator's three transposed convolutions, and how long each takes.

Each form is compared with the native one first, in float64: its result and both gradients. Then forward, and
forward with backward, as training has them: under autocast in bf16, the channels last, weights in float32.
"""

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import harness
import torch
import torch.nn.functional as F
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from distgan.benchmark.measurement import Spread
from distgan.benchmark.results import collect_facts
from distgan.models.layers import fourier_convolve, sub_pixel_kernel
from distgan.utils import devices
from distgan.utils.files import write_json

SIZE, PADDING = 5, 2
TOLERANCE = 1e-12
CALLS = 10  # of a repeat, on a GPU in one graph


class Layer(NamedTuple):
    """Channels and pixels that go in, channels that come out; of stride 2 twice as many pixels come out."""

    inputs: int
    side: int
    outputs: int
    stride: int

    @property
    def name(self) -> str:
        return f"{self.inputs}x{self.side}x{self.side} to {self.outputs}"

    def flops(self, batch_size: int) -> int:
        """FLOP of a forward pass, as torch defines the layer."""
        return 2 * batch_size * self.inputs * self.side**2 * self.outputs * SIZE**2


LAYERS = [Layer(256, 7, 128, 1), Layer(128, 7, 64, 2), Layer(64, 14, 1, 2)]
Form = Callable[[Tensor, Tensor, int], Tensor]


def native(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    return F.conv_transpose2d(x, weight, stride=stride, padding=PADDING, output_padding=stride - 1)


def flipped(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Stride 1: a convolution with the kernel turned around."""
    return F.conv2d(x, weight.transpose(0, 1).flip(2, 3), padding=SIZE - 1 - PADDING)


def sub_pixel(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Stride 2: distgan's own form, a convolution to four times the channels, shuffled."""
    kernel = sub_pixel_kernel(weight, PADDING)
    return F.pixel_shuffle(F.conv2d(x, kernel, padding=kernel.shape[2] // 2), 2)


def fourier(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Stride 1: distgan's form on a CPU, one matrix product per frequency."""
    return fourier_convolve(x, weight.transpose(0, 1).flip(2, 3), SIZE - 1 - PADDING)


def matmul_fold(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Compute what each pixel adds to its neighbourhood by one matmul, then sum it up."""
    columns = weight.flatten(1).t() @ x.flatten(2)
    return F.fold(columns, x.shape[-1] * stride, SIZE, padding=PADDING, stride=stride)


def forms(layer: Layer, device: str, precision: str) -> dict[str, Form]:
    own = {"flipped convolution": flipped} if layer.stride == 1 else {"sub-pixel convolution": sub_pixel}
    if layer.stride == 1 and (device, precision) == ("cpu", "no"):
        own["Fourier transform"] = fourier
    return {"native": native, **own, "matmul and fold": matmul_fold}


def tensors(layer: Layer, num: int, device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Input, weight and the gradient of the output, the channels last."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        values = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return values.to(device, dtype, memory_format=torch.channels_last)

    end = layer.side * layer.stride
    x = normal(num, layer.inputs, layer.side, layer.side).requires_grad_()
    weight = normal(layer.inputs, layer.outputs, SIZE, SIZE).mul_(0.02).requires_grad_()
    return x, weight, normal(num, layer.outputs, end, end)


def difference(layer: Layer, form: Form, device: str) -> float:
    """The largest relative one to native of the result and the two gradients, in float64."""
    x, weight, gradient = tensors(layer, 4, device, torch.float64)
    found = []
    for each in (native, form):
        y = each(x, weight, layer.stride)
        found.append((y.detach(), *torch.autograd.grad(y, (x, weight), gradient)))
    assert all(ours.shape == theirs.shape for ours, theirs in zip(*found, strict=True))
    return max(float((ours - theirs).norm() / ours.norm()) for ours, theirs in zip(*found, strict=True))


def measure(layer: Layer, form: Form, args: argparse.Namespace, precision: str, *, backward: bool) -> dict[str, float]:
    """Seconds of a call: median, p5, p95."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    x, weight, gradient = tensors(layer, args.batch_size, args.device, dtype)
    weight = weight.detach().float().requires_grad_()
    autocast: AbstractContextManager = (
        torch.autocast(args.device, torch.bfloat16, cache_enabled=False) if precision == "bf16" else nullcontext()
    )

    def call() -> None:
        with autocast, torch.set_grad_enabled(backward):
            # The next layer takes the channels last, so a form that has them elsewhere puts them there.
            y = form(x, weight, layer.stride).contiguous(memory_format=torch.channels_last)
        if backward:
            torch.autograd.grad(y, (x, weight), gradient.to(y.dtype))

    if args.device == "cpu":
        call()
        return Spread.of(_cpu_s(call) for _ in range(args.repeats)).model_dump()
    return Spread.of(_gpu_s(call, args.repeats)).model_dump()


def _cpu_s(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _gpu_s(call: Callable[[], None], repeats: int) -> list[float]:
    """By the device's events, in a graph: so no form has to wait for the host, as none does in training."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(CALLS):
            call()
    found = []
    for repeat in range(repeats + 2):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        if repeat >= 2:
            found.append(start.elapsed_time(end) / 1e3 / CALLS)
    return found


def report(rows: list[dict[str, Any]], title: str) -> Table:
    table = Table(title=title, box=box.SIMPLE)
    for column in ("layer", "form", "numbers", "forward, ms", "and backward, ms", "x native"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        if "error" in row:
            table.add_row(row["layer"], row["form"], row["precision"], row["error"], "-", "-")
            continue
        of = [row["forward_s"], row["both_s"]]
        cells = [f"{1e3 * s['median']:.3g} ({1e3 * s['p5']:.3g} to {1e3 * s['p95']:.3g})" for s in of]
        ratio = "-" if row["native_ratio"] is None else f"{row['native_ratio']:.2f}"
        table.add_row(row["layer"], row["form"], row["precision"], *cells, ratio)
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, help="of a CPU; unset: torch's own choice")
    parser.add_argument("--json", type=Path, help="write there all that is needed to repeat this")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("transposed_convolution.py: there is no CUDA device here. Expected: --device cpu", file=sys.stderr)
        return 2
    if args.threads:
        torch.set_num_threads(args.threads)
    here = collect_facts(torch.device(args.device)).model_dump()
    here |= {"command": harness.shown([sys.executable, *sys.argv])}
    rows: list[dict[str, Any]] = []
    for layer in LAYERS:
        for name, form in forms(layer, args.device, "no").items():
            if (off := difference(layer, form, args.device)) > TOLERANCE:
                raise SystemExit(f"{name} of {layer.name} is not the native one: it differs by {off:.1e}")
        for precision in ("no", "tf32", "bf16") if args.device == "cuda" else ("no", "bf16"):
            if args.device == "cuda":
                devices.configure_cuda(is_tf32=precision == "tf32")
            first = None
            for name, form in forms(layer, args.device, precision).items():
                row = {"layer": layer.name, "form": name, "precision": precision.replace("no", "float32")}
                try:
                    times = [measure(layer, form, args, precision, backward=each) for each in (False, True)]
                except RuntimeError as error:  # an operator that this torch has not in these numbers
                    row["error"] = str(error).splitlines()[0][:60]
                else:
                    first = times[1]["median"] if form is native else first
                    row |= {"forward_s": times[0], "both_s": times[1], "flops": layer.flops(args.batch_size)}
                    row["native_ratio"] = first and first / times[1]["median"]
                rows.append(row)
                if args.json:
                    write_json(args.json, {"facts": here, "batch_size": args.batch_size, "rows": rows})
    title = f"{here['device']}, {args.batch_size} images: median (p5 to p95) of {args.repeats}"
    Console(width=120).print(report(rows, f"{title}; x native: how many times as quick, with backward"))
    return int(any("error" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
