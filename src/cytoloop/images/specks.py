"""Specks: connected regions too small to be a cell."""

from typing import Any

import cv2
import numpy as np

Array = np.ndarray[Any, Any]

PASSES = 3
"""A region that grows by a neighbour's speck may still be a speck itself."""


def without_specks(ids_HW: Array, probability_HWC: Array, min_pixels: float) -> Array:
    """Class ids in which specks of foreground have taken the next likeliest class.

    Args:
        ids_HW: uint8 (H, W) class ids.
        probability_HWC: float32 (H, W, C) of the classes, or (H, W, 1) of the foreground.
        min_pixels: regions (8-connected, of one class) with fewer pixels are specks; 0 keeps all.

    Returns:
        uint8 (H, W).
    """
    for _ in range(PASSES):
        speck_HW = _specks(ids_HW, min_pixels)
        if not speck_HW.any():
            break
        others_XC = probability_HWC[speck_HW].copy()
        own_X = ids_HW[speck_HW]
        ids_HW = ids_HW.copy()
        if others_XC.shape[-1] == 1:
            ids_HW[speck_HW] = 0
        else:
            others_XC[np.arange(len(own_X)), own_X] = -1
            ids_HW[speck_HW] = others_XC.argmax(-1)
    return ids_HW


def _specks(ids_HW: Array, min_pixels: float) -> Array:
    """bool (H, W): pixels of foreground regions that are too small."""
    speck_HW = np.zeros(ids_HW.shape, bool)
    for class_id in np.unique(ids_HW[ids_HW > 0]):
        _, regions_HW, facts, _ = cv2.connectedComponentsWithStats((ids_HW == class_id).astype(np.uint8))
        small = facts[:, cv2.CC_STAT_AREA] < min_pixels
        small[0] = False  # the first region is all that is not of the class
        speck_HW |= small[regions_HW]
    return speck_HW
