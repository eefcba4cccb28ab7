"""Devices and who gets which."""

import os

import pytest
import torch
from helpers.runs import MonkeyPatch

from distgan.distributed import env
from distgan.utils import hardware


def test_fewer_gpus_than_processes_are_refused(monkeypatch: MonkeyPatch) -> None:
    from distgan.errors import UserError
    from distgan.utils.devices import take_gpu

    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=r"LOCAL_RANK=2: more processes than the 2 GPUs of .*; allowed: at most 2"):
        take_gpu()


@pytest.mark.parametrize(
    ("flags", "launcher", "expected"),
    [
        ({"amx_bf16"}, "no", "bf16"),
        ({"avx512_bf16", "AuthenticAMD"}, "no", "bf16"),
        ({"avx512_bf16", "GenuineIntel"}, "no", "no"),  # was slower than float32
        (set(), "no", "no"),
        (set(), "bf16", "bf16"),  # somebody asked for it
    ],
)
def test_auto_precision_is_bf16_where_it_is_faster(
    monkeypatch: MonkeyPatch, flags: set[str], launcher: str, expected: str
) -> None:
    monkeypatch.setattr(hardware, "cpu_flags", lambda: flags)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    assert env.precision("auto", is_cpu=True) == expected
    assert env.precision("no", is_cpu=True) == "no"


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
    assert env.shared_cores() == expected
