"""Experiment trackers, by Accelerate's classes: they get metrics, settings, sample grids and the last evaluation.

None logs in or contacts another machine unless the user's environment says so: by a login, a server's address, a mode.
"""

import io
import netrc
import os
import secrets
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from accelerate import tracking

from distgan.config.registry import TRACKERS
from distgan.config.schema import Config
from distgan.errors import UserError, WriteErrorPolicy, as_user_error
from distgan.utils.files import read_json, write_json
from distgan.utils.paths import user_path

IDS = "trackers.json"
_PROJECT = "distgan"

Settings = dict[str, Any]


class TrackerRun(ABC):
    """A run in one tracker. Every method may raise any error of its package.

    `folder`: of the training's run. `run_id`: of the tracker's run to continue; None: a new one. `step`: steps taken
    so far. `settings`: all of the config, by `section.key`.
    """

    run_id: str | None = None  # to continue this run after a resume; None: the folder is enough
    note: str = ""  # where it writes, for the terminal
    replaces_steps = False  # True if what is logged again replaces what a killed process logged of that step

    tracker: Any  # Accelerate's

    @abstractmethod
    def __init__(self, folder: Path, run_id: str | None, step: int, settings: Settings):
        """Start the tracker."""

    def log(self, values: dict[str, float], step: int) -> None:
        self.tracker.log(values, step=step)

    def log_image(self, tag: str, image: np.ndarray, path: Path, step: int) -> None:
        """Log `image`, (H, W, 3) uint8, which is the content of the file `path`."""
        self.tracker.log_images({tag: [image]}, step=step)

    def log_summary(self, values: dict[str, float], step: int) -> None:
        """Log what the run ends with."""
        self.log(values, step)

    def close(self) -> None:
        """End the run, its threads and its processes."""
        self.tracker.finish()


class TensorBoardRun(TrackerRun):
    """Event files in `tensorboard/`. Steps that are repeated after a kill are purged."""

    replaces_steps = True

    def __init__(self, folder: Path, run_id: str | None, step: int, settings: Settings):
        # Its writer thread raises on a full disk, and again at the next write, which is handled.
        hook = threading.excepthook
        threading.excepthook = lambda args: None if isinstance(args.exc_value, OSError) else hook(args)
        # purge_step hides what a killed process wrote of steps that are repeated now.
        purge = {"purge_step": step + 1} if step else {}
        self.tracker = tracking.TensorBoardTracker("tensorboard", folder, **purge)
        self.tracker.start()
        # Its own form for settings makes one more run of the list at each start.
        table = "\n".join(f"    {key} = {value}" for key, value in settings.items())  # indented: Markdown's code
        self.tracker.log({"settings": table}, step=step)

    def log_image(self, tag: str, image: np.ndarray, path: Path, step: int) -> None:
        self.tracker.log_images({tag: image}, step=step, dataformats="HWC")


class WandbRun(TrackerRun):
    """Weights & Biases. Offline, unless $WANDB_MODE, a key or a stored login says otherwise."""

    def __init__(self, folder: Path, run_id: str | None, step: int, settings: Settings):
        _set_defaults(WANDB_ERROR_REPORTING="false")
        import wandb

        is_new = run_id is None
        self.run_id = run_id or os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
        is_offline = (os.environ.get("WANDB_MODE") or ("" if _has_wandb_login() else "offline")) == "offline"
        options: dict[str, Any] = {"mode": "offline"} if is_offline else {"resume": "allow"}
        if "WANDB_NAME" not in os.environ and is_new:
            options["name"] = folder.name
        parent = Path(os.environ.get("WANDB_DIR", folder))
        self.tracker = tracking.WandBTracker(
            os.environ.get("WANDB_PROJECT", _PROJECT),
            id=self.run_id,
            dir=str(parent),
            reinit="create_new",  # beside a run that the process may have, which is not ours to end
            settings=wandb.Settings(console="off", silent=is_offline),
            **options,
        )
        self.tracker.start()
        self.tracker.tracker.config.update(settings, allow_val_change=True)
        if is_offline:
            self.note = f"wandb is offline: wandb sync {parent / 'wandb'}/offline-run-*-{self.run_id} uploads the run"

    def log_summary(self, values: dict[str, float], step: int) -> None:
        self.tracker.tracker.summary.update(values)

    def close(self) -> None:
        import wandb

        self.tracker.finish()
        if wandb.run is None:  # else the process has another
            wandb.teardown()


