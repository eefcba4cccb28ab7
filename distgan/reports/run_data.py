"""Data of a run's folder, read defensively: a run may be new, killed, damaged or of another version."""

import shlex
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from distgan.checkpoint.resume import checkpoints_in
from distgan.config.flags import read_file
from distgan.config.registry import is_data_path
from distgan.config.renames import with_current_names
from distgan.config.schema import Config
from distgan.errors import UserError
from distgan.evaluation.schema import PLURALS, Quality, noun_of, read_quality
from distgan.reports.history import History, read_history
from distgan.reports.options import PagesConfig
from distgan.runs.run_dir import SAMPLE, read_status
from distgan.utils.files import read_json, read_limited
from distgan.utils.paths import user_path

_MAX_JSON, _MAX_PICTURE = 2**22, 2**24
_MAX_PIXELS = 2**26

T = TypeVar("T")


class Picture(NamedTuple):
    """A valid PNG, and its size in pixels."""

    name: str
    data: bytes
    width: int
    height: int


class Facts:
    """The values of a JSON file of a run."""

    def __init__(self, values: dict[str, Any]):
        self.values = values

    def get(self, kind: type[T], *keys: str) -> T | None:
        """Return the value at these keys; None if it is not recorded, or not of exactly this type."""
        value: Any = self.values
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value if type(value) is kind else None


class Run(NamedTuple):
    """A run. `where` is the folder as given by the user. `problems` lists read errors.

    `other_results` are the folders of the run that have an evaluation, apart from `eval_folder`. `unmeasurable`: why
    its images can't be measured, "" if they can.
    """

    where: str
    name: str
    folder: Path
    config: Config
    environment: Facts
    status: Facts
    history: History
    quality: Quality | None
    eval_folder: Path
    other_results: list[str]
    problems: list[str]
    unmeasurable: str = ""

    @property
    def kind(self) -> str:
        return "C-GAN" if self.config.model.is_conditional else "GAN"

    @property
    def data_name(self) -> str | None:
        """Return the name of the training data; of own images their path, as a folder may have any name."""
        name = self.config.data.name
        if is_data_path(name):
            return name
        return self.environment.get(str, "data", "name") or (name if name != "auto" else None)

    @property
    def class_nouns(self) -> tuple[str, str]:
        """Return the noun for a class of its data, singular and plural; clusters stand for classes without labels."""
        has_labels = self.config.model.images.num_classes > 0
        noun = noun_of(self.data_name, has_labels=has_labels)
        return noun, PLURALS[noun]

    @property
    def notice(self) -> str | None:
        """Return the notice about the data that every page shows."""
        return self.environment.get(str, "data", "notice") or self.history.notice

    @property
    def step(self) -> int | None:
        """Return the last known step."""
        steps = [self.status.get(int, "step"), self.history.step]
        return max((step for step in steps if step is not None), default=None)

    @property
    def has_weights(self) -> bool:
        return any((self.folder / "weights").glob("generator*.safetensors")) or bool(
            checkpoints_in(self.folder / "checkpoints")
        )


def read_run(where: str, options: PagesConfig) -> Run:
    """Return the run, evaluated first if `options` request it and it has no evaluation. Raises UserError."""
    folder = user_path(where)
    rule = "Expected: the folder of a run"
    if not folder.exists():
        raise UserError(f"{where}: not found. {rule}", code="no-run")
    if not folder.is_dir():
        raise UserError(f"{where}: not a folder. {rule}", code="no-run")
    if (folder / "manifest.json").exists() or folder.name == "weights":
        raise UserError(f"{where}: a subfolder of a run. {rule} itself", code="no-run")
    path = folder / "config.json"
    if not path.exists():
        raise UserError(f"{where}: not a run (no config.json). {rule}", code="no-run")
    config = Config.model_validate(read_file(path, str(path)))
    problems: list[str] = []
    environment = _facts(folder / "environment.json", problems)
    since = environment.get(int, "resumed_from") or 0
    run = Run(
        where,
        folder.resolve().name or where,
        folder,
        config,
        environment,
        Facts(read_status(folder)),
        _history(folder / "metrics.jsonl", since, problems),
        None,
        folder / "eval",
        sorted(path.parent.name for path in folder.glob("eval-*/eval.json")),
        problems,
    )
    return _measured(run, options)


