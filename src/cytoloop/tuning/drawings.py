"""The charts of a search, in the style of the report's: as inline SVG for the page, and as PNG."""

import math
from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from cytoloop.report.charts import ACCENT, INK, MUTED, PAPER, SECOND, Draw
from cytoloop.tuning.importance import Importance
from cytoloop.tuning.trials import (
    COMPLETE,
    FAILED,
    PRUNED,
    SKIPPED,
    Dimension,
    Trial,
    best_trial,
    pareto_front,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DICE_AXIS = "val macro Dice"
_MARKS: dict[str, dict[str, Any]] = {
    COMPLETE: {"marker": "o", "color": ACCENT, "edgecolor": PAPER},
    PRUNED: {"marker": "o", "color": PAPER, "edgecolor": MUTED},
    SKIPPED: {"marker": "x", "color": MUTED},
    FAILED: {"marker": "+", "color": SECOND},
}


def spoken(names: Sequence[str]) -> dict[str, str]:
    """Dotted keys as people say them; the sections model and train go without saying, where that is no other's name.

    >>> spoken(["augment.strength", "train.learning_rate"])
    {'augment.strength': 'augment strength', 'train.learning_rate': 'learning rate'}
    """
    short = [name.removeprefix("model.").removeprefix("train.") for name in names]
    told = [word if short.count(word) == 1 else name for name, word in zip(names, short, strict=True)]
    return {name: word.replace(".", " ").replace("_", " ") for name, word in zip(names, told, strict=True)}


def history(trials: Sequence[Trial]) -> Draw:
    """Each trial's Dice in the order of the trials, and the best so far; those without a score below the line."""

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        for state in _MARKS:
            _mark(axes, [trial for trial in trials if trial.state == state], state)
        _best_so_far(axes, trials)
        _crown(axes, trials)
        _count_axis(axes, max(trial.number for trial in trials))
        axes.set(xlabel="trial", ylabel=DICE_AXIS)
        axes.margins(y=0.12)
        figure.legend(loc="outside upper right", ncols=5, fontsize=8, handletextpad=0.3, columnspacing=1.4)

    return draw


def _mark(axes: "Axes", trials: Sequence[Trial], state: str) -> None:
    """Trials of one state; those without a score on the floor of the chart, wherever its scale begins."""
    look: dict[str, Any] = {"s": 30, "linewidth": 1.1, "zorder": 3, **_MARKS[state]}
    if trials:
        axes.scatter([], [], label=state, **look)
    floor = axes.get_xaxis_transform()
    for trial in trials:
        if trial.dice is None:
            axes.scatter(trial.number, 0.03, transform=floor, **look)
        else:
            axes.scatter(trial.number, trial.dice, **look)


def _best_so_far(axes: "Axes", trials: Sequence[Trial]) -> None:
    complete = [trial for trial in trials if trial.values]
    if not complete:
        return
    best = np.maximum.accumulate([trial.values[0] for trial in complete])
    steps, last = [trial.number for trial in complete], max(trial.number for trial in trials)
    axes.step([*steps, last], [*best, best[-1]], where="post", color=SECOND, linewidth=1.6, label="best so far")


def _crown(axes: "Axes", trials: Sequence[Trial]) -> None:
    best = best_trial(trials)
    if best is not None:
        axes.scatter(best.number, best.values[0], s=46, color=SECOND, edgecolor=PAPER, linewidth=1.1, zorder=4)


def _count_axis(axes: "Axes", last: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(-0.6 - 0.01 * last, last + 0.6 + 0.01 * last)
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True, min_n_ticks=1))


def importance(found: Sequence[Importance]) -> Draw:
    """The share of each setting, with the interval in which it lies when trials are drawn anew."""
    names = spoken([one.name for one in found])

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        places = range(len(found))
        axes.barh(places, [one.share for one in found], height=0.5, color=ACCENT)
        for place, one in zip(places, found, strict=True):
            axes.plot([one.low, one.high], [place, place], color=INK, linewidth=1.2, marker="|", markersize=6)
            right = max(one.high, one.share) + 0.012
            axes.text(right, place, f"{100 * one.share:.0f} %", va="center_baseline", color=MUTED, fontsize=8)
        axes.set_yticks(places, [_cut(names[one.name]) for one in found])
        top = max(max(one.high, one.share) for one in found)
        axes.set(xlim=(0, 1.12 * top), ylim=(len(found) - 0.4, -0.6))
        axes.xaxis.set_visible(False)
        axes.spines[:].set_visible(False)
        axes.grid(False)

    return draw


def importance_height(found: Sequence[Importance]) -> float:
    """Inches that `importance` needs."""
    return 0.5 + 0.36 * len(found)


