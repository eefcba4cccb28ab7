"""Start of a new run from the weights of another one: which tensors are taken, and which are initialised anew."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from distgan.checkpoint.export import find_weights
from distgan.checkpoint.format import NETWORKS, read_manifest
from distgan.config.flags import read_file, setting_paths
from distgan.config.schema import Config, ModelConfig
from distgan.errors import UserError
from distgan.models.base import tensor_layouts
from distgan.training.gan import Gan, tensors_with_prefix
from distgan.utils.files import read_limited, read_tensors
from distgan.utils.paths import user_path

_DATA_TENSOR = "cluster_counts"  # a tensor that the training images give, not training
_SHOWN = 6  # tensors named in a line
_MAX_FILE = 2**34


class InitialWeights(NamedTuple):
    """Weights of another run's networks by `<network>.<tensor>`, and the SHA-256 of each file that they are from."""

    path: Path
    tensors: dict[str, Tensor]
    model: ModelConfig
    step: int | None
    sha256: dict[str, str]
    warnings: list[str]


class Matched(NamedTuple):
    """The tensors that networks take from others; those of the names in `new` keep their own values."""

    tensors: dict[str, Tensor]
    new: list[str]


def read_initial(where: str) -> InitialWeights:
    """Return the weights of a run, a weights folder or a checkpoint. Raises UserError."""
    try:
        found = find_weights(where, ["generator"])
        if not isinstance(found, Path):
            path, checkpoint = found.path, found.checkpoint
            tensors = {key: value for key, value in checkpoint.tensors.items() if key.split(".")[0] in NETWORKS}
            files = read_manifest(path).files
            sha256 = {file: files[file].sha256 for file in sorted(files) if Path(file).stem in NETWORKS}
            step: int | None = checkpoint.state.step
            return InitialWeights(path, tensors, checkpoint.config.model, step, sha256, found.all_warnings())
        folder = found.parent
        if found == user_path(where) or not (folder / "discriminator.safetensors").is_file():
            raise UserError(
                f"{where}: not the weights of both networks. Expected: the folder of a run, its weights folder, or a "
                "checkpoint",
                code="no-weights",
            )
        config = Config.model_validate(read_file(folder / "config.json", str(folder / "config.json")))
        tensors, sha256, steps = {}, {}, {}
        for name in NETWORKS:
            if (file := folder / f"{name}.safetensors").is_file():
                network_tensors, metadata = read_tensors(file)
                tensors |= {f"{name}.{key}": value for key, value in network_tensors.items()}
                sha256[file.name] = hashlib.sha256(read_limited(file.resolve(), _MAX_FILE)).hexdigest()
                steps[name] = metadata.get("step", "")
        step = int(steps["generator"]) if steps["generator"].isdecimal() and len(steps["generator"]) < 16 else None
        return InitialWeights(folder, tensors, config.model, step, sha256, [])
    except UserError as error:
        raise UserError(f"--init-from: {error}", code=error.code) from error


def match_weights(initial: InitialWeights, model: ModelConfig, *, has_ema: bool) -> Matched:
    """Return what networks of `model` take. Raises UserError for weights of networks of another form.

    Tensors whose shape differs only because the number of classes does are initialised anew.
    """
    full_layout, other_layout = _layout(model), {}
    if model.images.num_classes != initial.model.images.num_classes:
        images = model.images.model_copy(
            update={key: getattr(initial.model.images, key) for key in ("num_classes", "class_names")}
        )
        try:
            other_layout = _layout(model.model_copy(update={"images": images}))
        except UserError:  # no such networks are built for that many classes
            other_layout = {}
    names = [name for name in NETWORKS if name != "generator_ema" or has_ema]
    taken, new = {}, []
    for name in names:
        others = tensors_with_prefix(initial.tensors, name)
        if not others:  # without a moving average it begins at the generator's weights
            continue
        layout = tensors_with_prefix(full_layout, name)
        for key in sorted(layout.keys() | others.keys()):
            full = f"{name}.{key}"
            if key == _DATA_TENSOR and key in layout:
                continue
            expected, found = (_describe_tensor(tensors.get(key)) for tensors in (layout, others))
            if found == expected:
                taken[full] = others[key]
            elif key in others and full in other_layout and _describe_tensor(other_layout[full]) == found:
                new.append(full)
            else:
                raise UserError(
                    f"--init-from: {full[:80]} is {found} ({initial.path}). Expected: {expected}"
                    f"{describe_differences(initial.model, model)}; but for the number of classes, the networks must "
                    "be the same",
                    code="initial-weights-mismatch",
                )
    return Matched(taken, new)


