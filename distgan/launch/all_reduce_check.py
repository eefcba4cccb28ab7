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
from distgan.utils.child_process import build_child_env, summarise_error

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
    ranks: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="distgan-doctor-") as folder:
        logs = [Path(folder, f"stderr-{rank}") for rank in range(num_processes)]
        env, devnull = build_child_env(), subprocess.DEVNULL
        try:
            for rank, path in enumerate(logs):
                command = [*_RANK_COMMAND, str(rank), str(num_processes), f"{folder}/store", backend]
                with path.open("wb") as file:
                    ranks.append(subprocess.Popen(command, stdin=devnull, stdout=devnull, stderr=file, env=env))
            codes = _wait_for_exit_codes(ranks, start + _ALL_REDUCE_S)
        finally:
            for process in ranks:
                process.kill()
                process.wait()
        failures = [
            f"rank {rank}: {summarise_error(code, logs[rank].read_bytes())}" for rank, code in enumerate(codes) if code
        ]
    if failures:
        return Finding("processes", "problem", f"{backend}: {'; '.join(failures)}", remedy)
    if unfinished := [str(rank) for rank, code in enumerate(codes) if code is None]:
        text = f"{backend}: not finished after {_ALL_REDUCE_S} s: rank {', '.join(unfinished)}"
        return Finding("processes", "problem", text, remedy)
    seconds = time.monotonic() - start
    text = f"{backend}: all-reduce over {num_processes} processes works; {seconds:.1f} s with their start"
    return Finding("processes", "ok", text)


def _wait_for_exit_codes(ranks: list[subprocess.Popen[bytes]], deadline: float) -> list[int | None]:
    """Wait until all have ended, one has failed, or `deadline`. Return the exit codes, None of one that still runs."""
    while True:
        codes = [process.poll() for process in ranks]
        if None not in codes or any(codes) or time.monotonic() > deadline:
            return codes
        time.sleep(0.05)


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
