"""Folders of runs for tests of the HTML pages, written in milliseconds without training."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

from distgan.config.schema import Config, ModelConfig
from distgan.evaluation.schema import (
    Ambiguity,
    ClassQuality,
    Confusion,
    Estimate,
    ImageMetrics,
    JudgeFacts,
    Quality,
    Source,
)
from distgan.models.base import build_generator
from distgan.reports.comparison_rows import Row, build_rows
from distgan.reports.options import PagesConfig
from distgan.reports.pairwise import compared_runs
from distgan.reports.report2023 import add_checks
from distgan.reports.run_data import Run, read_run

SHA = "0123456789abcdef" * 4


def about(value: float, by: float = 0.01) -> Estimate:
    return Estimate(value=value, low=max(0.0, value - by), high=value + by)


def sample_of(fcd: float = 0.07, coverage: float = 0.95, recognisable: float = 0.985) -> ImageMetrics:
    return ImageMetrics(
        recognisable=about(recognisable), fcd=about(fcd, fcd / 20), density=about(1.0), coverage=about(coverage)
    )


def quality_of(
    kind: str = "C-GAN",
    *,
    fcd: float = 1.3,
    missing: Sequence[int] = (),
    num_classes: int = 10,
    source: dict[str, Any] | None = None,
    **more: Any,
) -> Quality:
    """Return a Quality: a C-GAN's 4 is often read as 9, a GAN's 8 is rare, and classes in `missing` do not occur."""
    is_conditional, is_ten = kind == "C-GAN", num_classes == 10
    rng = np.random.default_rng(0)
    matrix = np.full((num_classes, num_classes), 2) + np.diag([982] * num_classes)
    shares = np.full(num_classes, 1.0)
    if is_ten:
        matrix[4] = [1, 1, 1, 1, 700, 1, 1, 1, 1, 292]
        shares = np.array([0.12, 0.16, 0.09, 0.11, 0.09, 0.08, 0.1, 0.12, 0.04, 0.09])
    for digit in missing:
        matrix[digit] = 111
        matrix[digit, digit] = 1
        shares[digit] = 0.0002
    shares = shares / shares.sum()
    agreements = [matrix[digit, digit] / matrix[digit].sum() for digit in range(num_classes)]
    digits = []
    for digit in range(num_classes):
        is_poor = digit == (4 if is_conditional else 8)
        verdict = "missing" if digit in missing else "made poorly" if is_poor else "made well"
        why = {"missing": "0.1% of the images requested as it are read as it", "made poorly": "70.0% read as requested"}
        sample = None if digit in missing else sample_of(fcd * (1 + digit / 10), 0.8, 0.9)
        agreement = about(agreements[digit]) if is_conditional else None
        digits.append(ClassQuality(
            digit=digit, n=1000, agreement=agreement, share=about(shares[digit], 0.004), sample=sample,
            real=sample_of(), jury=about(0.996, 0.003), verdict=verdict,  # type: ignore[arg-type]
            why=why.get(verdict, "98.2% read as requested"),
        ))  # fmt: skip
    jury = np.diag([980] * num_classes) + (rng.random((num_classes, num_classes)) < 0.2)
    values: dict[str, Any] = {
        "n": 10_000,
        "agreement": about(0.953, 0.004) if is_conditional else None,
        "per_digit": digits,
        "shares": [about(share, 0.004) for share in shares],
        "kl": about(0.046, 0.005),
        "recognisable": about(0.93, 0.005),
        "fcd": about(fcd, fcd / 20),
        "fcd_floor": about(0.07, 0.004),
        "density": about(0.83),
        "coverage": about(0.71),
        "real": sample_of(),
        "gan_train": about(0.961, 0.004) if is_conditional else None,
        "gan_train_real": about(0.991, 0.002) if is_conditional else None,
        "copies": about(0.008, 0.002),
        "matrix": matrix.tolist() if is_conditional else None,
        "jury_matrix": jury.tolist(),
        "confusions": [
            Confusion(asked=4, read=9, share=about(0.292, 0.03), jury=about(0.003, 0.002), seen_by=3)
        ]
        if is_conditional and is_ten
        else [],
        "ambiguities": [Ambiguity(first=0, second=num_classes - 1, share=about(0.021, 0.003))],
        "judges": [
            JudgeFacts(
                name=name,
                sha256=SHA,
                accuracy=about(0.996, 0.001),
                agreement=about(0.95) if is_conditional else None,
            )
            for name in ("plain", "residual", "wide")
        ],
        "alarms": [f"digit {digit} is missing: 0.1% of the images requested as it are read as it" for digit in missing],
        "notices": [],
        "source": Source(**{
            "what": "run", "weights": "weights/generator.safetensors", "sha256": SHA, "preset": "made-up",
            "step": 12_000, "epoch": 51.06, "ema": True, "seed": 0, "data": "mnist", "reference": "mnist",
            "judged_by": "mnist", "command": "distgan eval run --num 10000",
        } | (source or {})),
        "seconds": {"all": 1.0},
    }  # fmt: skip
    return Quality(**(values | more))


def falling(epoch: float) -> float:
    """Return an fcd that falls until epoch 20 and is constant after."""
    return 0.5 + 60 * math.exp(-epoch / 4) if epoch < 20 else 0.5


def training_lines(
    num: int = 120,
    *,
    per_epoch: int = 3,
    rate: float = 3000.0,
    fcd: Callable[[float], float] | None = falling,
    wide: float = 0.02,
    kind: str = "C-GAN",
    num_classes: int = 10,
    **more: Any,
) -> list[dict[str, Any]]:
    """Return `num` lines, `per_epoch` per epoch; with quality at the end of each epoch if there is an fcd."""
    rng = np.random.default_rng(1)
    lines = []
    for index in range(1, num + 1):
        epoch = round(index / per_epoch, 4)
        line: dict[str, Any] = {
            "step": index * 78,
            "epoch": epoch,
            "d_loss": 1.386 - 0.4 / epoch + rng.normal(0, 0.02),
            "g_loss": 0.7 + 1.5 / epoch + rng.normal(0, 0.03),
            "real_logits": 0.3 / epoch + rng.normal(0, 0.02),
            "fake_logits": -0.3 / epoch + rng.normal(0, 0.02),
            "images_per_s": rate * (1 + 0.01 * rng.normal()) if index > 1 else rate / 4,
            "elapsed_s": index * 7.0,
            "peak_memory_gib": 0.9,
        } | more
        if fcd and index % per_epoch == 0:
            value = fcd(epoch)
            good = max(0.02, 1 - value / 70)
            for prefix, factor in (("raw", 1.3), ("ema", 1.0)):
                for key, own in (
                    ("fcd", value * factor), ("agreement", good * 0.96), ("recognisable", good * 0.98),
                    ("density", good * 0.8), ("coverage", good * 0.7), ("kl", 0.3 * (1 - good) + 0.02),
                ):  # fmt: skip
                    if key == "agreement" and kind == "GAN":
                        continue
                    line |= {
                        f"{prefix}_{key}": own,
                        f"{prefix}_{key}_low": own * (1 - wide),
                        f"{prefix}_{key}_high": own * (1 + wide),
                    }
                line[f"{prefix}_digits"] = [good * (0.99 if kind == "C-GAN" else 0.1)] * num_classes
                line[f"{prefix}_coverage_digits"] = [good * 0.8] * num_classes
                line[f"{prefix}_missing"] = [8] if epoch <= 3 else []
            line |= {
                "eval_n": 2000, "fcd_floor": 0.21, "coverage_floor": 0.93, "recognisable_floor": 0.985,
                "density_floor": 1.0, "eval_s": 4.0,
                "alarms": ["digit 8 is missing: 0.1% of the samples are read as it"] if epoch <= 3 else [],
            }  # fmt: skip
        lines.append(line)
    return lines


def environment_of(**more: Any) -> dict[str, Any]:
    return {
        "distgan": "0.1.0", "command": ["distgan", "train", "--model", "cgan", "--eval-every", "1"],
        "started_at": "2026-11-26T01:09:23+00:00", "python": "3.11.7",
        "versions": {"torch": "2.14.1", "numpy": "2.4.6", "deepspeed": None},
        "git": {"revision": "c0a8072d2ef3", "is_dirty": True}, "device": "A processor", "device_type": "cpu",
        "world_size": 1, "precision": "fp32", "threads": 2, "host": "vm", "platform": "Linux-6", "preset": "made-up",
        "engine": {"asked": "auto", "name": "eager", "why": "-", "start_s": {}}, "resumed_from": None,
        "networks": {"g_parameters": 220, "d_parameters": 30, "latent_shape": [100]},
        "data": {
            "name": "mnist", "notice": None, "warning": None, "source": "/data/MNIST/raw", "num_images": 60_000,
            "fingerprint": "248860264fc8de75",
        },
    } | more  # fmt: skip


def picture(path: Path, seed: int, size: tuple[int, int] = (180, 200)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (size[1] // 20, size[0] // 20, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(size, Image.Resampling.NEAREST).save(path)


def make_run(
    folder: Path,
    kind: str = "C-GAN",
    *,
    lines: list[dict[str, Any]] | None = None,
    quality: Quality | None = None,
    environment: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    num_samples: int = 5,
    weights: bool = True,
    state: str = "done",
) -> Path:
    folder.mkdir(parents=True)
    name = "cgan" if kind == "C-GAN" else "vanilla"
    settings = Config.model_validate({"model": {"name": name}, **(config or {})})
    lines = training_lines(kind=kind) if lines is None else lines
    (folder / "config.json").write_text(settings.model_dump_json(indent=2))
    (folder / "environment.json").write_text(json.dumps(environment or environment_of()))
    step = lines[-1]["step"] if lines else 0
    (folder / "status.json").write_text(json.dumps({"state": state, "step": step, "reason": None}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for index in range(num_samples):
        picture(folder / "samples" / f"epoch-{index * 10 + 1:04}.png", index)
    if quality is not None:
        (folder / "eval").mkdir()
        (folder / "eval" / "eval.json").write_text(quality.model_dump_json())
        for index, each in enumerate(("digits", "confusions", "neighbours")):
            picture(folder / "eval" / f"{each}.png", 100 + index, (1100, 400))
    if weights:
        (folder / "weights").mkdir()
        for each in ("generator", "discriminator"):
            save_file({"weight": np.zeros(1, np.float32)}, folder / "weights" / f"{each}.safetensors")
    return folder


def read(folder: Path) -> Run:
    return read_run(str(folder), PagesConfig(evaluate=False))


def table_of(*folders: Path) -> dict[str, Row]:
    """Return the rows of a comparison, with the statements of the 2023 report."""
    subjects = compared_runs([read(folder) for folder in folders])
    return {row.name: row for row in add_checks(build_rows(subjects), subjects)}


def weights(folder: Path, name: str = "cgan", notice: str | None = None) -> Path:
    """Write a run's folder with random weights of a generator and a different moving average."""
    config = Config(model=ModelConfig(name=name, family="dcgan", width=0.1))
    (folder / "weights").mkdir(parents=True)
    for path in (folder / "config.json", folder / "weights" / "config.json"):
        path.write_text(config.model_dump_json())
    for seed, file in ((1, "generator"), (2, "generator_ema")):
        torch.manual_seed(seed)
        metadata = {"notice": notice} if notice else {}
        save_tensors(build_generator(config.model).state_dict(), folder / "weights" / f"{file}.safetensors", metadata)
    return folder
