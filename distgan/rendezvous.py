"""Where the processes of a run meet: whether all have come and are alike, and later, who is gone."""

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import distgan
from distgan.config import Config
from distgan.errors import ProcessLost, UserError

# What a machine may have for itself: where things lie there.
_OWN = {"data": {"dir", "download", "mirror"}, "run": {"out", "threads", "time_limit"}, "processes": {"num"}}
# How gloo, NCCL and the store say that another process is gone or silent.
_LOSS = re.compile(
    r"connection (closed|reset|refused)|broken pipe|timed out|timeout|remote process|gloo|nccl|socket", re.I
)
# For the launcher to see the one that failed before those that only miss it, and for a rank that still runs
# to say so.
_GRACE_S = 2.0
_DOWNLOAD_S = 6 * 3600.0

_store: dist.Store | None = None
_timeout_s = 0.0


def join(config: Config, backend: str, precision: str) -> None:
    """Meets the other processes of the launcher and joins them in a process group.

    Raises UserError on all ranks where one has another version, device or setting, and on those that wait where
    the address is taken or one does not come.
    """
    global _store, _timeout_s
    _timeout_s = config.processes.timeout
    timeout = timedelta(seconds=_timeout_s)
    store, rank, world_size = _meet(timeout)
    facts = json.dumps(_facts(config, backend, precision))
    store.set(f"distgan/facts/{rank}", facts)
    for other in range(world_size):
        try:
            theirs = store.get(f"distgan/facts/{other}")
        except RuntimeError:
            raise UserError(f"rank {other}: did not come within --timeout {_timeout_s:g} s") from None
        if other == 0:
            first = json.loads(theirs)
        _refuse_difference(other, json.loads(theirs), first)
    _store = store
    dist.init_process_group(
        backend,
        store=dist.PrefixStore("distgan/group", store),
        rank=rank,
        world_size=world_size,
        timeout=timeout,
    )


def _meet(timeout: timedelta) -> tuple[dist.Store, int, int]:
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    try:
        return next(dist.rendezvous("env://", timeout=timeout))
    except ValueError as error:
        raise UserError(
            f"RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT: the launcher left no address to meet at ({error})"
        ) from None
    except RuntimeError as error:
        text = str(error)
        if "EADDRINUSE" in text:
            raise UserError(
                f"MASTER_PORT {where}: another program uses this port; allowed: a free one (accelerate launch "
                "--main_process_port, torchrun --master-port or --standalone)"
            ) from None
        if came := re.search(r"(\d+)/(\d+) clients joined", text):
            raise UserError(
                f"{came[1]} of {came[2]} processes came to {where} within --timeout {timeout.seconds} s"
            ) from None
        raise UserError(
            f"MASTER_ADDR, MASTER_PORT: rank 0 does not answer at {where} within --timeout {timeout.seconds} s "
            f"({text.splitlines()[0]})"
        ) from None


def _facts(config: Config, backend: str, precision: str) -> dict[str, Any]:
    facts = {
        "version of distgan": f"{distgan.__version__} (code {_code()})",
        "version of torch": torch.__version__,
        "backend": f"{backend}, which follows from its device",
        "precision": precision,
    }
    for table, settings in config.model_dump(mode="json").items():
        facts |= {
            f"[{table}] {key}": value
            for key, value in settings.items()
            if key not in _OWN.get(table, ()) and (table, key) != ("run", "precision")
        }
    return facts


def _code() -> str:
    """A fingerprint of the package's own source, so that two checkouts of one version are told apart."""
    digest = hashlib.blake2b(digest_size=4)
    for path in sorted(Path(distgan.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _refuse_difference(rank: int, theirs: dict[str, Any], first: dict[str, Any]) -> None:
    for what in first | theirs:
        if theirs.get(what) != first.get(what):
            raise UserError(
                f"rank {rank}: its {what} is {theirs.get(what)}, that of rank 0 is {first.get(what)}; allowed: the "
                "same on all ranks"
            )


@contextmanager
def in_turn(rank: int, local_rank: int) -> Iterator[None]:
    """The first process of each machine goes ahead, for as long as it takes: it may have to download."""
    key = f"distgan/ahead/{rank - local_rank}"
    if local_rank and _store is not None:
        _store.wait([key], timedelta(seconds=_DOWNLOAD_S))
    try:
        yield
    finally:
        if not local_rank and _store is not None:
            _store.set(key, "")


@contextmanager
def losses_named() -> Iterator[None]:
    """Turns the error of a broken or silent connection into ProcessLost, which names the rank behind it."""
    try:
        yield
    except RuntimeError as error:
        if _store is None or not _LOSS.search(str(error)):
            raise
        raise ProcessLost(*_missing(error)) from error


def _missing(error: RuntimeError) -> tuple[str, bool]:
    """The words, and whether this rank is the one to say them: the lowest of those that are left."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    there = {rank}
    assert _store is not None
    with suppress(RuntimeError):  # the store may be gone with its rank
        _store.set(f"distgan/there/{rank}", "")
        time.sleep(_GRACE_S)
        there |= {other for other in range(world_size) if _store.check([f"distgan/there/{other}"])}
    gone = sorted(set(range(world_size)) - there)
    who = "another process" if not gone else f"rank{'s' * (len(gone) > 1)} {', '.join(map(str, gone))}"
    is_silent = re.search(r"timed out|timeout", str(error), re.I)
    what = f"silent for --timeout {_timeout_s:g} s" if is_silent else "gone"
    # gloo's words begin with a place in its source, and end with advice.
    reason = re.sub(r"^\[\S+\]\s*", "", str(error).splitlines()[0]).partition(" This is typically")[0]
    return f"{who} {'are' if len(gone) > 1 else 'is'} {what} ({reason})", rank == min(there)
