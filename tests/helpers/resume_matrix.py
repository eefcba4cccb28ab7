"""Train a third of the recipes: `first` to the end and again up to a stop; `second` resumes those in a new process."""

import sys
from itertools import product
from pathlib import Path

import pytest

from distgan import cli
from distgan.config.registry import LOSSES, MODELS, ORDERS
from distgan.data.base import load_dataset
from distgan.training import session
from helpers.own_networks import path_of
from helpers.own_recipes import RECIPES as OWN
from helpers.own_recipes import own_recipe
from helpers.small_runs import make_cheap

# Epochs of 120 images, three batches of 32 and one of 24: stopped in an epoch, at its end, and in the next.
STEPS, STOPS = 7, (1, 3, 4, 6)
CASES = {
    f"{model}-{loss}-{order}-{schedule}": (model, loss, order, schedule)
    for model, loss, order, schedule in product(MODELS, LOSSES, ORDERS, ("constant", "linear"))
}
LEVELS = product(*map(range, (len(MODELS), len(LOSSES), len(ORDERS), 2)))
THIRD_OF = {name: sum(levels) % 3 for name, levels in zip(CASES, LEVELS, strict=True)}
# Each third has every pair of a model, a loss, an order and a schedule; the first has a user's own images as well.
THIRDS = [[name for name in CASES if THIRD_OF[name] == third] for third in range(3)]
THIRDS[0] += OWN


def flags_of(name: str, place: str) -> list[str]:
    if name in OWN:
        return own_recipe(name, Path(place), 120)
    index = list(CASES).index(name)
    model, loss, order, schedule = CASES[name]
    # Every other case has the report's networks, every fifth a user's own, and every third no moving average.
    family = ["--family", "report2023", "--width", "0.02"] if index % 2 else ["--family", "dcgan", "--width", "0.05"]
    family += ["--dropout", "0.3"]
    if index % 5 == 4:
        family = ["--networks", path_of("pair", Path(place)), "--model-arg", "dropout=0.3"]
    return [
        *("--preset", f"{model}-quick", *family, "--loss", loss, "--order", order),
        *("--lr-schedule", schedule, "--ema-decay", "0" if index % 3 == 0 else "0.9", "--data", "digits"),
        *("--log-every", "5", "--sample-epochs", "9", "--tracker", "none", "--threads", "1"),
    ]  # fmt: skip


def train(name: str, place: str, end: str, steps: int = STEPS) -> None:
    folder = f"{place}/{name}-{end}"
    flags = [*flags_of(name, place), "--batch-size", "32", "--epochs", "2", "--out", folder, "--max-steps", str(steps)]
    with pytest.MonkeyPatch.context() as patch:
        if name in OWN:
            patch.setattr(session, "load_dataset", load_dataset)
        assert cli.main(["train", *flags]) == 0, folder


def main() -> None:
    """Arguments: first or second, folder, index of the third."""
    make_cheap(pytest.MonkeyPatch())
    part, place, third = sys.argv[1], sys.argv[2], int(sys.argv[3])
    for index, name in enumerate(THIRDS[third]):
        if part == "first":
            train(name, place, "straight")
            train(name, place, "broken", STOPS[index % len(STOPS)])
        else:
            train(name, place, "broken")


if __name__ == "__main__":
    main()
