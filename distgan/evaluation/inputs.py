"""Inputs of an evaluation: a generator or the images of a file, the real data, and the command to repeat it."""

import hashlib
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from distgan.checkpoint.export import CodeTrust, Loaded, load_generator
from distgan.config.command_settings import EvalConfig
from distgan.config.fields import setting_info
from distgan.config.flags import list_flags
from distgan.config.registry import is_data_path
from distgan.config.schema import DataConfig
from distgan.data.loader import steps_in_epoch
from distgan.errors import UserError, print_line, printable
from distgan.evaluation.ensemble import ClassifierEnsemble
from distgan.evaluation.npz import check_is_file, read_npz
from distgan.evaluation.real_images import RealImages, with_folder
from distgan.evaluation.schema import Source
from distgan.training.engines.selection import fallback_notice
from distgan.utils.files import is_ignorable, read_environment, read_json
from distgan.utils.paths import user_path

FILE = "eval.json"
_MAX_RESULT = 2**24


class EvalInput(NamedTuple):
    """Evaluation input: a generator, or images as a `Dataset` has them; `unused` names the arrays that are ignored."""

    what: str
    sha256: str
    is_conditional: bool
    notices: list[str]
    generator: nn.Module | None = None
    loaded: Loaded | None = None
    images: Tensor | None = None
    labels: Tensor | None = None
    unused: Sequence[str] = ()


def load_input(where: str, config: EvalConfig, given: str | None = None) -> EvalInput:
    """Load a generator from a run, weights or a checkpoint; of an `.npz` `read_input_images` reads the images.

    Raises UserError.
    """
    path = user_path(where)
    if path.suffix == ".npz":
        check_is_file(path)
        return EvalInput(where, _sha256(path), False, [])
    if config.pixel_range is not None:
        raise UserError(
            f"--range: {where} is not an .npz ({config.pixel_range}). Expected: only with the images of an .npz",
            code="setting-not-applicable",
        )
    loaded = load_generator(where, ema=config.ema, code=CodeTrust(config.networks, config.trust_networks, given))
    digest = _sha256(loaded.path)
    fallback = fallback_notice(_environment(loaded).get("engine"))
    notices = [f"trained on {loaded.notice}"] if loaded.notice else []
    notices += ([fallback] if fallback else []) + loaded.warnings
    return EvalInput(where, digest, loaded.config.model.is_conditional, notices, loaded.generator, loaded)


def read_input_images(eval_input: EvalInput, config: EvalConfig, real: RealImages) -> EvalInput:
    """Return the input with the images of an `.npz`. A generator's are drawn later, and only checked here.

    Raises UserError for images of another size, colour or classes than the real ones.
    """
    if eval_input.loaded is None:
        path = user_path(eval_input.what)
        images, labels, notices, unused = read_npz(path, config.num, config.pixel_range, real.spec)
        return eval_input._replace(
            is_conditional=labels is not None, notices=notices, images=images, labels=labels, unused=unused
        )
    drawn, spec = eval_input.loaded.config.model.images, real.spec
    if eval_input.is_conditional and real.class_noun == "cluster":
        raise UserError(
            f"--data: images without classes ({real.train.source}). Expected: those that {eval_input.what} draws, "
            f"{drawn.describe()}",
            code="images-do-not-fit",
        )
    same_shape = (drawn.channels, drawn.height, drawn.width) == (spec.channels, spec.height, spec.width)
    if not same_shape or (eval_input.is_conditional and drawn.class_names != spec.class_names):
        raise UserError(
            f"--data: images of {spec.describe()} ({real.train.source}). Expected: images as {eval_input.what} draws, "
            f"{drawn.describe()}" + (", with classes of the same names" if same_shape else ""),
            code="images-do-not-fit",
        )
    return eval_input


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_config(eval_input: EvalInput, config: EvalConfig) -> DataConfig:
    """Return the settings of the real data to compare with. Raises UserError."""
    trained = eval_input.loaded.config.data if eval_input.loaded else DataConfig()
    named = {
        "name": config.data,
        "test": config.test,
        "image_size": config.image_size,
        "channels": config.channels,
        "background": config.background,
        "cache_dir": config.cache_dir,
    }
    changes = {key: value for key, value in named.items() if value is not None}
    if config.data and not is_same_place(config.data, trained.name):
        trained = trained.model_copy(
            update={"test": None, "fingerprint": None}
        )  # those of the images that it was trained on
    skips = trained.skip_broken or config.skip_broken
    data = trained.model_copy(update=changes | {"download": config.download, "skip_broken": skips})
    return with_folder(data, config.reference, "--data-dir")


def is_same_place(data: str, other: str) -> bool:
    """True for two spellings of the same path of images, or the same name of a data set."""
    first, second = (os.path.abspath(user_path(name)) if is_data_path(name) else name for name in (data, other))
    return first == second


