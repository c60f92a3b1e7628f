"""How much of the outlines agrees: the normalised surface Dice.

With S the outline of a mask and B the band of pixels at most `tolerance` away from an outline:

    NSD = (|S_truth in B_prediction| + |S_prediction in B_truth|) / (|S_truth| + |S_prediction|)

Nikolov et al., J Med Internet Res 23 (2021), arXiv:1809.04430. There surfaces are measured in mm2;
here outline pixels are counted.
"""

from typing import Any

import cv2
import numpy as np

Array = np.ndarray[Any, Any]

TOLERANCE = 2.0
"""Pixels. About what two people who draw the same cell differ by."""

_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


def outline(mask_HW: Array) -> Array:
    """bool (H, W): mask pixels with a neighbour (of four) outside; outside the picture is outside."""
    padded = np.pad(mask_HW.astype(np.uint8), 1)
    return np.asarray((padded - cv2.erode(padded, _CROSS))[1:-1, 1:-1], bool)


def surface_dice(truth_HW: Array, prediction_HW: Array, tolerance: float = TOLERANCE) -> float:
    """Normalised surface Dice of two bool (H, W) masks, 0..1.

    NaN when both are empty, 0 when one is. `tolerance` in pixels, Euclidean, inclusive.
    """
    box = _bounding_box(truth_HW | prediction_HW)
    if box is None:
        return float("nan")
    lines = outline(truth_HW[box]), outline(prediction_HW[box])
    if not lines[0].any() or not lines[1].any():
        return 0.0
    agreeing = sum(
        int(np.count_nonzero(line & (_distance_to(other) <= tolerance))) for line, other in (lines, lines[::-1])
    )
    return agreeing / sum(int(np.count_nonzero(line)) for line in lines)


def surface_dice_per_class(
    truth_HW: Array, prediction_HW: Array, num_classes: int, tolerance: float = TOLERANCE
) -> Array:
    """float64 (C,) of integer (H, W) ids; NaN where a class is absent in both, and for the background."""
    scores_C = np.full(num_classes, np.nan)
    for label in range(1, num_classes):
        scores_C[label] = surface_dice(truth_HW == label, prediction_HW == label, tolerance)
    return scores_C


def _distance_to(line_HW: Array) -> Array:
    """Euclidean distance to the nearest pixel of the line, in pixels."""
    return np.asarray(cv2.distanceTransform((~line_HW).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE))


def _bounding_box(mask_HW: Array) -> tuple[slice, slice] | None:
    rows, columns = np.flatnonzero(mask_HW.any(1)), np.flatnonzero(mask_HW.any(0))
    if not len(rows):
        return None
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
