"""`distgan bench convergence`: epochs, and seconds, until a preset reaches and holds a frozen quality, over seeds."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Lock
from typing import Any

from distgan.benchmark import results
from distgan.benchmark.configurations import Arm, arms, slots
from distgan.benchmark.convergence_report import outcome, save_plot, show
from distgan.benchmark.convergence_statistics import KIND, LEVEL, compared, more_processes, of_arm, read, summarise
from distgan.benchmark.options import ConvergenceConfig
from distgan.benchmark.results import claimed, difference_of, say, taken_up
from distgan.benchmark.trial import OVER, Trial
from distgan.config.flags import paths_by
from distgan.distributed.env import is_launched
from distgan.errors import CommandFailed, Stopped, UserError, print_line
from distgan.evaluation.targets import Targets, find_targets, read_targets
from distgan.utils.child_process import own_modules
from distgan.utils.devices import device_named
from distgan.utils.parts_progress import PartsProgress
from distgan.utils.paths import user_path

PLOT = "convergence.png"

_LOG_EVERY_S = 10.0


def run(config: ConvergenceConfig) -> None:
    """Runs what is not over yet; prints tables, and leaves results.json (whole after each run) and convergence.png.

    Raises UserError, CommandFailed where a run crashed or more processes need more epochs, and Stopped where one of the
    trainings did so in good order, as before the limit of a SLURM job.
    """
    if is_launched():
        raise UserError(
            "bench convergence: starts trainings of its own; allowed: without a launcher around it", code="launch"
        )
    if config.join is not None:
        join(user_path(config.join, "--join"), config)
        return
    path = find_targets(config.targets, "--targets")
    targets = read_targets(path)
    protocol = targets.protocol.model_copy(update={"num": config.num} if config.num else {})
    device = device_named(config.device)
    environments = slots(config, is_cuda=device.type == "cuda")
    chosen = arms(config, protocol, path, len(environments), is_cuda=device.type == "cuda")
    facts = results.facts(device)
    identity = _identity(config, targets, chosen) | {"device": facts["device"], "jobs": len(environments)}
    facts |= {
        "identity": identity,
        "protocol": protocol.model_dump(),
        "model": chosen[0].config.model.name,
        "notice": chosen[0].dataset.notice,
    }
    with claimed(config.out, KIND) as folder:
        before = {cell["id"]: cell for cell in taken_up(folder, read, identity, config.out)}
        seeds = range(config.first_seed, config.first_seed + config.seeds)
        trials = [Trial(arm, seed, folder, targets) for seed in seeds for arm in chosen]
        for trial in trials:
            if (cell := before.pop(trial.cell["id"], {})).get("outcome") in OVER:
                trial.cell = cell
        others = list(before.values())  # of seeds that this call does not ask for

        def cells() -> list[dict[str, Any]]:
            return _sorted([*others, *(trial.cell for trial in trials)])

        def write() -> None:
            results.write(folder / results.FILE, KIND, facts, cells())

        write()
        (folder / "runs").mkdir(exist_ok=True)
        left = [trial for trial in trials if trial.cell["outcome"] not in OVER]
        try:
            _run_all(left, environments, config.timeout, write)
        finally:  # after a Ctrl-C too
            facts |= _together(identity["arms"], cells())
            write()
            _tell(folder, facts, cells())
    if stopped := next((trial for trial in trials if trial.stopped), None):
        raise Stopped(stopped.stopped, f"{stopped.label}: stopped; the same command resumes it (see {stopped.log})")
    _check_failures(facts, [trial.cell for trial in trials], lambda cell: folder)


def join(folder: Path, config: ConvergenceConfig) -> None:
    """The summary of the benches in the folders below `folder`, as results.json and convergence.png there, and tables.

    Raises UserError for none, for those that differ in more than seeds and devices, for a run that two have, and for a
    bench of its own there; CommandFailed as `run`.
    """
    if not folder.is_dir():
        raise UserError(f"--join {folder}: is no folder; allowed: the folder above some benches", code="not-found")
    paths = sorted(folder.glob(f"*/{results.FILE}"))
    if not paths:
        raise UserError(
            f"--join {folder}: there is no results.json in a folder below it; allowed: the folder above some benches",
            code="not-found",
        )
    target = folder / results.FILE
    if target.exists() and "joined" not in results.read(target).facts:
        raise UserError(
            f"--join {folder}: has a bench of its own, which is not overwritten; allowed: another folder above",
            code="exists",
        )
    found = [read(path) for path in paths]
    owners: dict[str, Path] = {}
    for path, each in zip(paths, found, strict=True):
        # A cluster has the machines that it has: epochs are the same measure on all of them, seconds are not.
        first, own = (one.facts["identity"] | {"device": None} for one in (found[0], each))
        if difference := difference_of(first, own):
            raise UserError(
                f"--join {folder}: {path} has {difference} than {paths[0]}; allowed: the same but for seeds",
                code="mismatch",
            )
        for cell in each.cells:
            if (owner := owners.setdefault(cell["id"], path)) != path:
                raise UserError(
                    f"--join {folder}: both {owner} and {path} have {cell['id']}; allowed: each run once",
                    code="mismatch",
                )
    cells = _sorted([cell for each in found for cell in each.cells])
    facts = found[0].facts | results.facts(device_named(config.device))
    devices = ", ".join(sorted({str(each.facts["device"]) for each in found}))
    facts |= {"device": devices, "joined": [str(path.relative_to(folder)) for path in paths]}
    facts |= _together(facts["identity"]["arms"], cells)
    results.write(target, KIND, facts, cells)
    _tell(folder, facts, cells)
    _check_failures(facts, cells, lambda cell: owners[cell["id"]].parent)


def _tell(folder: Path, facts: dict[str, Any], cells: list[dict[str, Any]]) -> None:
    show(facts, cells)
    pictures = results.drawn(lambda: save_plot(folder / PLOT, facts, cells), folder / PLOT)
    print_line(", ".join(map(str, [folder / results.FILE, *pictures])))


def _sorted(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Seed by seed, as they are run; those of a seed in the order in which they came."""
    return sorted(cells, key=lambda cell: cell["seed"])


