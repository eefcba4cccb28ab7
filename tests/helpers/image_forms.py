"""The same images in each form that `--data` reads."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

FORMS = ("folder", "zip", "npz", "parquet")


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", compress_level=1)
    return buffer.getvalue()


def write_form(form: str, at: Path, images: np.ndarray, labels: np.ndarray | None, classes: list[str]) -> Path:
    """Write images (N, H, W) or (N, H, W, 3), sorted by their labels, below the folder `at`. Return the path."""
    at.mkdir(parents=True, exist_ok=True)
    folders = [""] * len(images) if labels is None else [f"{classes[label]}/" for label in labels.tolist()]
    names = [f"{folder}{number:05}.png" for number, folder in enumerate(folders)]
    path = at / f"own.{form}" if form != "folder" else at / "own"
    if form == "folder":
        for name, pixels in zip(names, images, strict=True):
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(png(pixels))
    elif form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, pixels in zip(names, images, strict=True):
                archive.writestr(f"top/{name}", png(pixels))
    elif form == "npz":
        np.savez(path, images=images, **({} if labels is None else {"labels": labels}))
    else:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        columns: dict[str, Any] = {"image": [{"bytes": png(pixels), "path": None} for pixels in images]}
        features = {}
        if labels is not None:
            columns["label"] = labels.tolist()
            features = {"label": {"names": classes, "_type": "ClassLabel"}}
        facts = json.dumps({"info": {"features": features}})
        pq.write_table(pa.table(columns).replace_schema_metadata({"huggingface": facts}), path)
    return path


def header(weights: Path) -> tuple[str, dict[str, str]]:
    """Return the header of a safetensors file, and its metadata."""
    data = weights.read_bytes()
    text = data[8 : 8 + int.from_bytes(data[:8], "little")].decode()
    return text, json.loads(text)["__metadata__"]
