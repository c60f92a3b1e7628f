"""All that is kept of the judged pictures: counts, never pixels; and the metrics that follow from them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cytoloop.scores import objects, pixels
from cytoloop.scores.baseline import otsu_foreground
from cytoloop.scores.bootstrap import GroupBootstrap
from cytoloop.scores.boundary import TOLERANCE, surface_dice_per_class
from cytoloop.scores.calibration import BINS, expected_calibration_error, reliability

Array = np.ndarray[Any, Any]

Interval = tuple[float, float]


@dataclass
class Tally:
    """The counts of N pictures; C classes, of which class 0 is the background."""

    names: tuple[str, ...]
    """Of the classes, in the order of their ids."""
    ids: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    matches: list[objects.Matches] = field(default_factory=list)
    """One for each picture whose truth has instances."""
    reliability_3M: Array = field(default_factory=lambda: np.zeros((3, BINS)))
    _confusion: list[Array] = field(default_factory=list)
    _otsu: list[Array] = field(default_factory=list)
    _surface: list[Array] = field(default_factory=list)

    def add(self, picture_id: str, group: str, pair: "Judged") -> None:
        """Count one picture."""
        classes = len(self.names)
        self.ids.append(picture_id)
        self.groups.append(group)
        self._confusion.append(pixels.confusion(pair.truth_HW, pair.prediction_HW, classes))
        self._surface.append(surface_dice_per_class(pair.truth_HW, pair.prediction_HW, classes))
        self._otsu.append(pixels.confusion(pair.truth_HW > 0, otsu_foreground(pair.rgb_HW3), 2))
        self.reliability_3M += reliability(pair.probability_HW, pair.truth_HW == pair.prediction_HW)
        if pair.instances_HW is not None:
            self.matches.append(objects.match(pair.instances_HW, objects.label_foreground(pair.prediction_HW)))

    @property
    def confusion_NCC(self) -> Array:
        """int64 (N, C, C): row = true class, column = predicted class."""
        return np.array(self._confusion, np.int64).reshape(-1, len(self.names), len(self.names))

    @property
    def foreground_N22(self) -> Array:
        """int64 (N, 2, 2): all foreground classes as one."""
        return pixels.merge_foreground(self.confusion_NCC)

    @property
    def otsu_N22(self) -> Array:
        """int64 (N, 2, 2): the same of the classical baseline."""
        return np.array(self._otsu, np.int64).reshape(-1, 2, 2)

    @property
    def surface_NC(self) -> Array:
        """float64 (N, C): normalised surface Dice."""
        return np.array(self._surface, float).reshape(-1, len(self.names))

    @property
    def picture_macro_N(self) -> Array:
        """float64 (N,): for each picture the mean Dice of the foreground classes that it was scored on."""
        return pixels.macro(pixels.dice(self.confusion_NCC))

    @property
    def picture_foreground_N(self) -> Array:
        """float64 (N,): for each picture the Dice of all foreground as one."""
        return pixels.dice(self.foreground_N22)[:, 1]


@dataclass(frozen=True)
class Judged:
    """A picture with its truth and what the model says of it."""

    rgb_HW3: Array
    """uint8."""
    truth_HW: Array
    """uint8 class ids."""
    prediction_HW: Array
    """uint8 class ids."""
    probability_HW: Array
    """float32, 0..1: of the predicted class."""
    instances_HW: Array | None = None
    """Integer labels of the true objects, 0 = none; null where the source has none."""


def metrics(tally: Tally, bootstrap: GroupBootstrap) -> dict[str, Any]:
    """All metrics by name, nested, as plain numbers; NaN where there was nothing to score."""
    total_CC = tally.confusion_NCC.sum(0)
    dice_NC = pixels.dice(tally.confusion_NCC)
    worst_name, worst_dice = pixels.worst_class(pixels.image_mean(dice_NC), tally.names)
    return {
        "macro_dice": float(pixels.macro(pixels.image_mean(dice_NC))),
        "macro_dice_pooled": float(pixels.macro(pixels.dice(total_CC))),
        "macro_iou": float(pixels.macro(pixels.image_mean(pixels.iou(tally.confusion_NCC)))),
        "worst_class": {"name": worst_name, "dice": worst_dice},
        "foreground_dice": float(pixels.mean_present(tally.picture_foreground_N)),
        "foreground_dice_pooled": float(pixels.dice(tally.foreground_N22.sum(0))[1]),
        "otsu_foreground_dice": float(pixels.image_mean(pixels.dice(tally.otsu_N22))[1]),
        "pixel_accuracy": pixels.pixel_accuracy(total_CC),
        "background_accuracy": pixels.background_accuracy(total_CC),
        "boundary_nsd": float(pixels.macro(pixels.image_mean(tally.surface_NC))),
        "boundary_tolerance_pixels": TOLERANCE,
        "ece": expected_calibration_error(tally.reliability_3M),
        "pictures": len(tally.ids),
        "groups": bootstrap.groups,
        "per_class": _per_class(tally),
        "intervals": _intervals(tally, bootstrap),
        **({"objects": _objects(tally.matches)} if tally.matches else {}),
    }


def _per_class(tally: Tally) -> dict[str, Any]:
    confusion_NCC, total_CC = tally.confusion_NCC, tally.confusion_NCC.sum(0)
    dice_NC = pixels.dice(confusion_NCC)
    columns = {
        "dice_image_mean": pixels.image_mean(dice_NC),
        "dice_pooled": pixels.dice(total_CC),
        "iou_image_mean": pixels.image_mean(pixels.iou(confusion_NCC)),
        "iou_pooled": pixels.iou(total_CC),
        "nsd_image_mean": pixels.image_mean(tally.surface_NC),
    }
    pictures_C = pixels.pictures_scored(dice_NC)
    return {
        name: {key: float(scores_C[label]) for key, scores_C in columns.items()} | {"pictures": int(pictures_C[label])}
        for label, name in enumerate(tally.names)
        if label > 0
    }


def _intervals(tally: Tally, bootstrap: GroupBootstrap) -> dict[str, Any]:
    means_SC = bootstrap.image_means(pixels.dice(tally.confusion_NCC))
    foreground_SC = bootstrap.image_means(pixels.dice(tally.foreground_N22))
    pooled_SC = pixels.dice(bootstrap.sums(tally.confusion_NCC))
    values = {
        "macro_dice": pixels.macro(means_SC),
        "macro_dice_pooled": pixels.macro(pooled_SC),
        "foreground_dice": foreground_SC[:, 1],
    }
    per_class = {name: means_SC[:, label] for label, name in enumerate(tally.names) if label > 0}
    return {name: _low_high(bootstrap.interval(values_S)) for name, values_S in values.items()} | {
        "per_class": {name: _low_high(bootstrap.interval(values_S)) for name, values_S in per_class.items()}
    }


def _low_high(interval: Interval) -> dict[str, float]:
    return {"low": interval[0], "high": interval[1]}


def _objects(pictures: Sequence[objects.Matches]) -> dict[str, float]:
    """Objects of all pictures pooled; and the mean over pictures of the mean AP, the score of DSB2018."""
    pooled = objects.pool(pictures)
    by_picture = np.array([[objects.average_precision(p, t) for t in objects.THRESHOLDS] for p in pictures])
    return {
        "truths": pooled.truths,
        "predictions": pooled.predictions,
        **{f"ap_{round(100 * t)}": objects.average_precision(pooled, t) for t in objects.THRESHOLDS},
        "ap_mean_image_mean": float(pixels.mean_present(by_picture.mean(1))),
        "f1_50": objects.f1(pooled),
        "panoptic_quality": objects.panoptic_quality(pooled),
        "count_error": objects.count_error(pictures),
    }


def plain(value: Any, digits: int = 6) -> Any:
    """The same nested value fit for JSON: rounded, and null for NaN.

    >>> plain({"a": float("nan"), "b": [0.12345678]})
    {'a': None, 'b': [0.123457]}
    """
    if isinstance(value, dict):
        return {key: plain(inner, digits) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, digits) for inner in value]
    if isinstance(value, float):
        return round(value, digits) if math.isfinite(value) else None
    return value
