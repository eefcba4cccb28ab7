"""Settings of bench throughput and scaling that take milliseconds, and made-up measurements."""

from pathlib import Path
from typing import Any

from distgan.benchmark.measurement import Facts, Measurement, TimedRun
from distgan.benchmark.options import ScalingConfig
from distgan.benchmark.ratios import summarise_cells
from distgan.benchmark.results import SpeedResults

GATE = {"steps": 1, "losses": 0.5, "weights": 0.5, "tolerance": [0.1, 0.1], "passed": True, "seconds": 0.1,
        "words": "the losses differ by 5e-01"}  # fmt: skip


def tiny(out: object = None, **more: Any) -> ScalingConfig:
    """Return settings of tiny networks, milliseconds per step, on the embedded digits."""
    settings: dict[str, Any] = {
        "family": "small", "width": 0.1, "data": "digits", "device": "cpu", "batch_size": 32,
        "per_rank_batch_size": 16, "batch_sizes": [16, 32, 64], "processes": [1, 2], "steps": 2, "warmup": 1,
        "repeats": 2, "rounds": 1, "threads": 1, "out": None if out is None else str(out),
    }  # fmt: skip
    return ScalingConfig.model_validate(settings | more)


def a_round(*step_s: float, number: int = 0, images: int = 32, passed: bool = True, **more: Any) -> TimedRun:
    """Return a round with a repeat for each of these seconds per step; without repeats if the gate failed."""
    repeats = [{"seconds": seconds, "host_s": seconds, "steps": 1, "images": images} for seconds in step_s]
    engine = {"asked": "auto", "name": "eager", "why": "as requested"}
    values = {"number": number, "engine": engine, "gate": GATE | {"passed": passed}, "repeats": repeats * passed}
    return TimedRun.model_validate(values | more)


def measured(*rounds: list[float], **more: Any) -> Measurement:
    """Return a measurement with rounds of these seconds per step."""
    settings = {"preset": "vanilla", "model": "vanilla", "engine": "auto", "precision": "fp32", "batch_size": 32,
                "order": "reuse", "family": "seed", "width": 1.0, "data": "mnist", "epoch_images": 6400,
                "status": "ok"} | more  # fmt: skip
    runs = [a_round(*step_s, number=number, images=settings["batch_size"]) for number, step_s in enumerate(rounds)]
    settings.setdefault("id", "/".join(str(settings[key]) for key in ("model", "engine", "batch_size")))
    return Measurement.model_validate({"runs": runs, **settings})


def derived(*cells: Measurement) -> list[Measurement]:
    summarise_cells(cells)
    return list(cells)


def saved(path: Path, *cells: Measurement, kind: str = "throughput", **facts: Any) -> Path:
    """Write a results.json with these cells. Return its path."""
    about = Facts.model_validate({"device": "this one", "versions": {"torch": "2"}} | facts)
    SpeedResults.model_validate({"kind": kind, "facts": about, "cells": list(cells)}).write(path)
    return path
