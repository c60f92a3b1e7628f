"""The charts of the report, as inline SVG that follows the page's light or dark theme, or as PNG.

The same numbers give the same bytes: no dates, fixed ids, no system fonts.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray[Any, Any]

INK, MUTED, LINE, PAPER = "#1d2733", "#5c6876", "#dcdfe3", "#ffffff"
ACCENT, SECOND = "#1f6f8b", "#c2691c"
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    PAPER: "var(--card)",
    ACCENT: "var(--accent)",
    SECOND: "var(--second)",
}
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
}

Draw = Callable[["Figure"], None]
"""Draws on an empty figure."""


def svg(draw: Draw, width: float, height: float, label: str) -> str:
    """An inline `<svg>` element, `width` x `height` inches at 72 a inch, with `label` for screen readers."""
    text = _saved(draw, (width, height), {"svg.hashsalt": label}, format="svg", transparent=True).decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # the page's own style sheet has these rules
    text = re.sub(r' id="[A-Za-z0-9_.]+_\d+"|font-family: [^;"]*; ?', "", text)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, variable)
    return text.replace("<svg", f'<svg role="img" aria-label="{_attribute(label)}"', 1).strip()


def png(draw: Draw, width: float, height: float) -> bytes:
    """The chart as a PNG on white, `width` x `height` inches at 144 dots a inch."""
    return _saved(draw, (width, height), {}, format="png", dpi=144, facecolor=PAPER)


def _saved(draw: Draw, inches: tuple[float, float], style: dict[str, Any], **how: Any) -> bytes:
    """The file's bytes, without a date or a version in them."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    silent = ("Creator", "Date", "Format", "Type") if how["format"] == "svg" else ("Software",)
    buffer = BytesIO()
    with rc_context({**_STYLE, **style}):
        figure = Figure(figsize=inches, layout="constrained")
        draw(figure)
        figure.savefig(buffer, metadata=dict.fromkeys(silent), **how)
    return buffer.getvalue()


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


def confusion(confusion_CC: Array, names: Sequence[str]) -> Draw:
    """Where the pixels of each true class went: (C, C) counts, each row as percent of its pixels."""
    rows_C1 = confusion_CC.sum(1, keepdims=True)
    share_CC = confusion_CC / np.maximum(rows_C1, 1)

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        for row, column in np.ndindex(*share_CC.shape):
            _cell(axes, row, column, float(share_CC[row, column]), bool(rows_C1[row, 0]))
        places, spoken = np.arange(len(names)), [_spoken(name) for name in names]
        axes.set_xticks(places, spoken)
        axes.set_yticks(places, spoken)
        if len(names) > 3:
            for label in axes.get_xticklabels():
                label.set(rotation=45, horizontalalignment="right")
        axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5), xlabel="predicted", ylabel="true")
        axes.spines[:].set_visible(False)
        axes.grid(False)
        axes.set_aspect("equal")

    return draw


def _cell(axes: "Axes", row: int, column: int, share: float, known: bool) -> None:
    from matplotlib.patches import Rectangle

    color = ACCENT if row == column else SECOND
    box = Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, facecolor=color, alpha=0.06 + 0.94 * share, linewidth=0)
    axes.add_patch(box)
    text = f"{100 * share:.0f}" if share >= 0.005 else ("·" if known else "")
    axes.text(column, row, text, ha="center", va="center_baseline", fontsize=8, color=PAPER if share > 0.55 else INK)


def reliability(sums_3M: Array) -> Draw:
    """Confidence against accuracy, of `scores.calibration.reliability`'s sums."""
    pixels_M, confidence_M, correct_M = sums_3M
    used = pixels_M > 0
    confidence, accuracy = confidence_M[used] / pixels_M[used], correct_M[used] / pixels_M[used]
    share = pixels_M[used] / max(pixels_M.sum(), 1)

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
        axes.plot(confidence, accuracy, color=ACCENT, linewidth=1.5)
        axes.scatter(confidence, accuracy, s=14 + 220 * share, color=ACCENT, edgecolor=PAPER, linewidth=0.8, zorder=3)
        axes.text(0.04, 0.1, "perfectly calibrated", color=MUTED, rotation=45, transform_rotates_text=True, fontsize=8)
        axes.set(xlim=(0, 1.03), ylim=(0, 1.03), xlabel="what the model says", ylabel="how often it is right")
        axes.set_aspect("equal")
        _percent(axes.xaxis)
        _percent(axes.yaxis)

    return draw


