"""Waits of a rank for others: limited in time, over when the other is gone, and interruptible."""

import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
import torch.distributed as dist
from helpers.runs import MonkeyPatch, expect_user_error

from distgan.config.schema import Config
from distgan.distributed import env, rendezvous
from distgan.errors import ProcessLost
from distgan.utils.operating_system import ProcessId, has_ended, own_process_id

TIMEOUT_S = 0.6


@pytest.fixture
def store(monkeypatch: MonkeyPatch) -> Iterator[dist.Store]:
    """Environment of three ranks, of which this process is the second."""
    store = dist.HashStore()
    monkeypatch.setattr(rendezvous, "_rendezvous", rendezvous._Rendezvous(store, 1, 3, TIMEOUT_S))
    monkeypatch.setattr(rendezvous, "_local_calls", itertools.count())
    for rank in (0, 2):
        store.set(f"process/{rank}", json.dumps(own_process_id()))
        for turn in range(2):
            store.set(f"through/{turn}/{rank}", "")
    yield store
    store.set("never", "")  # what a wait was left for
    for thread in threading.enumerate():  # one inside of torch would abort the interpreter at its end
        if thread.name.startswith("distgan-"):
            thread.join()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def take_turn() -> None:
    with rendezvous.local_rank0_first(1, 1):
        pass


def test_a_rank_waits_for_the_first_of_its_machine_and_for_all(store: dist.Store) -> None:
    take_turn()
    assert store.check(["through/0/1"])


def test_a_later_turn_waits_for_the_first_rank_again(store: dist.Store) -> None:
    take_turn()
    store.delete_key("through/1/0")
    said = []

    def work() -> None:
        time.sleep(TIMEOUT_S / 2)
        said.append("first rank")
        store.set("through/1/0", "")

    worker = threading.Thread(target=work)
    worker.start()
    with rendezvous.local_rank0_first(1, 1):
        said.append("this one")
    worker.join()
    assert said == ["first rank", "this one"]


@pytest.mark.parametrize("rank", [0, 2])
def test_a_rank_that_is_gone_is_named_at_once(store: dist.Store, rank: int) -> None:
    for turn in range(2):
        store.delete_key(f"through/{turn}/{rank}")
    own = own_process_id()
    store.set(f"process/{rank}", json.dumps(own._replace(created=own.created - 60)))  # its number has another one now
    with pytest.raises(ProcessLost, match=f"rank {rank} is gone") as lost:
        take_turn()
    assert lost.value.is_reporter
    with pytest.raises(ProcessLost) as lost:
        take_turn()
    assert not lost.value.is_reporter, "the first to miss it has said so"


@pytest.mark.parametrize("rank", [0, 2])
def test_a_silent_rank_is_named_after_the_timeout(store: dist.Store, rank: int) -> None:
    store.delete_key(f"through/0/{rank}")
    store.set(f"process/{rank}", json.dumps(ProcessId("another machine", 1, 0.0)))
    with within(TIMEOUT_S + 4), pytest.raises(ProcessLost, match=f"rank {rank} .*--timeout 0.6 s"):
        take_turn()


def test_a_rank_that_is_at_work_is_waited_for(store: dist.Store) -> None:
    """As one that downloads for longer than --timeout."""
    store.delete_key("through/0/0")

    def work() -> None:
        with rendezvous._send_heartbeats(rendezvous._Rendezvous(store, 0, 3, TIMEOUT_S)):
            time.sleep(2 * TIMEOUT_S)
            store.set("through/0/0", "")

    worker = threading.Thread(target=work)
    worker.start()
    take_turn()
    worker.join()


def test_a_store_that_is_silent_is_left_after_the_timeout(store: dist.Store) -> None:
    with within(2.5), pytest.raises(RuntimeError, match=r"timed out .*0\.6 s"):
        rendezvous._call_with_timeout(TIMEOUT_S, store.wait, ["never"], timedelta(seconds=3))


def test_a_lost_connection_is_named_without_a_second_timeout(monkeypatch: MonkeyPatch) -> None:
    """Where the store is that of the rank which is silent, it is so too."""

    class SilentStore(dist.HashStore):
        def check(self, keys: list[str]) -> bool:
            time.sleep(3)
            return False

    monkeypatch.setattr(rendezvous, "_GRACE_S", 0.3)
    meeting = rendezvous._Rendezvous(SilentStore(), 1, 2, 60.0)
    with within(2):
        message, is_reporter = rendezvous._describe_loss(meeting, RuntimeError("Timed out waiting 60000ms for recv"))
    assert message.startswith("rank 0 is silent for --timeout 60 s")
    assert is_reporter


def test_ctrl_c_ends_a_wait_inside_of_torch(store: dist.Store) -> None:
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with within(2.5), pytest.raises(KeyboardInterrupt):
        rendezvous._call_with_timeout(30, store.wait, ["never"], timedelta(seconds=3))


def test_variables_by_which_no_group_can_be_made_are_named(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_DEVICE_TRANSPORT", "nosuch")
    monkeypatch.setattr(env, "world_size", lambda: 1)  # DeepSpeed wants a group of one as well

    def unsupported(*_: object, **__: object) -> None:  # torch reads the variable once in a process
        raise RuntimeError("makeDeviceForHostname(): unsupported gloo device")

    monkeypatch.setattr(dist, "init_process_group", unsupported)
    with rendezvous.process_group_scope(), expect_user_error("GLOO_DEVICE_TRANSPORT=nosuch", code="launch"):
        rendezvous.join_process_group(Config(), "gloo", "fp32", None)


def test_an_error_of_the_store_is_that_of_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        rendezvous._call_with_timeout(1, lambda: 1 / 0)
    assert rendezvous._call_with_timeout(1, lambda: None) is None


def test_only_a_process_of_this_machine_is_known_to_have_ended() -> None:
    own = own_process_id()
    assert has_ended(own) is False
    assert has_ended(own._replace(created=own.created - 60)) is True
    assert has_ended(own._replace(pid=2**22 + 1)) is True
    assert has_ended(own._replace(machine="another")) is None
    assert has_ended(own._replace(machine="")) is None


@pytest.mark.parametrize("words", ["Failed to recv, got 0 bytes. Connection was likely closed.", "Broken pipe"])
def test_the_words_of_a_lost_connection_are_known(words: str) -> None:
    assert rendezvous._LOSS.search(words)
