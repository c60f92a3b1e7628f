"""Scores of whole objects, where the truth knows which pixel belongs to which.

An object is found at an IoU threshold t when a predicted object overlaps it with IoU >= t, each used
once. With TP found objects, FP predictions and FN truths left over:

    AP(t) = TP / (TP + FP + FN)                         as in DSB2018 and StarDist; not COCO's
    F1(t) = 2 TP / (2 TP + FP + FN)
    PQ    = sum of IoU over the TP / (TP + FP/2 + FN/2)   Kirillov et al., CVPR 2019, at t = 0.5
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

Array = np.ndarray[Any, Any]

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""0.50, 0.55, ... 0.95."""


@dataclass(frozen=True)
class Matches:
    """The objects of one picture, or of many added together."""

    iou_K: Array
    """float64 (K,): IoU of each matched pair, 0.5..1."""
    truths: int
    predictions: int

    def found(self, threshold: float) -> int:
        """TP at a threshold of 0.5 or more."""
        return int(np.count_nonzero(self.iou_K >= threshold))


def label_foreground(ids_HW: Array) -> Array:
    """int32 (H, W): the 4-connected components of what is not background, numbered from 1."""
    return np.asarray(cv2.connectedComponents((ids_HW > 0).astype(np.uint8), connectivity=4)[1])


def match(truth_HW: Array, prediction_HW: Array) -> Matches:
    """Pair the objects of two integer (H, W) label pictures, 0 = none.

    How it works: two disjoint predictions cannot both cover more than half of an object, so a pair
    with IoU > 0.5 has no rival and needs no optimisation. Only exact halves (IoU = 0.5) can tie; the
    first one is taken. Pairs below 0.5 are never asked for.
    """
    truths, truth_index, truth_sizes = _labels(truth_HW)
    predictions, prediction_index, prediction_sizes = _labels(prediction_HW)
    pairs, overlap_P = np.unique(truth_index * len(predictions) + prediction_index, return_counts=True)
    rows_P, columns_P = np.divmod(pairs, len(predictions))
    iou_P = overlap_P / (truth_sizes[rows_P] + prediction_sizes[columns_P] - overlap_P)
    kept = (truths[rows_P] > 0) & (predictions[columns_P] > 0) & (iou_P >= THRESHOLDS[0])
    iou_K = _without_rivals(rows_P[kept], columns_P[kept], iou_P[kept])
    return Matches(iou_K, int((truths > 0).sum()), int((predictions > 0).sum()))


def _labels(labels_HW: Array) -> tuple[Array, Array, Array]:
    """The labels, the place of each pixel's label among them, and their sizes in pixels."""
    labels, index, sizes = np.unique(labels_HW, return_inverse=True, return_counts=True)
    return labels, index.ravel().astype(np.int64), sizes


def _without_rivals(rows_P: Array, columns_P: Array, iou_P: Array) -> Array:
    _, first = np.unique(rows_P, return_index=True)
    columns_P, iou_P = columns_P[first], iou_P[first]
    _, first = np.unique(columns_P, return_index=True)
    return np.asarray(iou_P[first])


def pool(pictures: Sequence[Matches]) -> Matches:
    """The objects of all pictures together."""
    return Matches(
        np.concatenate([p.iou_K for p in pictures]) if pictures else np.zeros(0),
        sum(p.truths for p in pictures),
        sum(p.predictions for p in pictures),
    )


def average_precision(matches: Matches, threshold: float = 0.5) -> float:
    """AP(t), 0..1; NaN when there is neither a truth nor a prediction."""
    found = matches.found(threshold)
    return _ratio(found, matches.truths + matches.predictions - found)


def f1(matches: Matches, threshold: float = 0.5) -> float:
    """F1(t), 0..1; NaN when there is neither a truth nor a prediction."""
    return _ratio(2 * matches.found(threshold), matches.truths + matches.predictions)


def panoptic_quality(matches: Matches) -> float:
    """PQ, 0..1; NaN when there is neither a truth nor a prediction."""
    return _ratio(2 * float(matches.iou_K.sum()), matches.truths + matches.predictions)


def count_error(pictures: Sequence[Matches]) -> float:
    """Mean over pictures of the absolute difference of the numbers of objects; NaN without pictures."""
    return _ratio(sum(abs(p.predictions - p.truths) for p in pictures), len(pictures))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