def _percent(axis: Any) -> None:
    axis.set_ticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100 %"])


def spread(scores_N: Array, what: str) -> Draw:
    """Every picture a dot, piled up where scores are alike; NaN left out."""
    scores = np.sort(scores_N[~np.isnan(scores_N)])
    bins = np.minimum((scores * 50).astype(int), 49)
    heights = np.arange(len(bins)) - np.searchsorted(bins, bins)
    tallest = int(heights.max(initial=0)) + 1

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        if tallest > 24:
            counts = np.bincount(bins, minlength=50)
            axes.bar((np.arange(50) + 0.5) / 50, counts, width=0.017, color=ACCENT)
            top = float(counts.max())
        else:
            axes.scatter((bins + 0.5) / 50, heights + 0.5, s=26, color=ACCENT, linewidth=0)
            top = float(max(tallest, 8))
        if len(scores):
            middle = float(np.median(scores))
            axes.axvline(middle, color=SECOND, linewidth=1.2)
            side, gap = ("right", -0.006) if middle > 0.5 else ("left", 0.006)
            axes.text(middle + gap, 1.25 * top, f"median {middle:.2f}", ha=side, va="top", color=SECOND)
        axes.set(xlim=(0, 1), ylim=(0, 1.25 * top), xlabel=what)
        axes.yaxis.set_visible(False)
        axes.spines["left"].set_visible(False)

    return draw


def object_precision(precision: Mapping[float, float]) -> Draw:
    """AP against the IoU at which an object counts as found; `precision` has 0.5 and 0.75 among others."""

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        axes.plot(list(precision), list(precision.values()), color=ACCENT, marker="o", markersize=4)
        for threshold in (0.5, 0.75):
            value = precision[threshold]
            axes.annotate(f"{value:.2f}", (threshold, value), (4, 6), textcoords="offset points", color=ACCENT)
        axes.set(xlim=(0.48, 0.97), ylim=(0, 1.03), xlabel="IoU at which an object is found", ylabel="AP")

    return draw


def panels(history: Mapping[str, Sequence[float]]) -> list[str]:
    """The quantities of a training history, a panel each: `loss`, then scores, `learning_rate` last; no class's own."""
    names = dict.fromkeys(name.removeprefix("val_") for name in history if name != "epoch" and "/" not in name)
    return sorted(names, key=lambda name: (name != "loss", name == "learning_rate", list(names).index(name)))


