"""The classical answer that a model must beat: a threshold on the green channel.

Stains of blood and tissue absorb green most, so that the green channel shows the cells best.
"""

from typing import Any

import cv2
import numpy as np

Array = np.ndarray[Any, Any]


def otsu_foreground(rgb_HW3: Array) -> Array:
    """Foreground by Otsu's threshold (IEEE Trans. SMC 9, 1979) on the green channel.

    Which side is foreground does not depend on the illumination: it is the side with *fewer* pixels,
    dark cells on a bright field as well as bright nuclei on a dark one. At a tie it is the darker
    side. A picture with a constant green channel has no foreground.

    Args:
        rgb_HW3: uint8 (H, W, 3).

    Returns:
        bool (H, W), True where foreground.
    """
    green_HW = np.ascontiguousarray(rgb_HW3[..., 1])
    if green_HW.size == 0 or green_HW.min() == green_HW.max():
        return np.zeros(green_HW.shape, bool)
    threshold, _ = cv2.threshold(green_HW, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    dark_HW = green_HW <= threshold
    return dark_HW if 2 * np.count_nonzero(dark_HW) <= dark_HW.size else ~dark_HW
