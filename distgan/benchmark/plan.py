"""`distgan bench plan`: a model of the step time fitted on one process, its held-out errors, and predictions.

T(W) = a + b B + sum over G and D of max(0, all-reduce - overlap) + the all-reduces of BatchNorm: seconds per step, for
B images a process. `a` and `b` (neither negative) have the least relative squares over the batch sizes that were
measured on one process. The all-reduces are as measured in isolation if they were; else interconnects.py predicts them.
"""

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy.optimize import nnls

from distgan.benchmark import results
from distgan.benchmark.interconnects import FABRICS, AllReduce, check_nodes, nccl_model, ring_model
from distgan.benchmark.measurement import Facts, Measurement
from distgan.benchmark.options import PlanConfig
from distgan.benchmark.plots import plot_plan
from distgan.benchmark.ratios import STRONG, WEAK
from distgan.benchmark.results import HeldOut, PlanFacts, PlanResults, Predicted, SpeedResults
from distgan.benchmark.tables import all_reduces, print_plan
from distgan.errors import UserError

FORMULA = "T = a + b B + sum over G, D of max(0, all-reduce - overlap) + all-reduces of BatchNorm"
_FEWEST = 3
MODES: tuple[Literal["weak", "strong"], ...] = ("weak", "strong")


class Model(NamedTuple):
    """Seconds per step on one process: `a_s`, and `b_s` for each image."""

    a_s: float
    b_s: float

    def __call__(self, batch_size: float) -> float:
        return self.a_s + self.b_s * batch_size


def run(where: Path, config: PlanConfig) -> None:
    """Predict from the results of bench scaling at `where`; print tables, and write results.json and plan.png.

    Raises UserError for other results, too few points, or an interconnect that does not apply.
    """
    check_nodes(config.fabric, config.nodes)
    measured = results.read(where, SpeedResults, kind="scaling")
    # At the width of strong and weak scaling, not at those of growing work.
    width = next((cell.width for cell in measured.cells if {STRONG, WEAK} & set(cell.axes)), None)
    cells = [cell for cell in measured.cells if cell.measured and cell.width == width]
    points = single_process_times(cells, where)
    model = fit(points)
    try:
        all_reduce, source = _all_reduce(measured.facts, cells, config)
        held_out = leave_one_out(points) + predict_larger_worlds(model, measured.facts, cells, config.overlap / 1e6)
        predicted = predict_scaling(model, points, cells, all_reduce, measured.facts, config)
    except (KeyError, ValueError) as error:  # of a kind of message, or a setting
        raise UserError(
            f"{where}: damaged ({error!r}). Expected: a results.json of distgan bench scaling", code="damaged-file"
        ) from error
    folder = results.new_folder(config.out, "plan")
    known = {"formula": FORMULA, "a_s": model.a_s, "b_s_per_image": model.b_s, "points": points, "all_reduce": source}
    about = {"settings": config.model_dump(mode="json"), "model": cells[0].model, "measured": measured.facts}
    facts = results.collect_facts(torch.device("cpu"), **known | about).model_dump()
    plan = PlanResults(kind="plan", facts=PlanFacts.model_validate(facts), cells=[*held_out, *predicted])
    plan.write(folder / results.FILE)
    results.publish(plan, folder, print_plan, plot_plan)


def single_process_times(cells: Sequence[Measurement], where: Path) -> dict[int, float]:
    """Return median seconds per step by batch size. Raises UserError if there are too few to fit and hold one out."""
    alone = sorted((cell for cell in cells if cell.world_size == 1), key=lambda cell: cell.batch_size)
    points = {cell.batch_size: cell.step_s.median for cell in alone if cell.step_s}
    if len(points) < _FEWEST:
        raise UserError(
            f"{where}: too few batch sizes on one process ({len(points)}). Expected: {_FEWEST} or more, to fit two "
            "constants and hold one out (distgan bench scaling --work-batch-size 64,128,256)",
            code="wrong-results",
        )
    return points


def fit(points: dict[int, float]) -> Model:
    """Fit the model by least relative squares, with non-negative constants."""
    sizes, seconds = np.array(list(points), dtype=float), np.array(list(points.values()))
    (a_s, b_s), _ = nnls(np.stack([1 / seconds, sizes / seconds], axis=1), np.ones(len(seconds)))
    return Model(float(a_s), float(b_s))


def _held_out(name: str, world_size: int, batch_size: int, predicted_s: float, measured_s: float) -> HeldOut:
    return HeldOut(
        held_out=name, world_size=world_size, batch_size=batch_size, predicted_step_s=predicted_s,
        measured_step_s=measured_s, error_percent=100 * (predicted_s - measured_s) / measured_s,
    )  # fmt: skip


