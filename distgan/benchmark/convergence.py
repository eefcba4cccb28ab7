"""`distgan bench convergence`: epochs and seconds until a preset reaches and holds quality targets, over seeds."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Lock

from distgan.benchmark import results
from distgan.benchmark.convergence_results import (
    OVER,
    ArmFacts,
    ConvergenceFacts,
    ConvergenceResults,
    FrozenTargets,
    Identity,
    Test,
    TrialResult,
)
from distgan.benchmark.convergence_statistics import LEVEL, compare_presets, compare_processes, summarise
from distgan.benchmark.options import ConvergenceConfig
from distgan.benchmark.plots import plot_convergence
from distgan.benchmark.results import FILE, new_folder, say
from distgan.benchmark.tables import describe_outcome, print_convergence
from distgan.benchmark.trial import Trial, assign_gpus, build_arms
from distgan.config.flags import setting_paths
from distgan.errors import CommandFailed, Stopped, UserError
from distgan.evaluation.real_images import class_noun_of
from distgan.evaluation.targets import check_targets_fit, find_targets, read_targets
from distgan.runs.run_dir import lock
from distgan.utils.child_process import build_child_env
from distgan.utils.devices import device_named
from distgan.utils.files import not_writable
from distgan.utils.parts_progress import PartsProgress
from distgan.utils.paths import user_path

KIND = "convergence"

_LOG_EVERY_S = 10.0


def run(config: ConvergenceConfig) -> None:
    """Run what is not finished yet; print tables, and write results.json (after each run) and convergence.png.

    Raises UserError, CommandFailed if a run crashed or more processes need more epochs, and Stopped if one of the
    trainings stopped on request, as before the time limit of a SLURM job.
    """
    results.check_not_launched(KIND)
    if config.join is not None:
        join_results(user_path(config.join, "--join"), config)
        return
    path = find_targets(config.targets, "--targets")
    targets = read_targets(path)
    protocol = targets.protocol.model_copy(update={"num": config.num} if config.num else {})
    device = device_named(config.device)
    environments = assign_gpus(config, is_cuda=device.type == "cuda")
    chosen = build_arms(config, protocol, path, len(environments), is_cuda=device.type == "cuda")
    check_targets_fit(config.targets, "--targets", class_noun_of(chosen[0].dataset))
    here = results.collect_facts(device)
    free = {key for (key,) in setting_paths(ConvergenceConfig, "on_resume", "free")}
    identity = Identity.model_validate({
        "settings": config.model_dump(mode="json", exclude=free),
        "targets": FrozenTargets.model_validate(targets.model_dump(exclude={"runs"})),
        "arms": [arm.facts() for arm in chosen], "device": here.device, "jobs": len(environments),
    })  # fmt: skip
    facts = ConvergenceFacts.model_validate(here.model_dump() | {
        "identity": identity, "protocol": protocol, "model": chosen[0].config.model.name,
        "notice": chosen[0].dataset.notice,
    })  # fmt: skip
    with lock_output(config.out) as folder:
        before = {cell.id: cell for cell in _cells_before(folder, identity, config.out)}
        seeds = range(config.first_seed, config.first_seed + config.seeds)
        trials = [Trial(arm, seed, folder, targets) for seed in seeds for arm in chosen]
        for trial in trials:
            if (cell := before.pop(trial.cell.id, None)) and cell.outcome in OVER:
                trial.cell = cell
        others = list(before.values())  # of seeds that this call does not request

        def cells() -> list[TrialResult]:
            return [*others, *(trial.cell for trial in trials)]

        _write(folder, facts, cells())
        (folder / "runs").mkdir(exist_ok=True)
        left = [trial for trial in trials if trial.cell.outcome not in OVER]
        try:
            _run_all(left, environments, config.timeout, lambda: _write(folder, facts, cells()))
        finally:  # after a Ctrl-C too
            _conclude(folder, facts, cells())
    if stopped := next((trial for trial in trials if trial.stopped), None):
        name = stopped.cell.name
        raise Stopped(stopped.stopped, f"{name}: stopped; the same command resumes it (see {stopped.log})")
    _check_failures(facts, [trial.cell for trial in trials], lambda cell: folder)


def join_results(folder: Path, config: ConvergenceConfig) -> None:
    """Summarise the results in the folders below `folder`, as results.json and convergence.png there, and tables.

    Raises UserError if there are none, if they differ in more than seeds and devices, if two contain the same run, or
    if `folder` itself has results; CommandFailed as `run`.
    """
    if not folder.is_dir():
        raise UserError(f"--join: not a folder ({folder}). Expected: a folder of results folders", code="no-results")
    paths = sorted(folder.glob(f"*/{FILE}"))
    if not paths:
        raise UserError(
            f"--join: no results.json in its subfolders ({folder}). Expected: a folder of results folders",
            code="no-results",
        )
    if (folder / FILE).exists() and results.read(folder, ConvergenceResults).facts.joined is None:
        raise UserError(
            f"--join: contains a results.json, which is not overwritten ({folder}). Expected: another folder",
            code="output-exists",
        )
    parts = [results.read(path, ConvergenceResults) for path in paths]
    # The machines of a cluster may differ: epochs are comparable between them, seconds are not.
    first, *_ = identities = [part.facts.identity.model_copy(update={"device": None}) for part in parts]
    owners: dict[str, Path] = {}
    for path, part, identity in zip(paths, parts, identities, strict=True):
        if difference := first.difference(identity):
            key, old, new = difference
            raise UserError(
                f"--join: {key} differs ({new} in {path}, {old} in {paths[0]}). Expected: other seeds only",
                code="mismatch",
            )
        for cell in part.cells:
            if (owner := owners.setdefault(cell.id, path)) != path:
                raise UserError(
                    f"--join: a run is in two results ({cell.id} in {owner} and {path}). Expected: each run once",
                    code="mismatch",
                )
    here = results.collect_facts(device_named(config.device)).model_dump() | {
        "device": ", ".join(sorted({part.facts.device for part in parts})),
        "joined": [str(path.relative_to(folder)) for path in paths],
    }
    facts = ConvergenceFacts.model_validate(parts[0].facts.model_dump() | here)
    cells = [cell for part in parts for cell in part.cells]
    _conclude(folder, facts, cells)
    _check_failures(facts, cells, lambda cell: owners[cell.id].parent)


# -- The folder: locked by one process at a time, and resumed only with the same settings --


@contextmanager
def lock_output(out: str | None) -> Iterator[Path]:
    """Lock --out, new or with results to resume, or else bench/convergence-<number>. Raises UserError for any other."""
    folder = new_folder(out, KIND, may_resume=True)
    try:
        held = lock(folder, 0.0, f"--out: in use by another bench {KIND} ({out})")
    except OSError as error:
        raise not_writable(error.filename, error) from error
    try:
        yield folder
    finally:
        held.release()


def _cells_before(folder: Path, identity: Identity, out: str | None) -> list[TrialResult]:
    """Return the runs of an earlier call, [] if there is none. Raises UserError if its settings differ."""
    if not (folder / FILE).exists():
        return []
    previous = results.read(folder, ConvergenceResults)
    if difference := previous.facts.identity.difference(identity):
        key, old, new = difference
        raise UserError(
            f"--out: started with another {key} ({out}: {old}, now {new}). Expected: the same, or a new folder",
            code="resume-mismatch",
        )
    return previous.cells


def _write(folder: Path, facts: ConvergenceFacts, cells: list[TrialResult]) -> ConvergenceResults:
    """Write results.json, sorted by seed, those of one seed in the order in which they came."""
    cells = sorted(cells, key=lambda cell: cell.seed)
    is_partial = any(cell.outcome == "unfinished" for cell in cells)
    convergence = ConvergenceResults(kind="convergence", is_partial=is_partial, facts=facts, cells=cells)
    convergence.write(folder / FILE)
    return convergence


def _conclude(folder: Path, facts: ConvergenceFacts, cells: list[TrialResult]) -> None:
    """Compute the summary and the tests of all runs, write and show them."""
    arms = facts.identity.arms
    facts.summary = {arm.name: summarise([cell for cell in cells if cell.arm == arm.name]) for arm in arms}
    facts.tests = _tests(arms, cells)
    results.publish(_write(folder, facts, cells), folder, print_convergence, plot_convergence)


def _run_all(
    trials: list[Trial], environments: list[dict[str, str]], timeout_s: float, write: Callable[[], object]
) -> None:
    """Run one trial per environment at a time, each in a thread. No process is left when this returns.

    Raises UserError for a folder in which another process trains.
    """
    for trial in trials:
        trial.await_folder(say)
    halted, free = Event(), SimpleQueue[dict[str, str]]()
    for environment in environments:
        free.put(environment)

    progress = PartsProgress(len(trials), "runs")
    log_progress = _progress_logger(progress.say)

    def take(trial: Trial) -> Trial:
        environment = free.get()
        try:
            trial.run(build_child_env() | environment, halted, timeout_s, log_progress)
        finally:
            free.put(environment)
        return trial

    pool = ThreadPoolExecutor(len(environments))
    try:
        with progress:
            for future in as_completed([pool.submit(take, trial) for trial in trials]):
                trial = future.result()
                progress.finish(f"{trial.cell.name}: {describe_outcome(trial.cell)}")
                write()
    finally:
        halted.set()
        try:
            pool.shutdown(cancel_futures=True)
        except KeyboardInterrupt:  # a second one: not even a checkpoint is waited for
            for trial in trials:
                trial.kill()
            raise


def _progress_logger(say: Callable[[str], None]) -> Callable[[Trial], None]:
    """Return a function that logs where a run is, at most every _LOG_EVERY_S seconds."""
    lock, logged_at = Lock(), time.monotonic()

    def log_progress(trial: Trial) -> None:
        nonlocal logged_at
        with lock:
            if time.monotonic() - logged_at > _LOG_EVERY_S:
                logged_at = time.monotonic()
                if progress := trial.progress():
                    say(f"{trial.cell.name}: {progress}")

    return log_progress


def _tests(arms: list[ArmFacts], cells: list[TrialResult]) -> list[Test]:
    """Return the tests between the two presets on most processes, and of each on 1 process against more."""
    most = max(arm.processes for arm in arms)
    many = [arm for arm in arms if arm.processes == most]
    tests = compare_presets(cells, many[0].name, many[1].name) if len(many) > 1 else []
    for one in [arm for arm in arms if arm not in many]:
        tests += compare_processes(cells, one.name, next(arm.name for arm in many if arm.preset == one.preset))
    return tests


def _check_failures(
    facts: ConvergenceFacts, cells: list[TrialResult], folder_of: Callable[[TrialResult], Path]
) -> None:
    """Raise CommandFailed if a run crashed, or more processes need more epochs."""
    failed = [cell for cell in cells if cell.outcome == "error"]
    lines = [test.words for test in facts.tests if test.alternative == "less" and (test.p or 1.0) < LEVEL]
    if failed:
        cell = failed[0]
        log = folder_of(cell) / "runs" / f"{cell.id}.log"
        crash = f"{cell.name}: {cell.why} (see {log})"
        lines.append(f"{len(failed)} of {len(cells)} runs crashed; the first, {crash}")
    if lines:
        raise CommandFailed("\n".join(lines))
