"""Requests to stop, and time limits."""

import signal

import pytest
from helpers.runs import MonkeyPatch

from distgan.training import stop
from distgan.training.stop import LAUNCHER_GONE, TIME_LIMIT, StopRequest, describe, exit_code, parse_duration


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90s", 90), ("45m", 2700), ("1h30m", 5400), ("2d", 172_800), ("1:30:00", 5400), ("45:00", 2700),
     ("1-12:00:00", 129_600), ("0:07", 7)],
)  # fmt: skip
def test_durations(text: str, expected: int) -> None:
    assert parse_duration(text) == expected


def test_slow_steps_and_saves_are_allowed_for(monkeypatch: MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(stop.time, "monotonic", lambda: now[0])
    with StopRequest(60.0, is_launched=False) as request:
        now[0] += 10
        assert request.reason() == 0
        now[0] += 10  # 40 s are left; two such steps would take 20, the pictures 5
        assert request.reason() == 0
        request.save_s = 8.0
        assert request.reason() == TIME_LIMIT


def test_a_press_that_a_launcher_hands_on_is_not_a_second_one(monkeypatch: MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(stop.time, "monotonic", lambda: now[0])
    with StopRequest(None, is_launched=True) as request:
        signal.raise_signal(signal.SIGINT)
        now[0] += 0.5
        signal.raise_signal(signal.SIGINT)
        assert request.reason() == signal.SIGINT
        now[0] += 1
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with StopRequest(None, is_launched=False):
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP"])
def test_each_signal_stops_the_run_with_its_own_code(name: str) -> None:
    signum = signal.Signals[name]
    before = signal.getsignal(signum)
    with StopRequest(None, is_launched=False) as request:
        signal.raise_signal(signum)
        assert (request.reason(), exit_code(request.reason())) == (signum, 128 + signum)
    assert signal.getsignal(signum) == before


def test_reasons_in_words_and_codes() -> None:
    assert (describe(signal.SIGUSR1), exit_code(signal.SIGUSR1)) == ("by SIGUSR1", 138)
    assert (describe(TIME_LIMIT), exit_code(TIME_LIMIT)) == ("before its time limit", 75)
    assert (describe(LAUNCHER_GONE), exit_code(LAUNCHER_GONE)) == ("because its launcher has ended", 143)
