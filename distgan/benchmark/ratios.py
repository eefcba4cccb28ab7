"""Ratios between measurements, round by round: against plain loops, over processes, batch sizes and widths."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median

from distgan.benchmark.measurement import Growth, Measurement, Ratio, Roofline, Spread

STRONG, WEAK, BATCH_SIZE, WIDTH = AXES = ("strong", "weak", "batch_size", "width")


def summarise_cells(cells: Sequence[Measurement], roofline: Roofline | None = None) -> None:
    """Set the summary of each cell's repeats, its MFU, and its ratios to other cells."""
    for cell in cells:
        repeats = [repeat for run in cell.measured for repeat in run.repeats]
        num, runs = cell.epoch_images, cell.measured
        cell.step_s = _spread([repeat.seconds / repeat.steps for repeat in repeats])
        cell.epoch_s = of = _spread([num * repeat.seconds / repeat.images for repeat in repeats])
        cell.host_epoch_s = _spread([num * (repeat.host_s or repeat.seconds) / repeat.images for repeat in repeats])
        # From the median of the seconds: with an even number of repeats the median of rates would differ.
        cell.images_per_s = of and Spread(median=num / of.median, p5=num / of.p95, p95=num / of.p5, num=of.num)
        cell.peak_memory_gib = max((run.peak_memory_gib for run in runs if run.peak_memory_gib), default=None)
        cell.against = _ratios_to_peers(cell, cells) if cell.is_ours else {}
        cell.mfu, cell.mfu_peak, cell.efficiency, cell.growth = None, None, {}, {}
        if cell.is_ours and roofline and cell.images_per_s:
            cell.mfu_peak = cell.precision
            if cell.flops_per_image is not None:
                cell.mfu = cell.flops_per_image * cell.images_per_s.median / roofline.peak_flops[cell.mfu_peak]
    for axis in (STRONG, WEAK):
        for cell in (chain := cells_on_axis(cells, axis)):
            if value := efficiency(chain[0], cell, is_strong=axis == STRONG):
                cell.efficiency[axis] = value
    for axis in (BATCH_SIZE, WIDTH):
        chain = cells_on_axis(cells, axis)
        for before, cell in pairwise(chain):
            if grown := growth(chain[0], before, cell, getattr(before, axis)):
                cell.growth[axis] = grown


def _spread(values: list[float]) -> Spread | None:
    return Spread.of(values) if values else None


def cells_on_axis(cells: Sequence[Measurement], axis: str) -> list[Measurement]:
    """Return the measured cells on an axis, the smallest first."""
    key = "world_size" if axis in (STRONG, WEAK) else axis
    return sorted((cell for cell in cells if axis in cell.axes and cell.measured), key=lambda cell: getattr(cell, key))


def _ratios_to_peers(cell: Measurement, cells: Sequence[Measurement]) -> dict[str, Ratio]:
    """Return the seconds per image of each plain loop over those of the cell, by loop and precision."""
    ratios = {}
    for peer in cells:
        is_pair = all(getattr(peer, key) == getattr(cell, key) for key in ("model", "batch_size", "order"))
        if is_pair and not peer.is_ours and (values := _ratios(lambda cell_s, peer_s: peer_s / cell_s, cell, peer)):
            ends = {"min": min(values), "max": max(values)}
            ratios[f"{peer.contender} {peer.precision}"] = Ratio(**Spread.of(values).model_dump(), **ends)
    return ratios


def efficiency(first: Measurement, cell: Measurement, *, is_strong: bool) -> Spread | None:
    """Return the scaling efficiency relative to the first cell; 1 is ideal.

    Strong, W0 T(W0) / (W T(W)) at one batch; weak, T(W0) / T(W) at one batch per process; T: seconds per step.
    """
    factor = first.world_size / cell.world_size if is_strong else 1.0
    return _spread(_ratios(lambda one, other: factor * one / other, first, cell))


def growth(first: Measurement, before: Measurement, cell: Measurement, since: float) -> Growth | None:
    """Return the growth of cost and work from `before` to `cell`; None without a common round."""
    if not (cost := _spread(_ratios(lambda one, other: other / one, before, cell))):
        return None
    work = per_work = None
    if cell.flops_per_step and before.flops_per_step and first.flops_per_step:
        work, since_first = cell.flops_per_step / before.flops_per_step, cell.flops_per_step / first.flops_per_step
        per_work = _spread(_ratios(lambda one, other: other / one / since_first, first, cell))
    is_faster = None if work is None or cost.num < 2 else cost.p5 > work
    return Growth(since=since, work=work, cost=cost, cost_per_work=per_work, is_faster_than_work=is_faster)


def _ratios(ratio: Callable[[float, float], float], one: Measurement, other: Measurement) -> list[float]:
    """Return the ratio of the seconds per step in each common round; a short batch counts by its images."""
    cell_times, peer_times = (
        {
            run.number: cell.batch_size * median(repeat.seconds / repeat.images for repeat in run.repeats)
            for run in cell.measured
        }
        for cell in (one, other)
    )
    return [ratio(cell_times[number], peer_times[number]) for number in cell_times if number in peer_times]
