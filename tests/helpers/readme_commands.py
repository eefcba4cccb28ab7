"""README's commands, with flags that make each take seconds: embedded digits, a few steps.

As a script it runs them in a new folder by the given program: `python readme_commands.py .venv/bin/distgan`.
"""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_TRAIN = "--data digits --width 0.05 --batch-size 32 --log-every 1 --threads 1 --device cpu --max-steps 2"
_EVAL = "--num 100 --device cpu"
_BENCH = "--data digits --device cpu --threads 1"
_TINY = "--rounds 1 --steps 1 --warmup 1 --width 0.05 --batch-size 32"
_SIZES = "--per-rank-batch-size 32 --work-batch-size 32"
# Flags by the longest matching beginning of a command. Of a flag given twice the last one counts. The plain loops need
# MNIST; tests/distributed tests several processes.
SHORT = {
    "distgan train": _TRAIN,
    "distgan train --preset cgan-fast": f"{_TRAIN} --clusters 1",
    "distgan train --preset cgan-fast --stop-at": f"{_TRAIN} --clusters 1 --eval-every-steps 2 --eval-num 65",
    "distgan train --preset images-fast": f"{_TRAIN} --clusters 1",
    "distgan train --preset cgan-quick --networks": f"{_TRAIN} --networks {{networks}}",
    "distgan train --out": f"{_TRAIN} --max-steps 4",
    "distgan train --model cgan --processes": f"{_TRAIN} --processes 1",
    "distgan doctor": "--processes 0",
    "distgan checkpoint": "",
    "distgan sample": "--device cpu",
    "distgan sample runs/cgan-fast-1 --num": "--device cpu --num 100",
    "distgan sample runs/cgan-fast-1 --interpolate": "--device cpu --num 2",
    "distgan eval": f"{_EVAL} --threads 1 --data digits --no-gan-train",
    "distgan report": _EVAL,
    "distgan compare": _EVAL,
    "distgan bench throughput": f"{_BENCH} {_TINY} --preset cgan --precision fp32 --gate-steps 1 --no-peers",
    "distgan bench scaling": f"{_BENCH} {_TINY} --repeats 1 --processes 1 {_SIZES}",
    "distgan bench convergence": f"{_BENCH} --preset {{preset}} --seeds 1 --epochs 1 --num 65",
}
PRESET = """
[model]
name = "cgan"
width = 0.05
[data]
batch_size = 4096
"""


def own_networks_example() -> str:
    """Return the file of networks that docs/your_networks.md shows."""
    example = re.search(r"^```python\n(.*?)^```$", (ROOT / "docs/your_networks.md").read_text(), re.M | re.S)
    assert example
    return example[1]


def short_commands(preset: Path) -> Iterator[list[str]]:
    """Yield the arguments of each `distgan` command in README that needs neither a clone nor SLURM.

    `preset`: path for a preset for the benchmark whose own would take minutes.
    """
    preset.write_text(PRESET)
    networks = preset.with_name("my_gan.py")
    networks.write_text(own_networks_example())
    blocks = re.findall(r"^```console$(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    for line in "".join(blocks).splitlines():
        command = line.partition(" #")[0].strip()
        if not command.startswith("distgan "):
            continue
        if "--zero-stage" in command and not importlib.util.find_spec("deepspeed"):
            continue
        start = max((start for start in SHORT if command.startswith(start)), key=len)
        yield shlex.split(command)[1:] + shlex.split(SHORT[start].format(preset=preset, networks=networks))


def main(program: str) -> None:
    """Run each command in a new folder with a clean environment. Exits with 1 at the first that fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "DISTGAN"))}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder, "work")
        work.mkdir()
        for words in short_commands(Path(folder, "tiny.toml")):
            start = time.monotonic()
            process = subprocess.run([program, *words], cwd=work, env=environment, capture_output=True, text=True)
            print(f"{time.monotonic() - start:5.1f} s  distgan {shlex.join(words)}", flush=True)
            if process.returncode != 0:
                sys.exit(f"{process.stdout}{process.stderr}\nexit code {process.returncode}")


if __name__ == "__main__":
    main(os.path.abspath(sys.argv[1]))
