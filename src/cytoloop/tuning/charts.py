"""The page and the pictures of a search: `search.html`, which needs nothing but itself, and its charts as PNG."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from cytoloop.artifacts import SEARCH_PAGE
from cytoloop.report import charts
from cytoloop.report.templates import templates
from cytoloop.tuning import drawings
from cytoloop.tuning.importance import NEEDED, Importance, importances
from cytoloop.tuning.trials import (
    DICE,
    LATENCY,
    STATES,
    Dimension,
    Trial,
    best_trial,
    pareto_front,
    read_space,
    read_trials,
)

AT_ONCE = 15
"""Trials whose table is open from the beginning."""
BORDER = 0.03
"""Share of a range that counts as its end."""


@dataclass(frozen=True)
class Chart:
    """A chart of the page, and the PNG of that name."""

    name: str
    draw: charts.Draw
    width: float
    """Inches."""
    height: float
    label: str
    """What it shows, for those who cannot see it."""


@dataclass(frozen=True)
class Search:
    """What the page tells."""

    trials: Sequence[Trial]
    space: Sequence[Dimension]
    found: Sequence[Importance]
    """For Dice; empty where trials are too few."""
    for_latency: Sequence[Importance]
    """Likewise for the second objective."""
    objectives: Sequence[str]

    @property
    def complete(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.values]

    @property
    def best(self) -> Trial | None:
        return best_trial(self.trials)

    @property
    def first(self) -> Trial | None:
        """The settings as they were before the search."""
        return next((trial for trial in self.trials if trial.number == 0), None)

    @property
    def front(self) -> list[Trial]:
        return pareto_front(self.trials) if LATENCY in self.objectives else []

    @property
    def counts(self) -> dict[str, int]:
        """Trials of each state."""
        return {state: sum(trial.state == state for trial in self.trials) for state in STATES}


def write_charts(study: Any, folder: Path, objectives: Sequence[str] = (DICE,)) -> None:
    """Write `search.html`, and each chart that there is enough to draw of as PNG.

    The same study gives the same bytes.

    Args:
        study: of Optuna, over; None where no search was asked for.
        folder: takes search.html, history.png, parallel.png, importance.png and, of two objectives, pareto.png.
        objectives: `val_macro_dice`, and `latency_ms` where that is the second.
    """
    two = LATENCY in objectives
    found, for_latency = importances(study), importances(study, 1) if two else []
    search = Search(read_trials(study), read_space(study), found, for_latency, objectives)
    drawn = list(_charts(search))
    for chart in drawn:
        (folder / f"{chart.name}.png").write_bytes(charts.png(chart.draw, chart.width, chart.height))
    (folder / SEARCH_PAGE).write_text(_page(search, drawn), "utf-8")


def _charts(search: Search) -> Iterator[Chart]:
    """Those that there is enough to draw of."""
    if search.trials:
        yield Chart("history", drawings.history(search.trials), 11, 3.4, "Dice of each trial, and the best so far")
    if search.front:
        yield Chart("pareto", drawings.pareto(search.trials), 11, 3.8, "Dice against latency")
    if search.found:
        height = drawings.importance_height(search.found)
        yield Chart("importance", drawings.importance(search.found), 8, height, "What mattered for Dice")
    if search.for_latency:
        height = drawings.importance_height(search.for_latency)
        yield Chart("importance_latency", drawings.importance(search.for_latency), 8, height, "... for latency")
    if sum(trial.dice is not None for trial in search.trials) > 1:
        draw, width = drawings.parallel(search.trials, search.space), drawings.parallel_width(search.space)
        yield Chart("parallel", draw, width, 4.4, "A line a trial through its settings to its Dice")


def _page(search: Search, drawn: Sequence[Chart]) -> str:
    svgs = {c.name: Markup(charts.svg(c.draw, c.width, c.height, c.label)) for c in drawn}  # noqa: S704 (our drawing)
    return (
        _templates()
        .get_template("search.html")
        .render(
            it=search,
            charts=svgs,
            title=title(search),
            cautions=cautions(search),
            settings=_settings(search),
            names=drawings.spoken([dimension.name for dimension in search.space]),
            states=STATES,
            open=len(search.trials) <= AT_ONCE,
            needed=NEEDED,
            different=sum(trial.copy_of is None for trial in search.complete),
            left_out=_left_out(search),
        )
    )


def title(search: Search) -> str:
    """The outcome in a sentence."""
    best, first = search.best, search.first
    if not search.trials:
        return "No search was made: the settings stay as they are."
    if best is None:
        return "No trial was trained to its end: the settings stay as they are."
    if first is None or not first.values:
        return "The settings as they were could not be trained to the end within the search."
    if len(search.trials) == 1:
        return "Nothing but the settings as they were was tried."
    if best is first:
        return "No trial was better than the settings as they were."
    return f"Better by {best.values[0] - first.values[0]:.4f} than the settings as they were."


def cautions(search: Search) -> list[str]:
    """What limits the outcome, in sentences."""
    count = len(search.complete)
    found = []
    if 1 < count < NEEDED:
        found.append(f"With {count} complete trials, much of this is chance.")
    if count > 1:
        found.append(
            f"The best of {count} scores on val is better than it will be on new pictures, and it was reached in a "
            "short training: the test split judges the model that is trained with these settings."
        )
    names = drawings.spoken([dimension.name for dimension in search.space])
    for dimension, end in _at_the_end(search):
        found.append(f"The best {names[dimension.name]} is the {end} that was allowed; beyond it may lie a better one.")
    if search.trials and not search.complete:
        found.append("Look at the reasons below: the limits may leave nothing to try.")
    return found


def _at_the_end(search: Search) -> Iterator[tuple[Dimension, str]]:
    """Settings whose best value is the lowest or highest of a range, or of three numbers or more."""
    if search.best is None or len(search.complete) < NEEDED:
        return
    for dimension in search.space:
        numbers = [choice for choice in dimension.choices if isinstance(choice, int | float)]
        ordered = len(numbers) == len(dimension.choices) > 2 and numbers == sorted(numbers)
        if dimension.name in search.best.params and (ordered or dimension.high > dimension.low):
            place = dimension.place(search.best.params[dimension.name])
            if place < BORDER or place > 1 - BORDER:
                yield dimension, "lowest" if place < BORDER else "highest"


def _left_out(search: Search) -> list[str]:
    """Settings of which no importance is told."""
    told = {one.name for one in search.found}
    names = drawings.spoken([dimension.name for dimension in search.space])
    return [names[dimension.name] for dimension in search.space if dimension.name not in told]


def _settings(search: Search) -> list[dict[str, str]]:
    """A line a setting: its key, what it was, what was best, and what was allowed."""
    first, best = search.first, search.best
    return [
        {
            "key": dimension.name,
            "was": _short(first.params.get(dimension.name)) if first else "–",
            "best": _short(best.params.get(dimension.name)) if best else "–",
            "allowed": _allowed(dimension),
        }
        for dimension in search.space
    ]


def _allowed(dimension: Dimension) -> str:
    if dimension.choices:
        return ", ".join(_short(choice) for choice in dimension.choices)
    return f"{dimension.low:g} to {dimension.high:g}{', on a log scale' if dimension.log else ''}"


def _short(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@cache
def _templates() -> Environment:
    environment = templates().overlay()
    environment.filters = {
        **environment.filters,
        "score": lambda value, digits=4: "–" if value is None else f"{value:.{digits}f}",
        "short": _short,
    }
    return environment
