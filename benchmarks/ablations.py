"""Measure what each ingredient of a fast preset gains alone and its removal costs, by `distgan bench convergence`.

    python benchmarks/ablations.py --preset vanilla-fast --out ablations [--seeds 2] [--epochs 3] [--arms complete ...]

Each arm trains for the same number of epochs, over which falling rates fall, and has a folder in --out; the same
command resumes where it was. Other flags are those of the bench. Prints a table of what the judges found last: the fcd
of each seed, and the mean of what else there is. DISTGAN_DATA names the data.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from distgan.benchmark.convergence_results import ConvergenceResults
from distgan.benchmark.results import read
from distgan.config.presets import preset_path

# What stands in its place where it is missing: the settings of the quick presets, and no average at all.
INGREDIENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "clusters": ("model", {"clusters": 1}),
    "loss": ("optim", {"loss": "bce"}),
    "beta1": ("optim", {"beta1": 0.5}),
    "rates": ("optim", {"lr_schedule": "linear"}),
    "average": ("optim", {"ema_decay": 0.0}),
}
# The names of the arms, and what each of them is without.
ARMS = (
    {"whole": []}
    | {f"without-{name}": [name] for name in INGREDIENTS}
    | {"plain": list(INGREDIENTS)}
    | {f"only-{name}": [other for other in INGREDIENTS if other != name] for name in INGREDIENTS}
)


def preset_of(preset: str, missing: list[str], epochs: int) -> str:
    """A preset in TOML: the one of that name but for what it is without."""
    tables = tomllib.loads(preset_path(preset, "--preset").read_text())
    tables["run"]["epochs"] = epochs
    for section, values in map(INGREDIENTS.__getitem__, missing):
        tables[section] |= values
    lines = []
    for name, table in tables.items():
        # JSON's strings, numbers and lists are TOML's too.
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def row(arm: str, found: ConvergenceResults) -> str:
    """Return from the last evaluations each seed's fcd, the mean share recognisable and the worst class by its mean."""
    last = [cell.evaluations[-1] for cell in found.cells]
    missed = {target.name for target in found.facts.wanted for each in last if not target.is_met(each)}
    digits, coverages = (
        [statistics.fmean(digit) for digit in zip(*(getattr(each, name) for each in last), strict=True)]
        for name in ("digits", "coverages")
    )
    reported = f"{min(digits):.1%}" + ("" if found.facts.model == "cgan" else f" to {max(digits):.1%}")
    columns = (
        arm,
        ", ".join(f"{each.fcd:.2f}" for each in last),
        f"{statistics.fmean(each.recognisable or 0.0 for each in last):.1%}",
        reported,
        f"{min(coverages):.2f}",
        ", ".join(sorted(missed)) or "none",
    )
    return f"| {' | '.join(columns)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=("cgan-fast", "vanilla-fast"), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    own, handed_on = parser.parse_known_args()  # as --jobs 2 --precision bf16
    own.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for arm in own.arms:
        preset = own.out / f"{arm}.toml"
        preset.write_text(preset_of(own.preset, ARMS[arm], own.epochs))
        words = ["--preset", str(preset), "--seeds", str(own.seeds), "--out", str(own.out / arm), *handed_on]
        subprocess.run([sys.executable, "-m", "distgan", "bench", "convergence", *words], check=True)
        rows.append(row(arm, read(own.out / arm, ConvergenceResults)))
    print("| arm | fcd | recognisable | digits | worst coverage | targets missed |\n|---|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