def leave_one_out(points: dict[int, float]) -> list[HeldOut]:
    """Predict each batch size by a fit on all the others."""
    name = "fitted on the other sizes"
    return [
        _held_out(name, 1, size, fit({k: v for k, v in points.items() if k != size})(size), seconds)
        for size, seconds in points.items()
    ]


def predict_larger_worlds(model: Model, facts: Facts, cells: Sequence[Measurement], overlap_s: float) -> list[HeldOut]:
    """Predict the steps of several processes, which the fit excludes, with all-reduces as measured in isolation.

    Cells with more threads than cores are left out: the model does not cover shared cores.
    """
    rows = []
    for cell in sorted(cells, key=lambda cell: (cell.world_size, cell.batch_size)):
        size, is_cpu = cell.world_size, facts.device_type == "cpu"
        if size == 1 or not cell.step_s or (is_cpu and size * (facts.threads or 1) > (facts.cores or 1)):
            continue
        alone = {kind: seconds.median for kind, (seconds, _) in all_reduces(cells, size).items()}
        predicted_s = _step_s(model, ceil(cell.batch_size / size), alone, overlap_s)
        name = "fitted on 1 process, all-reduce measured alone"
        rows.append(_held_out(name, size, cell.batch_size, predicted_s, cell.step_s.median))
    return rows


def _step_s(model: Model, batch_size: float, all_reduce_s: dict[str, float], overlap_s: float) -> float:
    grads = sum(max(0.0, all_reduce_s[kind] - overlap_s) for kind in ("generator", "discriminator"))
    return model(batch_size) + grads + all_reduce_s.get("batch_norm", 0.0)


def _all_reduce(facts: Facts, cells: Sequence[Measurement], config: PlanConfig) -> tuple[AllReduce, str]:
    """Return the model of an all-reduce, and the source of its constants in words."""
    source = FABRICS[config.fabric].source
    if facts.device_type != "cpu":
        return nccl_model(config.fabric), f"NCCL's cost model (src/graph/tuning.cc); {source}"
    if config.fabric in ("nvlink", "pcie"):
        raise UserError(
            f"--fabric: connects GPUs, but the results are of a CPU ({config.fabric}). Expected: ib, ethernet",
            code="setting-not-applicable",
        )
    worlds = [cell.world_size for cell in cells if cell.world_size > 1]
    if not worlds:
        raise UserError(
            "results of a CPU: no measured all-reduce to predict from (1 process). Expected: results of distgan bench "
            "scaling --processes 1,2",
            code="wrong-results",
        )
    measured = all_reduces(cells, max(worlds))
    (tiny, _), (seconds, size) = measured["tiny"], measured["generator"]
    ring = ring_model(max(worlds), tiny.median, size, seconds.median, config.fabric)
    return ring, f"a ring of gloo's as measured over {max(worlds)} processes of one CPU; {source}"


def predict_scaling(
    model: Model, points: dict[int, float], cells: Sequence[Measurement], all_reduce: AllReduce, measured: Facts,
    config: PlanConfig,
) -> list[Predicted]:  # fmt: skip
    """Predict weak and strong scaling: one process, then more on a node, then more nodes."""
    (messages, *_), settings = [run.messages_bytes for cell in cells for run in cell.measured], measured.settings
    strong = config.batch_size or int(str(settings["batch_size"]))
    weak = config.per_rank_batch_size or int(str(settings["per_rank_batch_size"]))
    rows: list[Predicted] = []
    for mode in MODES:
        first = None
        for nodes, per_node in list_world_shapes(config.nodes, config.gpus_per_node):
            size = nodes * per_node
            total = weak * size if mode == "weak" else strong
            if total < size:  # some ranks would have no images
                continue
            alone = {
                kind: sum(all_reduce(num, nodes, per_node) for num in messages[kind])
                for kind in ("generator", "discriminator", "batch_norm")
            }
            per_rank = ceil(total / size)
            seconds = _step_s(model, per_rank, alone, config.overlap / 1e6)
            rate = total / seconds
            first = first or rate
            rows.append(Predicted(
                mode=mode, nodes=nodes, per_node=per_node, world_size=size, batch_size=total,
                per_rank_batch_size=per_rank, predicted_step_s=seconds, predicted_images_per_s=rate,
                predicted_all_reduce_s=alone, predicted_s_per_epoch=cells[0].epoch_images / rate,
                predicted_efficiency=rate / (size * first), is_extrapolated=not min(points) <= per_rank <= max(points),
            ))  # fmt: skip
    return rows


def list_world_shapes(nodes: int, per_node: int) -> list[tuple[int, int]]:
    """Return (nodes, GPUs per node): doubling within a node, then the nodes, up to the requested numbers."""
    within = [(1, num) for num in _doubling(per_node)]
    return within + [(num, per_node) for num in _doubling(nodes)[1:]]


def _doubling(limit: int) -> list[int]:
    return [2**exponent for exponent in range((limit - 1).bit_length())] + [limit]
