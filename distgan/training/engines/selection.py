"""Which engine was chosen and why, for all outputs, and the rules of the choice: pure functions of measured times."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # which needs torch
    from distgan.training.engines.eager_check import Parity

# Seconds of the race between two engines, and the most steps that each takes in it.
RACE_S, RACE_STEPS = 1.0, 50
# Part of a graph's step that compiled blocks save: by the kernels and the memory traffic that they do without, modelled
# and not measured on a GPU. Only whether compiling is tried hangs on it: then a race decides.
COMPILED_GAIN = 0.25
# Seconds to start the compiler and compile the smallest block, before anything is measured: more where it is new to
# the machine, less where torch finds it in its cache on the disk.
FIRST_BLOCK_S = 5.0


class EngineUnavailable(Exception):
    """Why an engine can't be taken. Raised on all ranks alike."""


@dataclass
class EngineSelection:
    """`requested` by the config, `name` that runs, and `why` that one; `is_fallback` if it stands in for the requested.

    `start_s`: seconds that "compile", "capture", "check" and "race" took. `step_s`: seconds per step of each engine
    that was raced, on the slowest rank. `parity`: how near the steps of the one that runs are to the eager ones.
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
    """Return what stands at the head of every output of a run whose engine gave way to another, else None.

    `described` is what `EngineSelection.describe` has returned, or whatever a file has in its place.
    """
    match described:
        case {"is_fallback": True, "name": str(name), "why": str(why)}:
            return _sentence(name, why)
    return None


def _sentence(name: str, why: str) -> str:
    return f"engine {name}: {why}"


def compiling_pays(steps_left: int, step_s: float, compile_s: float) -> tuple[bool, str]:
    """True if compiling is expected to save more than it takes, and the numbers that decide, in words.

    It saves COMPILED_GAIN of the `steps_left`, of `step_s` seconds each. `compile_s` are the seconds still to spend on
    it: FIRST_BLOCK_S before the smallest block is compiled, and after it what the others take by its measure.
    """
    left_s = steps_left * step_s
    saved_s = left_s * COMPILED_GAIN
    left, saved, taken = (f"{each:.2g} s" if each < 10 else f"{each:.0f} s" for each in (left_s, saved_s, compile_s))
    return saved_s > compile_s, f"of {left} of steps left it may save {saved}, and takes about {taken}"


def steps_to_race(step_s: float, taken: int, multiple: int) -> int:
    """Return how many steps more an engine takes in its half of a race, of which it has `taken` some.

    A multiple, RACE_STEPS at most, and 0 where the half is over.
    """
    fitting = RACE_S / 2 / max(step_s, 1e-9) - taken
    return int(max(0, min(fitting, RACE_STEPS))) // multiple * multiple
