"""Read what wandb, MLflow and Trackio have written on this machine, without their servers."""

import json
import os
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple


class Tracked(NamedTuple):
    """Contents of a tracker for a run: its ids, d_loss by step in the order of logging, and so on."""

    ids: list[str]
    losses: list[tuple[int, float]]
    settings: dict[str, str]
    images: list[int]  # steps
    summary: dict[str, float]


def read_wandb(run: Path) -> Tracked:
    """Read all starts of the run, as wandb sync would upload them."""
    found = Tracked([], [], {}, [], {})
    for path in sorted(run.glob("wandb/offline-run-*/*.wandb")):
        for record in _wandb_records(path):
            match record.WhichOneof("record_type"):
                case "run":
                    found.ids.append(record.run.run_id)
                case "config":
                    found.settings.update(_values(record.config.update))
                case "summary":
                    found.summary.update(_values(record.summary.update))
                case "history":
                    values, step = _values(record.history.item), record.history.step.num
                    if "d_loss" in values:
                        found.losses.append((step, values["d_loss"]))
                    if any(key.endswith(".filenames") for key in values):
                        found.images.append(step)
    return found


def _values(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def _wandb_records(path: Path) -> Iterator[Any]:
    """Yield the records of a .wandb file: LevelDB's log, after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts, block = path.read_bytes(), 7, b"", 32768
    while at + 7 <= len(data):
        if block - at % block < 7:
            at += block - at % block
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # complete, or the last part
            yield Record.FromString(parts)
            parts = b""


def read_mlflow(run: Path) -> Tracked:
    """Read the store of files in `mlruns/`."""
    folders = [path.parent for path in run.glob("mlruns/*/*/meta.yaml")]
    (folder,) = folders
    metric = {path.name: path for path in folder.glob("metrics/*")}
    lines = [line.split() for line in metric["d_loss"].read_text().splitlines()]
    final = {f"final/{path.name}": path for path in folder.glob("metrics/final/*") if path.is_file()}
    return Tracked(
        [path.name for path in folders],
        [(int(step), float(value)) for _, value, step in lines],
        {path.name: path.read_text() for path in folder.glob("params/*")},
        [int(path.stem.rpartition("-")[2]) for path in folder.glob("artifacts/samples/*.png")],
        {name: float(path.read_text().split()[1]) for name, path in final.items()},
    )


def read_trackio(run: Path) -> Tracked:
    """Read the database in $TRACKIO_DIR."""
    found = Tracked([], [], {}, [], {})
    with sqlite3.connect(Path(os.environ["TRACKIO_DIR"]) / "distgan.db") as database:
        rows = database.execute("select run_name, step, metrics from metrics order by id").fetchall()
        for name, step, text in rows:
            values = json.loads(text)
            if name not in found.ids:
                found.ids.append(name)
            if "d_loss" in values:
                found.losses.append((step, values["d_loss"]))
            if any(isinstance(value, dict) and "image" in str(value.get("_type")) for value in values.values()):
                found.images.append(step)
            found.summary.update({key: value for key, value in values.items() if key.startswith("final/")})
        ((text,),) = database.execute("select config from configs").fetchall()
        found.settings.update(json.loads(text))
    return found


READERS = {"wandb": read_wandb, "mlflow": read_mlflow, "trackio": read_trackio}
