"""Paths as people write them. Imports without torch."""

from pathlib import Path

from distgan.errors import UserError


def user_path(text: str | Path, flag: str = "") -> Path:
    """Return a path whose ~ is a home. Raises UserError that names the flag for the home of nobody."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        name = f"{flag} {text}".strip()
        raise UserError(
            f"{name}: no such home folder. Expected: a path, ~/ for your own home, ./~ for a name with ~",
            code="bad-path",
        ) from error
