"""Devices and who gets which."""

import math
import os
from functools import partial
from typing import Any

import pytest
import torch
from helpers.runs import MonkeyPatch, expect_user_error

from distgan.config.schema import Config, RunConfig
from distgan.distributed import env, precision, rendezvous
from distgan.distributed.runtime import open_runtime
from distgan.utils import hardware


def test_fewer_gpus_than_processes_are_rejected(monkeypatch: MonkeyPatch) -> None:
    from distgan.utils.devices import set_local_gpu

    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with expect_user_error("LOCAL_RANK ... 2 ... 2 ... at most 2 ... [launcher-conflict]"):
        set_local_gpu()


# -- --precision auto --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "launcher", "bf16_ms", "expected", "note"),
    [
        ({"amx_bf16"}, "fp32", 1, "bf16", "auto: a probe takes bf16 1 ms, float32 2 ms"),
        (
            {"avx512_bf16"},
            "fp32",
            3,
            "fp32",
            "auto: a probe takes bf16 3 ms, float32 2 ms",
        ),  # as an Intel Xeon without AMX
        (set(), "fp32", 1, "fp32", "auto: no bf16 arithmetic here"),
        (set(), "bf16", 3, "bf16", ""),  # somebody requested it
    ],
)
def test_auto_precision_is_bf16_where_it_is_faster(
    monkeypatch: MonkeyPatch, flags: set[str], launcher: str, bf16_ms: float, expected: str, note: str
) -> None:
    monkeypatch.setattr(hardware, "cpu_flags", lambda: flags)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    time_precisions = partial(precision.time_precisions, **pretended(2, bf16_ms))
    monkeypatch.setattr(precision, "time_precisions", time_precisions)
    with open_runtime(Config(run=RunConfig(device="cpu", precision="auto"))) as runtime:
        assert runtime.describe()["precision"] == expected
        assert runtime.describe()["precision_note"] == note
        words = f"precision {expected} ({note})" if note else f"precision {expected}"
        assert runtime.describe_precision() == words


def pretended(float32_ms: float, bf16_ms: float) -> dict[str, Any]:
    """A clock, and a probe that takes so long by it but for the first time, when it takes hours."""
    spent = [0.0]
    slow = {False, True}

    def probe(is_bf16: bool) -> None:
        spent[0] += 3600 if is_bf16 in slow else (bf16_ms if is_bf16 else float32_ms) / 1e3
        slow.discard(is_bf16)

    return {"clock": lambda: spent[0], "probe": probe}


def test_a_precision_that_is_requested_is_not_raced(monkeypatch: MonkeyPatch) -> None:
    """Nor does the probe of one that is not draw from the generators that a training has."""
    monkeypatch.setattr(hardware, "cpu_flags", lambda: {"avx512_bf16"})
    before = torch.get_rng_state()
    float32_s, bf16_s = precision.time_precisions(torch.device("cpu"))
    assert 0 < float32_s < math.inf
    assert 0 < bf16_s < math.inf
    assert torch.equal(before, torch.get_rng_state())
    monkeypatch.setattr(precision, "time_precisions", lambda _: pytest.fail("a probe"))
    for requested in ("fp32", "bf16", None):
        with open_runtime(Config(run=RunConfig(device="cpu", precision=requested))) as runtime:
            assert (runtime.precision, runtime.precision_note) == (requested or "fp32", "")


@pytest.mark.parametrize(
    ("wanted", "times", "expected"),
    [
        (["auto", "auto"], [(2.0, 1.0), (2.0, 1.5)], "bf16"),
        (["auto", "auto"], [(2.0, 1.0), (2.0, 2.5)], "fp32"),  # the slowest decides
        (["auto", "auto"], [(2.0, 1.0), (0.0, math.inf)], "fp32"),  # which has none
        (["auto", "bf16"], None, "bf16"),  # of the rank that has read the run's folder
        (["fp32", "auto"], None, "fp32"),
    ],
)
def test_all_ranks_take_one_precision(
    monkeypatch: MonkeyPatch, wanted: list[str], times: list[tuple[float, float]] | None, expected: str
) -> None:
    assert rendezvous._find_difference([{"precision": name} for name in wanted]) is None
    for rank in range(2):
        monkeypatch.setattr(
            precision, "time_precisions", lambda _, rank=rank: times[rank] if times else pytest.fail("a probe")
        )
        monkeypatch.setattr(precision, "_all_gather", lambda own: wanted if own in wanted else times)
        assert precision.choose_precision(wanted[rank], torch.device("cpu"), is_unset=False).name == expected


@pytest.mark.parametrize(
    ("device", "requested", "is_native", "is_reported"),
    [
        ("cuda", None, True, True),
        ("cuda", "fp32", True, False),
        ("cuda", None, False, False),
        ("cpu", None, True, False),
    ],
)
def test_float32_that_nobody_requested_names_the_faster_flag_on_a_gpu(
    monkeypatch: MonkeyPatch, device: str, requested: str | None, is_native: bool, is_reported: bool
) -> None:
    monkeypatch.setattr(precision, "has_native_bf16", lambda *, is_cpu: is_native)
    wanted = env.resolve_precision(requested, is_cpu=device == "cpu")
    chosen = precision.choose_precision(wanted, torch.device(device), is_unset=requested is None)
    assert chosen == ("fp32", "several times slower here than --precision bf16" if is_reported else "")


@pytest.mark.parametrize(("processes", "expected"), [(None, None), (1, 6), (2, 3), (8, 1)])
def test_launched_processes_share_the_cores(
    monkeypatch: MonkeyPatch, processes: int | None, expected: int | None
) -> None:
    """accelerate launch sets OMP_NUM_THREADS=1, which would halve the speed on two cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    if processes:
        for name, value in {"LOCAL_WORLD_SIZE": processes, "WORLD_SIZE": processes, "RANK": 0, "LOCAL_RANK": 0}.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a run of torchrun")
    assert env.cores_per_process() == expected
