"""Names that settings and their values had, in records that are no Config: results.json, environment.json."""

from typing import Any

from distgan.config.fields import registry_of, setting_info
from distgan.config.flags import list_flags
from distgan.config.schema import Config


def with_current_names(value: Any) -> Any:
    """Return JSON data with the current name in place of each old key and value of a setting, at any depth."""
    if isinstance(value, list):
        return [with_current_names(item) for item in value]
    if not isinstance(value, dict):
        return value
    keys = {old: flag.path[-1] for flag in list_flags(Config) for old in setting_info(flag.field).old_keys}
    registries = {flag.path[-1]: names for flag in list_flags(Config) if (names := registry_of(flag.field)) is not None}

    def current(key: str, item: Any) -> Any:
        names = registries.get(key.removesuffix("s"))  # of a benchmark's matrix: "orders"
        if names is not None and isinstance(item, str):
            return names.current(item)
        if names is not None and isinstance(item, list):
            return [names.current(value) if isinstance(value, str) else value for value in item]
        return with_current_names(item)

    return {keys.get(key, key): current(key, item) for key, item in value.items()}
