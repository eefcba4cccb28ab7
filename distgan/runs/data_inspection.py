"""`distgan data`: show a data set, or a user's own images, as training reads them."""

import json
import os
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from PIL.PngImagePlugin import PngInfo
from rich.table import Table

from distgan.config.command_settings import InspectConfig
from distgan.config.flags import from_flags
from distgan.config.presets import build_config, config_folder
from distgan.config.registry import FAMILIES
from distgan.config.schema import Config, DataConfig, ModelConfig
from distgan.data.base import Dataset, load_dataset
from distgan.data.clustering import check_clusters
from distgan.data.loader import global_batch_size, min_batch_size, steps_in_epoch
from distgan.errors import UserError
from distgan.models.base import check_fit
from distgan.utils.figures import PAPER, describe_numbered, drawable_names, grid
from distgan.utils.files import output_file, write_atomic
from distgan.utils.paths import user_path
from distgan.utils.terminal import TerminalConsole
from distgan.utils.text import one_line

_MARK = b"distgan data"
_ROWS, _COLUMNS = 10, 16  # of the picture, at most
_SHOWN = 20  # classes in the table
_FEWEST = 2  # images of the smallest batch, by BatchNorm


def inspect(name: str, config: InspectConfig) -> None:
    """Print what training would read, and draw some of the images.

    Raises UserError, after printing, for images that no network can be built for or trained on.
    """
    settings = config.model_dump(
        include={"image_size", "channels", "background", "skip_broken", "cache_dir", "download"}
    )
    name = from_flags(Config, Namespace(**{"data.name": name})).data.name  # as --data of distgan train takes it
    sheet = config.sheet
    if sheet is None and not config.as_json:
        stem = re.sub(r"[^\w.-]", "_", Path(os.path.abspath(user_path(name))).name)
        sheet = f"data-{stem[:100]}.png"
    if sheet and Path(sheet).suffix != ".png":
        raise UserError(f"--sheet: ends in {Path(sheet).suffix or 'nothing'} ({sheet}). Expected: .png")
    out = sheet and output_file(sheet, _MARK, "picture that distgan data drew")
    dataset = load_dataset(DataConfig.model_validate(settings | {"name": name, "dir": config.data_dir}))
    if out:
        picture, info = draw_sheet(dataset), PngInfo()
        info.add_text("Software", _MARK.decode())
        write_atomic(out, lambda file: picture.save(file, "png", pnginfo=info))
    networks = _find_families(dataset)
    if config.as_json:
        print(json.dumps(_facts(dataset, networks), indent=1))  # ASCII, for any encoding of stdout
    else:
        _print_table(dataset, networks, sheet)
    if not any(networks.values()):
        raise UserError(
            f"{name}: no network can be built for images of {dataset.spec.describe()}. Expected: "
            f"{FAMILIES['dcgan'].unsupported(dataset.spec)}",
            code="images-do-not-fit",
        )
    if len(dataset.images) < _FEWEST:
        raise UserError(
            f"{name}: too few images for a training ({len(dataset.images)}). Expected: {_FEWEST} or more",
            code="bad-images",
        )


def draw_sheet(dataset: Dataset) -> Any:
    """Draw a column per class, as many as fit, or evenly spaced images of data without labels."""
    spec, pixels = dataset.spec, dataset.images
    if spec.num_classes > 1:
        rows_of_class = [torch.nonzero(dataset.labels == index).flatten() for index in range(spec.num_classes)]
        columns = [_select_evenly(rows) for rows in rows_of_class if len(rows)][:_COLUMNS]
        names = drawable_names(spec.class_names)
        heads = [names[int(dataset.labels[column[0]])] for column in columns]
        indices = [column[row] if row < len(column) else None for row in range(_ROWS) for column in columns]
        paper = torch.tensor(PAPER, dtype=torch.uint8).view(3, 1, 1).expand(3, spec.height, spec.width)
        blank = paper if pixels.ndim == 4 else paper[0]
        images = torch.stack([blank if index is None else pixels[index] for index in indices])
    else:
        num = min(len(pixels), 64)
        columns, heads = [torch.empty(0)] * min(8, num), []
        images = pixels[torch.linspace(0, len(pixels) - 1, num).long()]
    drawn = images if images.ndim == 3 else images.movedim(1, -1)
    return grid(drawn.numpy(), len(columns), heads=heads, caption=dataset.notice)


