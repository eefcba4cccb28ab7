"""The epoch at which a run converged: it met and held the targets of `--stop-at`, or the known ones for its data."""

from typing import NamedTuple

from distgan.errors import UserError
from distgan.evaluation.targets import SETS, EarlyStop, Targets, evaluated_weights, find_targets, read_targets
from distgan.reports.number_format import epochs
from distgan.reports.quality_view import AVERAGE, OWN_WEIGHTS
from distgan.reports.run_data import Run
from distgan.utils.files import parse_model


class Convergence(NamedTuple):
    """Convergence of a run by its targets; `why`: the reason if unknown. `before`, `at`, `held`, `last` are epochs.

    It met all targets `at` (None: never), missed some `before`, and still met them at `held`.
    """

    why: str
    facts: list[str]  # what was measured, in words
    before: float = 0.0
    at: float | None = None
    held: float = 0.0
    last: float = 0.0
    is_open: bool = True  # the run ended too early to tell

    def describe(self) -> str:
        if not self.facts:
            return f"Convergence unknown: {self.why}."
        outcome = f"Not converged by epoch {epochs(self.last)}: {self.why}"
        if self.at is not None:
            at, before, held = map(epochs, (self.at, self.before, self.held))
            outcome = f"Converged at epoch {at}, after epoch {before}, and held to epoch {held}"
        return f"{outcome} ({'; '.join(self.facts)})."


def _targets_of(run: Run, name: str) -> Targets:
    """Return the targets that the run recorded; of an older run, what their file has now. Raises UserError."""
    if recorded := run.environment.get(dict, "targets"):
        return parse_model(Targets, recorded, f"{run.folder / 'environment.json'}: targets")
    return read_targets(find_targets(name, "--stop-at"))


def convergence_of(run: Run) -> Convergence:
    """Return at which epoch a run met and held its targets, by the evaluations in its log."""
    history = run.history
    if not (lines := history.evaluations):
        return Convergence(
            "it was not evaluated yet" if run.config.run.evaluates_quality else "it was trained without --eval-every",
            [],
        )
    name = run.config.run.stop_at or run.data_name
    if name is None or not (run.config.run.stop_at or name in SETS):
        return Convergence(f"there are no targets for {name or 'its data'}; --stop-at sets some", [])
    try:
        stop = EarlyStop(_targets_of(run, name), is_conditional=run.config.model.is_conditional)
    except UserError as error:
        return Convergence(str(error), [])
    stop.add(*lines)
    evaluations, detected, protocol = stop.evaluations, stop.detected, stop.protocol
    lacking = [target.name for target in stop.wanted if all(target.of(result) is None for result in evaluations)]
    if lacking or len(lines) < history.num_evaluations:
        return Convergence(f"its log lacks {', '.join(lacking) or 'some of its evaluations'}", [])
    nums = sorted({line["eval_n"] for line in lines if type(line.get("eval_n")) is int})
    weights = AVERAGE if evaluated_weights(lines) == "ema" else OWN_WEIGHTS
    facts = [
        f"targets {name}, to be held at {protocol.hold} further evaluations; of {weights}",
        f"{len(evaluations)} evaluations up to epoch {epochs(evaluations[-1].epoch)}",
    ]
    if nums and nums != [protocol.num]:
        facts.append(
            f"of {' or '.join(f'{num:,}' for num in nums)} images each, where the targets are for {protocol.num:,}"
        )
    last = evaluations[-1].epoch
    if detected.reached is None:
        missed = f"; missed: {', '.join(detected.targets)}" if detected.targets else ""
        return Convergence(f"{detected.why}{missed}", facts, last=last, is_open=not detected.targets)
    before, at, held = (
        evaluations[index].epoch if index >= 0 else 0.0
        for index in (detected.reached - 1, detected.reached, detected.reached + protocol.hold)
    )
    return Convergence("", facts, before, at, held, last)
