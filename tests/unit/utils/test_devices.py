"""Devices and who gets which."""

import pytest
import torch
from helpers.runs import MonkeyPatch


def test_fewer_gpus_than_processes_are_refused(monkeypatch: MonkeyPatch) -> None:
    from distgan.errors import UserError
    from distgan.utils.devices import take_gpu

    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=r"LOCAL_RANK=2: more processes than the 2 GPUs of .*; allowed: at most 2"):
        take_gpu()