def _layout(model: ModelConfig) -> dict[str, Tensor]:
    networks = tensor_layouts(model)
    assert networks is not None, "the code of a user's networks is loaded before weights are read"
    generator, discriminator = networks
    of = {"generator": generator, "generator_ema": generator, "discriminator": discriminator}
    return {f"{name}.{key}": value for name, layout in of.items() for key, value in layout.items()}


def _describe_tensor(tensor: Tensor | None) -> str:
    """Return a tensor's shape in words, with its kind of number if that is none of floating point."""
    if tensor is None:
        return "no tensor"
    return str(list(tensor.shape)) + ("" if tensor.is_floating_point() else f" of {str(tensor.dtype)[6:]}")


def describe_differences(before: ModelConfig, now: ModelConfig) -> str:
    """Return the settings of the networks that differ, `; its width is 0.5, here 1.0`."""
    keys = [key for table, key in setting_paths(Config, "on_resume", "fixed") if table == "model"]
    keys = ["args", *(key for key in keys if key not in ("family", "images"))]
    kind = "family" if before.family and now.family else "networks"
    settings = [
        {kind: model.networks_name + (f" of {model.networks_sha256}" if model.networks_sha256 else "")}
        | {key: getattr(model, key) for key in keys}
        | {"images": f"{model.images.channels} x {model.images.height} x {model.images.width}"}
        for model in (before, now)
    ]
    subjects = {"networks": "networks are", "args": "--model-arg are", "images": "images are"}
    return "".join(
        f"; its {subjects.get(key, f'{key} is')} {value}, here {settings[1][key]}"
        for key, value in settings[0].items()
        if value != settings[1][key]
    )


def load_initial(gan: Gan, initial: InitialWeights, model: ModelConfig) -> str:
    """Load the weights that fit, and return a line on what was taken. Raises UserError. All ranks call it.

    Optimizers and the step stay as they are: those of a new run.
    """
    matched = match_weights(initial, model, has_ema=gan.ema is not None)
    tensors = {key: value for key, value in gan.state().items() if key.split(".")[0] in NETWORKS}
    if not tensors_with_prefix(initial.tensors, "generator_ema"):
        tensors = {key: value for key, value in tensors.items() if not key.startswith("generator_ema.")}
    gan.load_state(tensors | matched.tensors, 0, f"--init-from: {initial.path}")
    return describe(initial, matched, model)


def describe(initial: InitialWeights, matched: Matched, model: ModelConfig) -> str:
    """Return which weights are taken and which are new, `the weights of runs/a/weights (step 50)`, in one line."""
    step = "" if initial.step is None else f" (step {initial.step:,})"
    line = f"the weights of {initial.path}{step}"
    if not matched.new:
        pairs = zip(initial.model.images.class_names, model.images.class_names, strict=False)
        other = next((pair for pair in pairs if pair[0] != pair[1]), None) if model.is_conditional else None
        return f"{line}; classes by their numbers, as {other[0]!r} is {other[1]!r} here" if other else line
    more = f" and {len(matched.new) - _SHOWN} more" if len(matched.new) > _SHOWN else ""
    before, now = initial.model.images.num_classes, model.images.num_classes
    return f"{line}; new, as there are {now} classes instead of {before}: {', '.join(matched.new[:_SHOWN])}{more}"