def _select_evenly(rows: torch.Tensor) -> torch.Tensor:
    """Return up to _ROWS evenly spaced rows: neighbours are often similar."""
    num = min(len(rows), _ROWS)
    return rows[torch.linspace(0, len(rows) - 1, num).long()]


def _find_families(dataset: Dataset) -> dict[str, list[str]]:
    """Return for each model the families that can be built for the images."""
    spec = dataset.spec
    families: dict[str, list[str]] = {"vanilla": [], "cgan": []}
    for family, entry in FAMILIES.items():
        for model in entry.models:
            try:
                clusters = 1 if entry.takes_clusters else None
                check_fit(ModelConfig(name=model, family=family, clusters=clusters, images=spec))
                families[model].append(family)
            except UserError:
                continue
    return families


def _find_presets(dataset: Dataset) -> dict[str, str]:
    """Return for each preset whose networks fit the images why it can't train on them as it stands, "" if it can."""
    found = {}
    for path in sorted(config_folder().glob("*.toml"), key=lambda path: path.stem):
        config = build_config(path.stem, {}).with_images(dataset.spec)
        try:
            check_fit(config.model)
        except UserError:
            continue
        try:
            num = len(dataset.images)
            if config.model.clusters:
                check_clusters(config.model.clusters, num, max(1, config.model.spec.num_classes))
            fewest = min_batch_size(config, 1)
            steps_in_epoch(num, global_batch_size(config.data, 1), config.data.drop_last, fewest=fewest)
            found[path.stem] = ""
        except UserError as error:
            found[path.stem] = str(error)
    return found


def _facts(dataset: Dataset, networks: dict[str, list[str]]) -> dict[str, Any]:
    spec, findings = dataset.spec, dataset.findings
    counts = dataset.labels.bincount(minlength=spec.num_classes).tolist() if spec.num_classes else []
    facts = {
        "name": dataset.name,
        "source": dataset.source,
        "kind": findings.kind if findings else "data set",
        "num_images": len(dataset.images),
        "images": spec.model_dump(mode="json"),
        "classes": dict(zip(spec.class_names, counts, strict=True)),
        "decoded_bytes": dataset.images.nbytes,
        "fingerprint": dataset.fingerprint,
        "networks": networks,
        "presets": _find_presets(dataset),
        "warning": dataset.warning,
        "notice": dataset.notice,
    }
    if findings:
        keys = {"sizes", "modes", "num_duplicates", "num_broken", "broken", "notes"}
        facts |= findings.model_dump(mode="json", include=keys)
    return facts


def _print_table(dataset: Dataset, networks: dict[str, list[str]], sheet: str | None) -> None:
    spec, findings, console = dataset.spec, dataset.findings, TerminalConsole()
    facts = _facts(dataset, networks)
    rows = [("images", f"{len(dataset.images):,} from {dataset.source} ({facts['kind']})")]
    if findings:
        rows += [
            ("sizes", _format_counts(findings.sizes)),
            ("modes", _format_counts(findings.modes)),
            ("duplicates", f"{findings.num_duplicates:,}"),
            ("unreadable", f"{findings.num_broken:,}"),
            *(("", f"{one_line(name)}: {reason}") for name, reason in findings.broken.items()),
        ]
    rows.append(("classes", f"{spec.num_classes}: {_format_counts(facts['classes'])}" if spec.num_classes else "none"))
    rows += [
        ("note", note) for note in (*(findings.notes if findings else ()), dataset.warning, dataset.notice) if note
    ]
    models = "; ".join(
        f"--model {model} with --family {' or '.join(families)}" for model, families in networks.items() if families
    )
    rows.append(("training", f"{spec.describe()}, {dataset.images.nbytes / 2**20:,.1f} MiB in memory"))
    rows.append(("", models or "no network can be built for this"))
    if fitting := [name for name, problem in facts["presets"].items() if not problem]:
        rows.append(("", f"--preset {' or '.join(fitting)}"))
    rows += [("", f"--preset {name}: {problem}") for name, problem in facts["presets"].items() if problem]
    if sheet:
        rows += [("picture", line) for line in (sheet, describe_numbered(spec.class_names)) if line]
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print_table(table)


def _format_counts(counts: dict[str, int]) -> str:
    shown = [f"{one_line(name)} ({num:,})" for name, num in list(counts.items())[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(counts) - _SHOWN} more" if len(counts) > _SHOWN else "")
