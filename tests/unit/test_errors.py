"""The end of each command."""

import errno
import os

import pytest
import torch
from helpers.runs import Capture, MonkeyPatch

from distgan.errors import FAILED, LESS_MEMORY, USER_ERROR, UserError, run_and_report
from distgan.errors.codes import CODES, KINDS
from distgan.utils.child_process import summarise_error


def fails(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 6.3 GiB for an array"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried\nframe #0"
        ),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    ],
)
@pytest.mark.parametrize("rank", [None, "1"])
def test_too_little_memory_is_one_line_with_advice(
    monkeypatch: MonkeyPatch, capsys: Capture, error: Exception, rank: str | None
) -> None:
    if rank:
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
    assert run_and_report(lambda: fails(error), less_memory="a smaller --num") == FAILED
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"distgan: {f'rank {rank}: ' if rank else ''}{type(error).__name__}: ")
    assert line.endswith(f"{LESS_MEMORY}a smaller --num")
    assert "--num" not in summarise_error(FAILED, line.encode()), "of a child, whose flags are others"


def test_a_bad_address_on_a_gpu_is_no_lack_of_memory(capsys: Capture) -> None:
    error = RuntimeError("CUDA error: an illegal memory access was encountered")
    assert run_and_report(lambda: fails(error), less_memory="a smaller --num") == FAILED
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert LESS_MEMORY not in said


def test_under_debug_too_little_memory_has_its_traceback(capsys: Capture) -> None:
    assert run_and_report(lambda: fails(MemoryError()), debug=True, less_memory="a smaller --num") == FAILED
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert "--num" in said


@pytest.mark.parametrize(
    ("code", "end"), [("batch-too-small", "[batch-too-small] [bad-value]"), ("bad-value", "x [bad-value]")]
)
def test_a_message_ends_with_its_code_and_the_general_one(capsys: Capture, code: str, end: str) -> None:
    """By which scripts match that older versions printed alone."""
    assert run_and_report(lambda: fails(UserError("x", code=code))) == USER_ERROR
    assert capsys.readouterr().err.rstrip().endswith(end)


def test_each_code_has_a_general_one_a_cause_and_a_remedy() -> None:
    assert all(CODES[kind].kind == kind for kind in KINDS)
    assert all(entry.kind in KINDS and entry.cause and entry.remedy for entry in CODES.values())
