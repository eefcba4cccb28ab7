"""Evaluation during training: every few epochs, into metrics.jsonl, with alarms."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from distgan.evaluation.ensemble import draw_and_read, requested_classes
from distgan.evaluation.measure import Overview, measure_coverages, measure_overview, to_metrics
from distgan.evaluation.real_images import class_noun_of, load_real_images, with_folder
from distgan.evaluation.reference import build_reference
from distgan.evaluation.targets import EarlyStop, check_targets_fit, evaluation_lines, find_targets, read_targets
from distgan.evaluation.train_judges import get_judges
from distgan.models.base import build_generator
from distgan.training.gan import Gan
from distgan.training.session import Session
from distgan.utils.provenance import Startup

DEFAULT_NUM = 2000  # images, without --eval-num and --stop-at
# Bootstrap draws of an interval: fewer than an evaluation takes, for each costs training time.
_NUM_DRAWS = 50


class QualityMonitor:
    """Evaluate G's moving average (`ema_...`), if there is one, and its own weights (`raw_...`).

    It draws the images of `distgan eval --seed 0`, and takes no random number of the training. All ranks call every
    public method. Raises UserError for missing judges, test images or targets.

    `reason_to_stop`: text once the targets of `--stop-at` are met, else "". `eval_every_steps`: steps between
    evaluations where only the targets set the interval, else 0.
    """

    def __init__(self, session: Session, startup: Startup):
        config, dataset, runtime = session.config, session.dataset, session.runtime
        self.runtime = runtime
        data = with_folder(config.data, config.run.eval_reference, "--eval-data-dir")
        self._early_stop: EarlyStop | None = None
        self.reason_to_stop = ""
        self.eval_every_steps = 0
        if name := config.run.stop_at:  # before judges are trained, which takes minutes
            targets = runtime.run_on_all_ranks(lambda: read_targets(find_targets(name, "--stop-at")))
            runtime.check_same_on_ranks("targets", targets.model_dump_json())
            check_targets_fit(name, "--stop-at", class_noun_of(dataset))
            self._early_stop = EarlyStop(targets, is_conditional=config.model.is_conditional)
            if not (config.run.eval_every or config.run.eval_every_steps):
                self.eval_every_steps = max(1, session.steps_per_epoch // targets.protocol.evaluations_per_epoch)
        real = runtime.run_on_all_ranks(
            lambda: load_real_images(dataset, data, may_download=runtime.is_local_main), local_main_first=True
        )
        runtime.check_same_on_ranks("test data's fingerprint", real.test_fingerprint)
        ensemble = get_judges(real, data, runtime)
        self._started = startup.born
        num = config.run.eval_num or (self._early_stop.protocol.num if self._early_stop else DEFAULT_NUM)
        num = real.max_images(num)
        is_conditional = config.model.is_conditional
        self._labels = requested_classes(num, real.spec.num_classes) if is_conditional else None
        self.reference = build_reference(ensemble, real, num, self._labels, runtime, num_draws=_NUM_DRAWS)
        self.notices = [ensemble.notice] if ensemble.notice else []
        with torch.random.fork_rng(devices=[]):  # the training draws the numbers that it would have drawn
            self._generator = build_generator(config.model).to(runtime.device)
        self._alarms: list[str] = []
        startup.mark("judges")

    def resume(self, metrics: Path) -> None:
        """Count the evaluations that a resumed run has had."""
        if self._early_stop:
            self._count(self._early_stop, self.runtime.run_on_rank0(lambda: evaluation_lines(metrics)))

    def _count(self, early_stop: EarlyStop, lines: list[dict[str, Any]]) -> None:
        early_stop.add(*lines)
        # By the first rank's numbers, so that all ranks stop alike.
        self.reason_to_stop = self.runtime.run_on_rank0(lambda: early_stop.describe() if early_stop.is_met else "")

    def evaluate(self, gan: Gan, epoch: float, elapsed_s: float, say: Callable[[str, str], None]) -> dict[str, Any]:
        """Return the results as fields for a line of metrics.jsonl.

        Prints them, and the alarms that have begun or ended. `elapsed_s`: of training so far.
        """
        start = time.perf_counter()
        values: dict[str, Any] = {"eval_n": self.reference.n}  # images evaluated
        kinds = {"ema": False, "raw": True} if gan.ema else {"raw": True}
        for prefix, is_raw in kinds.items():
            self._generator.load_state_dict(gan.sampling_state(is_raw=is_raw))
            _, reading = draw_and_read(self._generator, self.reference.ensemble, self.reference.n, 0, self.runtime)
            overview = measure_overview(reading, self._labels, self.reference)
            values |= to_metrics(overview, prefix)
            coverages = measure_coverages(reading, self._labels, self.reference)
            values[f"{prefix}_coverage_digits"] = [round(one.value, 6) for one in coverages]  # coverage of each class
            if not is_raw or not gan.ema:  # of what samples are drawn with
                self._tell(overview, epoch, say)
                values["alarms"] = overview.alarms  # missing classes and collapse, in words
        baseline = self.reference.baseline
        for name in ("fcd", "recognisable", "density", "coverage"):
            values[f"{name}_floor"] = round(getattr(baseline, name).value, 6)  # the same of as many real images
        values["eval_s"] = round(time.perf_counter() - start, 3)  # seconds that the evaluation took
        values["since_start_s"] = round(time.time() - self._started, 3)  # seconds since the process started
        if self._early_stop:
            self._count(self._early_stop, [{"step": gan.step, "epoch": epoch, "elapsed_s": elapsed_s} | values])
            say(self._early_stop.describe(), "")
        return values

    def _tell(self, overview: Overview, epoch: float, say: Callable[[str, str], None]) -> None:
        real, sample = self.reference.baseline, overview.sample
        assert real.fcd is not None
        assert sample.fcd is not None
        agreement = "" if overview.agreement is None else f"read as requested {overview.agreement.value:.1%}, "
        say(
            f"judges after epoch {epoch:.4g}: {agreement}recognisable {sample.recognisable.value:.1%} (real "
            f"{real.recognisable.value:.1%}), fcd {sample.fcd.value:.3g} ({real.fcd.value:.3g}), coverage "
            f"{sample.coverage.value:.2f} ({real.coverage.value:.2f})",
            "",
        )
        # What stands before the colon says what it is about; the numbers behind it change all the time.
        now = {alarm.partition(":")[0]: alarm for alarm in overview.alarms}
        for key in [key for key in now if key not in self._alarms]:
            say(f"alarm: {now[key]}", "bold red")
        for key in [key for key in self._alarms if key not in now]:
            say(f"no longer so: {key}", "green")
        self._alarms = list(now)
