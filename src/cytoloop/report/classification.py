"""The page of a trained classifier: a single HTML file that needs nothing but itself."""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from markupsafe import Markup

from cytoloop.artifacts import Card
from cytoloop.images import heatmap
from cytoloop.report import charts
from cytoloop.report.page import told
from cytoloop.report.templates import templates
from cytoloop.scores.labels import Labelled

Array = np.ndarray[Any, Any]

OPACITY = 0.45
"""Of the heat map over the picture."""


@dataclass(frozen=True)
class Example:
    """A test picture with what the classifier looked at."""

    part: str
    """right or wrong."""
    picture: Labelled
    truth: str
    predicted: str
    shown: Mapping[str, str]
    """`picture`, `heat` and `over`, as `data:` addresses."""


@dataclass(frozen=True)
class Report:
    """What the page tells."""

    metrics: Mapping[str, Any]
    """metrics.json: nested, null for NaN."""
    examples: Sequence[Example]
    card: Card
    history: Mapping[str, Sequence[float]]
    """The columns of history.csv."""
    meta: Mapping[str, Any]
    """The bundle's own description."""
    confidence: float
    """Level of the intervals, 0..1."""


def choose(pictures: Sequence[Labelled], examples: int) -> dict[str, list[int]]:
    """Places of the pictures to show, at most twice `examples` of each: the surest wrong and right ones.

    The right ones are taken from each class in turn.
    """
    order = sorted(range(len(pictures)), key=lambda place: -pictures[place].probability)
    wrong = [place for place in order if not pictures[place].right]
    right = [place for place in order if pictures[place].right]
    turns: Counter[int] = Counter()
    turn = {}
    for place in right:
        turn[place] = turns[pictures[place].truth]
        turns[pictures[place].truth] += 1
    right.sort(key=lambda place: (turn[place], pictures[place].truth))
    return {"wrong": wrong[: 2 * examples], "right": right[: 2 * examples]}


def thumbnails(rgb_HW3: Array, map_HW: Array, cell_HW: Array | None) -> dict[str, str]:
    """The picture, its heat map, and both; with the cell's outline and a cross at the map's highest place."""
    over_HW3 = heatmap.outlined(heatmap.superimposed(rgb_HW3, map_HW, OPACITY), cell_HW)
    return {
        "picture": _address(rgb_HW3),
        "heat": _address(heatmap.heat(map_HW)),
        "over": _address(heatmap.pointed(over_HW3, map_HW)),
    }


def _address(rgb_HW3: Array) -> str:
    jpeg = cv2.imencode(".jpg", rgb_HW3[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
    return f"data:image/jpeg;base64,{base64.b64encode(bytes(jpeg)).decode()}"


def render(report: Report) -> str:
    """The page. Every name and text is escaped; the same report gives the same bytes."""
    names, confusion_CC = list(report.metrics["per_class"]), np.array(report.metrics["confusion"])
    side = 2.6 + 0.36 * len(names)
    rows, _ = charts.rows_of(len(charts.panels(report.history)))
    drawn = {
        "confusion": charts.svg(charts.confusion(confusion_CC, names), side, side, "Confusion matrix"),
        "curves": charts.svg(charts.curves(report.history), 11, 2.3 * rows, "Training curves"),
    }
    origin = dict(report.meta["provenance"])
    params = origin.pop("params", {})
    digests = {"test split": report.metrics["test_digest"], "model": report.metrics["model_digest"]}
    return (
        templates()
        .get_template("classification.html")
        .render(
            it=report,
            metrics=report.metrics,
            better=_better(report.metrics),
            cautions=cautions(report.metrics),
            charts={name: Markup(svg) for name, svg in drawn.items()},  # noqa: S704 (escaped by matplotlib)
            provenance=digests | told(origin),
            params=told(params),
        )
    )


def _better(metrics: Mapping[str, Any]) -> bool:
    """Whether the whole interval of the accuracy lies above the constant answer's."""
    low = metrics["intervals"]["accuracy"]["low"]
    return bool((metrics["accuracy"] if low is None else low) > metrics["constant_accuracy"])


def cautions(metrics: Mapping[str, Any]) -> list[str]:
    """What limits the figures, in sentences."""
    classes = metrics["per_class"]
    untested = [name for name, row in classes.items() if not row["pictures"]]
    untaught = [name for name, count in metrics["trained_on"].items() if not count]
    few = [name for name, row in classes.items() if 0 < row["pictures"] < 10]
    found = []
    if untested:
        found.append(f"No test picture, so that nothing is known about: {_list(untested)}.")
    if untaught:
        found.append(f"No training picture, so that it cannot be recognised: {_list(untaught)}.")
    if few:
        found.append(f"Fewer than 10 test pictures, so that the recall says little: {_list(few)}.")
    if metrics["groups"] < 10:
        found.append(f"With {metrics['groups']} group(s) in the test split, intervals are rough or missing.")
    return found


def _list(names: Sequence[str]) -> str:
    return ", ".join(name.replace("_", " ") for name in names)
