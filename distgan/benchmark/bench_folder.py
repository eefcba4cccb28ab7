"""The folder of a bench that can go on: held by one process at a time, and only by the same bench."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distgan.benchmark import results
from distgan.config.fields import shown
from distgan.errors import UserError
from distgan.runs.run_dir import lock

_LOCK = "lock"


@contextmanager
def claimed(out: str | None, kind: str) -> Iterator[Path]:
    """--out, new or with results of that kind, or else bench/<kind>-<number>. Raises UserError for any other."""
    folder = results.new_folder(None, kind) if out is None else Path(out).expanduser()
    if folder.is_dir() and not (folder / results.FILE).exists():
        # A bench that was killed in its first moments may have left these.
        own = (_LOCK, f".{results.FILE}-")
        if foreign := sorted(path.name for path in folder.iterdir() if not path.name.startswith(own)):
            raise UserError(
                f"--out {out}: holds {foreign[0]} and no {results.FILE} of bench {kind}; allowed: a new folder, or one "
                "to go on with"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = lock(folder, 0.0)
    except OSError as error:
        raise UserError(f"--out {error.filename}: can't be written to ({error.strerror})") from error
    except UserError as error:
        raise UserError(
            f"--out {out}: another bench {kind} is at work in it; allowed: another folder"
        ) from error
    try:
        yield folder
    finally:
        os.close(handle)


def taken_up(
    folder: Path, read: Callable[[Path], results.Results], identity: dict[str, Any], out: str | None
) -> list[dict[str, Any]]:
    """The cells of the bench that stands there, none of a new one. Raises UserError where it was begun otherwise."""
    if not (folder / results.FILE).exists():
        return []
    found = read(folder / results.FILE)
    if difference := _difference(found.facts.get("identity"), identity, ()):
        path, old, new = difference
        raise UserError(
            f"--out {out}: was begun with {_named(path)} {shown(old)}, now {shown(new)}; allowed: the same, or a new "
            "folder"
        )
    return found.cells


def difference_of(one: Any, other: Any) -> str | None:
    """What another bench has otherwise, as `another --data (mnist, not digits)`; None where nothing is."""
    if found := _difference(one, other, ()):
        path, old, new = found
        return f"another {_named(path)} ({shown(new)}, not {shown(old)})"
    return None


def _named(path: tuple[str, ...]) -> str:
    """A place in a bench's identity: a flag, or the keys that lead there."""
    return f"--{path[-1].replace('_', '-')}" if path[:1] == ("settings",) else ".".join(path)


def _difference(old: Any, new: Any, path: tuple[str, ...]) -> tuple[tuple[str, ...], Any, Any] | None:
    """The first place where two values of JSON differ, and what stands there."""
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        old, new = (dict(enumerate(each)) for each in (old, new))
    if not isinstance(old, dict) or not isinstance(new, dict):
        return None if old == new else (path, old, new)
    for key in [*new, *(key for key in old if key not in new)]:
        if found := _difference(old.get(key), new.get(key), (*path, str(key))):
            return found
    return None