def _measured(run: Run, options: PagesConfig) -> Run:
    path = run.eval_folder / "eval.json"
    if path.exists():
        try:
            return run._replace(quality=read_quality(path))
        except UserError as error:
            if options.evaluate:
                raise UserError(
                    f"{error}; distgan eval {run.where} evaluates it again, --no-eval omits the evaluation",
                    code=error.code,
                ) from error
            run.problems.append(f"{error}; distgan eval {run.where} evaluates it again")
            return run
    if not options.evaluate or not run.has_weights:
        return run
    try:
        from distgan.config.command_settings import EvalConfig
        from distgan.evaluation.evaluate import evaluate

        names = {"num", "reference", "device", "networks", "trust_networks"}
        eval_config = EvalConfig.model_validate(options.model_dump(include=names, exclude_unset=True))
        quality, folder = evaluate(run.where, eval_config)
    except UserError as error:
        if error.code == "not-measurable":  # all else of the page is there
            return run._replace(unmeasurable=str(error))
        raise UserError(f"{error}; --no-eval omits the evaluation of {run.where}", code=error.code) from error
    return run._replace(quality=quality, eval_folder=Path(folder))


def pictures(run: Run) -> list[tuple[str, Picture]]:
    """Return the sample grids by epoch and step, each with its time as text (`epoch 3`, `step 100`)."""
    pictures = []
    for path in (run.folder / "samples").glob("*.png"):
        if match := SAMPLE.fullmatch(path.stem):
            when = f"step {int(match[2]):,}" if match[2] else f"epoch {int(match[1])}"
            pictures.append((int(match[1]), int(match[2] or 0), when, path))
    read = [(when, read_picture(path, run.problems)) for _, _, when, path in sorted(pictures)]
    return [(when, picture) for when, picture in read if picture]


def read_picture(path: Path, problems: list[str]) -> Picture | None:
    """Return a PNG; None if it is missing, or damaged, which is added to `problems`."""
    from PIL import Image, UnidentifiedImageError

    if not path.exists():
        return None
    try:
        data = read_limited(path, _MAX_PICTURE)
        with Image.open(BytesIO(data), formats=("PNG",)) as image:
            width, height = image.size
            if width * height > _MAX_PIXELS:
                raise ValueError(f"{width} by {height} pixels")
            image.load()
    except UserError as error:
        problems.append(str(error))
        return None
    except UnidentifiedImageError:  # whose message names a Python object
        problems.append(f"{path}: not a valid PNG")
        return None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        problems.append(f"{path}: not a valid PNG ({error})")
        return None
    return Picture(path.stem, data, width, height)


def _facts(path: Path, problems: list[str]) -> Facts:
    try:
        return Facts(with_current_names(read_json(path, _MAX_JSON)))
    except UserError as error:
        problems.append(str(error))
        return Facts({})


def _history(path: Path, since: int, problems: list[str]) -> History:
    history = read_history(path, since)
    if num := history.num_lines - history.num:
        problems.append(f"{path}: {num} of {history.num_lines} lines are incomplete or invalid, and skipped")
    return history


def eval_command(run: Run) -> str:
    """Return the command that evaluates the run."""
    if run.quality:
        return run.quality.source.command
    return shlex.join(["distgan", "eval", run.where, *_named_networks(run)])


def train_command(run: Run, *more: str) -> str:
    """Return the command that trains the run again, with `more` flags."""
    return shlex.join(["distgan", "train", "--config", str(run.folder / "config.json"), *_named_networks(run), *more])


def _named_networks(run: Run) -> list[str]:
    """Return the flag without which the networks of the run, if they are a user's own, are not executed."""
    networks = run.config.model.networks
    return ["--networks", networks] if networks else []
