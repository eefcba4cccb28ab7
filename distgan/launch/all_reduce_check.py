"""Check that processes of this machine reach each other: an all-reduce under a time limit."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Literal, NamedTuple

from distgan.errors import FAILED
from distgan.utils.child_process import last_words, own_modules

_ALL_REDUCE_S = 60
_RANK = (sys.executable, "-m", "distgan.launch.all_reduce_check")


State = Literal["ok", "note", "problem"]


class Finding(NamedTuple):
    """A line of `distgan doctor`."""

    what: str
    state: State
    text: str
    remedy: str = ""


def all_reduce(backend: str, processes: int) -> Finding:
    """Sum over processes of this machine that meet in a file. When it returns, they are gone."""
    what, started = "processes", time.monotonic()
    remedy = "train on one process, or look for what blocks the loopback interface (GLOO_SOCKET_IFNAME, a firewall)"
    if backend == "nccl":
        remedy = "train on one GPU by CUDA_VISIBLE_DEVICES=0, and look at NCCL_DEBUG=INFO"
    ranks: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="distgan-doctor-") as folder:
        errors = [Path(folder, f"stderr-{rank}") for rank in range(processes)]
        try:
            for rank, path in enumerate(errors):
                command = [*_RANK, str(rank), str(processes), f"{folder}/store", backend]
                with path.open("wb") as file:
                    ranks.append(
                        subprocess.Popen(
                            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=file, env=own_modules()
                        )
                    )
            codes = _exit_codes(ranks, started + _ALL_REDUCE_S)
        finally:
            for process in ranks:
                process.kill()
                process.wait()
        failed = [
            f"rank {rank}: {last_words(code, errors[rank].read_bytes())}" for rank, code in enumerate(codes) if code
        ]
    if failed:
        return Finding(what, "problem", f"{backend}: {'; '.join(failed)}", remedy)
    if silent := [str(rank) for rank, code in enumerate(codes) if code is None]:
        return Finding(
            what, "problem", f"{backend}: not done after {_ALL_REDUCE_S} s by rank {', '.join(silent)}", remedy
        )
    seconds = time.monotonic() - started
    return Finding(what, "ok", f"{backend}: a sum over {processes} is right; {seconds:.1f} s with their start")


def _exit_codes(ranks: list[subprocess.Popen[bytes]], end: float) -> list[int | None]:
    """Return the exit codes once all are done or one has failed, or at the time `end`."""
    while True:
        codes = [process.poll() for process in ranks]
        if None not in codes or any(codes) or time.monotonic() > end:
            return codes
        time.sleep(0.05)


def _take_part(rank: int, world_size: int, path: str, backend: str) -> None:
    """Run one process of all_reduce(), which ends by itself if its parent is killed."""
    end = threading.Timer(_ALL_REDUCE_S + 5, os._exit, (FAILED,))
    end.daemon = True
    end.start()
    # The loopback interface, unless the user has chosen one; so that no name is looked up.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")

    import torch
    import torch.distributed as dist

    if backend == "nccl":
        torch.cuda.set_device(rank)
    store, timeout = dist.FileStore(path, world_size), timedelta(seconds=_ALL_REDUCE_S)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
    values = torch.full((1000,), rank + 1.0, device="cuda" if backend == "nccl" else "cpu")
    dist.all_reduce(values)
    if dist.get_world_size() != world_size or not (values == world_size * (world_size + 1) / 2).all():
        sys.exit(f"the sum over {dist.get_world_size()} processes is wrong: {values[:3].tolist()}")
    dist.destroy_process_group()


if __name__ == "__main__":
    _take_part(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
