"""Dice and IoU per class from the counts of a confusion matrix.

With TP, FP and FN counted in pixels:

    Dice = 2 TP / (2 TP + FP + FN)     Dice, Ecology 26 (1945); the F1 score of the pixels
    IoU  = TP / (TP + FP + FN)         Jaccard, Bulletin de la Société Vaudoise 37 (1901)

Shape suffixes: N pictures, C classes with the background as class 0, H and W pixels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def confusion(truth_HW: Array, prediction_HW: Array, num_classes: int) -> Array:
    """Count the pixels of each pair (true class, predicted class).

    Args:
        truth_HW: integer (H, W) class ids, 0..num_classes - 1.
        prediction_HW: integer (H, W) class ids, 0..num_classes - 1.
        num_classes: with the background.

    Returns:
        int64 (C, C): row = true class, column = predicted class.

    Raises:
        ValueError: the shapes differ, or an id is not a class.

    >>> confusion(np.array([[0, 1]]), np.array([[1, 1]]), 2).tolist()
    [[0, 1], [0, 1]]
    """
    if truth_HW.shape != prediction_HW.shape:
        raise ValueError(f"truth is {truth_HW.shape}, prediction is {prediction_HW.shape}; they must be equal")
    for name, ids_HW in (("truth", truth_HW), ("prediction", prediction_HW)):
        if ids_HW.size and not 0 <= int(ids_HW.min()) <= int(ids_HW.max()) < num_classes:
            raise ValueError(f"{name} has ids {ids_HW.min()}..{ids_HW.max()}; allowed: 0..{num_classes - 1}")
    pairs_HW = truth_HW.astype(np.int32) * num_classes + prediction_HW
    return np.bincount(pairs_HW.ravel(), minlength=num_classes**2).reshape(num_classes, num_classes).astype(np.int64)


def true_positives(confusion_CC: Array) -> Array:
    """(..., C) pixels of each class that were predicted as it, of (..., C, C) counts."""
    return np.diagonal(confusion_CC, axis1=-2, axis2=-1)


def dice(confusion_CC: Array) -> Array:
    """Dice of each class, float64 (..., C) in 0..1, of (..., C, C) counts; NaN where absent in both.

    >>> dice(np.array([[5, 1, 0], [1, 3, 0], [0, 0, 0]])).round(3).tolist()
    [0.833, 0.75, nan]
    """
    sizes_C = confusion_CC.sum(-1) + confusion_CC.sum(-2)  # 2 TP + FP + FN
    return _ratio(2 * true_positives(confusion_CC), sizes_C)


def iou(confusion_CC: Array) -> Array:
    """IoU of each class, float64 (..., C) in 0..1, of (..., C, C) counts; NaN where absent in both."""
    hits_C = true_positives(confusion_CC)
    return _ratio(hits_C, confusion_CC.sum(-1) + confusion_CC.sum(-2) - hits_C)


def _ratio(part: Array, whole: Array) -> Array:
    return np.asarray(np.where(whole > 0, part / np.maximum(whole, 1), np.nan))


def mean_present(scores: Array, axis: int = -1) -> Array:
    """Mean along an axis of what is not NaN; NaN where nothing is left.

    >>> float(mean_present(np.array([0.5, np.nan, 1.0])))
    0.75
    """
    present = ~np.isnan(scores)
    return _ratio(np.where(present, scores, 0.0).sum(axis), present.sum(axis))


def image_mean(scores_NC: Array) -> Array:
    """(C,) mean of each class over the pictures in which it was scored."""
    return mean_present(scores_NC, axis=0)


def pictures_scored(scores_NC: Array) -> Array:
    """int64 (C,) pictures that have a score of each class: present in truth or prediction."""
    return np.asarray((~np.isnan(scores_NC)).sum(0))


def macro(scores_C: Array) -> Array:
    """Mean over the declared foreground classes of (..., C) scores; the background is excluded."""
    return mean_present(scores_C[..., 1:])


def worst_class(scores_C: Array, names: Sequence[str]) -> tuple[str | None, float]:
    """Name and score of the worst foreground class; (None, NaN) when none was scored."""
    scores = scores_C[1:]
    if np.isnan(scores).all():
        return None, float("nan")
    worst = int(np.nanargmin(scores))
    return names[worst + 1], float(scores[worst])


def merge_foreground(confusion_CC: Array) -> Array:
    """(..., 2, 2) counts of background against any foreground class, of (..., C, C) counts."""
    columns_C2 = np.stack([confusion_CC[..., 0], confusion_CC[..., 1:].sum(-1)], -1)
    return np.stack([columns_C2[..., 0, :], columns_C2[..., 1:, :].sum(-2)], -2)


def pixel_accuracy(confusion_CC: Array) -> float:
    """Correct fraction of all pixels, of (C, C) counts. Say it beside `background_accuracy` only."""
    return float(_ratio(np.trace(confusion_CC), confusion_CC.sum()))


def background_accuracy(confusion_CC: Array) -> float:
    """The pixel accuracy of an answer that says background everywhere."""
    return float(_ratio(confusion_CC[0].sum(), confusion_CC.sum()))
