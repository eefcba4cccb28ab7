"""What a run's folder tells: read with care, as a run may be young, killed, damaged or of another version."""

import shlex
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from distgan.checkpoint.resume import checkpoints_in
from distgan.config.flags import read_file
from distgan.config.renames import with_current_names
from distgan.config.schema import Config
from distgan.errors import UserError
from distgan.evaluation.schema import Quality, read_quality
from distgan.reports.history import History, read_history
from distgan.reports.options import PagesConfig
from distgan.runs.run_dir import SAMPLE, read_status
from distgan.utils.files import read_json, read_within
from distgan.utils.paths import user_path

_MAX_JSON, _MAX_PICTURE = 2**22, 2**24
_MAX_PIXELS = 2**26


class Picture(NamedTuple):
    """A whole PNG, and its size in pixels."""

    name: str
    data: bytes
    width: int
    height: int


class Run(NamedTuple):
    """`where` is the folder as it was named. `problems` says what of it could not be read."""

    where: str
    name: str
    folder: Path
    config: Config
    environment: dict[str, Any]
    status: dict[str, Any]
    history: History
    quality: Quality | None
    eval_folder: Path
    problems: list[str]

    @property
    def kind(self) -> str:
        return "C-GAN" if self.config.model.is_conditional else "GAN"

    def fact(self, *keys: str) -> Any:
        """What environment.json has at these keys, or None."""
        value: Any = self.environment
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    @property
    def notice(self) -> str | None:
        """What the data was instead of MNIST."""
        said = [self.fact("data", "notice"), self.history.notice]
        return next((text for text in said if isinstance(text, str) and text), None)

    @property
    def step(self) -> int | None:
        """The last step that is known of."""
        steps = [self.status.get("step"), self.history.step]
        return max((step for step in steps if type(step) is int), default=None)

    @property
    def has_weights(self) -> bool:
        return any((self.folder / "weights").glob("generator*.safetensors")) or bool(
            checkpoints_in(self.folder / "checkpoints")
        )


def read_run(where: str, options: PagesConfig) -> Run:
    """The run, measured first where that is wanted and it was not. Raises UserError."""
    folder = user_path(where)
    rule = "allowed: the folder of a run"
    if not folder.exists():
        raise UserError(f"{where}: is not there; {rule}", code="not-found")
    if not folder.is_dir():
        raise UserError(f"{where}: is no folder; {rule}", code="not-found")
    if (folder / "manifest.json").exists() or folder.name == "weights":
        raise UserError(f"{where}: is a part of a run; {rule} itself", code="not-found")
    path = folder / "config.json"
    if not path.exists():
        raise UserError(f"{where}: holds no run (no config.json); {rule}", code="not-found")
    config = Config.model_validate(read_file(path, str(path)))
    problems: list[str] = []
    run = Run(
        where,
        folder.resolve().name or where,
        folder,
        config,
        with_current_names(_object(folder / "environment.json", problems)),
        read_status(folder),
        _history(folder / "metrics.jsonl", problems),
        None,
        folder / "eval",
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
                    f"{error}; measure it anew by distgan eval {run.where}, or leave it out by --no-eval",
                    code="bad-data",
                ) from error
            run.problems.append(f"{error}; distgan eval {run.where} measures it anew")
            return run
    if not options.evaluate or not run.has_weights:
        return run
    from distgan.config.command_settings import EvalConfig
    from distgan.evaluation.evaluate import evaluate

    asked = EvalConfig(num=options.num, reference=options.reference, device=options.device)
    try:
        found, folder = evaluate(run.where, asked)
    except UserError as error:
        raise UserError(
            f"{error}\n{run.where}: could not be measured; allowed: --no-eval, without it", code=error.code
        ) from error
    return run._replace(quality=found, eval_folder=Path(folder))


def pictures(run: Run) -> list[tuple[str, Picture]]:
    """The sample grids by epoch and step, each with when it was drawn in words."""
    found = []
    for path in (run.folder / "samples").glob("*.png"):
        if match := SAMPLE.fullmatch(path.stem):
            when = f"step {int(match[2]):,}" if match[2] else f"epoch {int(match[1])}"
            found.append((int(match[1]), int(match[2] or 0), when, path))
    read = [(when, read_picture(path, run.problems)) for _, _, when, path in sorted(found)]
    return [(when, picture) for when, picture in read if picture]


def read_picture(path: Path, problems: list[str]) -> Picture | None:
    """A PNG; None where it is missing or, with a problem more, damaged."""
    from PIL import Image, UnidentifiedImageError

    if not path.exists():
        return None
    try:
        data = read_within(path, _MAX_PICTURE)
        with Image.open(BytesIO(data), formats=("PNG",)) as image:
            width, height = image.size
            if width * height > _MAX_PIXELS:
                raise ValueError(f"{width} by {height} pixels")
            image.load()
    except UserError as error:
        problems.append(str(error))
        return None
    except UnidentifiedImageError:  # whose words name an object of Python's
        problems.append(f"{path}: is no whole PNG")
        return None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        problems.append(f"{path}: is no whole PNG ({error})")
        return None
    return Picture(path.stem, data, width, height)


def _object(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        return read_json(path, _MAX_JSON)
    except UserError as error:
        problems.append(str(error))
        return {}


def _history(path: Path, problems: list[str]) -> History:
    history = read_history(path)
    if num := history.num_lines - history.num:
        problems.append(f"{path}: {num} of its {history.num_lines} lines are no whole lines, and left out")
    return history


def eval_command(run: Run) -> str:
    return run.quality.source.command if run.quality else f"distgan eval {shlex.quote(run.where)}"


def train_command(run: Run, *more: str) -> str:
    return shlex.join(["distgan", "train", "--config", str(run.folder / "config.json"), *more])
