"""What the turns of a cell come to: speeds with their spread, MFU, and ratios to the plain loops."""

from statistics import median
from typing import Any

from distgan.benchmark.matrix import Cell
from distgan.benchmark.results import summary

# For the reader of results.json.
NOTES = {
    "repeats": "a repeat is the next steps of the training; the order of a new epoch and its short last batch are "
    "part of them; seconds by the device's events on a GPU, else by the host's clock, host_s by the host's",
    "epoch_s": "seconds of a repeat * images of an epoch / images of the repeat; host_epoch_s by the host's clock; "
    "images_per_s: images of an epoch / epoch_s",
    "kernels_per_step": "on a GPU, copies and fills not counted, by torch's profiler over a few steps",
    "mfu": "flops_per_image * images_per_s / the FLOP/s that this device was measured to reach in such numbers "
    "(roofline.peak_flops, in mfu_peak's); what a convolution multiplies with padding counts, though libraries skip it",
    "gate": "losses and weights: the largest relative differences to the eager engine after `steps`",
    "peak_memory_gib": "on a GPU of torch's allocator, after the gate; on a CPU of the whole process, gate included",
    "operators_per_step": "what reaches a CPU below autograd, views among them; compiled code is no operator",
    "against": "seconds an image of the plain loop / those of the cell: medians of a round, over the rounds; the plain "
    "loops leave TF32 as torch has it, on in cuDNN's convolutions and off in matmuls",
}
_DIGESTED = (
    "step_s", "step_ms", "images_per_s", "epoch_s", "host_epoch_s", "peak_memory_gib", "mfu", "mfu_peak", "against",
)  # fmt: skip


def digest(cell: Cell, roofline: dict[str, Any]) -> None:
    """Adds what the cell's runs so far come to, or takes every speed away from a cell that has failed."""
    runs = cell["runs"]
    if cell["status"] != "ok":
        for run in runs:
            for key in ("repeats", "warmup", "peak_memory_gib", "kernels_per_step", "operators_per_step"):
                run.pop(key, None)
        for key in _DIGESTED:
            cell.pop(key, None)
        return
    epoch_images, repeats = runs[-1]["epoch_images"], [each for run in runs for each in run["repeats"]]
    cell["step_s"] = [[each["seconds"] / each["steps"] for each in run["repeats"]] for run in runs]
    cell["step_ms"] = summary([1e3 * each["seconds"] / each["steps"] for each in repeats])
    cell["epoch_s"] = of = summary([epoch_images * each["seconds"] / each["images"] for each in repeats])
    # Of the same repeats as the seconds: with an even number of them a median of rates is another one's.
    rates = {"median": of["median"], "p5": of["p95"], "p95": of["p5"]}
    cell["images_per_s"] = {key: epoch_images / seconds for key, seconds in rates.items()} | {
        "num": of["num"]
    }
    if cell["contender"] == "distgan":
        cell["host_epoch_s"] = summary([epoch_images * each["host_s"] / each["images"] for each in repeats])
        cell["peak_memory_gib"] = max(run["peak_memory_gib"] for run in runs)
        cell["mfu"], cell["mfu_peak"] = _mfu(cell, roofline)


def _mfu(cell: Cell, roofline: dict[str, Any]) -> tuple[float | None, str]:
    """The part of the device's own matmul speed that the formula's FLOP reach, and in which numbers that was."""
    run = cell["runs"][-1]
    peak = "fp32" if cell["precision"] == "no" else cell["precision"]
    flops = run["flops_per_image"]
    if flops is None:
        return None, peak
    return flops * cell["images_per_s"]["median"] / roofline["peak_flops"][peak], peak


def hold_against_peers(cells: list[Cell]) -> None:
    """By plain loop and its precision: how many times its seconds an image are a cell's, round by round."""
    for cell in cells:
        if cell["contender"] != "distgan" or cell["status"] != "ok":
            continue
        found = {}
        for peer in cells:
            is_pair = all(peer[key] == cell[key] for key in ("model", "batch_size", "order"))
            if is_pair and peer["contender"] != "distgan" and peer["status"] == "ok":
                pairs = zip(peer["runs"], cell["runs"], strict=False)  # the last round may not be over
                ratios = [_image_s(theirs) / _image_s(ours) for theirs, ours in pairs]
                found[f"{peer['contender']} {peer['precision']}"] = summary(ratios) | {
                    "min": min(ratios),
                    "max": max(ratios),
                }
        cell["against"] = found


def _image_s(run: dict[str, Any]) -> float:
    return median(each["seconds"] / each["images"] for each in run["repeats"])
