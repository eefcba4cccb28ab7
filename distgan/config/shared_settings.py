"""Names of registered things and settings that several commands have, each with one help text."""

from functools import partial
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, ValidationInfo
from pydantic_core import PydanticCustomError

from distgan.config.fields import OneOf, free, setting, split_commas
from distgan.config.registry import (
    AUTO,
    DATASETS,
    ENGINES,
    LOSSES,
    NO_TRACKER,
    ORDERS,
    OWN_LOSS,
    PRECISIONS,
    TRACKERS,
    is_data_path,
)

LossName = Annotated[str, OneOf(LOSSES, ((OWN_LOSS, "that of build_loss() in the file of --networks"),))]
OrderName = Annotated[str, OneOf(ORDERS)]
EngineName = Annotated[str, OneOf(ENGINES)]
PrecisionName = Annotated[str, OneOf(PRECISIONS)]
_AUTO_PRECISION = "bf16 if faster in a short timing, else fp32: near a tie two runs may choose differently"
PrecisionNameOrAuto = Annotated[str, OneOf(PRECISIONS, ((AUTO, _AUTO_PRECISION),))]
DataNameOrOwn = Annotated[str, OneOf(DATASETS, takes_path=is_data_path)]  # not auto, which may be either
DataNameOrPath = Annotated[
    str, OneOf(DATASETS, (("auto", "mnist, or digits where mnist can't be had"),), takes_path=is_data_path)
]


def _read_one_name(value: Any, info: ValidationInfo) -> Any:
    """Return the list for the text of a command line, or for the one name that a file may have instead of a list."""
    return [value] if info.context == "file" and isinstance(value, str) else split_commas(value, info)


def _drop_none(names: list[str]) -> list[str]:
    """Return each name once, and [] for `none`. Raises for `none` beside a tracker."""
    names = list(dict.fromkeys(names))
    if NO_TRACKER in names and len(names) > 1:
        raise PydanticCustomError("none_and_more", "none beside a tracker")
    return [name for name in names if name != NO_TRACKER]


def _write_one_name(names: list[str]) -> str | list[str]:
    """Return a single name as text, as files have it that were written when only one was possible."""
    return names if len(names) > 1 else "".join(names) or NO_TRACKER


TrackerNames = Annotated[
    list[Annotated[str, OneOf(TRACKERS, ((NO_TRACKER, "log to none"),))]],
    BeforeValidator(_read_one_name),
    AfterValidator(_drop_none),
    PlainSerializer(_write_one_name, when_used="json"),
]
Device = Literal["auto", "cpu", "cuda"]

device_setting = partial(setting, "auto", "auto: cuda if available")
data_dir_setting = partial(setting, None, "folder of the data; unset: $DISTGAN_DATA, then ./data", metavar="DIR")
test_data_setting = partial(
    setting,
    None,
    "own images: path of others like them, which the network is not trained on, to measure quality against; unset: a "
    "part of the training images",
    flag="test-data",
    metavar="PATH",
)
networks_setting = partial(
    free,
    None,
    "for weights of your own networks: the file that defines them, which is executed. Unset: the copy in the run, "
    "with --trust-networks",
    allowed="the path of a .py file, or a module as package.module",
    metavar="FILE",
)
trust_setting = partial(free, False, "execute the copy of networks in a run: it may be anybody's code")
seed_setting = partial(setting, 0, "random seed: for weights, order, z and dropout", ge=0, lt=2**31)
timeout_setting = partial(
    free, 120.0, "seconds that a process waits for another one before the run ends", gt=0, le=86_400
)
