"""The mask of a cell that is alone in its picture, by a threshold."""

from typing import Any

import cv2
import numpy as np

Array = np.ndarray[Any, Any]

SEEN = 10.0  # least distance in colour between cell and background, grey levels


def cell_mask(rgb_HW3: Array) -> Array:
    """The cell of a picture that shows one; uint8 (H, W), 1 where it is, all 0 where nothing stands out.

    How it works: the channel is the distance of a pixel's colour from the picture's border (its
    median), so that cells may be dark on light plasma or cut out on black. Its square root is
    thresholded (Otsu, IEEE Trans. SMC 9, 1979): without the root a white cell's nucleus is so far
    from everything that the threshold falls between nucleus and cytoplasm. Holes are filled (a red
    cell's pale middle), and the largest component is kept.

    Args:
        rgb_HW3: uint8 (H, W, 3).
    """
    calm_HW3 = cv2.medianBlur(rgb_HW3, 3).astype(np.float32)
    border_X3 = np.concatenate([calm_HW3[0], calm_HW3[-1], calm_HW3[:, 0], calm_HW3[:, -1]])
    distance_HW = np.linalg.norm(calm_HW3 - np.median(border_X3, axis=0), axis=-1)
    root_HW = np.sqrt(distance_HW / max(float(distance_HW.max()), 1e-6))
    _, side_HW = cv2.threshold((255 * root_HW).astype(np.uint8), 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    mask_HW = largest(filled(side_HW))
    seen = mask_HW.any() and distance_HW[mask_HW > 0].mean() >= SEEN
    return mask_HW if seen else np.zeros_like(mask_HW)


def filled(mask_HW: Array) -> Array:
    """The mask without holes: what cannot be reached from outside belongs to it."""
    outlines, _ = cv2.findContours(mask_HW, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(np.zeros_like(mask_HW), outlines, -1, 1, cv2.FILLED))


def largest(mask_HW: Array) -> Array:
    """The largest connected component."""
    _, labels_HW, facts, _ = cv2.connectedComponentsWithStats(mask_HW)
    if len(facts) < 2:
        return mask_HW
    return np.asarray(labels_HW == 1 + facts[1:, cv2.CC_STAT_AREA].argmax(), np.uint8)
