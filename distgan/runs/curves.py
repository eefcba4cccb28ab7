"""Pictures of a run's numbers."""

from io import BytesIO
from pathlib import Path

from distgan.utils.files import read_metrics, write_whole


def save_curves(folder: Path, title: str, notice: str | None) -> Path | None:
    """losses.png: both losses, and D's mean logits on real and fake, against epochs. None without numbers."""
    lines = read_metrics(folder / "metrics.jsonl")
    if not lines:
        return None
    # matplotlib takes most of a second to import, so only here.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.5), layout="constrained", dpi=120)
    canvas = FigureCanvasAgg(figure)
    losses, logits = figure.subplots(2, 1, sharex=True)
    epochs = [line["epoch"] for line in lines]
    marker = "o" if len(lines) == 1 else ""
    for axes, curves in (
        (losses, {"d_loss": "D", "g_loss": "G"}),
        (logits, {"real_logits": "real", "fake_logits": "fake"}),
    ):
        for key, name in curves.items():
            axes.plot(epochs, [line[key] for line in lines], label=name, linewidth=1.3, marker=marker)
        axes.legend(frameon=False, ncols=2)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    losses.set_ylabel("loss")
    logits.set_ylabel("D's mean logit")
    logits.set_xlabel("epoch")
    figure.suptitle(f"{title}\n{notice}" if notice else title)
    buffer = BytesIO()
    canvas.print_png(buffer)
    write_whole(folder / "losses.png", lambda file: file.write(buffer.getvalue()))
    return folder / "losses.png"