class MlflowRun(TrackerRun):
    """MLflow, in `mlruns/` of the run's folder, unless $MLFLOW_TRACKING_URI names a server or another place."""

    def __init__(self, folder: Path, run_id: str | None, step: int, settings: Settings):
        self._folder = folder
        local_uri = (folder / "mlruns").absolute().as_uri()
        # A server that is away stops training for seconds at a line, not for its default of minutes. A store of files
        # needs leave since MLflow 3.
        _set_defaults(
            MLFLOW_TRACKING_URI=local_uri,
            MLFLOW_ALLOW_FILE_STORE="true",
            MLFLOW_DISABLE_TELEMETRY="true",
            MLFLOW_HTTP_REQUEST_MAX_RETRIES="1",
            MLFLOW_HTTP_REQUEST_TIMEOUT="10",
        )
        self.tracker = tracking.MLflowTracker(_PROJECT, run_id=run_id, run_name=None if run_id else folder.name)
        self.tracker.start()
        self.run_id = self.tracker.tracker.info.run_id
        if self.run_id != run_id:  # MLflow changes no parameter of a run
            self.tracker.store_init_configuration(settings)
        self.tracker.log_artifact(str(folder / "config.json"))
        if os.environ["MLFLOW_TRACKING_URI"] == local_uri:
            self.note = f"mlflow writes to {folder / 'mlruns'}"

    def log_image(self, tag: str, image: np.ndarray, path: Path, step: int) -> None:
        self.tracker.log_artifact(str(path), path.parent.name)


class TrackioRun(TrackerRun):
    """Trackio, in its database on this machine, unless $TRACKIO_SPACE_ID or $TRACKIO_SERVER_URL names another place."""

    def __init__(self, folder: Path, run_id: str | None, step: int, settings: Settings):
        # Runs of all folders are in one database, by their names.
        self.run_id = run_id or f"{folder.name}-{secrets.token_hex(3)}"
        with redirect_stdout(io.StringIO()):
            self.tracker = tracking.TrackioTracker(
                _PROJECT, name=self.run_id, resume="allow", config=settings, embed=False
            )
            self.tracker.start()
        self.note = f"trackio show --project {_PROJECT} shows {self.run_id}"

    def log_image(self, tag: str, image: np.ndarray, path: Path, step: int) -> None:
        import trackio

        self.tracker.log({tag: trackio.Image(image)}, step=step)

    def close(self) -> None:
        import trackio

        with redirect_stdout(io.StringIO()):
            trackio.finish()  # the run, which an exit of the process would end once more else