def out_folder(where: str, config: EvalConfig, num: int) -> Path:
    """Return the folder for the result of `num` images. Raises UserError for one that holds anything else.

    Unless named it is eval/ in a run, and else eval-NAME here, with more of the input's path in its name where that
    has the result of another input. A result of more images stays: this one goes into a new folder beside it.
    """
    path = user_path(where)
    if config.out:
        folder = user_path(config.out, "--out")
    elif (path / "checkpoints").is_dir() or (path / "weights").is_dir():
        folder = path / "eval"
    else:
        folder = next(name for name in _names_for(path) if not _has_result_of_another(name, path))
        if path.stem not in folder.name:
            print_line(f"warning: the name of {path} is too long for one of a result: {folder}", error=True)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out: is a file ({folder}). Expected: a new folder, or one of distgan eval", code="bad-path")
    if folder.is_dir() and not (folder / FILE).exists() and not _is_free(folder):
        raise UserError(
            f"--out: has files other than {FILE} ({folder}). Expected: a new folder, or one of distgan eval",
            code="output-exists",
        )
    if config.out and _has_result_of_another(folder, path):
        raise UserError(
            f"--out: has the result of another input than {where} ({folder}). Expected: a new folder, or that of the "
            "same "
            "input",
            code="output-exists",
        )
    if not config.out and (before := _num_images(folder)) > num:
        ends = (f"-{num}{more}" for more in ("", *(f"-{number}" for number in range(2, 1000))))
        beside = (folder.with_name(_truncate(folder.name, end).name) for end in ends)
        other = next(
            folder
            for folder in beside
            if _is_free(folder) or ((folder / FILE).exists() and not _has_result_of_another(folder, path))
        )
        print_line(f"warning: {folder} has a result of {before:,} images, which stays; see {other}", error=True)
        return other
    return folder


def _is_free(folder: Path) -> bool:
    """True if a result may be written there: nothing is there, or a folder without files."""
    return not os.path.lexists(folder) or (
        folder.is_dir() and all(is_ignorable(file.name) for file in folder.iterdir())
    )


def _num_images(folder: Path) -> int:
    """Return how many images the result in a folder is of, 0 where there is none or it can't be read."""
    with suppress(UserError, KeyError):
        num = read_json(folder / FILE, _MAX_RESULT)["n"]
        return num if isinstance(num, int) else 0
    return 0


def _names_for(path: Path) -> Iterator[Path]:
    """Yield eval-images, eval-a-images, ...: with one folder more of its path each time, and then with numbers.

    Each is cut to what the file system takes.
    """
    place = Path(os.path.abspath(path))
    parts = [*place.parts[1:-1], path.stem]
    for start in range(len(parts) - 1, -1, -1):
        yield _truncate("-".join(["eval", *parts[start:]]), "")
    yield from (_truncate("-".join(["eval", *parts]), f"-{number}") for number in count(2))


def _truncate(name: str, end: str) -> Path:
    """Return the start of a name that the file system takes with `end` behind it."""
    most = os.pathconf(".", "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    data = os.fsencode(name)
    return Path((name if len(data) + len(end) <= most else data[: most - len(end)].decode(errors="ignore")) + end)


def _has_result_of_another(folder: Path, path: Path) -> bool:
    """True if the result in a folder is not known to be of the input at `path`."""
    if not (folder / FILE).exists():
        return False
    with suppress(UserError, KeyError, TypeError, ValueError):
        source = read_json(folder / FILE, _MAX_RESULT)["source"]
        known = os.path.abspath(user_path(source.get("path") or source["what"]))
        return printable(known) != printable(os.path.abspath(path))  # as record_source records it
    return True


def record_source(
    where: str,
    eval_input: EvalInput,
    config: EvalConfig,
    real: RealImages,
    ensemble: ClassifierEnsemble,
    *,
    is_test_seen: bool | None,
) -> Source:
    """Return the record of an evaluation's input, real data, judges and command."""
    loaded, test = eval_input.loaded, real.test
    kind = "training" if is_test_seen else "test"
    facts: dict[str, Any] = {"weights": None, "preset": None, "step": None, "epoch": None, "ema": None, "seed": None}
    if loaded is not None:
        recorded, batch, epoch = _environment(loaded).get("data"), loaded.config.data.batch_size, None
        num = recorded.get("num_images") if isinstance(recorded, dict) else None
        if loaded.step is not None and batch is not None and type(num) is int and num >= batch:
            epoch = loaded.step / steps_in_epoch(num, batch, loaded.config.data.drop_last)
        facts |= {"weights": str(loaded.path), "preset": _preset(loaded), "step": loaded.step, "epoch": epoch}
        facts |= {"ema": loaded.is_ema, "seed": config.seed}
    # Those that shape the numbers.
    shaping = [flag for flag in list_flags(EvalConfig) if setting_info(flag.field).on_resume != "free"]
    values = {flag.name: getattr(config, flag.path[0]) for flag in shaping}
    flags = [
        f"{name} {shlex.quote(str(value))}"
        for name, value in values.items()
        if not isinstance(value, bool) and value not in (None, 0)
    ]
    flags += [f"--no-{name[2:]}" for name, value in values.items() if value is False]
    if loaded is not None and loaded.config.model.networks:  # or it would not be executed again
        flags.append(f"--networks {shlex.quote(config.networks)}" if config.networks else "--trust-networks")
    facts |= {
        "what": where,
        "path": os.path.abspath(user_path(where)),
        "sha256": eval_input.sha256,
        "data": real.train.name if real.train.path is None else real.train.path,
        "reference": f"{len(test.images):,} {kind} images of {test.name}, {test.source}, fingerprint "
        f"{real.test_fingerprint}",
        "is_test_seen": is_test_seen,
        "judged_by": f"{ensemble.record.data}, fingerprint {ensemble.record.recipe.train}",
        "command": " ".join(["distgan eval", shlex.quote(where), *flags]),
    }
    return Source(**facts)


def _preset(loaded: Loaded) -> str:
    """Return the name of the run's preset, or else its model."""
    return str(_environment(loaded).get("preset") or loaded.config.model.name)


def _environment(loaded: Loaded) -> dict[str, Any]:
    """Return environment.json of the run that the weights are of, {} for weights that are not in a run."""
    return next(filter(None, map(read_environment, list(loaded.path.parents)[:3])), {})
