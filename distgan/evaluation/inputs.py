"""What an evaluation is of: a generator or images of a file, against which real data, and how to measure it again."""

import hashlib
import json
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from distgan.checkpoint.export import Loaded, load_generator
from distgan.config.commands import EvalConfig
from distgan.config.schema import DataConfig
from distgan.data.base import Dataset
from distgan.data.loader import steps_in_epoch
from distgan.errors import UserError
from distgan.evaluation.arrays import read_npz
from distgan.evaluation.ensemble import Jury
from distgan.evaluation.schema import Source
from distgan.utils.files import read_within

FILE = "eval.json"


class Subject(NamedTuple):
    """What is judged: a generator, or images (N, 28, 28) uint8 that are there already."""

    what: str
    sha256: str
    is_conditional: bool
    notices: list[str]
    generator: nn.Module | None = None
    loaded: Loaded | None = None
    images: Tensor | None = None
    labels: Tensor | None = None


def load_subject(where: str, config: EvalConfig) -> Subject:
    path = Path(where).expanduser()
    if path.suffix == ".npz":
        arrays = read_npz(path, config.num)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        is_conditional = arrays.labels is not None
        return Subject(
            where, digest, is_conditional, arrays.notices, images=arrays.images, labels=arrays.labels
        )
    loaded = load_generator(where, ema=config.ema)
    digest = hashlib.sha256(loaded.path.read_bytes()).hexdigest()
    notices = [f"trained on {loaded.notice}"] if loaded.notice else []
    return Subject(where, digest, loaded.config.model.is_conditional, notices, loaded.generator, loaded)


def data_config(subject: Subject, config: EvalConfig) -> DataConfig:
    trained = subject.loaded.config.data if subject.loaded else DataConfig()
    changes = {"name": config.data or trained.name, "download": config.download}
    return trained.model_copy(update=changes | ({"dir": config.reference} if config.reference else {}))


def out_folder(where: str, config: EvalConfig) -> Path:
    """Raises UserError for one that holds something else."""
    path = Path(where).expanduser()
    is_run = (path / "checkpoints").is_dir() or (path / "weights").is_dir()
    folder = path / "eval" if is_run else Path(f"eval-{path.stem}")
    folder = Path(config.out).expanduser() if config.out else folder
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder}: is no folder; allowed: a new folder, or one of distgan eval")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / FILE).exists():
        raise UserError(
            f"--out {folder}: holds other things than {FILE}; allowed: a new folder, or one of distgan eval"
        )
    return folder


def claim(folder: Path) -> None:
    """Makes the folder, and tries to write there. Raises UserError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise UserError(f"--out {folder}: can't be written to ({error.strerror})") from error


def source_of(
    where: str, subject: Subject, config: EvalConfig, train: Dataset, test: Dataset, jury: Jury
) -> Source:
    loaded = subject.loaded
    facts: dict[str, Any] = {
        "weights": None,
        "preset": None,
        "step": None,
        "epoch": None,
        "ema": None,
        "seed": None,
    }
    if loaded is not None:
        batch, epoch = loaded.config.data.batch_size, None
        if (
            loaded.step is not None
            and batch is not None
            and train.name == loaded.config.data.name != "digits"
        ):
            epoch = loaded.step / steps_in_epoch(len(train.images), batch, loaded.config.data.drop_last)
        facts |= {"weights": str(loaded.path), "preset": _preset(loaded), "step": loaded.step, "epoch": epoch}
        facts |= {"ema": loaded.path.stem == "generator_ema", "seed": config.seed}
    flags = [
        f"--{name.replace('_', '-')} {shlex.quote(str(value))}"
        for name, value in config.model_dump().items()
        if name in ("num", "seed", "reference", "data", "judges") and value not in (None, 0)
    ]
    flags += [
        flag for flag, is_on in (("--no-ema", config.ema), ("--no-gan-train", config.gan_train)) if not is_on
    ]
    return Source(
        what=where,
        sha256=subject.sha256,
        data=train.name,
        reference=f"{len(test.images):,} test images of {test.name}, {test.source}, fingerprint {test.fingerprint}",
        judged_by=f"{jury.record.data}, fingerprint {jury.record.recipe.train}",
        command=" ".join(["distgan eval", shlex.quote(where), *flags]),
        **facts,
    )


def _preset(loaded: Loaded) -> str:
    """What the run was called, or else its model."""
    for folder in list(loaded.path.parents)[:3]:
        with suppress(UserError, ValueError, AttributeError):
            if preset := json.loads(read_within(folder / "environment.json", 2**20)).get("preset"):
                return str(preset)
    return loaded.config.model.name
