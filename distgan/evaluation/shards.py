"""Work on many images, dealt out to the ranks by chunks, so that any number of ranks finds the same to the bit."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor, nn

from distgan.distributed.runtime import Runtime
from distgan.evaluation.ensemble import Jury, Reading
from distgan.models.base import labels_for
from distgan.models.sampling import CHUNK, chunk_z, generate

T = TypeVar("T")


def read_images(jury: Jury, images: Tensor, runtime: Runtime) -> Reading:
    """The jury's reading of (N, 28, 28) uint8, on all ranks. All take part."""

    def work(chunk: int) -> tuple[Tensor, ...]:
        part = images[chunk * CHUNK : (chunk + 1) * CHUNK]
        return jury.read(torch.cat([part, part[:1].expand(CHUNK - len(part), -1, -1)]))

    return Reading(*_dealt(len(images), runtime, work))


def draw_and_read(
    generator: nn.Module, jury: Jury, num: int, seed: int, runtime: Runtime
) -> tuple[Tensor, Reading]:
    """`num` images (N, 28, 28) uint8 of a generator and the jury's reading of them, on all ranks. All take part.

    Image i depends on `seed` and i alone, and is asked to be the digit i % 10: it is the one of `distgan sample`.
    """

    def work(chunk: int) -> tuple[Tensor, ...]:
        z = chunk_z(chunk, generator.latent_shape, seed)  # type: ignore[arg-type]  # Module's have no types
        labels = labels_for(generator, z, asked_digits(CHUNK, CHUNK * chunk))
        images = torch.from_numpy(generate(generator, z, labels))
        return images, *jury.read(images)

    images, *reading = _dealt(num, runtime, work)
    return images, Reading(*reading)


def asked_digits(num: int, start: int = 0) -> Tensor:
    """The labels of drawn images from number `start` on, (num,)."""
    return torch.arange(start, start + num) % 10


def _dealt(num: int, runtime: Runtime, work: Callable[[int], tuple[Tensor, ...]]) -> list[Tensor]:
    """`work(chunk)` gives tensors of CHUNK rows; all of them in their order, (num, ...), on the CPU."""
    num_chunks, size, rank = -(-num // CHUNK), runtime.world_size, runtime.rank
    with _workers(runtime) as pool:
        own = list(pool.map(work, range(rank, num_chunks, size)))
    if size == 1:
        return [torch.cat(each)[:num] for each in zip(*own, strict=True)]
    # Of the last round some ranks have none, and send what nobody looks at.
    fill = own[0] if own else work(0)
    own += [fill] * (-(-num_chunks // size) - len(own))
    found = []
    for each in zip(*own, strict=True):
        gathered = runtime.gathered(torch.stack(each).to(runtime.device)).cpu()  # (W, rounds, CHUNK, ...)
        found.append(gathered.transpose(0, 1).flatten(0, 2)[:num])
    return found


def in_turns(jobs: Sequence[Callable[[], T]], runtime: Runtime) -> list[T]:
    """The results of all jobs, of which each rank does every W-th, on all ranks. All take part."""
    turns = range(runtime.rank, len(jobs), runtime.world_size)
    with _workers(runtime) as pool:
        own = dict(zip(turns, pool.map(lambda i: jobs[i](), turns), strict=True))
    found = {i: result for part in runtime.all_of(own) for i, result in part.items()}
    return [found[i] for i in range(len(jobs))]


def _workers(runtime: Runtime) -> ThreadPoolExecutor:
    """On a CPU a thread for each core, each of which computes alone.

    Small passes gain more by that than by sharing each of them, and their bits do not depend on the number of cores.
    """
    if runtime.device.type == "cpu":
        return ThreadPoolExecutor(torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,))
    return ThreadPoolExecutor(1)
