"""Decoded images, kept in one file each, so that the next training reads them in a second."""

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from pydantic import ValidationError

from distgan.data.decoding import Decoded, Findings
from distgan.errors import UserError, first_line, print_line
from distgan.utils.files import TEMPORARY, read_tensors, write_arrays, write_atomic
from distgan.utils.locks import hold_lock
from distgan.utils.paths import user_path

_VERSION = 3  # of the rules by which images are decoded, and of the file
_LEFT_S = 86_400.0  # after which an unfinished file is of a process that was killed


def cache_folder(named: str | None) -> Path:
    """Return the folder of the decoded images, which may not be there yet."""
    if named:
        return user_path(named, "--cache-dir")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return user_path(base, "$XDG_CACHE_HOME") / "distgan" / "images"


def cache_key(*facts: Any) -> str:
    """Return the name of what was decoded from files of these facts, by these rules."""
    text = json.dumps([_VERSION, PIL.__version__, facts], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def use_cache(folder: Path, key: str, decode: Callable[[], Decoded], *, keep: bool = True) -> Decoded:
    """Return what `decode` gives, or gave another time; of several processes, on several machines too, one decodes.

    A damaged file is written anew. A folder that can't be written to is a warning, and nothing is kept.
    """
    path = folder / f"{key}.safetensors"
    if images := _read(path):
        return images
    if not keep:
        return decode()
    with suppress(OSError):  # the warning below names it
        folder.mkdir(parents=True, exist_ok=True)
    with hold_lock(folder / f"{key}.lock", f"another process decodes these images, into {path}: waiting for it"):
        if images := _read(path, says_damage=False):  # by the process that was waited for
            return images
        decoded = decode()
        _clear_leftovers(folder)
        arrays = {key: value for key, value in decoded._asdict().items() if isinstance(value, np.ndarray)}
        facts = {"findings": decoded.findings.model_dump_json(), "sha256": _digest(decoded)}
        try:
            write_atomic(path, lambda file: write_arrays(file, arrays, facts))
        except OSError as error:
            print_line(
                f"warning: {path}: can't be written ({error.strerror}), so that the next start decodes again. "
                "Expected: another --cache-dir",
                error=True,
            )
        return decoded


def _clear_leftovers(folder: Path) -> None:
    """Remove what killed processes were writing: gigabytes that no later start would find."""
    for path in folder.glob(f"{TEMPORARY}*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _LEFT_S:
                path.unlink()


def _read(path: Path, *, says_damage: bool = True) -> Decoded | None:
    """Return what a file of the cache holds, None if it is missing or damaged."""
    if not path.is_file():
        return None
    try:
        tensors, facts = read_tensors(path)
        labels = tensors["labels"].numpy() if "labels" in tensors else None
        findings = Findings.model_validate_json(facts["findings"])
        images, indices, digests = (tensors[key].numpy() for key in ("images", "indices", "digests"))
        decoded = Decoded(images, labels, findings, indices, digests)
        if _digest(decoded) != facts["sha256"]:
            raise ValueError("its sum is another one")
    except (UserError, KeyError, ValueError, ValidationError) as error:
        if says_damage:
            reason = first_line(error).removeprefix(f"{path}: ")
            print_line(f"warning: {path}: is damaged, and made anew ({reason})", error=True)
        return None
    return decoded


def _digest(decoded: Decoded) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(decoded.images).data)
    for array in (decoded.labels, decoded.indices, decoded.digests):
        digest.update(b"" if array is None else array.tobytes())
    return digest.hexdigest()
