"""An Optuna study of three settings: each trial trains in stages of one run, and may be pruned between two of them.

pip install 'distgan[sweep]'; python examples/sweep.py
"""

import sys
from typing import Any

import optuna

import distgan

STAGES, STEPS = 4, 70  # steps a stage: about an epoch of the digits


class Report:
    """Hand the FCD of each evaluation to the trial."""

    def __init__(self, trial: optuna.Trial):
        self.trial, self.fcd = trial, float("inf")

    def on_metrics(self, step: int, metrics: dict[str, Any]) -> None:
        if "ema_fcd" in metrics:
            self.fcd = metrics["ema_fcd"]
            self.trial.report(self.fcd, step)


def objective(trial: optuna.Trial) -> float:
    settings = {
        "g_lr": trial.suggest_float("g_lr", 1e-4, 4e-3, log=True),
        "d_lr": trial.suggest_float("d_lr", 1e-4, 4e-3, log=True),
        "dropout": trial.suggest_float("dropout", 0.0, 0.5),
    }
    out, report = f"runs/sweep/trial-{trial.number}", Report(trial)
    for stage in range(1, STAGES + 1):  # the run continues where the stage before it ended
        more = {"out": out, "max_steps": stage * STEPS, "eval_every_steps": STEPS, "eval_num": 500, "tracker": "none"}
        config = distgan.Config.from_preset("cgan-quick", data="digits", epochs=STAGES + 1, **settings, **more)
        distgan.train(config, observers=[report], quiet=True)
        if trial.should_prune():
            raise optuna.TrialPruned
    return report.fcd


if __name__ == "__main__":
    study = optuna.create_study(pruner=optuna.pruners.MedianPruner(n_startup_trials=2))
    study.optimize(objective, n_trials=int(sys.argv[1]) if len(sys.argv) > 1 else 20)
    print(f"best: FCD {study.best_value:.1f} by {study.best_params}")