class Trackers:
    """The trackers of a run. Rank 0 starts and calls them; without `start` they take nothing.

    An error of one during training is a warning, and the others continue.
    """

    def __init__(self, write_errors: WriteErrorPolicy):
        self._write_errors = write_errors
        self._runs: dict[str, TrackerRun] = {}
        self._logged: dict[str, int] = {}  # last step that the tracker has of an earlier process

    def start(self, config: Config, folder: Path, step: int, logged_step: int, *, is_resumed: bool) -> list[str]:
        """Start or continue the run of each tracker of --tracker. Return a line about each that writes elsewhere.

        `step`: steps taken so far. `logged_step`: the last one that an earlier process logged. Raises UserError where
        one does not start; in a resumed run that is a warning, as is an error of the disk in any run.
        """
        ids = self._read_ids(folder)
        settings = dict(_flatten(config.model_dump(mode="json")))
        for name in config.run.tracker:
            try:
                run = self._runs[name] = TRACKERS[name].start(folder, ids.get(name), step, settings)
            except OSError as error:
                self._write_errors.warn(
                    f"{name}'s files are not written, and nothing else is lost: {as_user_error(error) or error}"
                )
                continue
            except Exception as error:  # any, of a package that is damaged or of a version that does not fit
                if not is_resumed:
                    raise _start_error(name, error) from error
                self._write_errors.warn(f"{_start_error(name, error)}")
                continue
            if name in ids and run.run_id == ids[name] and not run.replaces_steps:
                self._logged[name] = logged_step
            if run.run_id and ids.get(name) != run.run_id:
                ids[name] = run.run_id
                self._write_errors.warn_on_error(lambda: write_json(folder / IDS, ids), f"{IDS} is")
        return [run.note for run in self._runs.values() if run.note]

    def _read_ids(self, folder: Path) -> dict[str, str]:
        """Return the id of each tracker's run that the folder's run has; a damaged file is a warning."""
        if not (folder / IDS).exists():
            return {}
        try:
            return {name: run_id for name, run_id in read_json(folder / IDS, 2**16).items() if isinstance(run_id, str)}
        except UserError as error:
            self._write_errors.warn(f"new runs begin in the trackers: {error}")
            return {}

    def log(self, values: dict[str, float], step: int) -> None:
        """Log the scalars of a step; a tracker that has the step of an earlier process keeps its numbers."""
        self._call_each(lambda run: run.log(values, step), "numbers are", step)

    def log_image(self, tag: str, image: np.ndarray, path: Path, step: int) -> None:
        """Log a sample grid, (H, W, 3) uint8, that was written to `path`."""
        self._call_each(lambda run: run.log_image(tag, image, path, step), "sample grid is", step)

    def log_summary(self, evaluation: dict[str, float], step: int) -> None:
        """Log the scalars of the run's last evaluation, as `final/...`; nothing without one."""
        values = {f"final/{key}": value for key, value in evaluation.items()}
        if values:
            self._call_each(lambda run: run.log_summary(values, step), "last evaluation is", None)

    def _call_each(self, call: Callable[[TrackerRun], None], what: str, step: int | None) -> None:
        for name, run in self._runs.items():
            if step is None or step > self._logged.get(name, -1):
                self._write_errors.warn_on_error(partial(call, run), f"{name}'s {what}")

    def close(self) -> None:
        """End the runs of all trackers."""
        runs, self._runs = self._runs, {}
        for run in runs.values():
            with suppress(Exception):  # nothing depends on its curves
                run.close()


def check_installed(names: Sequence[str]) -> None:
    """Raise UserError for a tracker whose package is missing."""
    available = {str(name) for name in tracking.get_available_trackers()}
    for name in names:
        if name not in available:
            raise UserError(
                f"--tracker: not installed ({name}). Expected: pip install '{TRACKERS[name].install}', or --tracker "
                "without it, as --tracker none",
                code="missing-package",
            )


def _start_error(name: str, error: Exception) -> UserError:
    is_damaged = isinstance(error, ImportError | AttributeError | TypeError)  # or it does not fit another package
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    remedy = f"{name} reinstalled" if is_damaged else "what that names"
    return UserError(
        f"--tracker: does not start: {reason} ({name}). Expected: --tracker none, or {remedy}",
        code="missing-package" if is_damaged else "tracker-failed",
    )


def _set_defaults(**variables: str) -> None:
    """Set environment variables that are not set, until the end of the run (`utils/process_state.py`)."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def _has_wandb_login() -> bool:
    """True if wandb has a key or a stored login for its server, without a request to the server."""
    import wandb

    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    settings = wandb.setup().settings
    if settings.api_key:
        return True
    host = urlsplit(settings.base_url).hostname or ""
    named = os.environ.get("NETRC")
    for path in [named] if named else ["~/.netrc", "~/_netrc"]:
        with suppress(OSError, UserError, netrc.NetrcParseError, UnicodeError):
            if netrc.netrc(user_path(path)).authenticators(host):
                return True
    return False


def _flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each setting by its path, as ("run.seed", 0)."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