def _identity(config: ConvergenceConfig, targets: Targets, chosen: list[Arm]) -> dict[str, Any]:
    """What must be the same for runs to be compared, as JSON has it."""
    free = {key for (key,) in paths_by(ConvergenceConfig, "on_resume", "free")}
    content = {
        "settings": config.model_dump(exclude=free),
        "targets": targets.model_dump(exclude={"runs"}),
        "arms": [arm.facts() for arm in chosen],
    }
    return json.loads(json.dumps(content))


def _run_all(
    trials: list[Trial], environments: list[dict[str, str]], timeout_s: float, write: Callable[[], None]
) -> None:
    """As many at a time as there are environments, each watched by a thread. None is left when this returns.

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
            trial.run(own_modules() | environment, halted, timeout_s, log_progress)
        finally:
            free.put(environment)
        return trial

    pool = ThreadPoolExecutor(len(environments))
    try:
        with progress:
            for future in as_completed([pool.submit(take, trial) for trial in trials]):
                trial = future.result()
                progress.finish(f"{trial.label}: {outcome(trial.cell)}")
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
                    say(f"{trial.label}: {progress}")

    return log_progress


def _together(chosen: list[dict[str, Any]], cells: list[dict[str, Any]]) -> dict[str, Any]:
    """What the runs of each arm (its facts) say, and what the arms do about each other."""
    summary = {arm["name"]: summarise(of_arm(cells, arm["name"])) for arm in chosen}
    most = max(arm["processes"] for arm in chosen)
    own = [arm for arm in chosen if arm["processes"] == most]
    tests = compared(own[0]["name"], own[1]["name"], cells) if len(own) > 1 else []
    for one in [arm for arm in chosen if arm not in own]:
        many = next(arm for arm in own if arm["preset"] == one["preset"])
        tests += filter(None, [more_processes(one["name"], many["name"], cells)])
    return {"summary": summary, "tests": tests}


def _check_failures(
    facts: dict[str, Any], cells: list[dict[str, Any]], folder_of: Callable[[dict[str, Any]], Path]
) -> None:
    """Raises CommandFailed where a run crashed, or more processes need more epochs."""
    failed = [cell for cell in cells if cell["outcome"] == "error"]
    lines = [test["words"] for test in facts["tests"] if test["alternative"] == "less" and (test["p"] or 1.0) < LEVEL]
    if failed:
        cell = failed[0]
        log = folder_of(cell) / "runs" / f"{cell['id']}.log"
        words = f"{cell['arm']}, seed {cell['seed']}: {cell['why']} (see {log})"
        lines.append(f"{len(failed)} of {len(cells)} runs crashed; the first, {words}")
    if lines:
        raise CommandFailed("\n".join(lines))
