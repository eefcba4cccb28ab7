"""Where the processes of a run meet: whether all have come and are alike, and later, who is gone."""

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
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist

import distgan
from distgan.config.flags import paths_by
from distgan.config.registry import AUTO
from distgan.config.schema import Config
from distgan.distributed import env
from distgan.errors import CommonError, ProcessLost, UserError, first_line
from distgan.utils.operating_system import ProcessId, has_ended, own_process_id

T = TypeVar("T")

# How gloo, NCCL and the store say that another process is gone or silent; all that they say, once ranks have met.
_CONNECTION = re.compile(
    r"connection (was likely )?(closed|reset|refused)|broken pipe|timed out|timeout|remote process|socket", re.I
)
_LOSS = re.compile(rf"{_CONNECTION.pattern}|gloo|nccl", re.I)
# For the launcher to see the one that failed before those that only miss it, and for a rank that still runs
# to say so.
_GRACE_S = 2.0
_LOOPBACK = ("127.0.0.1", "localhost")
_DOWNLOAD_S = 6 * 3600.0
_POLL_S = 0.1
_BEAT_S = 1.0


class _Rendezvous(NamedTuple):
    store: dist.Store
    rank: int
    world_size: int
    timeout_s: float

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call the store. Ctrl-C is heeded, and a store that is silent for --timeout is an error of the connection."""
        return _within(self.timeout_s, function, *arguments)

    def await_key(self, key: str, rank: int, limit_s: float, *, beats: bool = False) -> None:
        """Wait until `rank` has set `key`; if `beats`, for as long as it beats (`_beating`).

        Raises ProcessLost if its process is gone or, with `beats`, silent for --timeout; TimeoutError after `limit_s`.
        """
        end, beat, beat_at = time.monotonic() + limit_s, -1, time.monotonic()
        while not self.call(self.store.check, [key]):
            now = time.monotonic()
            if self._has_ended(rank) and not self.call(self.store.check, [key]):  # it may have set it just before
                raise self._lost(f"rank {rank} is gone")
            if beats and (latest := self.call(self.store.add, f"beat/{rank}", 0)) != beat:
                beat, beat_at = latest, now
            if beats and now > beat_at + self.timeout_s:
                raise self._lost(f"rank {rank} is silent for --timeout {self.timeout_s:g} s")
            if now > end:
                words = f"rank {rank} is not done after {limit_s:g} s"
                raise self._lost(words) if beats else TimeoutError(words)
            time.sleep(_POLL_S)

    def _has_ended(self, rank: int) -> bool:
        if not self.call(self.store.check, [f"process/{rank}"]):
            return False  # it has not come yet
        return has_ended(ProcessId(*json.loads(self.call(self.store.get, f"process/{rank}")))) is True

    def _lost(self, message: str) -> ProcessLost:
        """Return the error to raise; only the first rank that reports a lost rank prints its message."""
        return ProcessLost(message, speaks=self.call(self.store.add, "lost", 1) == 1)


def _within(limit_s: float, call: Callable[..., T], *arguments: Any) -> T:
    """Return what a call into C++ gives, made by another thread: Python heeds Ctrl-C in the first one only."""
    outcome: list[T] = []
    errors: list[BaseException] = []
    is_done = threading.Event()

    def make() -> None:
        try:
            outcome.append(call(*arguments))
        except BaseException as error:
            errors.append(error)
        is_done.set()

    threading.Thread(target=make, daemon=True, name="distgan-store").start()
    end = time.monotonic() + limit_s
    # Without a time limit a wait would not be interrupted on every system.
    while not is_done.wait(_POLL_S) and time.monotonic() < end:
        pass
    if errors:
        raise errors[0]
    if not outcome:
        raise dist.DistNetworkError(f"the store of the processes: timed out after {limit_s:g} s")
    return outcome[0]


_rendezvous: _Rendezvous | None = None


def join(config: Config, backend: str, precision: str, zero: dict[str, Any] | None) -> None:
    """Join the other processes of the launcher in a process group.

    Raises UserError on all ranks where one has another version, device or setting, and on those that wait where
    the address is taken or one does not come.
    """
    global _rendezvous
    timeout_s = config.processes.timeout
    timeout = timedelta(seconds=timeout_s)
    is_alone = env.world_size() == 1  # DeepSpeed wants a group of one as well
    store, rank, world_size = (dist.HashStore(), 0, 1) if is_alone else _connect(timeout)
    store = dist.PrefixStore(f"distgan/{_attempt(store, rank)}", store)
    _rendezvous = rendezvous = _Rendezvous(store, rank, world_size, timeout_s)
    rendezvous.call(store.set, f"process/{rank}", json.dumps(own_process_id()))
    own = _facts(config, backend, precision) | {"DeepSpeed config": zero}
    rendezvous.call(store.set, f"facts/{rank}", json.dumps(own))
    facts = []
    for other in range(world_size):
        try:
            rendezvous.await_key(f"facts/{other}", other, timeout_s)
        except TimeoutError:
            raise UserError(
                f"rank {other}: did not join within --timeout {timeout_s:g} s", code="rank-missing"
            ) from None
        facts.append(json.loads(rendezvous.call(store.get, f"facts/{other}")))
    if difference := _difference(facts):
        # The store may be the first rank's: that one stays until the others have read what they need.
        rendezvous.call(store.set, f"read/{rank}", "")
        if rank == 0:
            with suppress(TimeoutError, ProcessLost):
                for other in range(world_size):
                    rendezvous.await_key(f"read/{other}", other, timeout_s)
        raise CommonError(difference, code="ranks-differ")
    group_store = dist.PrefixStore("group", store)
    try:
        dist.init_process_group(backend, store=group_store, rank=rank, world_size=world_size, timeout=timeout)
    except Exception as error:
        if _CONNECTION.search(str(error)):
            raise
        raise env.explain_group_error(error) from error


def _connect(timeout: timedelta) -> tuple[dist.Store, int, int]:
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    where = f"{address}:{port}"
    if os.environ["RANK"] != "0" or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        _await_answer(address, port, timeout.total_seconds())
    elif address in _LOOPBACK:  # without it torch tries for minutes, and fills the screen
        env.check_address(address, "MASTER_ADDR")
    try:
        # Its own limit comes first, and has the better words.
        return _within(timeout.total_seconds() + _GRACE_S, lambda: next(dist.rendezvous("env://", timeout=timeout)))
    except RuntimeError as error:
        text = str(error)
        if "EADDRINUSE" in text:
            raise UserError(
                f"MASTER_PORT: port in use by another program ({where}). Expected: a free one (accelerate launch "
                "--main_process_port, torchrun --master-port or --standalone)",
                code="rendezvous-failed",
            ) from None
        if came := re.search(r"(\d+)/(\d+) clients joined", text):
            raise UserError(
                f"only {came[1]} of {came[2]} processes joined at {where} within --timeout {timeout.seconds} s",
                code="rank-missing",
            ) from None
        raise UserError(
            f"MASTER_ADDR, MASTER_PORT: no rendezvous at {where} ({first_line(error)})", code="rendezvous-failed"
        ) from None


def _await_answer(address: str, port: int, timeout_s: float) -> None:
    """Wait until rank 0 listens; torch would wait several times as long, and fill the screen.

    Raises UserError when nobody does in time.
    """
    end = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection((address, port), timeout=1).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise UserError(
                    f"MASTER_ADDR, MASTER_PORT: no answer of rank 0 at {address}:{port} within --timeout "
                    f"{timeout_s:g} s "
                    f"({error.strerror or error})",
                    code="rank-missing",
                ) from None
            time.sleep(0.2)


def _attempt(store: dist.Store, rank: int) -> int:
    """Return the number of this start, whose keys torchrun's store keeps apart from earlier ones."""
    if os.environ.get("GROUP_WORLD_SIZE", "1") == "1":
        return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    # Of several agents each counts only the restarts that its own processes caused.
    return store.add(f"distgan/starts/{rank}", 1)


