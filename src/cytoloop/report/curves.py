"""Training curves as PNGs: metrics, losses and the learning rate by epoch."""

from pathlib import Path

Line = dict[str, float]

METRICS_PNG = "metrics.png"
LOSSES_PNG = "losses.png"
RATE_PNG = "learning_rate.png"


def write_curves(folder: Path, history: list[Line]) -> None:
    """Draw metrics.png (val and train scores, not each class's), losses.png and learning_rate.png from the history."""
    names = [name for name in history[0] if name not in ("epoch", "learning_rate") and "/" not in name]
    losses = [name for name in names if name.endswith("loss")]
    scores = [name for name in names if name not in losses]
    _draw(folder / LOSSES_PNG, history, losses, "loss")
    _draw(folder / METRICS_PNG, history, scores, "score")
    _draw(folder / RATE_PNG, history, ["learning_rate"], "learning rate", "log")


def _draw(path: Path, history: list[Line], names: list[str], title: str, scale: str = "linear") -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    epochs = [line["epoch"] for line in history]
    for name in names:
        of_val = name.startswith("val_")
        axes.plot(epochs, [line[name] for line in history], "-" if of_val else "--", marker=".", label=name)
    axes.set(xlabel="epoch", title=title, yscale=scale)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(names) > 1:
        axes.legend(frameon=False)
    figure.savefig(path, metadata={"Software": None})
