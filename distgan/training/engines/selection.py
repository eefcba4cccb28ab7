"""The chosen engine and the reason, and rules for the choice as pure functions of measured times."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # needs torch
    from distgan.training.engines.eager_check import Parity

# Seconds for timing two engines, and the most steps of each.
RACE_S, RACE_STEPS = 1.0, 50
# Share of a graph's step that compiling saves in kernels and memory traffic: by a model, not measured on a GPU. It only
# decides whether compiling is tried; measured times decide whether it is used.
COMPILED_GAIN = 0.25
# Estimated seconds to start the compiler and compile the smallest block: more without torch's disk cache, less with it.
FIRST_BLOCK_S = 5.0


class EngineUnavailable(Exception):
    """An engine can't be used; the message says why. Raised on all ranks."""


@dataclass
class EngineSelection:
    """The engine `requested`, the one that runs (`name`) and `why`; `is_fallback` if it replaces the requested one.

    `start_s`: seconds of "compile", "capture", "check" and "race". `step_s`: seconds per step of each timed engine, on
    the slowest rank. `parity`: the difference of its steps from eager ones.
    """

    requested: str
    name: str
    why: str
    is_fallback: bool = False
    start_s: dict[str, float] = field(default_factory=dict)
    step_s: dict[str, float] = field(default_factory=dict)
    parity: "Parity | None" = None

    def __str__(self) -> str:
        return _sentence(self.name, self.why)

    def describe(self) -> dict[str, object]:
        """Return the selection for environment.json and the results of a benchmark."""
        facts = {"asked": self.requested, "name": self.name, "why": self.why, "is_fallback": self.is_fallback}
        facts |= {"start_s": self.start_s, "step_s": self.step_s}
        return facts | ({"check": str(self.parity)} if self.parity else {})


def fallback_notice(described: Any) -> str | None:
    """Return the notice on a fallback engine for the head of each output, None if there is none.

    `described`: the result of `EngineSelection.describe`, or any other content of a file.
    """
    match described:
        case {"is_fallback": True, "name": str(name), "why": str(why)}:
            return _sentence(name, why)
    return None


def _sentence(name: str, why: str) -> str:
    return f"engine {name}: {why}"


def estimate_compile_gain(steps_left: int, step_s: float, compile_s: float) -> tuple[bool, str]:
    """Return True if compiling is expected to save more time than it takes, and the estimate as text.

    It saves COMPILED_GAIN of `steps_left` steps of `step_s` seconds. `compile_s`: the time still to spend,
    FIRST_BLOCK_S before the smallest block is compiled, then the estimate for the others.
    """
    left_s = steps_left * step_s
    saved_s = left_s * COMPILED_GAIN
    remaining, saved, needed = (f"{s:.2g} s" if s < 10 else f"{s:.0f} s" for s in (left_s, saved_s, compile_s))
    return saved_s > compile_s, f"of {remaining} of remaining steps it may save {saved}, and takes about {needed}"


def remaining_steps(step_s: float, num_done: int, multiple: int) -> int:
    """Return how many more steps to time an engine by, within RACE_S / 2 after `num_done` steps.

    A multiple of `multiple`, at most RACE_STEPS, 0 if the time is over.
    """
    num = RACE_S / 2 / max(step_s, 1e-9) - num_done
    return int(max(0, min(num, RACE_STEPS))) // multiple * multiple
