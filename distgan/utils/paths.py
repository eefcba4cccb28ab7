"""Paths that a user gives. Imports without torch."""

from pathlib import Path

from distgan.errors import UserError


def user_path(text: str | Path, flag: str = "") -> Path:
    """Return a path with ~ expanded. Raises UserError, which names `flag`, for an unknown user's home."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        name = f"{flag} {text}".strip()
        raise UserError(
            f"{name}: no such home folder. Expected: a path, ~/ for your own home, ./~ for a name with ~",
            code="bad-path",
        ) from error
