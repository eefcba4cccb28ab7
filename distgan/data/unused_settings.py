"""Settings of the data that a run was given though they do not apply to its images."""

from distgan.config.registry import is_data_path
from distgan.config.schema import DataConfig

_OF_OWN = {"background": "--background", "skip_broken": "--skip-broken", "cache_dir": "--cache-dir"}
_OF_NAMED = {"dir": "--data-dir", "mirror": "--data-mirror"}


def describe_unused(config: DataConfig) -> str | None:
    """Return a sentence on settings for own images of a named data set, or the other way; None without any."""
    name, flags = config.name, _OF_OWN
    reason = f"{name} is a named data set"
    if is_data_path(name):
        flags, reason = _OF_NAMED, "images of a path are read from there"
    elif name == "digits":
        flags, reason = _OF_OWN | _OF_NAMED, "the digits are a part of scikit-learn"
    given = [flag for key, flag in flags.items() if getattr(config, key) != DataConfig.model_fields[key].default]
    return f"{' and '.join(given)} {'are' if len(given) > 1 else 'is'} not used: {reason}" if given else None
