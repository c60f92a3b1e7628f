"""The report of one evaluation: a single HTML file that needs nothing but itself."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from markupsafe import Markup

from cytoloop.artifacts import Card, flat
from cytoloop.params import Loss
from cytoloop.report import charts
from cytoloop.report.contact import ERRORS, Example, Sample
from cytoloop.report.templates import templates
from cytoloop.scores import objects
from cytoloop.scores.tally import Tally


@dataclass(frozen=True)
class Evaluation:
    """What the report tells."""

    metrics: Mapping[str, Any]
    """metrics.json: nested, null for NaN."""
    tally: Tally
    examples: Sequence[Example]
    samples: Sequence[Sample]
    card: Card
    census: Mapping[str, Any]
    """splits.json."""
    history: Mapping[str, Sequence[float]]
    """The columns of history.csv; empty when there is none."""
    meta: Mapping[str, Any]
    """The bundle's own description."""
    validation: str
    """An HTML fragment, already escaped."""


@dataclass(frozen=True)
class Verdict:
    """The evaluation in a few words."""

    good: bool
    title: str
    cautions: tuple[str, ...]


def render(evaluation: Evaluation) -> str:
    """The page. Every name and text is escaped; the same evaluation gives the same bytes."""
    template = templates().get_template("report.html")
    return template.render(
        it=evaluation,
        metrics=evaluation.metrics,
        losses=get_args(Loss),
        verdict=verdict(evaluation),
        charts=_charts(evaluation),
        errors=ERRORS,
        classes=evaluation.card.codec.classes,
        validation=Markup(evaluation.validation),  # noqa: S704 (escaped where it was rendered)
        **_provenance(evaluation),
    )


def _provenance(evaluation: Evaluation) -> dict[str, dict[str, str]]:
    """`network`, `provenance` and `params`: what the page says of the model, as flat lines."""
    meta = evaluation.meta
    origin = dict(meta.get("provenance", {}))
    params = origin.pop("params", {})
    digests = {
        "data tested on": evaluation.card.digest,
        "test split": evaluation.metrics["test_digest"],
        "model": evaluation.metrics["model_digest"],
    }
    numbers = {"parameters": f"{meta['parameters']:,}"} if "parameters" in meta else {}
    chosen = {name: f"{meta[name]:g}" for name in ("threshold", "min_object") if name in meta}
    return {
        "network": told(meta.get("model", {})) | numbers | chosen,
        "provenance": digests | told(origin),
        "params": told(params),
    }


def verdict(evaluation: Evaluation) -> Verdict:
    """Whether the model beats the trivial answers, and what limits the figures."""
    metrics = evaluation.metrics
    cautions = tuple(_cautions(evaluation))
    if metrics["macro_dice"] is None:
        return Verdict(False, "No score: neither the truth nor the model's answers have any foreground.", cautions)
    if metrics["macro_dice"] == 0:
        return Verdict(False, "The model found nothing of what there is.", cautions)
    if (metrics["foreground_dice"] or 0) <= (metrics["otsu_foreground_dice"] or 0):
        return Verdict(False, "Not better than a simple threshold.", cautions)
    if metrics["pixel_accuracy"] <= metrics["background_accuracy"]:
        return Verdict(False, "No more correct pixels than an answer that says background everywhere.", cautions)
    return Verdict(True, "Better than the trivial answers.", cautions)


def _cautions(evaluation: Evaluation) -> list[str]:
    metrics, tally = evaluation.metrics, evaluation.tally
    true_pixels_C = tally.confusion_NCC.sum((0, 2))
    absent = [name for name, count in zip(tally.names[1:], true_pixels_C[1:], strict=True) if not count]
    trained_on = evaluation.meta.get("provenance", {}).get("digests", {}).get("raw")
    found = []
    if metrics["macro_dice"] is None:
        found.append("There is nothing to judge the model by. Do not use it; look at the data and the split first.")
    elif metrics["groups"] < 2:
        found.append("All test pictures are of one group, so there are no intervals.")
    elif metrics["groups"] < 10:
        found.append(f"With {metrics['groups']} groups in the test split the intervals are rough.")
    if absent:
        found.append(f"No true pixel in the test split, so that nothing is known about: {', '.join(absent)}.")
    if trained_on not in (None, evaluation.card.digest):
        found.append("The model was trained on another version of the data than it is tested on.")
    return found


def _charts(evaluation: Evaluation) -> dict[str, Markup]:
    tally, names = evaluation.tally, evaluation.tally.names
    side = 2.6 + 0.36 * len(names)
    drawn = {
        "confusion": charts.svg(charts.confusion(tally.confusion_NCC.sum(0), names), side, side, "Confusion matrix"),
        "reliability": charts.svg(charts.reliability(tally.reliability_3M), 4.2, 4.2, "Reliability diagram"),
        "spread": charts.svg(
            charts.spread(tally.picture_macro_N, "mean Dice of a picture's classes"), 11, 2.1, "Scores of the pictures"
        ),
        "statistics": charts.svg(
            charts.statistics(evaluation.census, names), *charts.statistics_size(names), "Dataset statistics"
        ),
    }
    if evaluation.history:
        rows, _ = charts.rows_of(len(charts.panels(evaluation.history)))
        drawn["curves"] = charts.svg(charts.curves(evaluation.history), 11, 2.3 * rows, "Training curves")
    if tally.matches:
        pooled = objects.pool(tally.matches)
        precision = {t: objects.average_precision(pooled, t) for t in objects.THRESHOLDS}
        drawn["objects"] = charts.svg(charts.object_precision(precision), 5, 3.2, "Objects found at each IoU")
    return {name: Markup(svg) for name, svg in drawn.items()}  # noqa: S704 (our own drawing, escaped by matplotlib)


def told(tree: Mapping[str, Any]) -> dict[str, str]:
    """A nested mapping as dotted keys and readable values, in the order of the keys.

    >>> told({"b": {"c": [1, 2]}, "a": None})
    {'a': 'null', 'b.c': '[1, 2]'}
    """
    leaves = sorted(flat(tree).items())
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in leaves}
