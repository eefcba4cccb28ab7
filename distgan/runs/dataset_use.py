"""Lines at the start of a training: a user's own images, and how training uses them."""

import shlex

from distgan.config.model_config import ModelConfig
from distgan.data.base import Dataset
from distgan.models.sampling import build_preview
from distgan.utils.figures import describe_numbered

_MAX_NOTES = 5


def describe_dataset_use(data: Dataset, model: ModelConfig) -> list[str]:
    """Return lines on a user's own images and how training uses them; [] for a named data set."""
    if data.findings is None:
        return []
    spec, columns = data.spec, build_preview(model).columns
    lines = [f"images of {spec.describe()}"]
    if spec.num_classes and not model.is_conditional:
        lines[0] += f": {model.name} is unconditional and does not use the {spec.num_classes} classes"
    if model.is_conditional and columns < spec.num_classes:
        lines.append(f"sample grids show the first {columns} of {spec.num_classes} classes")
    if model.is_conditional and (numbered := describe_numbered(spec.class_names)):
        lines.append(numbered)
    notes = data.findings.notes
    more = [f"{len(notes) - _MAX_NOTES} more findings: distgan data {shlex.quote(data.source)}"]
    return lines + notes[:_MAX_NOTES] + (more if len(notes) > _MAX_NOTES else [])
