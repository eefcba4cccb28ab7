"""Ceilings on the kernels of a training step: for a GPU each costs time, however little it does."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from helpers.runs import Run

from cuda_stand_in.stand_in import train

# By preset and precision: of the eager engine, of the graph, and of the graph with compiled networks in it. The last
# is not for the fast presets, whose penalty needs what torch.compile has not. Fewer is better: lower them then.
ENGINES = ("eager", "graph", "graph-compiled")
CEILINGS = {
    ("vanilla", "fp32"): (231, 238, 150),
    ("vanilla", "bf16"): (277, 284, 174),
    ("cgan", "fp32"): (275, 282, 158),  # torch 2.14's Inductor makes two fewer of both compiled ones than 2.11's
    ("cgan", "bf16"): (321, 328, 190),
    ("vanilla-fast", "fp32"): (283, 290),
    ("vanilla-fast", "bf16"): (360, 367),
    ("cgan-fast", "fp32"): (283, 290),
    ("cgan-fast", "bf16"): (360, 367),
}
LINES = [(*key, engine) for key, counts in CEILINGS.items() for engine, _ in zip(ENGINES, counts, strict=False)]
FAST_LINES = [("vanilla", "fp32", "eager"), ("cgan", "bf16", "graph"), ("cgan-fast", "bf16", "graph")]
SLOW_LINES = [line for line in LINES if line not in FAST_LINES]
# What follows a replay: the losses are put aside.
MOST_BETWEEN_REPLAYS = 1


def assert_nodes(
    run: Run, folder: Path, record: Callable[[str, object], None], preset: str, precision: str, engine: str,
    *flags: object,
) -> None:  # fmt: skip
    """Train with that engine, cleanly and within the ceiling, and record the line `nodes PRESET PRECISION ENGINE N`."""
    words = ("--preset", preset, "--precision", precision, "--engine", engine, *flags)
    (log,), chosen, _ = train(run, folder, *words, timeout=900)
    assert chosen["name"] == engine, chosen["why"]
    between = [interval.launches for interval in log.steady]
    assert {interval.end for interval in log.steady} == {"step" if engine == "eager" else "replay"}
    if engine == "eager":
        nodes = between[-1]
        assert {len(launches) for launches in between} == {len(nodes)}, "steps are not alike"
    else:
        nodes = log.graphs[0]
        assert max(map(len, between)) <= MOST_BETWEEN_REPLAYS, between
    record("nodes", f"nodes {preset} {precision} {engine} {len(nodes)}")
    log.assert_clean()
    ceiling = CEILINGS[preset, precision][ENGINES.index(engine)]
    most = "".join(f"\n{num:4} {name[:200]}" for name, num in Counter(nodes).most_common())
    assert len(nodes) <= ceiling, f"{len(nodes)} nodes, the ceiling is {ceiling}:{most}"
