"""Rendezvous of a run's processes: wait for all, compare their settings, and later name lost ranks."""

import hashlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist

import distgan
from distgan.config.flags import setting_paths
from distgan.config.registry import AUTO
from distgan.config.schema import Config
from distgan.distributed import env
from distgan.errors import AllRanksUserError, ProcessLost, UserError, first_line
from distgan.utils.operating_system import ProcessId, has_ended, own_process_id

T = TypeVar("T")

# Errors of gloo, NCCL and the store for a lost or silent process; once the group exists, any error of theirs counts.
_CONNECTION = re.compile(
    r"connection (was likely )?(closed|reset|refused)|broken pipe|timed out|timeout|remote process|socket", re.I
)
_LOSS = re.compile(rf"{_CONNECTION.pattern}|gloo|nccl", re.I)
# Time for the launcher to see the failed rank before those that lost it, and for a rank that still runs to report.
_GRACE_S = 2.0
_ALL_RANKS = "Expected: all ranks started, or a longer --timeout"
_LOOPBACK = ("127.0.0.1", "localhost")
_DOWNLOAD_S = 6 * 3600.0
_POLL_S = 0.1
_HEARTBEAT_S = 1.0


class _Rendezvous(NamedTuple):
    store: dist.Store
    rank: int
    world_size: int
    timeout_s: float

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call the store. Ctrl-C interrupts it; a store without an answer for --timeout is a connection error."""
        return _call_with_timeout(self.timeout_s, function, *arguments)

    def wait_for_key(self, key: str, rank: int, limit_s: float, *, heartbeat: bool = False) -> None:
        """Wait until `rank` has set `key`; with `heartbeat` for as long as it sends one (`_send_heartbeats`).

        Raises ProcessLost for a rank that has ended or sends no heartbeat for --timeout; TimeoutError after `limit_s`.
        """
        deadline, beat, beat_at = time.monotonic() + limit_s, -1, time.monotonic()
        while not self.call(self.store.check, [key]):
            now = time.monotonic()
            # A rank may have set the key just before it ended.
            if self._has_ended(rank) and not self.call(self.store.check, [key]):
                raise self._loss_error(f"rank {rank} is gone")
            if heartbeat and (latest := self.call(self.store.add, f"beat/{rank}", 0)) != beat:
                beat, beat_at = latest, now
            if heartbeat and now > beat_at + self.timeout_s:
                raise self._loss_error(f"rank {rank} is silent for --timeout {self.timeout_s:g} s")
            if now > deadline:
                message = f"rank {rank} is not done after {limit_s:g} s"
                raise self._loss_error(message) if heartbeat else TimeoutError(message)
            time.sleep(_POLL_S)

    def _has_ended(self, rank: int) -> bool:
        if not self.call(self.store.check, [f"process/{rank}"]):
            return False  # it has not joined yet
        return has_ended(ProcessId(*json.loads(self.call(self.store.get, f"process/{rank}")))) is True

    def _loss_error(self, message: str) -> ProcessLost:
        """Return the error to raise; only the first rank that reports a lost rank prints its message."""
        return ProcessLost(message, is_reporter=self.call(self.store.add, "lost", 1) == 1)


def _call_with_timeout(limit_s: float, function: Callable[..., T], *arguments: Any) -> T:
    """Return the result of a call into C++ in another thread, as Ctrl-C interrupts only Python code in the main one."""
    results: list[T] = []
    errors: list[BaseException] = []
    is_done = threading.Event()

    def run() -> None:
        try:
            results.append(function(*arguments))
        except BaseException as error:
            errors.append(error)
        is_done.set()

    threading.Thread(target=run, daemon=True, name="distgan-store").start()
    deadline = time.monotonic() + limit_s
    # On some systems Ctrl-C does not interrupt a wait without a timeout.
    while not is_done.wait(_POLL_S) and time.monotonic() < deadline:
        pass
    if errors:
        raise errors[0]
    if not results:
        raise dist.DistNetworkError(f"the store of the processes: timed out after {limit_s:g} s")
    return results[0]


_rendezvous: _Rendezvous | None = None
_local_calls = count()  # of `local_rank0_first`: all ranks call it equally often


def join_process_group(config: Config, backend: str, precision: str, zero: dict[str, Any] | None) -> None:
    """Join the other processes of the launcher in a process group.

    Raises UserError on all ranks if one has another version, device or setting, and on those that wait if the port is
    in use or a rank does not join.
    """
    global _rendezvous, _local_calls
    timeout_s = config.processes.timeout
    timeout = timedelta(seconds=timeout_s)
    is_alone = env.world_size() == 1  # DeepSpeed wants a group of one as well
    store, rank, world_size = (dist.HashStore(), 0, 1) if is_alone else _connect(timeout)
    store = dist.PrefixStore(f"distgan/{_count_starts(store, rank)}", store)
    _rendezvous = rendezvous = _Rendezvous(store, rank, world_size, timeout_s)
    _local_calls = count()
    rendezvous.call(store.set, f"process/{rank}", json.dumps(own_process_id()))
    facts = _collect_facts(config, backend, precision) | {"DeepSpeed config": zero}
    rendezvous.call(store.set, f"facts/{rank}", json.dumps(facts))
    all_facts = []
    for peer in range(world_size):
        try:
            rendezvous.wait_for_key(f"facts/{peer}", peer, timeout_s)
        except TimeoutError:
            raise UserError(
                f"rank {peer}: did not join within --timeout {timeout_s:g} s. {_ALL_RANKS}", code="rank-missing"
            ) from None
        all_facts.append(json.loads(rendezvous.call(store.get, f"facts/{peer}")))
    if difference := _find_difference(all_facts):
        # Rank 0 may host the store: it stays until the others have read all facts.
        rendezvous.call(store.set, f"read/{rank}", "")
        if rank == 0:
            with suppress(TimeoutError, ProcessLost):
                for peer in range(world_size):
                    rendezvous.wait_for_key(f"read/{peer}", peer, timeout_s)
        raise AllRanksUserError(difference, code="ranks-differ")
    group_store = dist.PrefixStore("group", store)
    try:
        dist.init_process_group(backend, store=group_store, rank=rank, world_size=world_size, timeout=timeout)
    except Exception as error:
        if _CONNECTION.search(str(error)):
            raise
        raise env.explain_group_error(error) from error


def _connect(timeout: timedelta) -> tuple[dist.Store, int, int]:
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    endpoint = f"{address}:{port}"
    if os.environ["RANK"] != "0" or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        _wait_for_rank0(address, port, timeout.total_seconds())
    elif address in _LOOPBACK:  # torch would retry for minutes, and fill the screen
        env.check_address(address, "MASTER_ADDR")
    try:
        # torch's own timeout comes first: its message counts the ranks that joined.
        limit_s = timeout.total_seconds() + _GRACE_S
        return _call_with_timeout(limit_s, lambda: next(dist.rendezvous("env://", timeout=timeout)))
    except RuntimeError as error:
        text = str(error)
        if "EADDRINUSE" in text:
            raise UserError(
                f"MASTER_PORT: port in use by another program ({endpoint}). Expected: a free one (accelerate launch "
                "--main_process_port, torchrun --master-port or --standalone)",
                code="rendezvous-failed",
            ) from None
        if joined := re.search(r"(\d+)/(\d+) clients joined", text):
            raise UserError(
                f"only {joined[1]} of {joined[2]} processes joined at {endpoint} within --timeout {timeout.seconds} s. "
                f"{_ALL_RANKS}",
                code="rank-missing",
            ) from None
        raise UserError(
            f"MASTER_ADDR, MASTER_PORT: no rendezvous at {endpoint} ({first_line(error)}). Expected: rank 0's address, "
            "and a port that is free there",
            code="rendezvous-failed",
        ) from None


def _wait_for_rank0(address: str, port: int, timeout_s: float) -> None:
    """Wait until rank 0 listens; torch would wait several times as long, and fill the screen.

    Raises UserError after `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection((address, port), timeout=1).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"MASTER_ADDR, MASTER_PORT: no answer of rank 0 at {address}:{port} within --timeout "
                    f"{timeout_s:g} s ({error.strerror or error}). {_ALL_RANKS}",
                    code="rank-missing",
                ) from None
            time.sleep(0.2)


def _count_starts(store: dist.Store, rank: int) -> int:
    """Return how often these ranks were started: torchrun's store still has the keys of earlier starts."""
    if os.environ.get("GROUP_WORLD_SIZE", "1") == "1":
        return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    # Each of several agents counts only the restarts that its own processes caused.
    return store.add(f"distgan/starts/{rank}", 1)


def _collect_facts(config: Config, backend: str, precision: str) -> dict[str, object]:
    facts: dict[str, object] = {
        "version of distgan": f"{distgan.__version__} (code {_hash_source()})",
        "version of torch": torch.__version__,
        "backend": f"{backend}, which depends on its device",
        "precision": precision,
    }
    settings = config.model_dump(mode="json")
    paths = setting_paths(Config, "may_differ_per_rank", False)
    return facts | {f"[{table}] {key}": settings[table][key] for table, key in paths}


def _hash_source() -> str:
    """Return a hash of the package's source, which differs between checkouts of one version."""
    digest = hashlib.blake2b(digest_size=4)
    for path in sorted(Path(distgan.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _find_difference(all_facts: list[dict[str, object]]) -> str | None:
    """Return the first difference of a rank from rank 0, as a message; None without one."""
    for rank, facts in enumerate(all_facts):
        for key in all_facts[0] | facts:
            value, first = facts.get(key), all_facts[0].get(key)
            # A rank that reads the run's folder knows the precision of its start; those with "auto" use it too.
            if value != first and not (key == "precision" and AUTO in (value, first)):
                return f"rank {rank}: its {key} is {value}, that of rank 0 is {first}. Expected: the same on all ranks"
    return None


@contextmanager
def local_rank0_first(rank: int, local_rank: int) -> Iterator[None]:
    """Run the block on local rank 0 of each machine before the others: it may have to download.

    At the end all ranks have run it, so that none that has its data waits in a collective. Raises ProcessLost for a
    rank that has ended, or is silent for --timeout.
    """
    if _rendezvous is None or _rendezvous.world_size == 1:
        yield
        return
    rendezvous, number = _rendezvous, next(_local_calls)
    with _send_heartbeats(rendezvous):
        if local_rank:
            first = rank - local_rank
            rendezvous.wait_for_key(f"through/{number}/{first}", first, _DOWNLOAD_S, heartbeat=True)
        try:
            yield
        finally:
            rendezvous.call(rendezvous.store.set, f"through/{number}/{rank}", "")
        for peer in range(rendezvous.world_size):
            rendezvous.wait_for_key(f"through/{number}/{peer}", peer, _DOWNLOAD_S, heartbeat=True)


@contextmanager
def _send_heartbeats(rendezvous: _Rendezvous) -> Iterator[None]:
    """Show the other ranks that this one works, in a block that may take longer than --timeout."""
    done = threading.Event()

    def beat() -> None:
        with suppress(RuntimeError):  # the store is gone: another call to it reports that
            while not done.wait(min(_HEARTBEAT_S, rendezvous.timeout_s / 4)):
                rendezvous.store.add(f"beat/{rendezvous.rank}", 1)

    thread = threading.Thread(target=beat, daemon=True, name="distgan-beat")
    thread.start()
    try:
        yield
    finally:
        done.set()


@contextmanager
def process_group_scope() -> Iterator[None]:
    """Destroy the process group when the block ends: its threads would abort a process that exits with them."""
    global _rendezvous
    try:
        yield
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        _rendezvous = None


@contextmanager
def name_lost_ranks() -> Iterator[None]:
    """Turn the error of a broken or silent connection into ProcessLost, which names the lost rank."""
    try:
        yield
    except ProcessLost:
        raise
    except Exception as error:
        if _rendezvous is None or _rendezvous.world_size == 1:
            raise
        if not isinstance(error, RuntimeError) or not _LOSS.search(str(error)):
            with suppress(RuntimeError):
                _rendezvous.call(_rendezvous.store.set, f"failed/{_rendezvous.rank}", "")
            raise
        raise ProcessLost(*_describe_loss(_rendezvous, error)) from error


def _describe_loss(rendezvous: _Rendezvous, error: Exception) -> tuple[str, bool]:
    """Return a message that names the lost ranks, and True on the lowest remaining rank, which prints it."""
    store, rank, world_size, timeout_s = rendezvous
    # The silent rank may host the store: do not wait for --timeout once more.
    rendezvous = rendezvous._replace(timeout_s=_GRACE_S)
    present, failed = {rank}, []
    with suppress(RuntimeError):  # the store may have ended with its rank
        rendezvous.call(store.set, f"there/{rank}", "")
        deadline = time.monotonic() + _GRACE_S
        while time.monotonic() < deadline and len(present) < world_size:
            present |= {peer for peer in range(world_size) if rendezvous.call(store.check, [f"there/{peer}"])}
            time.sleep(_POLL_S)
        failed = [peer for peer in range(world_size) if rendezvous.call(store.check, [f"failed/{peer}"])]
    # A rank that recorded its failure is the lost one; other absent ranks may just not have noticed yet.
    lost = failed or sorted(set(range(world_size)) - present)
    names = ", ".join(map(str, lost))
    subject = "another process" if not lost else f"rank {names}" if len(lost) == 1 else f"one of the ranks {names}"
    is_silent = re.search(r"timed out|timeout", str(error), re.I)
    state = f"silent for --timeout {timeout_s:g} s" if is_silent else "gone"
    # gloo's message begins with a line of its source, and ends with advice.
    reason = re.sub(r"^\[\S+\]\s*", "", first_line(error)).partition(" This is typically")[0]
    return f"{subject} is {state} ({reason})", rank == min(present)