def _facts(config: Config, backend: str, precision: str) -> dict[str, object]:
    facts: dict[str, object] = {
        "version of distgan": f"{distgan.__version__} (code {_code()})",
        "version of torch": torch.__version__,
        "backend": f"{backend}, which follows from its device",
        "precision": precision,
    }
    settings = config.model_dump(mode="json")
    paths = paths_by(Config, "may_differ_per_rank", False)
    return facts | {f"[{table}] {key}": settings[table][key] for table, key in paths}


def _code() -> str:
    """Return a fingerprint of the package's source, which differs between checkouts of one version."""
    digest = hashlib.blake2b(digest_size=4)
    for path in sorted(Path(distgan.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _difference(facts: list[dict[str, object]]) -> str | None:
    """Return the first difference of a rank from rank 0, as a message; None without one."""
    for rank, theirs in enumerate(facts):
        for what in facts[0] | theirs:
            own, first = theirs.get(what), facts[0].get(what)
            # One that reads the run's folder knows the precision that the run began with, which the others take on.
            if own != first and not (what == "precision" and AUTO in (own, first)):
                return f"rank {rank}: its {what} is {own}, that of rank 0 is {first}. Expected: the same on all ranks"
    return None


@contextmanager
def local_rank0_first(rank: int, local_rank: int) -> Iterator[None]:
    """Run the block on the first process of each machine before the others: it may have to download.

    All are through it at its end, so that no machine that has its data waits in a collective. Raises ProcessLost for
    one that is gone, or silent for --timeout.
    """
    if _rendezvous is None or _rendezvous.world_size == 1:
        yield
        return
    rendezvous = _rendezvous
    with _beating(rendezvous):
        if local_rank:
            first = rank - local_rank
            rendezvous.await_key(f"through/{first}", first, _DOWNLOAD_S, beats=True)
        try:
            yield
        finally:
            rendezvous.call(rendezvous.store.set, f"through/{rank}", "")
        for other in range(rendezvous.world_size):
            rendezvous.await_key(f"through/{other}", other, _DOWNLOAD_S, beats=True)


@contextmanager
def _beating(rendezvous: _Rendezvous) -> Iterator[None]:
    """Show the other ranks that this one is at work, while it does what may take longer than --timeout."""
    done = threading.Event()

    def beat() -> None:
        with suppress(RuntimeError):  # the store is gone; whoever needs it says so
            while not done.wait(min(_BEAT_S, rendezvous.timeout_s / 4)):
                rendezvous.store.add(f"beat/{rendezvous.rank}", 1)

    thread = threading.Thread(target=beat, daemon=True, name="distgan-beat")
    thread.start()
    try:
        yield
    finally:
        done.set()


@contextmanager
def process_group_scope() -> Iterator[None]:
    """Leave the process group however the block ends: its threads would abort a process that ends with them."""
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
        raise ProcessLost(*_missing(_rendezvous, error)) from error


def _missing(rendezvous: _Rendezvous, error: Exception) -> tuple[str, bool]:
    """Return the message. True beside it if this rank is the one to print it: the lowest that is left."""
    store, rank, world_size, timeout_s = rendezvous
    rendezvous = rendezvous._replace(
        timeout_s=_GRACE_S
    )  # no second --timeout for the store, which may be the silent rank's
    there, failed = {rank}, []
    with suppress(RuntimeError):  # the store may be gone with its rank
        rendezvous.call(store.set, f"there/{rank}", "")
        end = time.monotonic() + _GRACE_S
        while time.monotonic() < end and len(there) < world_size:
            there |= {other for other in range(world_size) if rendezvous.call(store.check, [f"there/{other}"])}
            time.sleep(_POLL_S)
        failed = [other for other in range(world_size) if rendezvous.call(store.check, [f"failed/{other}"])]
    # One that could leave word is it. Of the others some may only not have noticed yet.
    gone = failed or sorted(set(range(world_size)) - there)
    names = ", ".join(map(str, gone))
    who = "another process" if not gone else f"rank {names}" if len(gone) == 1 else f"one of the ranks {names}"
    is_silent = re.search(r"timed out|timeout", str(error), re.I)
    what = f"silent for --timeout {timeout_s:g} s" if is_silent else "gone"
    # gloo's words begin with a place in its source, and end with advice.
    reason = re.sub(r"^\[\S+\]\s*", "", first_line(error)).partition(" This is typically")[0]
    return f"{who} is {what} ({reason})", rank == min(there)
