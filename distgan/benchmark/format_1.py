"""Upgrade of results of format 1 to the current format."""

from typing import Any

from distgan.config.registry import FAMILIES, ORDERS, PRECISIONS
from distgan.config.renames import with_current_names

Table = dict[str, Any]  # JSON of an older version, which the schema checks afterwards


def upgrade(content: Table) -> Table:
    """Return the content of a results.json of format 1 in the current format. Missing keys stay missing."""
    content = with_current_names(content)
    if content["kind"] == "throughput":
        return content | {"cells": [_convert_throughput(cell) for cell in content["cells"]]}
    if content["kind"] == "scaling":
        settings = content["facts"]["config"]
        facts, cells = content["facts"] | {"settings": settings}, content["cells"]
        return content | {"facts": facts, "cells": [_convert_scaling(cell, settings) for cell in cells]}
    if content["kind"] == "convergence":  # other statistics: they are recomputed
        return content | {"facts": content["facts"] | {"summary": {}, "tests": []}}
    return content


def _with_current_id(cell: Table) -> Table:
    """Return a cell whose id has the current names of precisions, orders and families."""
    parts = cell["id"].split("/")
    parts[2], parts[4] = PRECISIONS.current(parts[2]), ORDERS.current(parts[4])
    parts[5:] = map(FAMILIES.current, parts[5:])
    return cell | {"id": "/".join(parts)}


def _convert_throughput(cell: Table) -> Table:
    cell = _with_current_id(cell)
    runs = [
        run | {"number": number, "warmup_s": run["warmup"]["seconds"] if "warmup" in run else None}
        for number, run in enumerate(cell["runs"])
    ]
    last = runs[-1] if runs else {}
    known = {"epoch_images": last.get("epoch_images", 0), "flops_per_image": last.get("flops_per_image")}
    return cell | known | {"runs": runs, "step_s": None}


def _convert_scaling(cell: Table, settings: Table) -> Table:
    runs = []
    for run in cell["runs"]:
        steps = run["steps"]
        repeat = {"steps": steps, "images": round(run["images_per_step"] * steps)}
        repeats = [repeat | {"seconds": seconds * steps} for seconds in run["step_s"]]
        runs.append(run | {"number": run["round"], "repeats": repeats, "messages_bytes": run["messages"]})
    of = {key: settings[key] for key in ("model", "engine", "precision", "order", "family", "data")}
    size, num, width, flops = (cell[key] for key in ("batch_size", "world_size", "width", "flops_per_step"))
    parts = [of["model"], of["engine"], of["precision"], str(size), of["order"]]
    parts += [f"width {width:g}"] * (width != 1) + [of["data"]] * (of["data"] != "mnist")
    status = "error" if cell["error"] else "ok" if runs else "waits"
    return of | {
        "id": "/".join([*parts, *([f"{num} processes"] * (num > 1))]),
        "preset": settings.get("preset", of["model"]),
        **{key: cell[key] for key in ("world_size", "batch_size", "width", "axes")},
        "training": cell["config"],
        "epoch_images": runs[0]["num_images"] if runs else 0,
        "flops_per_image": None if flops is None else flops // size,
        "status": status,
        "why": cell["error"],
        "runs": runs,
    }
