"""Check that processes of this machine reach each other: an all-reduce under a time limit."""

import os
import sys
import tempfile
import threading
import time
from datetime import timedelta
from typing import Literal, NamedTuple

from distgan.errors import FAILED
from distgan.launch.trial_ranks import TrialRank, run_ranks
from distgan.utils.child_process import build_child_env

_ALL_REDUCE_S = 60
_RANK_COMMAND = (sys.executable, "-m", "distgan.launch.all_reduce_check")


State = Literal["ok", "note", "problem"]


class Finding(NamedTuple):
    """A line of `distgan doctor`."""

    what: str
    state: State
    text: str
    remedy: str = ""


def check_all_reduce(backend: str, num_processes: int) -> Finding:
    """All-reduce over processes of this machine, which meet by a FileStore. All have ended when it returns."""
    start = time.monotonic()
    remedy = "train on one process, or unblock the loopback interface (GLOO_SOCKET_IFNAME, a firewall)"
    if backend == "nccl":
        remedy = "train on one GPU by CUDA_VISIBLE_DEVICES=0, and see the log of NCCL_DEBUG=INFO"
    with tempfile.TemporaryDirectory(prefix="distgan-doctor-") as folder:
        arguments = (str(num_processes), f"{folder}/store", backend)
        ranks = [
            TrialRank(f"rank {rank}", (*_RANK_COMMAND, str(rank), *arguments), build_child_env())
            for rank in range(num_processes)
        ]
        failures, unfinished = run_ranks(ranks, _ALL_REDUCE_S)
    if failures:
        return Finding("processes", "problem", f"{backend}: {'; '.join(failures)}", remedy)
    if unfinished:
        text = f"{backend}: not finished after {_ALL_REDUCE_S} s: {', '.join(unfinished)}"
        return Finding("processes", "problem", text, remedy)
    seconds = time.monotonic() - start
    text = f"{backend}: all-reduce over {num_processes} processes works; {seconds:.1f} s including their start-up"
    return Finding("processes", "ok", text)


def _run_rank(rank: int, world_size: int, path: str, backend: str) -> None:
    """Run one process of check_all_reduce(); a timer ends it if its parent is killed."""
    timer = threading.Timer(_ALL_REDUCE_S + 5, os._exit, (FAILED,))
    timer.daemon = True
    timer.start()
    # With an interface given, gloo does not resolve the host name.
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
        sys.exit(f"wrong sum over {dist.get_world_size()} processes: {values[:3].tolist()}")
    dist.destroy_process_group()


if __name__ == "__main__":
    _run_rank(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
