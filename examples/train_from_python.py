"""Train small networks for an epoch, sample and measure, from a program. It writes to runs/from-python.

python examples/train_from_python.py
"""

from pathlib import Path
from typing import Any

import distgan


class Follow:
    """Print the losses while the run trains; an error in here would be a warning, and change nothing."""

    def on_metrics(self, step: int, metrics: dict[str, Any]) -> None:
        print(f"step {step:4}  D {metrics['d_loss']:.3f}  G {metrics['g_loss']:.3f}")

    def on_checkpoint(self, path: Path) -> None:
        print(f"saved {path}")


def main() -> None:
    config = distgan.Config.from_preset("cgan-quick", data="digits", width=0.25, epochs=1, out="runs/from-python")
    run = distgan.train(config, observers=[Follow()], quiet=True)
    print(f"{run.folder}: step {run.step}, {run.stopped or 'done'}")

    images = distgan.sample(run.folder, num=20, labels=[3, 8])  # uint8 (20, 28, 28): 3, 8, 3, 8, ...
    print(f"images {images.shape}, {images.dtype}, mean {images.mean():.1f}")

    quality = distgan.evaluate(run.folder, num=500, gan_train=False, quiet=True)
    low, high = quality.fcd.low, quality.fcd.high
    print(f"FCD {quality.fcd.value:.1f} ({low:.1f} to {high:.1f}), of real images {quality.fcd_floor.value:.1f}")


if __name__ == "__main__":  # the judges may start processes
    main()