def _cut(text: str, letters: int = 34) -> str:
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def parallel(trials: Sequence[Trial], space: Sequence[Dimension]) -> Draw:
    """A line a trial through its settings to its Dice: the better, the stronger; the best in another colour."""
    shown = sorted((t for t in trials if t.dice is not None), key=lambda t: (t.state == COMPLETE, t.dice, -t.number))
    low, high = _ends([trial.dice for trial in shown if trial.dice is not None])
    best = best_trial(trials)

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        for rank, trial in enumerate(shown, 1):
            places = [_spread(dimension, trial, best) for dimension in space]
            dice = ((trial.dice or 0) - low) / (high - low)
            look = _line_look(trial, best, rank / len(shown))
            axes.plot(range(len(space) + 1), [*places, dice], solid_joinstyle="round", **look)
        for place, dimension in enumerate(space):
            _axis(axes, place, _ticks(dimension))
        _axis(axes, len(space), [(f"{low + part * (high - low):.3f}", part) for part in (0, 0.25, 0.5, 0.75, 1)])
        names = spoken([dimension.name for dimension in space])
        axes.set_xticks(range(len(space) + 1), [*(_folded(names[d.name]) for d in space), _folded(DICE_AXIS)])
        axes.tick_params(axis="x", labelcolor=INK, pad=6)
        axes.set(xlim=(-0.45, len(space) + 0.25), ylim=(-0.06, 1.06))
        axes.yaxis.set_visible(False)
        axes.spines[:].set_visible(False)
        axes.grid(False)

    return draw


def parallel_width(space: Sequence[Dimension]) -> float:
    """Inches that `parallel` needs."""
    return max(11.0, 1.1 * (len(space) + 1))


def _ends(scores: Sequence[float]) -> tuple[float, float]:
    low, high = min(scores), max(scores)
    return (low, high) if high - low > 1e-9 else (low - 0.01, high + 0.01)


def _spread(dimension: Dimension, trial: Trial, best: Trial | None) -> float:
    """Where the trial's line crosses; lines through the same choice lie beside each other, the best one's on it."""
    if dimension.name not in trial.params:
        return math.nan
    beside = 0.05 * ((trial.number * 0.618034) % 1 - 0.5) if dimension.choices and trial is not best else 0
    return dimension.place(trial.params[dimension.name]) + beside


def _line_look(trial: Trial, best: Trial | None, rank: float) -> dict[str, Any]:
    if trial is best:
        return {"color": SECOND, "linewidth": 2.4, "zorder": 4}
    if trial.state == COMPLETE:
        return {"color": ACCENT, "linewidth": 1.3, "alpha": 0.12 + 0.78 * rank**2, "zorder": 3}
    return {"color": MUTED, "linewidth": 0.9, "alpha": 0.6, "linestyle": (0, (4, 3)), "zorder": 2}


def _axis(axes: "Axes", place: int, ticks: Sequence[tuple[str, float]]) -> None:
    axes.plot([place, place], [0, 1], color=MUTED, linewidth=0.8, zorder=1)
    words: dict[str, Any] = {"color": MUTED, "fontsize": 8, "ha": "right", "va": "center_baseline", "zorder": 6}
    behind = {"facecolor": PAPER, "alpha": 0.8, "linewidth": 0, "pad": 1}
    for text, height in ticks:
        axes.text(place - 0.06, height, text, bbox=behind, **words)


def _ticks(dimension: Dimension) -> list[tuple[str, float]]:
    """What stands at an axis: the choices, or the ends of a range and what lies between them."""
    if dimension.choices:
        return [(_cut(str(choice), 14), dimension.place(choice)) for choice in dimension.choices]
    low, high = dimension.low, dimension.high
    middle = math.sqrt(low * high) if dimension.log else (low + high) / 2
    values = (low,) if low == high else (low, middle, high)
    return [(f"{value:.3g}", dimension.place(value)) for value in values]


def _folded(name: str, letters: int = 14, most: int = 3) -> str:
    """In so many lines of so many letters, broken between words."""
    lines = wrap(name, letters, break_long_words=True, max_lines=most, placeholder="…")
    return "\n".join(lines)


def pareto(trials: Sequence[Trial]) -> Draw:
    """Dice against latency: the front as a step line with the numbers of its trials, and all others."""
    front, best = pareto_front(trials), best_trial(trials)
    beaten = [trial for trial in trials if len(trial.values) > 1 and trial not in front]

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        axes.scatter([t.values[1] for t in beaten], [t.values[0] for t in beaten], s=22, color=MUTED, alpha=0.55, lw=0)
        latencies, scores = [t.values[1] for t in front], [t.values[0] for t in front]
        axes.step(latencies, scores, where="post", color=ACCENT, linewidth=1.4, zorder=2)
        for trial in front:
            color = SECOND if trial is best else ACCENT
            axes.scatter(trial.values[1], trial.values[0], s=38, color=color, edgecolor=PAPER, zorder=3)
        _numbers(axes, front)
        axes.set(xlabel="latency, ms a picture", ylabel=DICE_AXIS)
        axes.margins(0.08, 0.14)

    return draw


def _numbers(axes: "Axes", front: Sequence[Trial]) -> None:
    """The trials' numbers at their points, but for those that would lie on each other."""
    span = [np.ptp([trial.values[of] for trial in front]) or 1 for of in (1, 0)]
    told: list[tuple[float, float]] = []
    for trial in reversed(front):
        here = (trial.values[1] / span[0], trial.values[0] / span[1])
        if all(abs(here[0] - x) > 0.03 or abs(here[1] - y) > 0.08 for x, y in told):
            axes.annotate(
                str(trial.number), (trial.values[1], trial.values[0]), (-4, 5), textcoords="offset points",
                ha="right", fontsize=8, color=INK,
            )  # fmt: skip
            told.append(here)
