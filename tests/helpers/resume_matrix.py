"""A third of many runs: `first` trains them straight and up to a stop, `second`, in a new process, from there on."""

import sys
from itertools import product

import pytest

from distgan import cli
from distgan.config.registry import LOSSES, MODELS, ORDERS
from helpers.own_networks import path_of
from helpers.small_runs import make_cheap

# Epochs of 120 images, in three batches of 32 and one of 24: stopped within one, at its end, and within the next.
STEPS, STOPS = 7, (1, 3, 4, 6)
CASES = {
    f"{model}-{loss}-{order}-{schedule}": (model, loss, order, schedule)
    for model, loss, order, schedule in product(MODELS, LOSSES, ORDERS, ("constant", "linear"))
}
LEVELS = product(*map(range, (len(MODELS), len(LOSSES), len(ORDERS), 2)))
THIRD_OF = {name: sum(levels) % 3 for name, levels in zip(CASES, LEVELS, strict=True)}
# Each has every pair of a model, a loss, an order and a schedule.
THIRDS = [[name for name in CASES if THIRD_OF[name] == third] for third in range(3)]


def train(index: int, folder: str, *more: str) -> None:
    model, loss, order, schedule = list(CASES.values())[index]
    # Every other case has the report's networks, every fifth a user's own, and every third no moving average.
    family = ["--family", "report2023", "--width", "0.02"] if index % 2 else ["--family", "dcgan", "--width", "0.05"]
    if index % 5 == 4:
        family = ["--networks", path_of("pair")]
    code = cli.main([
        *("train", "--preset", f"{model}-quick", *family, "--dropout", "0.3", "--loss", loss, "--order", order),
        *("--lr-schedule", schedule, "--ema-decay", "0" if index % 3 == 0 else "0.9", "--data", "digits"),
        *("--batch-size", "32", "--epochs", "2", "--log-every", "5", "--sample-epochs", "9", "--tracker", "none"),
        *("--threads", "1", "--out", folder, "--max-steps", str(STEPS), *more),
    ])  # fmt: skip
    assert code == 0, folder


def main() -> None:
    """Words: first or second, the folder, which third."""
    make_cheap(pytest.MonkeyPatch())
    part, place, third = sys.argv[1], sys.argv[2], int(sys.argv[3])
    for index, name in enumerate(CASES):
        if name not in THIRDS[third]:
            continue
        if part == "first":
            train(index, f"{place}/{name}-straight")
            train(index, f"{place}/{name}-broken", "--max-steps", str(STOPS[index % len(STOPS)]))
        else:
            train(index, f"{place}/{name}-broken")


if __name__ == "__main__":
    main()
