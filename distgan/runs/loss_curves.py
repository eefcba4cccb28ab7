"""losses.png: the losses of a run, and D's mean logits, over its epochs."""

from pathlib import Path

from distgan.utils.figures import figure_text, new_figure, save_png
from distgan.utils.files import finite_or_none, metric_lines
from distgan.utils.thinning import Curve


def save_curves(folder: Path, title: str, notice: str | None) -> Path | None:
    """Plot both losses, and D's mean logits, against epochs in losses.png. Returns None without metrics."""
    panels = {"d_loss": "D", "g_loss": "G"}, {"real_logits": "real", "fake_logits": "fake"}
    curves = {key: Curve() for panel in panels for key in panel}
    num = 0
    for line in metric_lines(folder / "metrics.jsonl"):
        values = {key: finite_or_none((line or {}).get(key)) for key in ("epoch", *curves)}
        if None not in values.values():
            num += 1
            for key, curve in curves.items():
                curve.add(values["epoch"], values[key])  # type: ignore[arg-type]
    if not num:
        return None
    figure = new_figure(9, 6.5)
    losses, logits = figure.subplots(2, 1, sharex=True)
    marker = "o" if num == 1 else ""
    for axes, panel in zip((losses, logits), panels, strict=True):
        for key, name in panel.items():
            groups = curves[key].groups()
            x, y = [group.x for group in groups], [group.mean for group in groups]
            axes.plot(x, y, label=name, linewidth=1.3, marker=marker)
        axes.legend(frameon=False, ncols=2)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    losses.set_ylabel("loss")
    logits.set_ylabel("D's mean logit")
    logits.set_xlabel("epoch")
    figure.suptitle(figure_text(f"{title}\n{notice}" if notice else title))
    save_png(figure, folder / "losses.png")
    return folder / "losses.png"
