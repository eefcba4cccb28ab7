"""CUDA's engines on a machine without a GPU (cuda_stand_in/stand_in.py); slow/ has more of them. `make cuda-check`."""

from collections.abc import Callable
from pathlib import Path

import pytest
from cuda_stand_in.nodes import FAST_LINES, assert_nodes
from cuda_stand_in.stand_in import missing, train
from helpers.runs import TINY, Run, fits

pytestmark = pytest.mark.skipif(missing() is not None, reason=f"no stand-in for CUDA: {missing()}")


@pytest.mark.parametrize(("preset", "precision", "engine"), FAST_LINES)
def test_steps_have_few_kernels_and_wait_for_nothing(
    run: Run, tmp_path: Path, record_property: Callable[[str, object], None], data_flags: tuple[str, ...],
    preset: str, precision: str, engine: str,
) -> None:  # fmt: skip
    assert_nodes(run, tmp_path, record_property, preset, precision, engine, *data_flags)


QUICK = ("--preset", "cgan-quick", "--data", "digits", *TINY)


def test_what_no_step_may_do_is_noticed(run: Run, tmp_path: Path) -> None:
    (log,), _, _ = train(run, tmp_path, *QUICK, "--engine", "eager", faults="item,pageable,allocation")
    with pytest.raises(AssertionError):
        log.assert_clean()
    for interval in log.steady:  # each in a step of D and a step of G
        assert len(interval.allocations) == 2
        assert interval.launches.count("memcpy device to pinned") == 2
        assert interval.launches.count("memcpy pageable to device") == 2
        assert len(interval.waits) == 4


def test_what_no_capture_may_have_is_noticed(run: Run, tmp_path: Path) -> None:
    (log,), engine, said = train(run, tmp_path, *QUICK, "--engine", "graph", faults="outside,item")
    with pytest.raises(AssertionError):
        log.assert_clean()
    assert any(text.startswith("work on a stream that is not captured") for text in log.violations)
    assert any(text.startswith("cudaStreamSynchronize") for text in log.violations)
    # The second is CUDA's error too, by which the engine was not taken.
    assert engine["name"] == "eager"
    assert fits("engine eager: graph ...", said)
