"""Training curves as PNGs: metrics and losses by epoch."""

from pathlib import Path

Line = dict[str, float]

METRICS_PNG = "metrics.png"
LOSSES_PNG = "losses.png"


def write_curves(folder: Path, history: list[Line]) -> None:
    """Draw metrics.png (every val and train score) and losses.png from the history's lines."""
    names = [name for name in history[0] if name not in ("epoch", "learning_rate")]
    losses = [name for name in names if name.endswith("loss")]
    scores = [name for name in names if name not in losses]
    _draw(folder / LOSSES_PNG, history, losses, "loss")
    _draw(folder / METRICS_PNG, history, scores, "score")


def _draw(path: Path, history: list[Line], names: list[str], title: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    epochs = [line["epoch"] for line in history]
    for name in names:
        of_val = name.startswith("val_")
        axes.plot(epochs, [line[name] for line in history], "-" if of_val else "--", marker=".", label=name)
    axes.set(xlabel="epoch", title=title)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if names:
        axes.legend(frameon=False)
    figure.savefig(path, metadata={"Software": None})
