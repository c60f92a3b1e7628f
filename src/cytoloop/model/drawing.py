"""A drawing of a network: its layers in order from left to right, coarser ones lower."""

from pathlib import Path
from typing import Any

COLORS = {
    "InputLayer": "#9aa5b1",
    "Rescaling": "#9aa5b1",
    "Conv2D": "#3b6fb6",
    "Conv2DTranspose": "#c7632c",
    "MaxPooling2D": "#4b9b6e",
    "Concatenate": "#8a63a8",
}


def draw_network(network: Any, path: Path) -> None:
    """Write a PNG with a box for each layer, its kind by colour, its output's shape, and all connections."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    places = _places(network)
    figure = Figure(figsize=(max(8, 0.42 * len(places)), 7), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for before, after in _connections(network):
        (x0, y0), (x1, y1) = places[before], places[after]
        axes.plot([x0, x1], [y0, y1], color="#555", linewidth=1 if x1 - x0 < 4 else 0.8, alpha=0.6, zorder=1)
    for layer in network.layers:
        _draw_layer(axes, layer, places[layer.name])
    handles = [axes.scatter([], [], color=color, marker="s", label=kind) for kind, color in COLORS.items()]
    axes.legend(handles=handles, frameon=False, ncols=len(handles), loc="upper center")
    axes.set_title(f"{network.name}: {network.count_params():,} parameters")
    axes.margins(0.03, 0.15)
    axes.set_axis_off()
    figure.savefig(path, metadata={"Software": None})


def _draw_layer(axes: Any, layer: Any, place: tuple[float, float]) -> None:
    color = COLORS.get(type(layer).__name__, "#c9ced6")
    axes.scatter(*place, s=90, marker="s", color=color, zorder=2)
    axes.annotate(
        f"{layer.name}  {'x'.join(map(str, _shape(layer)))}",
        place,
        xytext=(0, -9),
        textcoords="offset points",
        rotation=90,
        fontsize=5.5,
        ha="center",
        va="top",
    )


def _places(network: Any) -> dict[str, tuple[float, float]]:
    """x: the layer's turn; y: its resolution, a step down for each halving."""
    from math import log2

    full = network.input_shape[1]
    return {layer.name: (float(i), -2.0 * log2(full / _shape(layer)[0])) for i, layer in enumerate(network.layers)}


def _shape(layer: Any) -> tuple[int, int, int]:
    """Height, width and channels of a layer's output; a picture's vector is a single pixel."""
    *sides, channels = layer.output.shape[1:]
    height, width = sides or (1, 1)
    return height, width, channels


def _connections(network: Any) -> list[tuple[str, str]]:
    found = []
    for layer in network.layers:
        inputs = layer.input if isinstance(layer.input, list) else [layer.input]
        found += [(tensor._keras_history.operation.name, layer.name) for tensor in inputs]
    return [(before, after) for before, after in found if before != after]