def rows_of(count: int) -> tuple[int, int]:
    """Rows and columns of `count` panels, at most four in a row and evenly filled.

    >>> rows_of(3), rows_of(5)
    ((1, 3), (2, 3))
    """
    rows = -(-count // 4)
    return rows, -(-count // max(rows, 1))


def curves(history: Mapping[str, Sequence[float]]) -> Draw:
    """Small multiples over the epochs; training and validation of a quantity share a panel.

    Args:
        history: `epoch` and any other columns, all of the same length; NaN where unknown.
    """
    shown = panels(history)

    def draw(figure: "Figure") -> None:
        for place, name in enumerate(shown, 1):
            _curve(figure.add_subplot(*rows_of(len(shown)), place), history, name)

    return draw


def _curve(axes: "Axes", history: Mapping[str, Sequence[float]], name: str) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    drawn = {
        label: (history[column], color)
        for column, label, color in ((f"val_{name}", "validation", ACCENT), (name, "training", SECOND))
        if column in history
    }
    for values, color in drawn.values():
        axes.plot(history["epoch"], values, color=color, linewidth=1.6, marker="o" if len(values) == 1 else "")
    axes.set_title(_spoken(name))
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.margins(x=0.02)
    if "validation" in drawn:
        # words in the lines' colours; the legend finds the free corner
        blank = [Line2D([], [], linestyle="") for _ in drawn]
        colors = [color for _, color in drawn.values()]
        axes.legend(blank, list(drawn), labelcolor=colors, handlelength=0, handletextpad=0, fontsize=8)


def statistics_size(names: Sequence[str]) -> tuple[float, float]:
    """Inches wide and high that `statistics` needs for so many classes."""
    return 11, 1.5 + 0.34 * max(len(names), 4)


def statistics(census: Mapping[str, Any], names: Sequence[str]) -> Draw:
    """What the splits hold: pictures and groups, the pixels of each class, and the pictures that it is in.

    Args:
        census: splits.json: counts by split, overall and for each class.
        names: of the classes, in the order of their ids.
    """

    def draw(figure: "Figure") -> None:
        grid = figure.add_gridspec(1, 3, width_ratios=(3, 4, 4))
        _sizes(figure.add_subplot(grid[0]), census, 0.6 * len(names))
        pixels, pictures = figure.add_subplot(grid[1]), figure.add_subplot(grid[2])
        _dots(pixels, {name: census["classes"][name]["pixels"] for name in names})
        pixels.set_title("Pixels of a class")
        _dots(pictures, {name: census["classes"][name]["pictures"] for name in names})
        pictures.set_title("Pictures with a class")
        pictures.tick_params(labelleft=False)
        _split_legend(figure)

    return draw


_SPLITS = {"train": (ACCENT, "o"), "val": (MUTED, "D"), "test": (SECOND, "s")}
"""Colour and mark."""


def _sizes(axes: "Axes", census: Mapping[str, Any], rows: float) -> None:
    """A bar for each split, on as much height as so many rows have."""
    shown = [name for name in (*_SPLITS, "excluded") if census["pictures"][name]]
    for place, name in enumerate(shown):
        pictures, groups = census["pictures"][name], census["groups"].get(name)
        axes.barh(place, pictures, height=0.3, color=_SPLITS.get(name, (LINE,))[0])
        words = f"{_counted(pictures, 'picture')}, {_counted(groups, 'group') if groups else 'too alike'}"
        axes.text(0, place - 0.24, words, va="bottom", color=MUTED, fontsize=8)
    axes.set_yticks(range(len(shown)), shown)
    axes.set(title="Pictures of a split", ylim=(max(len(shown), rows) - 0.5, -0.75))
    axes.xaxis.set_visible(False)
    axes.spines[:].set_visible(False)
    axes.grid(False)


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("s" if count != 1 else "")


def _dots(axes: "Axes", rows: Mapping[str, Mapping[str, int]]) -> None:
    """A count for each row and split, on a log scale that begins at a power of ten; none is hollow, left of it."""
    from matplotlib.ticker import EngFormatter, NullLocator

    counts = [row[split] for row in rows.values() for split in _SPLITS if row[split]]
    first, last = np.floor(np.log10(min(counts, default=1))), np.ceil(np.log10(1.1 * max(counts, default=1)))
    none, left = first - 0.07 * (last - first), first - 0.1 * (last - first)
    for place, row in enumerate(rows.values()):
        if place % 2 == 0:
            axes.axhspan(place - 0.5, place + 0.5, color=LINE, alpha=0.35, linewidth=0, zorder=0)
        for shift, (split, (color, mark)) in zip((-0.22, 0, 0.22), _SPLITS.items(), strict=True):
            count = row[split]
            look: dict[str, Any] = {"marker": mark, "color": color if count else PAPER, "edgecolor": color}
            axes.scatter(count or 10**none, place + shift, s=26, linewidth=1.1, zorder=3, **look)
    axes.set(xscale="log", xlim=(10**left, 10**last), ylim=(len(rows) - 0.5, -0.5))
    axes.set_yticks(range(len(rows)), [_spoken(name) for name in rows])
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y", visible=False)
    axes.spines[:].set_visible(False)


def _split_legend(figure: "Figure") -> None:
    from matplotlib.lines import Line2D

    looks = [(color, mark, color) for color, mark in _SPLITS.values()] + [(PAPER, "o", MUTED)]
    marks = [
        Line2D([], [], linestyle="", marker=m, color=c, markeredgecolor=edge, markersize=5) for c, m, edge in looks
    ]
    where = {"loc": "outside lower right", "ncols": 4, "handletextpad": 0.2, "columnspacing": 1.4}
    figure.legend(marks, [*_SPLITS, "none"], fontsize=8, **where)


def _spoken(name: str) -> str:
    return name.replace("_", " ").replace("dice", "Dice")
