"""Summary of a metrics.jsonl of any length: read once, line by line, in bounded memory."""

from array import array
from pathlib import Path
from typing import Any

from distgan.evaluation.targets import is_evaluation
from distgan.utils.files import finite_or_none, metric_lines
from distgan.utils.thinning import Curve, EveryKth

Line = dict[str, Any]  # a line of metrics.jsonl, not validated

PREFIXES = {"raw": "G's weights", "ema": "their moving average"}
_CURVES = ("d_loss", "g_loss", "real_logits", "fake_logits")
# Real runs have fewer: below these limits nothing is left out.
_MOST_EVALUATIONS, _MOST_SPEEDS = 2**12, 2**13


class History:
    """Summary of the complete lines that have an epoch.

    `num` counts them, `step` and `epoch` are those of the last one, `curves` has their values by name. `speeds` are
    the images per second after step `since`, from which the run was last resumed (0: never), on the recorded machine,
    without the first line, which includes the warm-up. `evaluations` are the lines at which quality was measured,
    `alarms` the epochs of each alarm, by the text before its colon (the numbers after it vary). With very many lines
    `speeds` and `evaluations` keep every k-th only.
    """

    def __init__(self, since: int = 0) -> None:
        self.since = since
        self.num, self.num_lines = 0, 0
        self._is_warm = False
        self.step: int | None = None
        self.epoch: float | None = None
        self.notice: str | None = None  # notice about the data, shown on every page
        self.curves = {name: Curve() for name in _CURVES}
        self.alarms: dict[str, array[float]] = {}
        self._evaluations, self._speeds = EveryKth[Line](_MOST_EVALUATIONS), EveryKth[float](_MOST_SPEEDS)

    @property
    def evaluations(self) -> list[Line]:
        return sorted(self._evaluations.items(), key=lambda line: line["step"])

    @property
    def num_evaluations(self) -> int:
        return self._evaluations.num

    @property
    def speeds(self) -> list[float]:
        return self._speeds.items()

    def add(self, line: Line | None) -> None:
        """Take a line as `metric_lines` yields it."""
        self.num_lines += 1
        epoch = finite_or_none(line.get("epoch")) if line else None
        if line is None or epoch is None or finite_or_none(step := line["step"]) is None:
            return
        if self.step is None or step >= self.step:
            self.step, self.epoch = step, epoch
        if not self.notice and isinstance(text := line.get("data"), str):
            self.notice = text
        for name, curve in self.curves.items():
            if (value := finite_or_none(line.get(name))) is not None:
                curve.add(epoch, value)
        if step > self.since:
            if self._is_warm and (speed := finite_or_none(line.get("images_per_s"))) is not None and speed > 0:
                self._speeds.add(speed)
            self._is_warm = True
        self.num += 1
        if is_evaluation(line):
            self._evaluations.add(line)
            for text in alarms_of(line):
                self.alarms.setdefault(text.partition(":")[0], array("d")).append(epoch)


def alarms_of(line: Line) -> list[str]:
    """Return the texts of the alarms of a line."""
    texts = line.get("alarms")
    return [str(text) for text in texts] if isinstance(texts, list) else []


def read_history(path: Path, since: int = 0) -> History:
    """Return the history in a metrics.jsonl, an empty one if there is no file."""
    history = History(since)
    for line in metric_lines(path):
        history.add(line)
    return history
